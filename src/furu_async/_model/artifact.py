"""`Furu`: the class that users inherit from. Its methods are thin; the other modules and `Access` do the work."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NoReturn, Self, TypeVar

from typing_extensions import dataclass_transform

from furu_async._model import brief, definition, rules, table
from furu_async._model.access import access
from furu_async._model.base import Artifact, Binding, set_slot
from furu_async._model.definition import field
from furu_async._model.identity import compute_hash
from furu_async._model.naming import reference, store_name
from furu_async._model.resources import Retry, SlurmSpec, check_specs
from furu_async.errors import FuruDefinitionError

__all__ = ["Binding", "ClassInfo", "Furu", "aget_all", "bind", "binding_of", "class_info", "specs_of"]

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


@dataclass_transform(eq_default=False, kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Furu(Artifact, Generic[T_co]):
    """A cached computation: its fields say what is computed, ``_create`` computes it, once.

    Subclasses become frozen, keyword-only dataclasses. Two artifacts with the same class, version and fields are the
    same computation: they have the same ``furu_hash``, and so the same folder in the store.

    Class keywords:
        version: a text that enters the hash; change it when ``_create`` computes something else. Inherited.
        name: the name in the store, ``module.Class`` without it; lets a class move and keep its results.

    Hooks: ``_create``, ``_load``, ``_validate``, ``_spec``, and the class attributes below.
    """

    __slots__ = ()

    _time_limit: ClassVar[float | None] = None
    """Seconds that ``_create`` may take, in every executor."""
    _retry: ClassVar[Retry | None] = None
    """When a failure is tried again; None for the run's settings."""
    _resumable: ClassVar[bool] = False
    """True: the end of the walltime is no failure; the next attempt goes on from ``furu_checkpoint_dir``."""
    _mode: ClassVar[Literal["process", "thread", "inline"] | None] = None
    """Where `Local` runs it; None for the executor's mode."""

    def __init_subclass__(
        cls, *, version: str | None = None, name: str | None = None, **keywords: Any
    ) -> None:
        rules.check_keywords(cls, version, keywords)
        try:
            super().__init_subclass__(**keywords)
        except TypeError as error:
            unknown = ", ".join(keywords)
            raise FuruDefinitionError(
                f"class {cls.__qualname__}: class keywords {unknown}: {error}"
            ) from error
        definition.define(cls, Furu, version, name)

    def __post_init__(self) -> None:
        definition.check_instance(self)

    # --- hooks -------------------------------------------------------------------------------------------------

    def _create(self) -> T_co | Awaitable[T_co]:
        """Compute the result. Sync or async. Runs at most once per success, in its own folder ``furu_dir``."""
        raise NotImplementedError(f"{type(self).__qualname__} has no _create")

    def _load(self) -> T_co:
        """Load the result from ``furu_dir``. Without it, what ``_create`` returned is stored and loaded by type."""
        raise NotImplementedError(f"{type(self).__qualname__} has no _load")

    def _validate(self) -> bool:
        """Whether the published result can be used. False, or a FuruValidationError, has it computed again."""
        return True

    def _spec(self) -> SlurmSpec | Sequence[SlurmSpec]:
        """What to ask Slurm for: one spec, or several in order of preference."""
        return SlurmSpec()

    # --- identity ----------------------------------------------------------------------------------------------

    @property
    def furu_hash(self) -> str:
        """32 hex digits that stand for class, version and fields; the same on every machine.

        Raises:
            FuruDefinitionError: no other process could find the class, or it has no ``_create``.
        """
        try:
            return self._hash
        except AttributeError:
            return compute_hash(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Artifact):
            return NotImplemented
        if type(self).__qualname__ != type(other).__qualname__ and None in (
            type(self).__furu__.pinned,
            type(other).__furu__.pinned,
        ):
            return False
        return compute_hash(self) == compute_hash(other)

    def __hash__(self) -> int:
        return hash(self.furu_hash)

    def __repr__(self) -> str:
        shown = {
            info.name: getattr(self, info.name, ...) for info in type(self).__furu__.fields if info.shown
        }
        return brief.call(type(self).__qualname__, shown)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to {name!r}: an artifact is frozen; make another one")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete {name!r}: an artifact is frozen")

    def __copy__(self) -> Self:
        return table.shallow_copy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return table.deep_copy(self, memo)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return table.reduce(self)

    def to_dict(self) -> dict[str, Any]:
        """This artifact and all those in its fields as JSON-able data: a flat table, each artifact once."""
        return table.to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The artifact that `to_dict` described.

        Raises:
            FuruSpecMismatch: this process's code has no such class, or gives it another hash.
            FuruDefinitionError: ``data`` is no such table, or describes an artifact of another class.
        """
        obj = table.from_dict(data)
        if not isinstance(obj, cls):
            raise FuruDefinitionError(
                f"{cls.__qualname__}.from_dict: the table describes {obj!r}",
                hint="use Furu.from_dict for any class",
            )
        return obj

    def to_python(self) -> str:
        """Python source that makes this artifact, with its imports; the last line assigns it to ``artifact``."""
        return table.to_python(self)

    # --- results -----------------------------------------------------------------------------------------------

    @property
    def furu_dir(self) -> Path:
        """The folder of this artifact's files: in ``_create`` the attempt's own, elsewhere the published one.

        Raises:
            FuruMissingArtifact: nothing is published.
        """
        bound = binding_of(self)
        if bound is None:
            return _made(access().directory(self), strict=False)
        return _made(bound.directory, strict=bound.checkpoint is not None)

    @property
    def furu_checkpoint_dir(self) -> Path:
        """A folder that passes from attempt to attempt until one succeeds; only there inside ``_create``."""
        bound = binding_of(self)
        if bound is None or bound.checkpoint is None:
            return Path(access().checkpoint_dir(self))
        os.makedirs(bound.checkpoint, exist_ok=True)
        return Path(bound.checkpoint)

    def get(self) -> T_co:
        """The result: computed if needed, then loaded. Blocks; inside ``_create`` it only loads."""
        result: T_co = access().get(self)
        return result

    async def aget(self, *, executor: Any = None) -> T_co:
        """The result: computed if needed, then loaded. Inside ``_create`` it only loads.

        Args:
            executor: where to compute it; None for the surrounding `Scheduler`, or an implicit `Local`.
        """
        result: T_co = await access().aget(self, executor)
        return result

    def exists(self) -> bool:
        """Whether a valid result is published. An exception of ``_validate`` or the store gets through."""
        return access().exists(self)

    async def aexists(self) -> bool:
        """Whether a valid result is published. An exception of ``_validate`` or the store gets through."""
        return await access().aexists(self)

    def _exists_quiet(self) -> bool:
        """Whether a valid result is published, as a yes or no: never raises, never hangs its caller."""
        return access().exists_quiet(self)

    async def _aexists_quiet(self) -> bool:
        """Whether a valid result is published, as a yes or no: never raises, never hangs its caller."""
        return await access().aexists_quiet(self)

    def load_existing(self) -> T_co:
        """Load what is published, computing nothing. Blocks.

        Raises:
            FuruMissingArtifact: nothing is published.
        """
        result: T_co = access().load(self)
        return result

    async def aload(self) -> T_co:
        """Load what is published, computing nothing.

        Raises:
            FuruMissingArtifact: nothing is published.
        """
        result: T_co = await access().aload(self)
        return result

    def get_state(self) -> dict[str, Any]:
        """What the store says about this artifact, JSON-able. Blocks."""
        return access().state(self)

    async def aget_state(self) -> dict[str, Any]:
        """What the store says about this artifact, JSON-able."""
        return await access().astate(self)

    def get_metadata(self) -> dict[str, Any]:
        """The metadata of the published result (provenance, times), JSON-able. Blocks.

        Raises:
            FuruMissingArtifact: nothing is published.
        """
        return access().metadata(self)

    async def aget_metadata(self) -> dict[str, Any]:
        """The metadata of the published result (provenance, times), JSON-able.

        Raises:
            FuruMissingArtifact: nothing is published.
        """
        return await access().ametadata(self)


Furu.__furu__ = definition.Definition(Furu, None, None)


async def aget_all(objs: Iterable[Furu[T]], *, executor: Any = None) -> list[T]:
    """The results of several artifacts, in order; what is missing is computed together."""
    result: list[T] = await access().aget_all(list(objs), executor)
    return result


def _made(directory: str, strict: bool) -> Path:
    """The folder, made at first use: an artifact that has no files has none on disk until somebody asks for it."""
    if not os.path.isdir(directory):
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError:
            if strict:
                raise  # a store that can only be read has it or needs it not
    return Path(directory)


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """What the other parts need to know of an artifact class.

    Attributes:
        name: its name in the store.
        module, qualname: where any process imports it from.
        version: the class keyword, or None.
        has_load, has_validate, has_spec: it has that hook.
        time_limit: seconds, or None.
        retry: its own rules, or None.
        resumable: it goes on from its checkpoint.
        mode: ``process``, ``thread``, ``inline``, or None for the executor's.
        fields: names, in the order of the class.
        dependency_methods: names of its ``@dependency`` methods.
    """

    name: str
    module: str
    qualname: str
    version: str | None
    has_load: bool
    has_validate: bool
    has_spec: bool
    time_limit: float | None
    retry: Retry | None
    resumable: bool
    mode: str | None
    fields: tuple[str, ...]
    dependency_methods: tuple[str, ...]


def class_info(cls: type[Furu[Any]]) -> ClassInfo:
    """What is known of ``cls``; made once.

    Raises:
        FuruDefinitionError: no other process could find the class, or it has no ``_create``.
    """
    known = cls.__furu__
    if known.info is None:
        if known.abstract:
            known.make_prefix()  # raises, saying so
        module, _, qualname = reference(cls).partition(":")
        known.info = ClassInfo(
            name=store_name(cls),
            module=module,
            qualname=qualname,
            version=known.version,
            has_load=cls._load is not Furu._load,
            has_validate=cls._validate is not Furu._validate,
            has_spec=cls._spec is not Furu._spec,
            time_limit=cls._time_limit,
            retry=cls._retry,
            resumable=cls._resumable,
            mode=cls._mode,
            fields=tuple(info.name for info in known.fields),
            dependency_methods=known.depends,
        )
    return known.info


_DEFAULT_SPECS = (SlurmSpec(),)


def specs_of(obj: Furu[Any]) -> tuple[SlurmSpec, ...]:
    """What the artifact's ``_spec`` asks for, in order of preference.

    Raises:
        FuruDefinitionError: it returned something else; an exception of the hook itself gets through.
    """
    if type(obj)._spec is Furu._spec:
        return _DEFAULT_SPECS
    hook: Any = obj._spec
    return check_specs(hook() if callable(hook) else hook, f"{type(obj).__qualname__}._spec")


def bind(obj: Furu[T], binding: Binding) -> Furu[T]:
    """A copy that shares the fields' values and belongs to an attempt: the same hash, its own ``furu_dir``."""
    made = table.shallow_copy(obj)
    set_slot(made, "_binding", binding)
    return made


def binding_of(obj: Furu[Any]) -> Binding | None:
    """The attempt that this copy belongs to, or None."""
    return getattr(obj, "_binding", None)
