"""The flat table: a DAG of configs as a list of entries, each artifact once, referring to others by hash.

It is the one form in which artifacts travel: to children, into queues, through pickle and copies, as a dict for people.
So nothing ever recurses over artifacts, and a diamond costs what it has nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from furu_async._model import values_json
from furu_async._model.base import Artifact, set_slot
from furu_async._model.brief import describe, safe_repr
from furu_async._model.definition import construct, fields_of
from furu_async._model.identity import (
    LEAVES,
    check_unchanged,
    compute_hash,
    cycle_error,
    direct,
)
from furu_async._model.naming import class_reference, load_class
from furu_async.errors import FuruDefinitionError, FuruSpecMismatch

if TYPE_CHECKING:
    from furu_async._model.artifact import Furu

A = TypeVar("A", bound=Artifact)

FORMAT = 1


class Entry(msgspec.Struct, frozen=True):
    """One artifact of a table.

    Attributes:
        hash: its ``furu_hash``.
        cls: ``module:qualname`` of its class, after ``name=`` where the class pins its store name.
        version: the class's version, or None.
        fields: every field, JSON-able; an artifact in it is ``{"$furu": hash}``, other non-JSON types are tagged alike.
    """

    hash: str
    cls: str
    version: str | None
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        """The class's name in the store."""
        pinned, _, rest = self.cls.rpartition("=")
        return pinned or rest.replace(":", ".")


def entry(obj: Furu[Any]) -> Entry:
    """The entry of one artifact.

    Raises:
        FuruDefinitionError: its fields were changed after its hash was taken.
    """
    check_unchanged(obj)
    cls = type(obj)
    fields = {name: values_json.to_json(value) for name, value in fields_of(obj)}
    return Entry(hash=obj.furu_hash, cls=class_reference(cls), version=cls.__furu__.version, fields=fields)


def references(obj: Furu[Any]) -> tuple[Furu[Any], ...]:
    """The artifacts in its fields, each once: what its entry refers to."""
    found = {compute_hash(inner): inner for inner in direct(obj)}
    return cast("tuple[Furu[Any], ...]", tuple(found.values()))


def build(entry: Entry, resolve: Mapping[str, Furu[Any]]) -> Furu[Any]:
    """The artifact of an entry; ``resolve`` has those it refers to, by hash.

    Raises:
        FuruSpecMismatch: this process's code has no such artifact class, or gives the artifact another hash: both
            versions are named.
    """
    cls = load_class(entry.cls)
    own = cls.__furu__.version
    skew = f"version {entry.version!r} in the table, {own!r} in this process's code"
    hint = "the code differs from that of the process which made the table: start the run again with one code"
    try:
        fields = {name: values_json.from_json(value, resolve) for name, value in entry.fields.items()}
        obj = construct(cls, fields)
        made = compute_hash(obj)
    except FuruDefinitionError as error:
        raise FuruSpecMismatch(
            f"{entry.name}/{entry.hash} cannot be made here ({skew}): {error.message}", hint
        ) from error
    if made != entry.hash:
        raise FuruSpecMismatch(
            f"{entry.name}: the table says hash {entry.hash}, this process's code makes {made} of its fields ({skew})",
            hint,
        )
    return cast("Furu[Any]", obj)


def order(root: A, below: Callable[[Artifact], Any] = direct) -> list[Artifact]:
    """``root`` and everything in its fields, each object once, what others refer to first. By identity, not by hash."""
    done: dict[int, Artifact] = {}
    open_: dict[int, Artifact] = {}
    stack: list[tuple[Artifact, bool]] = [(root, False)]
    while stack:
        obj, below_done = stack.pop()
        if below_done:
            del open_[id(obj)]
            done[id(obj)] = obj
        elif id(obj) in open_:
            raise cycle_error([*open_.values(), obj])
        elif id(obj) not in done:
            open_[id(obj)] = obj
            stack.append((obj, True))
            stack.extend((inner, False) for inner in below(obj))
    return list(done.values())


