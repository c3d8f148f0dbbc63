"""What the tests of `SlurmDag` on a real cluster have in common."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.slurm.cluster import Cluster
from tests.slurm.job import Job

from furu_async import FuruConfig, RunReport, SlurmDag, run_dag

SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))


def settings(path: Path, **changed: Any) -> FuruConfig:
    """A store in ``path``."""
    return FuruConfig(path=path / "store", **changed)


def attempts(folder: Path, name: str) -> list[str]:
    """Jobs (and restart counts) of the attempts of a step, as it wrote them down."""
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


async def until(condition: Callable[[], Any], seconds: float = 30, what: str = "a condition") -> Any:
    """Wait until this gives something; that. The condition may ask Slurm, so it runs in a thread."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds * SCALE
    while True:
        got = await asyncio.to_thread(condition)
        if got:
            return got
        assert loop.time() < end, f"{what} did not come in {seconds:g} s"
        await asyncio.sleep(0.1)


async def dag(targets: Any, config: FuruConfig, **options: Any) -> RunReport:
    """`run_dag` on the cluster, bounded, without raising for what nodes do."""
    options.setdefault("check", False)
    options.setdefault("timeout", 100 * SCALE)
    executor = options.pop("executor", None) or SlurmDag()
    return await run_dag(targets, executor=executor, config=config, progress=False, **options)


def living(slurm: Cluster) -> list[str]:
    """Jobs that have not ended."""
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED")
    return [str(job) for job in slurm.jobs().values() if job.state not in over]


class Ours:
    """The jobs that were submitted since."""

    def __init__(self, slurm: Cluster) -> None:
        self._slurm = slurm
        self._before = {(job.id, job.name) for job in slurm.jobs().values()}

    def __call__(self) -> dict[str, Job]:
        """By id; those of the library only."""
        jobs = self._slurm.jobs().values()
        return {job.id: job for job in jobs if (job.id, job.name) not in self._before and "furu-" in job.name}
