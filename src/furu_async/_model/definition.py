"""What a class definition says: its fields, hooks, version and name, gathered once per class.

The class statement makes the class a frozen, keyword-only dataclass and a `Definition`; what needs the annotations'
types waits for the first instance, what needs the class's name for the first hash.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from furu_async._model import hints, identity, naming, rules
from furu_async._model.base import Artifact, set_slot
from furu_async._model.brief import clip
from furu_async._model.values import BadValue, Check
from furu_async.errors import FuruDefinitionError

if TYPE_CHECKING:
    from furu_async._model.artifact import ClassInfo

V = TypeVar("V")
F = TypeVar("F", bound=Callable[..., Any])

_MISSING: Any = dataclasses.MISSING


@overload
def field(*, default: V, identity: bool = True, since: bool = False) -> V: ...
@overload
def field(*, default_factory: Callable[[], V], identity: bool = True, since: bool = False) -> V: ...
@overload
def field(*, identity: bool = True) -> Any: ...
def field(
    *,
    default: Any = _MISSING,
    default_factory: Any = _MISSING,
    identity: bool = True,
    since: bool = False,
) -> Any:
    """A field of an artifact, where an annotation and a plain default do not say enough.

    Args:
        default: the value if none is given.
        default_factory: makes the value if none is given; for lists, dicts and other artifacts.
        identity: False: the field travels with the artifact, but is no part of its hash; for what cannot change the
            result, such as a number of threads.
        since: True: at its default the field is no part of the hash, so it can be added to a class without losing
            the results that exist.

    Raises:
        FuruDefinitionError: an argument makes no sense.
    """
    for name, value in (("identity", identity), ("since", since)):
        if not isinstance(value, bool):
            raise FuruDefinitionError(f"field({name}={value!r}): expected True or False")
    if default is not _MISSING and default_factory is not _MISSING:
        raise FuruDefinitionError("field(): give either default or default_factory, not both")
    if default_factory is not _MISSING and not callable(default_factory):
        raise FuruDefinitionError(
            "field(default_factory=…) is called to make the default, and what was given cannot be called",
            hint="for a plain value write field(default=…)",
        )
    if since and default is _MISSING and default_factory is _MISSING:
        raise FuruDefinitionError(
            "field(since=True) needs a default: at that value it does not enter the hash"
        )
    if since and not identity:
        raise FuruDefinitionError(
            "field(identity=False, since=True): a field that never hashes needs no since=True"
        )
    metadata = {_IDENTITY: identity, _SINCE: since}
    made: Any = dataclasses.field(default=default, default_factory=default_factory, metadata=metadata)
    return made


_IDENTITY, _SINCE = "furu_async.identity", "furu_async.since"


def dependency(method: F) -> F:
    """Mark a method that returns further artifacts this one needs: one, or any containers of them, or None.

    They are computed first and can be loaded in ``_create``, as those in fields. They are no part of the hash, so they
    must follow from the fields.

    Raises:
        FuruDefinitionError: it is not a plain method.
    """
    if not callable(method) or isinstance(method, type):
        raise FuruDefinitionError(
            "@dependency marks a method",
            hint="below @property or @staticmethod there is nothing to mark: make it a plain method",
        )
    method.__furu_dependency__ = True  # type: ignore[attr-defined]
    return method


class FieldInfo:
    """One field of one class.

    Attributes:
        name: as in the class.
        identity, since: as given to `field`.
        owner: the class in whose body it is annotated.
        key: how its name is written in the canonical form.
        default_written: the canonical form of its default, once needed (``since`` only).
        check: what its annotation allows, once compiled.
    """

    __slots__ = ("check", "default_written", "identity", "key", "made_by", "name", "owner", "shown", "since")

    def __init__(self, made_by: dataclasses.Field[Any], owner: type[Any]) -> None:
        name = made_by.name
        self.name = name
        self.identity: bool = made_by.metadata.get(_IDENTITY, True)
        self.since: bool = made_by.metadata.get(_SINCE, False)
        self.shown = made_by.repr
        self.owner = owner
        self.key = b"=%d:%b" % (len(name.encode()), name.encode())
        self.made_by = made_by
        self.default_written: bytes | None = None
        self.check: Check | None = None

    def default(self) -> Any:
        """A fresh default, checked."""
        made: Any = self.made_by
        value = made.default_factory() if made.default_factory is not _MISSING else made.default
        return self.check(value, 0) if self.check is not None else value


class Definition:
    """What is known of one artifact class.

    Attributes:
        cls: the class.
        version: the class keyword, or the nearest ancestor's; None if there is none.
        pinned: the class keyword ``name=`` of this very class, or None.
        name: the store name, once asked for.
        fields: in the order of the class; hashed: those of the identity, by name.
        depends: names of its ``@dependency`` methods.
        abstract: it has no ``_create``, so it can be inherited from but not hashed or run.
        plan: name and check of each field, once the first instance was made.
        prefix: what the class adds to the hash, once asked for.
        info: the public `ClassInfo`, once asked for.
    """

    __slots__ = (
        "abstract",
        "cls",
        "depends",
        "fields",
        "hashed",
        "info",
        "name",
        "pinned",
        "plan",
        "prefix",
        "version",
    )

    def __init__(self, cls: type[Any], version: str | None, pinned: str | None) -> None:
        self.cls: type[Any] = cls
        self.version: str | None = version
        self.pinned: str | None = pinned
        self.name: str | None = None
        self.fields: tuple[FieldInfo, ...] = ()
        self.hashed: tuple[FieldInfo, ...] = ()
        self.depends: tuple[str, ...] = ()
        self.abstract: bool = True
        self.plan: tuple[tuple[str, Check], ...] | None = None
        self.prefix: bytes | None = None
        self.info: ClassInfo | None = None

    def compile(self) -> tuple[tuple[str, Check], ...]:
        """Resolve the annotations; done at the first instance.

        Raises:
            FuruDefinitionError: naming class and field: a name cannot be found, or a type is not supported.
        """
        from furu_async._model.compile import compile_fields

        rules.check_complete(self.cls)
        checks = compile_fields(self.cls, {info.name: info.owner for info in self.fields})
        for info in self.fields:
            info.check = checks[info.name]
        self.plan = tuple(checks.items())
        return self.plan

    def make_prefix(self) -> bytes:
        """What the class adds to the hash.

        Raises:
            FuruDefinitionError: the class is abstract, or no other process could find it.
        """
        if self.abstract:
            raise FuruDefinitionError(
                f"{self.cls.__qualname__} has no _create, so its instances have no hash and cannot be run",
                hint="define _create, or use a subclass that does",
            )
        self.prefix = identity.prefix_of(self)
        return self.prefix


_declares_dependencies: list[str] = []


def dependency_methods_exist() -> bool:
    """A class with ``@dependency`` methods was defined: a DAG may hold a mistake that no hash has shown yet."""
    return bool(_declares_dependencies)


def define(cls: type[Any], furu: type[Any], version: str | None, name: object) -> None:
    """Turn a class that was just created into an artifact class.

    Raises:
        FuruDefinitionError: see `rules`.
    """
    inherited = next(
        base.__furu__ for base in cls.__mro__[1:] if issubclass(base, Artifact) and base is not Artifact
    )
    rules.check_body(cls, furu)
    pinned = naming.check_name(name, cls) if name is not None else None
    definition = Definition(cls, inherited.version if version is None else version, pinned)
    cls.__furu__ = definition
    _wrap_post_init(cls)
    try:
        dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)(cls)
    except (TypeError, ValueError) as error:
        raise FuruDefinitionError(
            f"class {cls.__qualname__}: {error}",
            hint="a list, dict or set as default is written field(default_factory=list)"
            if "mutable default" in str(error)
            else "",
        ) from None
    rules.check_dataclass(cls)
    for kept in rules.KEPT:
        if getattr(cls, kept) is not getattr(furu, kept):
            setattr(cls, kept, furu.__dict__[kept])
    definition.fields = tuple(FieldInfo(made, _owner(cls, made.name)) for made in dataclasses.fields(cls))
    definition.hashed = tuple(
        sorted((info for info in definition.fields if info.identity), key=lambda i: i.name)
    )
    definition.depends = rules.dependency_methods(cls)
    if definition.depends:
        _declares_dependencies.append(cls.__qualname__)
    definition.abstract = cls._create is furu._create or bool(
        getattr(cls._create, "__isabstractmethod__", False)
    )
    if "<locals>" in cls.__qualname__:
        hints.resolve_early(cls, sys._getframe(2))
    if pinned is not None and "<locals>" not in cls.__qualname__:
        naming.register(pinned, cls)


def _owner(cls: type[Any], name: str) -> type[Any]:
    return next(base for base in cls.__mro__ if name in hints.own_annotations(base))


def _wrap_post_init(cls: type[Any]) -> None:
    """A user's ``__post_init__`` runs on checked values, whether or not it calls ``super()``."""
    users = cls.__dict__.get("__post_init__")
    if users is None:
        return

    def __post_init__(self: Artifact) -> None:
        check_instance(self)
        users(self)

    cls.__post_init__ = __post_init__