def entries(root: Furu[Any]) -> list[Entry]:
    """The entries of ``root`` and of everything in its fields, each hash once, what others refer to first."""
    compute_hash(root)
    distinct = {compute_hash(obj): obj for obj in order(root)}
    return [entry(cast("Furu[Any]", obj)) for obj in distinct.values()]


def to_dict(root: Furu[Any]) -> dict[str, Any]:
    """``{"furu_table": 1, "root": hash, "nodes": [...]}``, JSON-able."""
    nodes = [msgspec.structs.asdict(one) for one in entries(root)]
    return {"furu_table": FORMAT, "root": root.furu_hash, "nodes": nodes}


def from_dict(data: Mapping[str, Any]) -> Furu[Any]:
    """The artifact that a table describes.

    Raises:
        FuruDefinitionError: it is no table, or one of a later format.
        FuruSpecMismatch: see `build`.
    """
    if not isinstance(data, Mapping) or data.get("furu_table") != FORMAT:
        raise FuruDefinitionError(
            f"{describe(data)} is not a table of artifacts of format {FORMAT}", hint="it is made by to_dict()"
        )
    try:
        nodes = msgspec.convert(data.get("nodes"), list[Entry])
    except msgspec.ValidationError as error:
        raise FuruDefinitionError(f"the table of artifacts is damaged: {error}") from None
    made: dict[str, Furu[Any]] = {}
    for node in nodes:
        made[node.hash] = build(node, made)
    root = made.get(data.get("root", ""))
    if root is None:
        raise FuruDefinitionError(
            f"the table of artifacts has no entry for its root {safe_repr(data.get('root'))}"
        )
    return root


def reduce(obj: Artifact) -> tuple[Any, ...]:
    """For pickle: the table as bytes, and the attempt if it is bound to one."""
    payload = msgspec.json.encode(to_dict(cast("Furu[Any]", obj)))
    return _unpickle, (payload, getattr(obj, "_binding", None))


def _unpickle(payload: bytes, binding: Any) -> Artifact:
    obj: Artifact = from_dict(msgspec.json.decode(payload))
    if binding is not None:
        set_slot(obj, "_binding", binding)
    return obj


_SLOTS = ("_hash", "_dependencies", "_binding")


def shallow_copy(obj: A) -> A:
    """A new object with the same values, hash and attempt; nothing is checked again."""
    made: A = object.__new__(type(obj))
    made.__dict__.update(obj.__dict__)
    for name in _SLOTS:
        try:
            set_slot(made, name, getattr(obj, name))
        except AttributeError:
            continue
    return made


def deep_copy(obj: A, memo: dict[int, Any]) -> A:
    """New objects all the way down, each copied once; works for artifacts that have no hash, too."""

    def not_copied(one: Artifact) -> list[Artifact]:
        return [inner for inner in direct(one) if id(inner) not in memo]

    for one in order(obj, not_copied):
        made = shallow_copy(one)
        try:
            object.__delattr__(made, "_dependencies")
        except AttributeError:
            pass
        for name, value in fields_of(one):
            if type(value) not in LEAVES:
                copied = (
                    memo[id(value)] if isinstance(value, Artifact) else values_json.copy_value(value, memo)
                )
                set_slot(made, name, copied)
        memo[id(one)] = made
    return cast("A", memo[id(obj)])


def to_python(root: Furu[Any]) -> str:
    """Python source that makes ``root``, one line for each artifact."""
    distinct = {compute_hash(obj): obj for obj in order(root)}
    writer = values_json.SourceWriter()
    lines = []
    for key, obj in distinct.items():
        arguments = ", ".join(f"{name}={writer.write(value)}" for name, value in fields_of(obj))
        variable = "artifact" if key == root.furu_hash else writer.variable(obj)
        lines.append(f"{variable} = {writer.name_of(type(obj))}({arguments})")
    return "\n".join([*writer.imports(), "", *lines, ""])
