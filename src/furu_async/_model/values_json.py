"""Field values as JSON-able data and back, as Python source, and copied.

JSON's own types stand for themselves. Everything else is a dict with one key that begins with ``$``; a dict that would
look like one is written as ``$dict``. Reading gives the same values back, and the checks of the class see them again.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from furu_async._model.base import Artifact
from furu_async._model.brief import clip, safe_repr
from furu_async._model.containers import is_named_tuple, make_record
from furu_async._model.identity import enum_name, zone_key
from furu_async._model.naming import load_type, reference
from furu_async._model.values import BadValue, is_mapping
from furu_async.errors import FuruDefinitionError, FuruSpecMismatch

_BIG = 1 << 53
"""From here on some JSON readers round a whole number."""

_PURE_PATH = type(pathlib.PurePath())
_PATH = type(pathlib.Path())


def to_json(value: Any) -> Any:
    """A checked value as JSON-able data; an artifact as a reference to its hash."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if -_BIG < value < _BIG else {"$int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is str:
        return (
            value
            if value.isascii() or _is_text(value)
            else {"$str": _b64(value.encode("utf-8", "surrogatepass"))}
        )
    if isinstance(value, Artifact):
        return {"$furu": value._hash}
    if kind is list:
        return [to_json(item) for item in value]
    if is_mapping(kind):
        if all(type(key) is str and not key.startswith("$") and _is_text(key) for key in value):
            return {key: to_json(item) for key, item in value.items()}
        return {"$dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
    for container, tag in _CONTAINERS.items():
        if kind is container:
            return {tag: [to_json(item) for item in value]}
    write = _SCALARS.get(kind)
    if write is not None:
        return write(value)
    if isinstance(value, enum.Enum):
        return {"$enum": [reference(kind), enum_name(value)]}
    if is_named_tuple(kind):
        return {"$named": [reference(kind), [to_json(item) for item in value]]}
    names = [f.name for f in dataclasses.fields(kind)]
    return {"$data": [reference(kind), {name: to_json(getattr(value, name)) for name in names}]}


def from_json(data: Any, resolve: Mapping[str, Any]) -> Any:
    """The value that `to_json` wrote; ``resolve`` has the artifacts it refers to.

    Raises:
        FuruSpecMismatch: a class or an artifact it names is not there, or is of another kind.
        FuruDefinitionError: it is damaged.
    """
    if isinstance(data, list):
        return [from_json(item, resolve) for item in data]
    if not isinstance(data, dict):
        return data
    tag = next(iter(data), "")
    if len(data) != 1 or not tag.startswith("$"):
        return {key: from_json(item, resolve) for key, item in data.items()}
    inner = data[tag]
    if tag == "$furu":
        if inner not in resolve:
            raise FuruSpecMismatch(
                f"the table refers to the artifact {clip(str(inner))}, which is not before it"
            )
        return resolve[inner]
    try:
        if tag == "$dict":
            return {from_json(key, resolve): from_json(item, resolve) for key, item in inner}
        if tag in _CONTAINER_OF:
            return _CONTAINER_OF[tag]([from_json(item, resolve) for item in inner])
        if tag in _READERS:
            return _READERS[tag](inner)
        if tag in ("$enum", "$named", "$data"):
            return _read_record(tag, inner[0], inner[1], resolve)
    except FuruSpecMismatch:
        raise
    except Exception as error:
        raise FuruDefinitionError(
            f"{clip(safe_repr(data))} cannot be read: {type(error).__name__}: {error}"
        ) from error
    raise FuruDefinitionError(f"{clip(safe_repr(data))} cannot be read: the tag {clip(tag)!r} is not known")


def _read_record(tag: str, name: str, inner: Any, resolve: Mapping[str, Any]) -> Any:
    cls = load_type(name)
    # The class is checked to be of the kind that the tag says before anything of it is called.
    if tag == "$enum" and issubclass(cls, enum.Enum):
        return cls[inner] if inner in cls.__members__ else cls(int(inner))
    if tag == "$named" and is_named_tuple(cls):
        return cls._make([from_json(item, resolve) for item in inner])
    if tag == "$data" and dataclasses.is_dataclass(cls) and not issubclass(cls, Artifact):
        try:
            return make_record(cls, {key: from_json(item, resolve) for key, item in inner.items()})
        except BadValue as error:
            raise FuruSpecMismatch(error.text) from error
    raise FuruSpecMismatch(
        f"{clip(name)!r} is not of the kind that the table says ({tag[1:]}); it was not used"
    )


def copy_value(value: Any, memo: Mapping[int, Any]) -> Any:
    """A copy of containers and records, with the artifacts in them replaced by ``memo[id(artifact)]``."""
    kind = type(value)
    if isinstance(value, Artifact):
        return memo[id(value)]
    if kind in (list, set, frozenset, tuple):
        return kind([copy_value(item, memo) for item in value])
    if is_mapping(kind):
        return {copy_value(key, memo): copy_value(item, memo) for key, item in value.items()}
    if is_named_tuple(kind):
        return kind._make([copy_value(item, memo) for item in value])
    if dataclasses.is_dataclass(kind) and not isinstance(value, enum.Enum):
        fields = {f.name: copy_value(getattr(value, f.name), memo) for f in dataclasses.fields(kind)}
        return make_record(kind, fields)
    return value


class SourceWriter:
    """Writes values as Python expressions and remembers what has to be imported for them."""

    def __init__(self) -> None:
        self._modules: set[str] = set()
        self._variables: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def imports(self) -> list[str]:
        """The import lines for what was written so far."""
        return [f"import {name}" for name in sorted(self._modules)]

    def name_of(self, cls: type[Any]) -> str:
        """``module.Class``."""
        module, _, qualname = reference(cls).partition(":")
        self._modules.add(module)
        return f"{module}.{qualname}"

    def variable(self, obj: Artifact) -> str:
        """The variable of an artifact; given when first asked for."""
        known = self._variables.get(obj._hash)
        if known is None:
            stem = type(obj).__name__.lower()
            self._counts[stem] = self._counts.get(stem, 0) + 1
            known = self._variables[obj._hash] = f"{stem}_{self._counts[stem]}"
        return known

    def write(self, value: Any) -> str:
        """The expression of a checked value."""
        kind = type(value)
        if isinstance(value, Artifact):
            return self.variable(value)
        if kind is float and math.isinf(value):
            return f"float({str(value)!r})"
        if kind is int and value.bit_length() > 10_000:
            return hex(value)  # repr refuses what has thousands of digits
        if value is None or kind in (bool, int, float, complex, str, bytes):
            return repr(value)
        if is_mapping(kind):
            return (
                "{" + ", ".join(f"{self.write(key)}: {self.write(item)}" for key, item in value.items()) + "}"
            )
        if kind in (list, tuple, set, frozenset):
            return self._container(value, [self.write(item) for item in value])
        if isinstance(value, enum.Enum):
            name = self.name_of(kind)
            member = enum_name(value)
            return f"{name}.{member}" if member in kind.__members__ else f"{name}({member})"
        if is_named_tuple(kind):
            return f"{self.name_of(kind)}({', '.join(self.write(item) for item in value)})"
        if dataclasses.is_dataclass(kind):
            names = [f.name for f in dataclasses.fields(kind) if f.init]
            return f"{self.name_of(kind)}({', '.join(f'{n}={self.write(getattr(value, n))}' for n in names)})"
        return self._scalar(value, kind)

    def _container(self, value: Any, items: list[str]) -> str:
        kind, inner = type(value), ", ".join(items)
        if kind is list:
            return f"[{inner}]"
        if kind is tuple:
            return f"({inner},)" if len(items) == 1 else f"({inner})"
        if kind is set:
            return f"{{{inner}}}" if items else "set()"
        return f"frozenset([{inner}])"

    def _scalar(self, value: Any, kind: type[Any]) -> str:
        if kind in (_PATH, _PURE_PATH):
            self._modules.add("pathlib")
            return f"pathlib.{'Path' if kind is _PATH else 'PurePath'}({str(value)!r})"
        if kind in (decimal.Decimal, uuid.UUID):
            self._modules.add(kind.__module__)
            return f"{kind.__module__}.{value!r}"
        self._modules.add("datetime")
        zone = getattr(value, "tzinfo", None)
        if zone is not None and zone_key(value):
            self._modules.add("zoneinfo")
            return f"{value.replace(tzinfo=None)!r}.replace(tzinfo=zoneinfo.ZoneInfo({zone.key!r}))"
        return repr(value)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _write_time(tag: str) -> Callable[[Any], Any]:
    return lambda value: {tag: [value.replace(tzinfo=None, fold=0).isoformat(), *_zone(value), value.fold]}


def _zone(value: Any) -> list[Any]:
    key = zone_key(value)
    offset = None if key else value.utcoffset()
    return [key, None if offset is None else [offset.days, offset.seconds, offset.microseconds]]


def _read_time(cls: Any) -> Callable[[Any], Any]:
    def read(data: Any) -> Any:
        text, key, offset, fold = data
        zone: dt.tzinfo | None = None
        if key:
            import zoneinfo

            zone = zoneinfo.ZoneInfo(key)
        elif offset is not None:
            days, seconds, micros = offset
            zone = dt.timezone(dt.timedelta(days, seconds, micros))
        return cls.fromisoformat(text).replace(tzinfo=zone, fold=fold)

    return read


_CONTAINERS: dict[type[Any], str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_CONTAINER_OF: dict[str, Callable[[Any], Any]] = {tag: kind for kind, tag in _CONTAINERS.items()}

_SCALARS: dict[type[Any], Callable[[Any], Any]] = {
    complex: lambda value: {"$complex": [repr(value.real), repr(value.imag)]},
    bytes: lambda value: {"$bytes": _b64(value)},
    _PATH: lambda value: {"$path": to_json(str(value))},
    _PURE_PATH: lambda value: {"$purepath": to_json(str(value))},
    decimal.Decimal: lambda value: {"$decimal": str(value)},
    uuid.UUID: lambda value: {"$uuid": value.hex},
    dt.datetime: _write_time("$datetime"),
    dt.time: _write_time("$time"),
    dt.date: lambda value: {"$date": value.isoformat()},
    dt.timedelta: lambda value: {"$timedelta": [value.days, value.seconds, value.microseconds]},
}

_READERS: dict[str, Callable[[Any], Any]] = {
    "$int": lambda data: int(data, 16),
    "$float": float,
    "$str": lambda data: base64.b64decode(data).decode("utf-8", "surrogatepass"),
    "$complex": lambda data: complex(float(data[0]), float(data[1])),
    "$bytes": base64.b64decode,
    "$path": lambda data: pathlib.Path(from_json(data, {})),
    "$purepath": lambda data: pathlib.PurePath(from_json(data, {})),
    "$decimal": decimal.Decimal,
    "$uuid": lambda data: uuid.UUID(hex=data),
    "$datetime": _read_time(dt.datetime),
    "$time": _read_time(dt.time),
    "$date": dt.date.fromisoformat,
    "$timedelta": lambda data: dt.timedelta(*data),
}
