"""`SlurmPool`: pilot jobs that take tasks from a queue."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from furu_async._executors.base import Executor, ExecutorLike
from furu_async._model.resources import FrozenMapping, SlurmSpec
from furu_async._runtime.config import FuruConfig
from furu_async._slurm.parameters import Wish, request
from furu_async.errors import FuruDefinitionError

Cluster = Literal["slurm", "local"]


@dataclass(frozen=True, kw_only=True)
class SlurmPool(ExecutorLike):
    """Run nodes on pilot jobs in Slurm: a few jobs, each of which takes one task after the other from a queue.

    What a job asks for is the node's ``_spec``; a spec's ``time_min`` is the walltime of the job, not of the node.

    Attributes:
        workers: jobs at the same time for each spec; or a mapping from spec to that number, and then nodes of
            other specs are refused.
        max_workers: jobs at the same time for all specs together; None: no limit but those of the specs.
        slots: nodes that a job runs at the same time.
        idle: seconds without work after which a job ends.
        cluster: ``slurm``; or ``local``: jobs are processes on this machine.
        slurm_additional_parameters: options of ``sbatch`` for all jobs; what a spec says itself wins.
        setup: lines of shell that a job runs first.

    Raises:
        FuruDefinitionError: a value is not allowed.
        FuruConfigError: an option cannot be passed on.
    """

    workers: int | Mapping[SlurmSpec, int] = 4
    max_workers: int | None = None
    slots: int = 1
    idle: float = 60.0
    cluster: Cluster = "slurm"
    slurm_additional_parameters: Mapping[str, Any] = field(default_factory=dict)
    setup: Sequence[str] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__
        if isinstance(self.workers, Mapping):
            if not self.workers:
                raise FuruDefinitionError("SlurmPool(workers={}): name at least one SlurmSpec")
            for spec, count in self.workers.items():
                if not isinstance(spec, SlurmSpec):
                    raise FuruDefinitionError(f"SlurmPool(workers=...): {spec!r} is not a SlurmSpec")
                _whole("workers", count, 1)
            put(self, "workers", _Counts(self.workers))
        else:
            _whole("workers", self.workers, 1)
        if self.max_workers is not None:
            _whole("max_workers", self.max_workers, 1)
        _whole("slots", self.slots, 1)
        idle = self.idle
        if isinstance(idle, bool) or not isinstance(idle, int | float) or not math.isfinite(idle) or idle < 0:
            raise FuruDefinitionError(f"SlurmPool(idle={idle!r}): use a number of seconds, 0 or more")
        if self.cluster not in ("slurm", "local"):
            raise FuruDefinitionError(f"SlurmPool(cluster={self.cluster!r}): use 'slurm' or 'local'")
        if not isinstance(self.slurm_additional_parameters, Mapping):
            raise FuruDefinitionError("SlurmPool(slurm_additional_parameters=...): use a mapping")
        put(self, "slurm_additional_parameters", FrozenMapping(self.slurm_additional_parameters))
        setup = (self.setup,) if isinstance(self.setup, str) else tuple(self.setup)
        if not all(isinstance(line, str) for line in setup):
            raise FuruDefinitionError("SlurmPool(setup=...): use lines of shell")
        put(self, "setup", setup)
        request(
            self.with_options(SlurmSpec()), Wish("x", ("true",), "/")
        )  # what cannot be passed on is said now

    def open(self, config: FuruConfig) -> Executor:
        """Make its executor, on the running loop; jobs are submitted when there is work."""
        from furu_async._pool.executor import PoolExecutor

        return PoolExecutor(self, config)

    def limit(self, spec: SlurmSpec) -> int:
        """Workers that a spec may have; 0: its nodes are refused."""
        return self.workers.get(spec, 0) if isinstance(self.workers, Mapping) else self.workers

    def with_options(self, spec: SlurmSpec) -> SlurmSpec:
        """A spec with the pool's options added, those of the spec winning.

        Raises:
            FuruConfigError: something cannot be an option.
        """
        from furu_async._slurm.parameters import with_defaults

        return with_defaults(spec, self.slurm_additional_parameters, self.setup)


class _Counts(dict[SlurmSpec, int]):
    """Workers by spec; hashable, because nobody changes it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise FuruDefinitionError(f"SlurmPool({name}={value!r}): use a whole number, {least} or more")
