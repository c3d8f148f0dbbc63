"""What a node asks for: a Slurm allocation, and how it wants to be tried again. Frozen, checked when made.

Two specs are equal exactly if their `SlurmSpec.key` is; the key names folders and limits, so it must not change for
the same values from one release to the next.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from furu_async._model.brief import describe
from furu_async.errors import FuruConfigError, FuruDefinitionError

DEFAULT_NEVER: tuple[type[BaseException], ...] = (
    TypeError,
    NameError,
    AttributeError,
    ImportError,
    SyntaxError,
    NotImplementedError,
)
"""Errors that trying again does not mend."""

_MAX_NESTING = 20


class FrozenMapping(Mapping[str, Any]):
    """A mapping that cannot change, nested ones included; hashable, and picklable unlike a mapping proxy."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items))

    def __repr__(self) -> str:
        return repr(self._items)

    def plain(self) -> dict[str, Any]:
        """A fresh dict of plain values, nested ones too: what submitit wants."""
        return {key: _plain(value) for key, value in self._items.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, FrozenMapping):
        return value.plain()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, eq=False)
class SlurmSpec:
    """One Slurm allocation.

    Attributes:
        partition: the partition's name, or None for the cluster's default.
        gpus: GPUs per node, 0 or more.
        cpus: CPUs per task, at least 1.
        mem_gb: memory in GB, greater than 0.
        time_min: walltime of the allocation in minutes, greater than 0: of the pilot in a pool, of the job in a DAG.
            It says nothing to `Local`.
        extra: passed through to submitit; scalars, lists and nested mappings with string keys.

    Raises:
        FuruConfigError: (a ValueError) a value is out of its range.
    """

    partition: str | None = None
    gpus: int = 0
    cpus: int = 4
    mem_gb: float = 16
    time_min: float = 60
    extra: Mapping[str, Any] | None = None
    key: str = field(init=False, repr=False, default="")

    def __post_init__(self) -> None:
        partition = self.partition
        if partition is not None and (
            not isinstance(partition, str) or not partition.strip() or not partition.isprintable()
        ):
            _refuse("SlurmSpec: partition", partition, "a name, or None for the cluster's default")
        put = object.__setattr__
        put(self, "gpus", _integer("SlurmSpec: gpus", self.gpus, 0))
        put(self, "cpus", _integer("SlurmSpec: cpus", self.cpus, 1))
        put(self, "mem_gb", _positive("SlurmSpec: mem_gb", self.mem_gb))
        put(self, "time_min", _positive("SlurmSpec: time_min", self.time_min))
        extra: FrozenMapping | None = None
        if self.extra is not None:
            if not isinstance(self.extra, Mapping):
                _refuse("SlurmSpec: extra", self.extra, "a mapping, or None")
            # An empty mapping asks for nothing, so it must not make another spec.
            extra = _freeze(self.extra, "SlurmSpec: extra", 0) if self.extra else None
        put(self, "extra", extra)
        put(self, "key", self._make_key(extra))

    def _make_key(self, extra: FrozenMapping | None) -> str:
        payload = [
            self.partition,
            self.gpus,
            self.cpus,
            self.mem_gb,
            self.time_min,
            extra.plain() if extra is not None else None,
        ]
        text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        name = re.sub(r"[^A-Za-z0-9_]+", "-", self.partition or "default").strip("-")[:32] or "partition"
        return f"{name}-g{self.gpus}-c{self.cpus}-{digest}"

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, SlurmSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class Retry:
    """When a failed ``_create`` is tried again.

    Attributes:
        retries: how often after the first failure, 0 or more; None for the run's setting.
        backoff: seconds before the first retry, doubled each time; None for the run's setting.
        on: exception classes that are retried.
        never: exception classes that are not, though ``on`` has them. A class listed in ``on`` by itself wins over
            the default of this.

    Raises:
        FuruConfigError: (a ValueError) a value is out of its range.
    """

    retries: int | None = None
    backoff: float | None = None
    on: tuple[type[BaseException], ...] = (Exception,)
    never: tuple[type[BaseException], ...] = DEFAULT_NEVER

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.retries is not None:
            put(self, "retries", _integer("Retry: retries", self.retries, 0))
        if self.backoff is not None:
            put(self, "backoff", _positive("Retry: backoff", self.backoff, zero=True))
        on, never = _classes("Retry: on", self.on), _classes("Retry: never", self.never)
        if never == DEFAULT_NEVER:
            never = tuple(cls for cls in never if cls not in on)
        put(self, "on", on)
        put(self, "never", never)

    def wants(self, error: BaseException) -> bool:
        """Whether this exception is worth another try.

        ``Exception`` in ``on`` means whatever ``_create`` raises, so `SystemExit` and the like are wanted with it.
        """
        if isinstance(error, self.never):
            return False
        return Exception in self.on or isinstance(error, self.on)


def check_specs(value: Any, where: str) -> tuple[SlurmSpec, ...]:
    """What a ``_spec`` hook returned, as a tuple in order of preference, without repetitions.

    Raises:
        FuruDefinitionError: it is neither a `SlurmSpec` nor a non-empty sequence of them.
    """
    if isinstance(value, SlurmSpec):
        return (value,)
    if isinstance(value, list | tuple) and value and all(isinstance(item, SlurmSpec) for item in value):
        return tuple(dict.fromkeys(value))
    raise FuruDefinitionError(
        f"{where} returned {describe(value)}; expected a SlurmSpec, or a non-empty list of them in order of preference"
    )


def _refuse(name: str, value: object, allowed: str) -> NoReturn:
    raise FuruConfigError(f"{name}={describe(value)} is not possible: expected {allowed}")


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        _refuse(name, value, f"a whole number, {least} or more")
    number = int(value.__index__())
    if number < least:
        _refuse(name, value, f"a whole number, {least} or more")
    return number


def _positive(name: str, value: Any, *, zero: bool = False) -> float:
    allowed = "a finite number, 0 or more" if zero else "a finite number greater than 0"
    if isinstance(value, bool) or not (isinstance(value, int | float) or hasattr(type(value), "__index__")):
        _refuse(name, value, allowed)
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        _refuse(name, value, allowed)
    # 16 and 16.0 are the same amount: one form, so that equal specs have one key.
    return int(number) if number.is_integer() else number


def _classes(name: str, value: Any) -> tuple[type[BaseException], ...]:
    classes = (value,) if isinstance(value, type) else value
    if not isinstance(classes, tuple | list) or not all(
        isinstance(cls, type) and issubclass(cls, BaseException) for cls in classes
    ):
        _refuse(name, value, "a tuple of exception classes")
    return tuple(classes)


def _freeze(value: Any, where: str, depth: int) -> Any:
    if depth > _MAX_NESTING:
        _refuse(where.split("[")[0], value, f"no more than {_MAX_NESTING} levels of nesting")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                _refuse(f"{where}[{key!r}]", key, "a string as key")
        return FrozenMapping(
            {key: _freeze(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
        )
    if isinstance(value, list | tuple):
        return tuple(_freeze(item, f"{where}[{n}]", depth + 1) for n, item in enumerate(value))
    _refuse(where, value, "None, a bool, a finite number, a string, or a list or mapping of these")
