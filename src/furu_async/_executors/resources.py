"""Cores, GPUs and memory that `Local` hands out; pure bookkeeping."""

from __future__ import annotations

import os
from dataclasses import dataclass

from furu_async._model.resources import SlurmSpec


@dataclass(frozen=True, slots=True)
class Grant:
    """What one attempt holds while it runs; ``gpus`` are indices, memory in GiB."""

    cpus: int = 0
    gpus: tuple[int, ...] = ()
    mem_gb: float = 0.0


NOTHING = Grant()


class Budget:
    """What a `Local` may use at the same time; a limit of None means: not counted.

    Args:
        cpus: cores.
        gpus: number of GPUs, numbered from 0, or as listed in ``CUDA_VISIBLE_DEVICES``.
        mem_gb: memory in GiB.
    """

    def __init__(self, cpus: int | None, gpus: int | None, mem_gb: float | None) -> None:
        self.cpus = cpus
        self.gpus = gpus
        self.mem_gb = mem_gb
        self._free_cpus = cpus or 0
        self._free_mem = mem_gb or 0.0
        self._free_gpus = list(range(gpus or 0))

    @property
    def counted(self) -> bool:
        """Anything is limited."""
        return self.cpus is not None or self.gpus is not None or self.mem_gb is not None

    def refusal(self, spec: SlurmSpec) -> str | None:
        """Why this specification can never fit, or None."""
        default = " (as any node whose class has no `_spec`)" if spec == SlurmSpec() else ""
        if self.cpus is not None and spec.cpus > self.cpus:
            return f"it asks for {spec.cpus} cpus{default}, Local(cpus={self.cpus}) has fewer"
        if spec.gpus > (self.gpus or 0) and self.counted:
            return f"it asks for {spec.gpus} gpus, Local(gpus={self.gpus}) has fewer"
        if self.mem_gb is not None and spec.mem_gb > self.mem_gb:
            return f"it asks for {spec.mem_gb} GiB{default}, Local(mem_gb={self.mem_gb}) has less"
        return None

    def take(self, spec: SlurmSpec) -> Grant | None:
        """Hold what the specification asks for, or None if it does not fit now."""
        if not self.counted:
            return NOTHING
        cpus = spec.cpus if self.cpus is not None else 0
        mem = float(spec.mem_gb) if self.mem_gb is not None else 0.0
        gpus = spec.gpus if self.gpus is not None else 0
        if cpus > self._free_cpus or mem > self._free_mem + 1e-9 or gpus > len(self._free_gpus):
            return None
        self._free_cpus -= cpus
        self._free_mem -= mem
        held, self._free_gpus = tuple(self._free_gpus[:gpus]), self._free_gpus[gpus:]
        return Grant(cpus, held, mem)

    def give_back(self, grant: Grant) -> None:
        """Return what `take` gave."""
        self._free_cpus += grant.cpus
        self._free_mem += grant.mem_gb
        self._free_gpus = sorted((*self._free_gpus, *grant.gpus))


def default_workers() -> int:
    """Cores this process may use (affinity, then the cgroup's quota), at most 8, at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    quota = _cgroup_cores()
    if quota is not None:
        cores = min(cores, quota)
    return max(1, min(8, cores))


def _cgroup_cores() -> int | None:
    for path in ("/sys/fs/cgroup/cpu.max",):
        try:
            with open(path) as file:
                limit, period = file.read().split()[:2]
            if limit != "max":
                return max(1, int(limit) // int(period))
        except (OSError, ValueError):
            continue
    return None


def visible_devices(grant: Grant) -> str:
    """Value of ``CUDA_VISIBLE_DEVICES`` for a grant; indices are mapped through the caller's own value."""
    outer = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [part.strip() for part in outer.split(",") if part.strip()]
    return ",".join(names[index] if index < len(names) else str(index) for index in grant.gpus)
