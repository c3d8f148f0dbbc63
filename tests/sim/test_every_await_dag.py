"""A run in Slurm, a job for each node, whose call is cancelled at the n-th turn of the loop, for every n.

Controller, jobs and cluster share the loop. Cancelled, the call ends in time and nothing of it is left in Slurm; where
it only leaves, its jobs go on. The same call afterwards goes on from what is there.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from tests.laboratory import Counts, counting, repeatable, spread
from tests.sim.dag_trial import D, Trial, drawn, end_all, left_of_controller
from tests.sim.turns import Turns

CAMPAIGN = "nth-await-slurm"
SHARE = 25
"""Trials of each test in `make test`."""

SECS = {"cancel": 10.0, "detach": 5.0}
"""In which the call ends. The bound on it is longer, but here whatever is told to end is gone after two seconds."""

Leaving = Literal["cancel", "detach"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


async def one(root: Path, at: int, leaving: Leaving, continued: bool, counts: Counts) -> int:
    """Cancel the call at this turn of the loop (0: never), then make it again; how many turns it took."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Turns)
    trial = Trial(root)
    await trial.begin_theirs()
    if continued:
        first = trial.call(on_cancel="detach")
        await asyncio.sleep(2.5)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
    call = trial.call(on_cancel=leaving, check=False)
    cancelled_at: list[float] = []

    def cancel() -> None:
        cancelled_at.append(loop.time())
        call.cancel()

    loop.watch(at, cancel)
    await asyncio.wait([call])
    turns = loop.turns
    loop.rest()
    took = loop.time() - cancelled_at[0] if cancelled_at else 0.0
    if not call.cancelled():
        assert call.result().ok, [node.failure for node in call.result() if node.failure]
    counts.most(f"seconds to {leaving}", took)
    assert took <= SECS[leaving], f"it took {took} s"
    left = left_of_controller()
    assert not left, f"tasks are left: {left}"
    if leaving == "cancel" and (trial.went_on() or not continued):
        await trial.gone()
        trial.check_over(counts)
    await trial.again(counts)
    if leaving == "detach":
        assert set(trial.computed.values()) == {1}, trial.computed
        again = {D.furu_hash: 2}
        assert all(times == again.get(node, 1) for node, times in trial.jobs.acted.items()), "begun twice"
    await end_all()
    return turns


def live(root: Path, at: int, leaving: Leaving, continued: bool, counts: Counts) -> int:
    """One trial in a fresh store."""
    with drawn(1), asyncio.Runner(loop_factory=lambda: Turns(0, horizon=10_000.0)) as runner:
        turns = runner.run(one(root, at, leaving, continued, counts))
    shutil.rmtree(root)
    return turns


@pytest.mark.fault("F46", "F96", "F98")
@pytest.mark.parametrize("continued", [False, True], ids=["new", "continued"])
@pytest.mark.parametrize("leaving", ["cancel", "detach"])
@pytest.mark.timeout(1800)
def test_a_cancellation_at_any_turn(tmp_path: Path, leaving: Leaving, continued: bool) -> None:
    """Of a new run, and of one that goes on with that of a controller that has left it to its jobs."""
    with counting(CAMPAIGN) as counts:
        turns = live(tmp_path / "whole", 0, leaving, continued, counts)
        assert turns > 500
        for n in spread(CAMPAIGN, turns, SHARE):
            with repeatable(f"cancelled at turn {n}", n):
                live(tmp_path / str(n), n, leaving, continued, counts)
            counts.trials += 1