def check_instance(obj: Artifact) -> None:
    """Check the fields of a new artifact against their annotations and keep the normalised values.

    Raises:
        FuruDefinitionError: naming class, field and place.
    """
    definition = type(obj).__furu__
    for name, check in definition.plan or definition.compile():
        value = getattr(obj, name)
        try:
            kept = check(value, 0)
        except BadValue as error:
            raise FuruDefinitionError(
                f"{type(obj).__qualname__}.{name}{error.where()}: {error.text}"
            ) from error.__cause__
        except RecursionError:
            raise FuruDefinitionError(
                f"{type(obj).__qualname__}.{name}: the value is nested too deeply, or contains itself"
            ) from None
        if kept is not value:
            set_slot(obj, name, kept)


def construct(cls: type[Any], values: dict[str, Any]) -> Any:
    """An artifact of values as read from a table.

    Raises:
        FuruDefinitionError: a field is missing, unknown, or has a value that does not fit, or ``__post_init__`` raised.
    """
    try:
        return cls(**values)
    except FuruDefinitionError:
        raise
    except Exception as error:  # a missing or unknown field, or what a __post_init__ of the user's raises
        raise FuruDefinitionError(
            f"{cls.__qualname__}: {type(error).__name__}: {clip(str(error), 300)}"
        ) from error


def fields_of(obj: Artifact) -> Iterable[tuple[str, Any]]:
    """Name and value of each field, in the order of the class."""
    return [(info.name, getattr(obj, info.name)) for info in type(obj).__furu__.fields]
