"""Values against annotations: one check per type, compiled when a class's first instance is made.

A check takes a value and the depth of nesting and returns the value to keep: the same object, a Python scalar for a
NumPy one, a copy of a container. It raises `BadValue`, which collects the way to the place as it travels up.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from furu_async._model.base import Artifact
from furu_async._model.brief import clip, describe

Check = Callable[[Any, int], Any]

MAX_DEPTH = 64
"""Levels of containers and records in one field; an object that refers to itself has infinitely many."""


class BadValue(Exception):
    """A value that does not fit; ``path`` is the way to it from the field, innermost part first."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.path: list[str] = []

    def at(self, part: str) -> BadValue:
        """Note one more step of the way, and return self."""
        self.path.append(part)
        return self

    def where(self) -> str:
        """The whole way: ``[3].name``."""
        return clip("".join(reversed(self.path)), 200)


def expected(what: str, value: object, note: str = "") -> BadValue:
    """The usual complaint."""
    return BadValue(f"expected {what}, got {describe(value)}{note}")


def unwrap_scalar(value: Any) -> Any:
    """The Python scalar of a NumPy scalar; any other value as it is. NumPy is not imported for it."""
    numpy: Any = sys.modules.get("numpy")
    generic: Any = getattr(numpy, "generic", ())
    if not isinstance(value, generic):
        return value
    if value.dtype.kind not in "biufcSU":
        return value
    plain = value.item()
    return value if type(plain).__module__ == "numpy" else plain


def is_mapping(cls: type[Any]) -> bool:
    """A dict, or a mapping that a record keeps in place of one, such as one that is frozen; not a record itself."""
    return cls is dict or (issubclass(cls, Mapping) and not dataclasses.is_dataclass(cls))


def too_deep(value: object) -> NoReturn:
    """Complain about what is nested without end, or nearly so."""
    raise BadValue(f"{describe(value)} is nested more than {MAX_DEPTH} levels deep, or contains itself")


def check_none(value: Any, depth: int) -> Any:
    """None only."""
    if value is not None:
        raise expected("None", value)
    return None


def check_bool(value: Any, depth: int) -> Any:
    """True or False."""
    if value is True or value is False:
        return value
    plain = unwrap_scalar(value)
    if type(plain) is bool:
        return plain
    raise expected("bool", value)


def check_int(value: Any, depth: int) -> Any:
    """A whole number; a bool is not one."""
    if type(value) is int:
        return value
    plain = unwrap_scalar(value)
    if isinstance(plain, int) and not isinstance(plain, bool):
        return int.__int__(plain)
    raise expected("int", value, " (a bool is not an int)" if isinstance(plain, bool) else "")


def check_float(value: Any, depth: int) -> Any:
    """A number that is not NaN; a whole number becomes a float."""
    if type(value) is not float:
        plain = unwrap_scalar(value)
        if isinstance(plain, float):
            value = float.__float__(plain)
        elif isinstance(plain, int) and not isinstance(plain, bool):
            try:
                return float(plain)
            except OverflowError:
                raise BadValue("an int too large for a float") from None
        else:
            raise expected("float", value)
    if value != value:
        raise BadValue("NaN is refused: it is not equal to itself, so it cannot be part of an identity")
    return value


def check_complex(value: Any, depth: int) -> Any:
    """A complex number; a real one becomes complex."""
    plain = unwrap_scalar(value)
    if isinstance(plain, complex):
        plain = complex(plain)
    elif isinstance(plain, int | float) and not isinstance(plain, bool):
        plain = complex(check_float(plain, depth))
    else:
        raise expected("complex", value)
    if plain != plain:
        raise BadValue("NaN is refused: it is not equal to itself, so it cannot be part of an identity")
    return plain


def check_str(value: Any, depth: int) -> Any:
    """Text; a subclass of str becomes a str."""
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    raise expected("str", value)


def check_bytes(value: Any, depth: int) -> Any:
    """Bytes; a subclass becomes bytes."""
    if type(value) is bytes:
        return value
    if isinstance(value, bytes):
        return b"".join((value,))
    raise expected("bytes", value)


