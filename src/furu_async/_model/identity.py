"""The canonical form of an artifact, and its hash. What is written here decides which results are found again.

Every value is written as a tag and what makes it unambiguous: a length, a count, or an end mark. Sets and dicts are
written in the order of their written items, so neither insertion order nor the hash seed matters. A nested artifact is
written as its hash, so an artifact costs what its own fields cost.

Nothing here may change without losing every stored result of everybody: ``tests/unit/model/known_hashes.json`` holds
hashes that have to stay.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import struct
import uuid
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from furu_async._model.base import Artifact, set_slot
from furu_async._model.brief import safe_repr
from furu_async._model.naming import reference, store_name
from furu_async._model.values import BadValue, is_mapping
from furu_async.errors import FuruDefinitionError

if TYPE_CHECKING:
    from furu_async._model.definition import Definition, FieldInfo

FORMAT = b"furu_async/1"

Write = Callable[[Any], bytes]

_double = struct.Struct(">d").pack


def _text(tag: bytes, text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"%b%d:%b" % (tag, len(data), data)


def _write_str(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"s%d:%b" % (len(data), data)


def _write_int(value: int) -> bytes:
    return b"i%x;" % value


def _write_float(value: float) -> bytes:
    return b"f" + _double(value)


def _write_bool(value: bool) -> bytes:
    return b"t" if value else b"n"


def _write_none(value: None) -> bytes:
    return b"0"


def _write_items(tag: bytes) -> Write:
    return lambda value: b"%b%d:%b" % (tag, len(value), b"".join([encode(item) for item in value]))


def _write_set(tag: bytes) -> Write:
    return lambda value: b"%b%d:%b" % (tag, len(value), b"".join(sorted([encode(item) for item in value])))


def _write_dict(value: Mapping[Any, Any]) -> bytes:
    pairs = sorted([(encode(key), encode(item)) for key, item in value.items()])
    return b"d%d:%b" % (len(pairs), b"".join([part for pair in pairs for part in pair]))


def zone_key(value: dt.datetime | dt.time) -> str:
    """The name of a ``zoneinfo`` zone; empty for none and for a fixed offset."""
    return str(getattr(value.tzinfo, "key", ""))


def _write_time(tag: bytes) -> Write:
    def write(value: dt.datetime | dt.time) -> bytes:
        # A named zone's offset depends on the machine's zone data, so the name stands for it.
        zone = zone_key(value) or str(value.utcoffset())
        return _text(tag, f"{value.replace(tzinfo=None, fold=0).isoformat()} {zone} {value.fold}")

    return write


def enum_name(member: enum.Enum) -> str:
    """The member's own name; of a combination of flags, which has none, its value."""
    name = member.name
    return name if name in type(member).__members__ else repr(member.value)


_WRITERS: dict[type[Any], Write] = {
    type(None): _write_none,
    bool: _write_bool,
    int: _write_int,
    float: _write_float,
    complex: lambda value: b"c" + _double(value.real) + _double(value.imag),
    str: _write_str,
    bytes: lambda value: b"b%d:%b" % (len(value), value),
    list: _write_items(b"l"),
    tuple: _write_items(b"u"),
    set: _write_set(b"e"),
    frozenset: _write_set(b"z"),
    dict: _write_dict,
    decimal.Decimal: lambda value: _text(b"m", str(value)),
    dt.datetime: _write_time(b"w"),
    dt.time: _write_time(b"k"),
    dt.date: lambda value: _text(b"y", value.isoformat()),
    dt.timedelta: lambda value: _text(b"j", f"{value.days} {value.seconds} {value.microseconds}"),
    uuid.UUID: lambda value: b"g" + value.bytes,
    type(pathlib.Path()): lambda value: _text(b"p", value.as_posix()),
    type(pathlib.PurePath()): lambda value: _text(b"p", value.as_posix()),
}
"""How values of each type are written; enums, records and artifact classes are added when first met."""


def encode(value: Any) -> bytes:
    """The canonical form of a checked value; its artifacts must have their hashes."""
    write = _WRITERS.get(type(value))
    if write is None:
        write = _WRITERS[type(value)] = _writer_for(type(value))
    return write(value)


def _writer_for(cls: type[Any]) -> Write:
    if issubclass(cls, Artifact):
        return lambda value: b"a" + value._hash.encode()
    if issubclass(cls, enum.Enum):
        prefix = _text(b"v", reference(cls))
        return lambda value: prefix + _text(b"s", enum_name(value))
    if is_mapping(cls):
        return _write_dict
    if dataclasses.is_dataclass(cls):
        names = sorted(f.name for f in dataclasses.fields(cls))
    elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
        names = sorted(cls._fields)
    else:
        raise FuruDefinitionError(f"a value of type {cls.__qualname__} cannot be part of an artifact")
    keys = [(name, _text(b"s", name)) for name in names]
    start = _text(b"r", reference(cls)) + b"%d:" % len(keys)
    return lambda value: start + b"".join([key + encode(getattr(value, name)) for name, key in keys])


