"""`SlurmDag`: what a user says of it, and the executor that this becomes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from furu_async._executors.base import Executor, ExecutorLike
from furu_async._model.resources import SlurmSpec
from furu_async._runtime.config import FuruConfig
from furu_async._slurm.port import SlurmPort
from furu_async.errors import FuruConfigError, FuruDefinitionError

ARRAY_MOST = 100
"""Tasks of one array at most, whatever the cluster allows: what is told of it as a whole concerns few nodes then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmDag(ExecutorLike):
    """One Slurm job for each node, wired with ``afterok``: Slurm itself holds the DAG.

    `run_dag` submits all of it and follows it to the end; `submit_dag` submits it and returns.

    Attributes:
        max_jobs: of a run in Slurm at the same time; default: what the cluster allows.
        cluster: ``slurm``, or ``local``: the same on this machine, without Slurm.
        slurm_additional_parameters: options of ``sbatch`` for all jobs, merged into those of the nodes' specs, which
            win. A ``dependency`` is joined with the library's.
        setup: lines of shell that each job runs first.
        arrays: siblings with the same specification and the same dependencies become one array of jobs.

    Raises:
        FuruDefinitionError: a value is not allowed.
    """

    max_jobs: int | None = None
    cluster: Literal["slurm", "local"] = "slurm"
    slurm_additional_parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    setup: tuple[str, ...] = ()
    arrays: bool = True

    def __post_init__(self) -> None:
        most = self.max_jobs
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise FuruDefinitionError(f"SlurmDag(max_jobs={most!r}): use a whole number, 1 or more, or None")
        if self.cluster not in ("slurm", "local"):
            raise FuruDefinitionError(f"SlurmDag(cluster={self.cluster!r}): use 'slurm' or 'local'")
        if not isinstance(self.arrays, bool):
            raise FuruDefinitionError(f"SlurmDag(arrays={self.arrays!r}): use True or False")
        given_lines: object = self.setup
        setup = (given_lines,) if isinstance(given_lines, str) else tuple(self.setup)
        if not all(isinstance(line, str) for line in setup):
            raise FuruDefinitionError(f"SlurmDag(setup={self.setup!r}): use a list of lines of shell")
        object.__setattr__(self, "setup", setup)
        given = self.slurm_additional_parameters
        if not isinstance(given, Mapping):
            raise FuruDefinitionError(
                f"SlurmDag(slurm_additional_parameters={given!r}): use a mapping of options of sbatch"
            )
        from furu_async._slurm.parameters import Wish, request

        try:
            request(self.merged(SlurmSpec()), Wish("furu-check", ("true",), "/logs"))
        except FuruConfigError as error:
            raise FuruDefinitionError(f"SlurmDag: {error.message}", error.hint) from error

    def merged(self, spec: SlurmSpec) -> SlurmSpec:
        """A node's spec with what is said here added; what the spec says itself wins."""
        from furu_async._slurm.parameters import with_defaults

        return with_defaults(spec, self.slurm_additional_parameters, self.setup)

    def open(self, config: FuruConfig) -> Executor:
        """Make its executor, on the running loop."""
        from furu_async._dag.executor import DagExecutor

        return DagExecutor(self, config, self.port(config))

    def port(self, config: FuruConfig) -> SlurmPort:
        """The cluster that it speaks to."""
        if self.cluster == "local":
            from furu_async._slurm.local_port import LocalPort

            return LocalPort(os.fspath(config.path))
        from furu_async._slurm.real import RealSlurm

        return RealSlurm()