def check_path(value: Any, depth: int) -> Any:
    """A path of this system."""
    if type(value) is _PATH or type(value) is _PURE_PATH:
        return value
    if isinstance(value, pathlib.Path):
        return pathlib.Path(str(value))
    raise expected("Path", value)


_PATH = type(pathlib.Path())
_PURE_PATH = type(pathlib.PurePath())


def check_decimal(value: Any, depth: int) -> Any:
    """A decimal that is not NaN."""
    if type(value) is not decimal.Decimal:
        raise expected("Decimal", value)
    if value.is_nan():
        raise BadValue("NaN is refused: it is not equal to itself, so it cannot be part of an identity")
    return value


def exactly(cls: type[Any]) -> Check:
    """The check for a scalar type that has no forms to convert from."""

    def check(value: Any, depth: int) -> Any:
        if type(value) is cls:
            return value
        raise expected(cls.__name__, value)

    return check


def timed(cls: type[Any]) -> Check:
    """``datetime`` and ``time``: their time zone must be one that another process can make again."""

    def check(value: Any, depth: int) -> Any:
        if type(value) is not cls:
            raise expected(cls.__name__, value)
        zone = value.tzinfo
        if zone is None or type(zone) is dt.timezone:
            return value
        if type(zone).__module__.partition(".")[0] == "zoneinfo" and getattr(zone, "key", None):
            return value
        raise BadValue(
            f"expected a time zone of datetime.timezone or zoneinfo.ZoneInfo, got {describe(zone)}"
        )

    return check


SCALARS: dict[Any, Check] = {
    type(None): check_none,
    bool: check_bool,
    int: check_int,
    float: check_float,
    complex: check_complex,
    str: check_str,
    bytes: check_bytes,
    pathlib.Path: check_path,
    pathlib.PurePath: check_path,
    _PATH: check_path,
    _PURE_PATH: check_path,
    decimal.Decimal: check_decimal,
    dt.datetime: timed(dt.datetime),
    dt.time: timed(dt.time),
    dt.date: exactly(dt.date),
    dt.timedelta: exactly(dt.timedelta),
    uuid.UUID: exactly(uuid.UUID),
}
"""Types without parts. `math.inf` is a float like any other; only NaN is not."""

assert not math.isnan(math.inf)


def check_enum(cls: type[enum.Enum]) -> Check:
    """A member of ``cls``."""

    def check(value: Any, depth: int) -> Any:
        if isinstance(value, cls):
            return value
        raise expected(f"a member of {cls.__name__}", value)

    return check


def check_literal(values: tuple[Any, ...]) -> Check:
    """One of ``values``, of the same type: 1 is neither True nor 1.0."""
    allowed = {(type(value), value): value for value in values}

    def check(value: Any, depth: int) -> Any:
        plain = unwrap_scalar(value)
        try:
            return allowed[type(plain), plain]
        except (KeyError, TypeError):
            pass
        if type(plain) not in (bool, int) and isinstance(plain, str) and not isinstance(plain, enum.Enum):
            text = str.__str__(plain)
            if (str, text) in allowed:
                return text
        raise expected("one of " + ", ".join(map(repr, values)), value)

    return check


def check_artifact(cls: type[Any]) -> Check:
    """An instance of an artifact class; the type argument of ``Furu[T]`` is for type checkers only."""

    def check(value: Any, depth: int) -> Any:
        if isinstance(value, cls):
            return value
        if isinstance(value, Artifact) and _same_class_elsewhere(type(value), cls):
            return value
        note = ""
        if isinstance(value, type) and issubclass(value, Artifact):
            note = f"; did you mean {value.__name__}(…)?"
        raise expected(f"an artifact of class {cls.__name__}", value, note)

    return check


def _same_class_elsewhere(cls: type[Any], wanted: type[Any]) -> bool:
    """A script that is also imported has each class twice; they count as one."""
    from furu_async._model.naming import reference
    from furu_async.errors import FuruDefinitionError

    if all(base.__qualname__ != wanted.__qualname__ for base in cls.__mro__):
        return False
    try:
        return any(
            base.__qualname__ == wanted.__qualname__ and reference(base) == reference(wanted)
            for base in cls.__mro__
        )
    except FuruDefinitionError:
        return False