def prefix_of(definition: Definition) -> bytes:
    """What the class itself adds to the hash: its name and version."""
    version = definition.version
    return (
        FORMAT
        + _text(b"s", store_name(definition.cls))
        + (_text(b"s", version) if version is not None else b"0")
    )


def content(obj: Artifact) -> bytes:
    """The canonical form of an artifact; its direct artifacts must have their hashes."""
    definition = type(obj).__furu__
    parts = [definition.prefix or definition.make_prefix()]
    for info in definition.hashed:
        value = getattr(obj, info.name)
        write = _WRITERS.get(type(value))
        written = write(value) if write is not None else encode(value)
        if info.since and written == (info.default_written or _write_default(info)):
            continue
        parts.append(info.key)
        parts.append(written)
    return b"".join(parts)


def _write_default(info: FieldInfo) -> bytes:
    try:
        default = info.default()
    except BadValue as error:
        raise FuruDefinitionError(
            f"{info.owner.__qualname__}.{info.name}: its default: {error.text}"
        ) from None
    for inner in artifacts_in(default):
        compute_hash(inner)
    info.default_written = encode(default)
    return info.default_written


def digest(obj: Artifact) -> str:
    """The hash of what is in the artifact's fields now, 32 hex digits; its direct artifacts must have theirs."""
    return blake2b(content(obj), digest_size=16).hexdigest()


def compute_hash(obj: Artifact) -> str:
    """The artifact's hash, made if it is not there yet, with that of everything below it. Does not recurse.

    Raises:
        FuruDefinitionError: a class has no name that another process could use, has no ``_create``, or an artifact
            contains itself.
    """
    if not hasattr(obj, "_hash"):
        stack: list[tuple[Artifact, bool]] = [(obj, False)]
        open_: dict[int, Artifact] = {}
        while stack:
            one, below_done = stack.pop()
            if below_done:
                del open_[id(one)]
                set_slot(one, "_hash", digest(one))
            elif id(one) in open_:
                inside = list(open_.values())
                start = next(n for n, other in enumerate(inside) if other is one)
                raise cycle_error([*inside[start:], one])
            elif not hasattr(one, "_hash"):
                open_[id(one)] = one
                stack.append((one, True))
                stack.extend((inner, False) for inner in direct(one) if not hasattr(inner, "_hash"))
    return obj._hash


def direct(obj: Artifact) -> Iterable[Artifact]:
    """The artifacts in an artifact's own fields, in order, with repetitions."""
    definition = type(obj).__furu__
    found: list[Artifact] = []
    for info in definition.fields:
        value = getattr(obj, info.name)
        if type(value) not in LEAVES:
            found.extend(artifacts_in(value))
    return found


LEAVES = frozenset(kind for kind in _WRITERS if kind not in (list, tuple, set, frozenset, dict))
"""Types that hold no artifacts."""


def artifacts_in(value: Any) -> Iterable[Artifact]:
    """The artifacts in a value and its containers and records, in a stable order, not looking into artifacts."""
    if isinstance(value, Artifact):
        return (value,)
    kind = type(value)
    if kind in LEAVES:
        return ()
    found: list[Artifact] = []
    if is_mapping(kind):
        for key, item in value.items():
            found.extend(artifacts_in(key))
            found.extend(artifacts_in(item))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            if type(item) not in LEAVES:
                found.extend(artifacts_in(item))
        if isinstance(value, set | frozenset):
            found.sort(key=compute_hash)
    elif dataclasses.is_dataclass(kind) and not isinstance(value, enum.Enum):
        for f in dataclasses.fields(kind):
            found.extend(artifacts_in(getattr(value, f.name)))
    return found


def check_unchanged(obj: Artifact) -> None:
    """Refuse an artifact whose fields are no longer what its hash says.

    Raises:
        FuruDefinitionError: a list, dict or the like in a field was changed after the hash was taken.
    """
    stored = compute_hash(obj)
    for inner in direct(obj):
        compute_hash(inner)
    if digest(obj) != stored:
        raise FuruDefinitionError(
            f"{safe_repr(obj, 300)} was changed after its hash {stored} had been taken: two different artifacts would "
            "have the same hash",
            hint="an artifact's lists and dicts must not be changed: make a new one with dataclasses.replace(obj, …)",
        )


def cycle_error(path: list[Artifact]) -> FuruDefinitionError:
    """The error about artifacts that need themselves; ``path`` begins and ends with the same one."""
    shown = path if len(path) <= 12 else [*path[:6], *path[-6:]]
    lines = [f"{'  needs ' if n else '  '}{safe_repr(one, 160)}" for n, one in enumerate(shown)]
    if len(path) > len(shown):
        lines.insert(6, f"  … {len(path) - len(shown)} more …")
    what = (
        "an artifact needs itself"
        if len(path) == 2
        else f"{len(path) - 1} artifacts need each other in a cycle"
    )
    return FuruDefinitionError(
        what + ":\n" + "\n".join(lines), hint="look at the fields and at what the @dependency methods return"
    )
