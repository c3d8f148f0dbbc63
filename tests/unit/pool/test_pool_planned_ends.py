"""A worker whose walltime ends while it is at a task: what the task is told, and who takes it next."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pool_artifacts import Goes, Leaf, Limited
from pool_env import Home

from furu_async._pool.pilot import Pilot
from furu_async._pool.walltime import Walltime
from furu_async._store.layout import ArtifactPaths
from furu_async._store.look import look
from furu_async.testing import FakeExecutor, Hangs, Returns

pytestmark = pytest.mark.virtual_time
NEVER = FakeExecutor(default=Hangs())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def ends_in(secs: float, total: float | None = None) -> Walltime:
    return Walltime(asyncio.get_running_loop().time() + secs, total or secs)


async def late(home: Home, after: float, obj: Any, pilot: Pilot, **changes: Any) -> None:
    """A task that comes when the worker has waited for a while."""
    running = asyncio.create_task(pilot.run())
    await asyncio.sleep(after)
    home.put(obj, **changes)
    await running


async def signalled(pilot: Pilot, name: str, after: float) -> None:
    running = asyncio.create_task(pilot.run())
    await asyncio.sleep(after)
    pilot.signal(name)
    await running


def recorded(home: Home, obj: Any) -> Any:
    """The failure in the store."""
    end = look(ArtifactPaths(home.root, f"pool_artifacts.{type(obj).__name__}", obj.furu_hash)).end
    assert end is not None
    return end.failure


@pytest.mark.fault("F44")
@pytest.mark.parametrize("node", [Leaf(n=1), Goes(n=1)])
async def test_a_part_of_a_walltime_costs_nothing(home: Home, node: Any) -> None:
    await late(
        home, 300.0, node, home.worker(script=NEVER, walltime=ends_in(600.0), idle=1000.0, detached=True)
    )
    failure = home.only_report().failure
    assert failure is not None
    assert (failure.kind, failure.planned, failure.checkpoint) == ("preempted", True, "")
    assert recorded(home, node).planned, "whoever goes on with the run finds it there"


@pytest.mark.fault("F44")
async def test_the_whole_of_it_is_a_timeout_that_says_what_to_do(home: Home) -> None:
    home.put(Leaf(n=1))
    await home.worker(script=NEVER, walltime=ends_in(600.0)).run()
    failure = home.only_report().failure
    assert failure is not None
    assert (failure.kind, failure.planned) == ("timeout", False)
    assert "all of its worker's walltime of 600 s" in failure.line()
    assert "time_min" in failure.hint()
    assert "_resumable" in failure.hint()


@pytest.mark.fault("F44")
@pytest.mark.parametrize("saves", [False, True])
async def test_what_was_saved_in_a_whole_one_is_told(home: Home, saves: bool) -> None:
    node = Goes(n=1)
    paths = ArtifactPaths(home.root, "pool_artifacts.Goes", node.furu_hash)
    if saves:
        Path(paths.checkpoint(1)).mkdir(parents=True)
        (Path(paths.checkpoint(1)) / "weights").write_text("1")
    home.put(node)
    await home.worker(script=NEVER, walltime=ends_in(600.0)).run()
    failure = home.only_report().failure
    assert failure is not None
    assert (failure.kind, failure.planned, bool(failure.checkpoint)) == ("preempted", False, saves)
    assert recorded(home, node).checkpoint == failure.checkpoint
    assert "furu_checkpoint_dir" in failure.hint()


@pytest.mark.fault("F44", "F57")
async def test_what_wants_a_whole_walltime_is_not_taken_late(home: Home) -> None:
    """An old worker leaves it to a fresh one, and makes room for that."""
    loop = asyncio.get_running_loop()
    name = home.put(Leaf(n=1), priority=5)
    script = FakeExecutor({Leaf(n=1): Returns(0, after=100.0)}, default=Hangs())
    pilot = home.worker(script=script, walltime=ends_in(600.0), idle=1000.0, detached=True)
    await late(home, 70.0, Leaf(n=2), pilot, whole=True)
    assert home.done() == [name]
    assert len(home.todo()) == 1
    assert pilot.work.why == "what is left of its walltime is too short for what waits"
    assert loop.time() < 110.0
    await home.worker("w2", script=script, walltime=ends_in(600.0)).run()
    failure = home.only_report().failure
    assert failure is not None
    assert failure.kind == "timeout"


@pytest.mark.fault("F44")
async def test_a_fresh_worker_that_did_something_short_first_is_fresh(home: Home) -> None:
    home.put(Leaf(n=1), priority=5)
    home.put(Leaf(n=2), whole=True)
    script = FakeExecutor({Leaf(n=1): Returns(0, after=20.0)}, default=Hangs())
    await home.worker(script=script, walltime=ends_in(600.0)).run()
    failure = home.only_report().failure
    assert failure is not None
    assert failure.kind == "timeout", "it had what was asked for"


async def test_a_worker_that_was_slow_to_start_is_fresh(home: Home) -> None:
    """Else none would ever be, on a cluster where everything is slow."""
    home.put(Leaf(n=1), whole=True)
    await home.worker(script=FakeExecutor(), walltime=ends_in(300.0, 600.0)).run()
    assert len(home.done()) == 1


@pytest.mark.fault("F57")
@pytest.mark.parametrize("slots", [1, 2])
async def test_what_fits_but_for_the_start_of_its_worker_is_taken(home: Home, slots: int) -> None:
    """It would fit into no other one either, and workers would come and go for ever."""
    for n in range(slots):
        home.put(Limited(n=n))
    script = FakeExecutor(default=Returns(0, after=50.0))
    await home.worker(script=script, walltime=ends_in(103.0, 105.0), slots=slots).run()
    assert len(home.done()) == slots


async def test_without_a_walltime_every_worker_is_fresh(home: Home) -> None:
    home.put(Leaf(n=1), whole=True)
    home.put(Limited(n=2), whole=True)
    await home.worker(script=FakeExecutor()).run()
    assert len(home.done()) == 2


# -- signals ---------------------------------------------------------------------------------------------------


@pytest.mark.fault("F44", "F58")
@pytest.mark.parametrize(
    ("name", "after", "planned"),
    [
        ("SIGUSR2", 360.0, True),  # a minute earlier than was asked for, as Slurm may do
        ("SIGUSR2", 400.0, True),
        ("SIGUSR2", 330.0, False),
        ("SIGTERM", 360.0, False),
    ],
)
async def test_a_signal_near_the_end_is_the_end_that_was_known(
    home: Home, name: str, after: float, planned: bool
) -> None:
    """Before, and any other signal, is Slurm that wants the node for somebody else."""
    loop = asyncio.get_running_loop()
    home.put(Leaf(n=1), priority=5)
    home.put(Leaf(n=2))
    script = FakeExecutor({Leaf(n=1): Returns(0, after=250.0)}, default=Hangs())
    pilot = home.worker(script=script, walltime=ends_in(450.0), detached=True)
    await signalled(pilot, name, after)
    assert loop.time() < after + 10
    failures = [report.failure for report in home.reports().values()]
    assert [(each.kind, each.planned) for each in failures if each] == [("preempted", planned)]


async def test_the_early_warning_leaves_what_runs_its_time(home: Home) -> None:
    name = home.put(Leaf(n=1))
    await signalled(home.worker(script=FakeExecutor(default=Returns(0, after=50.0))), "SIGUSR1", 10.0)
    assert home.done() == [name]
