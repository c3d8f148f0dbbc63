"""Values <-> JSON-able trees, exactly by type.

What JSON has stands for itself; everything else is an object ``{"$": kind, ...}``. Only exact types are taken: a
subclass of ``dict`` or ``list`` would come back as something else than it was. Classes are named by import path and,
when loaded, used only if they are what was stored: an enum, a named tuple, a dataclass. No pickle anywhere.
"""

from __future__ import annotations

import dataclasses
import datetime
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import Enum
from functools import cached_property
from math import isfinite
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID

from furu_async._model.resources import FrozenMapping
from furu_async.errors import FuruComputeError, FuruDefinitionError, FuruStoreError

#: Levels of nesting; far from where any of the recursive encoders would give up.
MAX_DEPTH = 200
_INT_MIN, _INT_MAX = -(2**63), 2**64
_BIG = 65536
_PATHS: dict[str, Callable[..., PurePath]] = {
    "path": Path,
    "purepath": PurePosixPath,
    "winpath": PureWindowsPath,
}

Sink = Callable[[Any], str]
Source = Callable[[str], Any]


def unsupported(what: str) -> FuruComputeError:
    """The error for a value that cannot be stored by type."""
    return FuruComputeError(
        f"the result cannot be stored by type: {what}",
        "write `_load`: save what you need to files in `self.furu_dir` in `_create`, and return it from `_load`",
    )


def _too_deep() -> FuruComputeError:
    return unsupported(f"it refers to itself, or is nested deeper than {MAX_DEPTH} levels")


def is_plain(value: Any) -> bool:
    """Whether JSON alone brings the value back as it is.

    Raises:
        FuruComputeError: it is nested too deeply.
    """
    kind = type(value)
    if kind is not list and kind is not dict:
        return _plain_scalar(value, kind)
    level: list[Any] = [value]
    seen: set[int] = set()
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            if id(container) in seen:
                continue
            seen.add(id(container))
            items: Iterable[Any] = container
            if type(container) is dict:
                for key in container:
                    if type(key) is not str:
                        return False
                items = container.values()
            for item in items:
                kind = type(item)
                if kind is str:
                    continue
                if kind is list or kind is dict:
                    below.append(item)
                elif not _plain_scalar(item, kind):
                    return False
        if not below:
            return True
        level = below
    raise _too_deep()


def _plain_scalar(value: Any, kind: type[Any]) -> bool:
    if kind is float:
        return isfinite(value)
    if kind is int:
        return bool(_INT_MIN <= value < _INT_MAX)
    return kind is str or kind is bool or value is None


class Encoder:
    """Makes the tree of one value.

    Args:
        array: stores a NumPy array and returns the name of its file.
        blob: stores big ``bytes`` likewise.
    """

    def __init__(self, array: Sink, blob: Sink) -> None:
        self._array = array
        self._blob = blob
        self._depth = 0

    def encode(self, value: Any) -> Any:
        """The tree of a value.

        Raises:
            FuruComputeError: it has a type that cannot be stored, or is nested too deeply.
        """
        kind = type(value)
        if kind is str:
            return _text(value)
        if kind is list or kind is dict or kind in _CONTAINERS:
            return self._container(value, kind)
        if _plain_scalar(value, kind):
            return value
        leaf = _LEAVES.get(kind)
        if leaf is not None:
            return leaf(value)
        if kind is bytes:
            if len(value) > _BIG:
                return {"$": "blob", "v": self._blob(value)}
            return {"$": "bytes", "v": b64encode(value).decode()}
        return self._object(value, kind)

    def _container(self, value: Any, kind: type[Any]) -> Any:
        # Where it refers to itself, it is this limit that ends it.
        if self._depth >= MAX_DEPTH:
            raise _too_deep()
        self._depth += 1
        try:
            if kind is dict:
                return self._dict(value)
            items = [self.encode(item) for item in value]
            if kind is list:
                return items
            return {"$": _CONTAINERS[kind], "v": items}
        finally:
            self._depth -= 1

    def _dict(self, value: dict[Any, Any]) -> Any:
        if "$" not in value and all(type(key) is str and _is_text(key) for key in value):
            return {key: self.encode(item) for key, item in value.items()}
        return {"$": "dict", "v": [[self.encode(key), self.encode(item)] for key, item in value.items()]}

    def _object(self, value: Any, kind: type[Any]) -> Any:
        if isinstance(value, Enum):
            named = kind.__members__.get(value.name) is value if value.name else False
            if named:
                return {"$": "enum", "c": reference(kind), "n": value.name}
            return {"$": "enum", "c": reference(kind), "v": self.encode(value.value)}
        if kind.__module__.partition(".")[0] == "numpy":
            return self._numpy(value, kind)
        if isinstance(value, tuple) and isinstance(getattr(kind, "_fields", None), tuple):
            return {"$": "named", "c": reference(kind), "v": self._container(list(value), list)}
        if kind is FrozenMapping:  # of a `SlurmSpec`
            return {"$": "frozen", "v": self._container(dict(value), dict)}
        if _is_artifact(kind):
            from furu_async._model import table

            return {"$": "furu", "v": table.to_dict(value)}
        if dataclasses.is_dataclass(kind):
            return self._dataclass(value, kind)
        raise unsupported(f"it is, or contains, a {kind.__module__}.{kind.__qualname__}")

    def _dataclass(self, value: Any, kind: type[Any]) -> Any:
        base = next(above for above in kind.__mro__ if above.__module__ == "builtins")
        if base is not object:
            raise unsupported(
                f"it contains a {kind.__qualname__}, a dataclass that is also a {base.__name__}"
            )
        names = [field.name for field in dataclasses.fields(kind)]
        state = {name: getattr(value, name) for name in names if hasattr(value, name)}
        for name, item in getattr(value, "__dict__", {}).items():
            # What __post_init__ set beside the fields belongs to it; what was only cached does not.
            if name not in state and not isinstance(getattr(kind, name, None), cached_property):
                state[name] = item
        return {"$": "data", "c": reference(kind), "v": self._container(state, dict)}

    def _numpy(self, value: Any, kind: type[Any]) -> Any:
        numpy = sys.modules["numpy"]
        if kind is numpy.ndarray:
            return {"$": "array", "v": self._array(value)}
        if isinstance(value, numpy.generic) and not value.dtype.hasobject:
            return {"$": "scalar", "v": b64encode(_npy(value)).decode()}
        raise unsupported(f"it is, or contains, a {kind.__module__}.{kind.__qualname__}")


