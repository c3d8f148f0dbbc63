"""A run in a pool that is cancelled, or loses a worker, at the n-th turn of the loop, for every n."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.laboratory import Counts, counting, repeatable, spread
from tests.sim.pool_trial import (
    ALL,
    COMPUTED,
    GONE_SECS,
    IDLE_SECS,
    LEASE_SECS,
    D,
    Trial,
    live,
    quiet,
)
from tests.sim.simulate import path_of
from tests.sim.turns import Turns

from furu_async._executors.runs import CANCEL_SECS
from furu_async._store.artifacts import look
from furu_async._testing.slurm import SimJob

CAMPAIGN = "nth-await-slurm"
SHARE = 20

STOPPED_SECS = 30.0
"""A run that loses a worker ends within so many seconds."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


async def turns(root: Path, fails: bool = True, **options: Any) -> int:
    """How many there are where nothing happens."""
    trial = Trial(root, fails)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Turns)
    loop.watch(0, lambda: None)
    assert await trial.ended(trial.call(**options))
    assert trial.error is None
    loop.rest()
    return loop.turns


async def cancelled(root: Path, turn: int, counts: Counts, how: str, at_once: bool) -> None:
    """Cancel the call at this turn; then make it again."""
    trial = Trial(root)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Turns)
    call, at = trial.call(on_cancel=how), [0.0]
    jobs: list[SimJob] = []

    def cancel() -> None:
        at[0] = loop.time()
        if look(path_of(trial.world.root, D)).verdict != "published":
            jobs[:] = [job for job in trial.world.slurm.jobs if not job.ended]
        call.cancel()

    loop.watch(turn, cancel)
    whole = await trial.ended(call)
    took = loop.time() - at[0]
    loop.rest()
    if not whole and took > CANCEL_SECS:
        counts.harm("endless")
        raise AssertionError(f"it went on for {took} s")
    if how == "detach":
        assert not any(job.ended for job in jobs), "its jobs were to go on"
    if not at_once:
        await trial.gone(counts, GONE_SECS if how == "cancel" else GONE_SECS + IDLE_SECS)
        if how == "cancel":
            trial.unclaimed(counts)
    await trial.again(counts, trial.there(counts))
    await trial.gone(counts)
    trial.unclaimed(counts)


async def stopped(root: Path, turn: int, counts: Counts, how: str) -> None:
    """At this turn a worker gets SIGTERM, which is nobody's failure, or SIGKILL, which costs what it was at one try."""
    trial = Trial(root, fails=False)
    slurm = trial.world.slurm
    slurm.settings = replace(slurm.settings, requeue=how == "requeued")
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Turns)

    def stop() -> None:
        jobs = [copy.job_id for copy in slurm.living]
        if jobs:
            job = jobs[turn % len(jobs)]
            end = {"cancelled": slurm.scancel, "killed": trial.world.kill}.get(how, slurm.preempt)
            end(job)

    loop.watch(turn, stop)
    assert await trial.ended(trial.call(retries=0))
    loop.rest()
    assert trial.error is None, trial.error
    assert trial.took < STOPPED_SECS, f"it took {trial.took} s"
    report = trial.report
    assert report is not None
    lines = [line for node in report for line in node.history]
    kind = "lost" if how == "killed" else "preempted"
    assert all(line.startswith(kind) for line in lines), lines
    assert len(lines) <= 1, lines
    assert all(times <= 2 for times in COMPUTED.values()), COMPUTED
    await trial.gone(counts)
    trial.unclaimed(counts)
    assert set(trial.there(counts)) == set(ALL)


async def killed(root: Path, turn: int, counts: Counts, pause: float) -> None:
    """Kill the controller at this turn; make the call again after a while, from another process."""
    trial = Trial(root)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Turns)

    def watch(kill: Callable[[], None]) -> None:
        loop.watch(turn, kill)

    await trial.outlived(counts, watch, pause)


def try_each(folder: Path, counts: Counts, cases: int, one: Any) -> None:
    """Trials, each in a store of its own."""
    for n in spread(CAMPAIGN, cases, SHARE):
        counts.trials += 1
        root = folder / str(n)
        with repeatable(f"turn {n}", n):
            live(one(root, n))
        shutil.rmtree(root)


@pytest.mark.fault("F96", "F98")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("at_once", [False, True], ids=["later", "at once"])
@pytest.mark.parametrize("how", ["cancel", "detach"])
def test_a_cancellation_at_any_turn_leaves_nothing_and_the_same_call_goes_on(
    how: str, at_once: bool, tmp_path: Path
) -> None:
    with counting(CAMPAIGN) as counts:
        cases = live(turns(tmp_path / "whole", on_cancel=how))
        assert cases > 800

        def one(root: Path, turn: int) -> Coroutine[Any, Any, None]:
            return cancelled(root, turn, counts, how, at_once)

        try_each(tmp_path, counts, cases, one)


@pytest.mark.fault("F06", "F43", "F46", "F74")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("how", ["requeued", "preempted", "cancelled", "killed"])
def test_a_worker_that_ends_at_any_turn_costs_its_task_one_try_at_most(how: str, tmp_path: Path) -> None:
    """By a preemption, with and without a requeue, by somebody's ``scancel``, or by SIGKILL."""
    with counting(CAMPAIGN) as counts:
        cases = live(turns(tmp_path / "whole", fails=False, retries=0))
        assert cases > 500

        def one(root: Path, turn: int) -> Coroutine[Any, Any, None]:
            return stopped(root, turn, counts, how)

        try_each(tmp_path, counts, cases, one)


@pytest.mark.fault("F07")
@pytest.mark.filterwarnings(
    "ignore:coroutine:RuntimeWarning"
)  # of tasks that were killed before their first step
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("pause", [0.0, 3.0, 2 * LEASE_SECS], ids=["at once", "soon", "late"])
def test_the_run_of_a_controller_that_is_killed_at_any_turn_goes_on(pause: float, tmp_path: Path) -> None:
    """After two leases its workers have left, too."""
    with counting(CAMPAIGN) as counts:
        cases = live(turns(tmp_path / "whole"))

        def one(root: Path, turn: int) -> Coroutine[Any, Any, None]:
            return killed(root, turn, counts, pause)

        try_each(tmp_path, counts, cases, one)
