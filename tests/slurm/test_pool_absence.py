"""`SlurmPool` while slurmctld is away: a quarter of a minute in `make test`, more than a minute in `make chaos`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from tests.slurm.cluster import Cluster
from tests.slurm.slurm_fault_artifacts import SPEC, Task
from tests.slurm.slurm_fault_helpers import SCALE, Bench, Shims

from furu_async import SlurmPool, SlurmSpec
from furu_async._pool import control
from furu_async._slurm.protocol import SubmitRules

OTHER = SlurmSpec(cpus=2, mem_gb=0.1, time_min=5)
AWAY_SECS = 70.0 if os.environ.get("FURU_LAB") == "chaos" else 15.0


@pytest.fixture
async def bench(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A run's place; afterwards nothing of it is left in Slurm."""
    made = Bench(slurm, tmp_path, Shims(tmp_path / "shims", monkeypatch))
    yield made
    await made.nothing_left(30)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """In `make test` a job that may have been submitted is searched for in seconds."""
    if AWAY_SECS < 60:
        rules = partial(SubmitRules, look_first=0.5, look_apart=2.0, look_every=1.0)
        monkeypatch.setattr(control, "SubmitRules", rules)


@pytest.mark.timeout(300)
@pytest.mark.fault("F36", "F53")
async def test_slurmctld_is_away_while_there_is_work(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs goes on, and what waits for the same workers is taken; a new worker is had when Slurm is back."""
    slurm, folder = bench.slurm, bench.folder
    monkeypatch.setenv("SLURM_CONF", slurm.environment(MessageTimeout=2)["SLURM_CONF"])
    first = Task(name="first", what="gate", folder=folder)
    same = Task(name="same", parts=(first,), what="gate", folder=folder)
    new = Task(name="new", parts=(first,), folder=folder, specs=(OTHER,))
    top = Task(name="top", parts=(same, new), folder=folder, specs=(SPEC,))
    config = bench.config(lease_secs=8, poll_interval_secs=1)
    pool = SlurmPool(workers=1, idle=300.0)
    running = bench.start(top, pool=pool, config=config, timeout=(AWAY_SECS + 120) * SCALE)
    pilot = await bench.began("first")
    await bench.act(slurm.save)
    await bench.act(slurm.kill, "slurmctld")
    loop = asyncio.get_running_loop()
    killed = loop.time()
    try:
        bench.open("first")
        again = await bench.began("same")
        assert again.job == pilot.job
        await bench.until(lambda: bench.said("not submitted yet"), "the reason", 30)
        await asyncio.sleep(max(0.0, AWAY_SECS - (loop.time() - killed)))
        assert not running.done(), "nothing is concluded"
        assert bench.attempts("new") == []
    finally:
        await bench.act(slurm.launch, "slurmctld")
    bench.open("same")
    await bench.began("new", seconds=60)
    report = await running
    assert report.ok, bench.story()
    assert [len(bench.attempts(name)) for name in ("first", "same", "new", "top")] == [1, 1, 1, 1]
    assert all(not node.history for node in report)
    assert len(bench.jobs()) == 2