def _npy(value: Any) -> bytes:
    import io

    import numpy

    buffer = io.BytesIO()
    numpy.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _is_artifact(kind: Any) -> bool:
    base = sys.modules.get("furu_async._model.base")
    return base is not None and issubclass(kind, base.Artifact)


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: str) -> Any:
    if _is_text(value):
        return value
    return {"$": "str", "v": b64encode(value.encode("utf-8", "surrogatepass")).decode()}


def _zone(zone: datetime.tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is datetime.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [_delta(offset), *map(_text, name)]
    key = getattr(zone, "key", None)
    if type(zone).__module__.startswith("zoneinfo") and isinstance(key, str):
        return key
    raise unsupported(f"it contains a time zone of type {type(zone).__qualname__}")


def _delta(value: datetime.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _moment(value: Any) -> Any:
    kind = "datetime" if type(value) is datetime.datetime else "time"
    bare = value.replace(tzinfo=None, fold=0).isoformat()
    return {"$": kind, "v": bare, "fold": value.fold, "tz": _zone(value.tzinfo)}


_CONTAINERS: dict[type[Any], str] = {tuple: "tuple", set: "set", frozenset: "frozenset"}
_LEAVES: dict[type[Any], Callable[[Any], Any]] = {
    float: lambda value: {"$": "float", "v": repr(value)},
    int: lambda value: {"$": "int", "v": format(value, "x")},
    complex: lambda value: {"$": "complex", "v": [repr(value.real), repr(value.imag)]},
    datetime.datetime: _moment,
    datetime.time: _moment,
    datetime.date: lambda value: {"$": "date", "v": value.isoformat()},
    datetime.timedelta: lambda value: {"$": "timedelta", "v": _delta(value)},
    Decimal: lambda value: {"$": "decimal", "v": str(value)},
    UUID: lambda value: {"$": "uuid", "v": value.hex},
    type(Path()): lambda value: {"$": "path", "v": _text(str(value))},
    PurePosixPath: lambda value: {"$": "purepath", "v": _text(str(value))},
    PureWindowsPath: lambda value: {"$": "winpath", "v": _text(str(value))},
}


def reference(kind: type[Any]) -> str:
    """``module:qualname`` of a class of a value.

    Raises:
        FuruComputeError: another process could not import it.
    """
    from furu_async._model import naming

    try:
        return naming.reference(kind)
    except FuruDefinitionError as error:
        raise FuruComputeError(f"the result cannot be stored by type: {error.message}", error.hint) from None


class Decoder:
    """Makes values of trees; the arguments are the counterparts of `Encoder`'s."""

    def __init__(self, array: Source, blob: Source) -> None:
        self._array = array
        self._blob = blob
        self._kinds: dict[str, Callable[[dict[str, Any]], Any]] = {
            "tuple": lambda tree: tuple(map(self.decode, tree["v"])),
            "set": lambda tree: set(map(self.decode, tree["v"])),
            "frozenset": lambda tree: frozenset(map(self.decode, tree["v"])),
            "dict": lambda tree: {self.decode(key): self.decode(item) for key, item in tree["v"]},
            "array": lambda tree: self._array(tree["v"]),
            "blob": lambda tree: self._blob(tree["v"]),
            "scalar": lambda tree: _from_npy(b64decode(tree["v"])),
            "enum": self._enum,
            "named": self._named,
            "data": self._dataclass,
            "furu": _artifact,
            "frozen": lambda tree: FrozenMapping(self.decode(tree["v"])),
            "bytes": lambda tree: b64decode(tree["v"]),
            "str": lambda tree: b64decode(tree["v"]).decode("utf-8", "surrogatepass"),
            "float": lambda tree: float(tree["v"]),
            "int": lambda tree: int(tree["v"], 16),
            "complex": lambda tree: complex(float(tree["v"][0]), float(tree["v"][1])),
            "date": lambda tree: datetime.date.fromisoformat(tree["v"]),
            "datetime": lambda tree: self._moment(datetime.datetime, tree),
            "time": lambda tree: self._moment(datetime.time, tree),
            "timedelta": lambda tree: datetime.timedelta(*tree["v"]),
            "decimal": lambda tree: Decimal(tree["v"]),
            "uuid": lambda tree: UUID(tree["v"]),
            **{name: self._path(make) for name, make in _PATHS.items()},
        }

    def decode(self, tree: Any) -> Any:
        """The value of a tree."""
        kind = type(tree)
        if kind is list:
            return [self.decode(item) for item in tree]
        if kind is dict:
            tag = tree.get("$")
            if tag is None:
                return {key: self.decode(item) for key, item in tree.items()}
            return self._kinds[tag](tree)
        return tree

    def _path(self, make: Callable[..., PurePath]) -> Callable[[dict[str, Any]], Any]:
        return lambda tree: make(self.decode(tree["v"]))

    def _moment(self, kind: Any, tree: dict[str, Any]) -> Any:
        zone = tree["tz"]
        value = kind.fromisoformat(tree["v"]).replace(fold=tree["fold"])
        if zone is None:
            return value
        if isinstance(zone, str):
            from zoneinfo import ZoneInfo

            return value.replace(tzinfo=ZoneInfo(zone))
        return value.replace(
            tzinfo=datetime.timezone(datetime.timedelta(*zone[0]), *map(self.decode, zone[1:]))
        )

    def _enum(self, tree: dict[str, Any]) -> Any:
        kind = _load(tree["c"], "an enum", lambda kind: issubclass(kind, Enum))
        return kind[tree["n"]] if "n" in tree else kind(self.decode(tree["v"]))

    def _named(self, tree: dict[str, Any]) -> Any:
        kind = _load(
            tree["c"], "a named tuple", lambda kind: issubclass(kind, tuple) and hasattr(kind, "_fields")
        )
        values = [self.decode(item) for item in tree["v"]]
        if len(values) != len(kind._fields):
            raise FuruStoreError(
                f"{tree['c']} has {len(kind._fields)} fields and was stored with {len(values)}"
            )
        return tuple.__new__(kind, values)

    def _dataclass(self, tree: dict[str, Any]) -> Any:
        kind = _load(
            tree["c"], "a dataclass", lambda kind: dataclasses.is_dataclass(kind) and not _is_artifact(kind)
        )
        value = object.__new__(kind)
        state = self.decode(tree["v"])
        for field in dataclasses.fields(kind):
            if field.name in state:
                continue
            # A field that was added since.
            if field.default is not dataclasses.MISSING:
                state[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                state[field.name] = field.default_factory()
        for name, item in state.items():
            object.__setattr__(value, name, item)
        return value


def _artifact(tree: dict[str, Any]) -> Any:
    from furu_async._model import table

    return table.from_dict(tree["v"])


def _from_npy(data: bytes) -> Any:
    import io

    import numpy

    return numpy.load(io.BytesIO(data), allow_pickle=False)[()]


def _load(name: str, what: str, is_one: Callable[[Any], bool]) -> Any:
    from furu_async._model import naming

    kind = naming.load_type(name)
    if not is_one(kind):
        raise FuruStoreError(f"{name} is not {what} in this process's code; it was not used")
    return kind
