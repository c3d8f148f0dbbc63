"""Failures of a node are counted once and for good, whichever controller sees which of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sim.dag_sim import Jobs, Part, mortal
from tests.sim.simulate import path_of
from tests.sim.test_dag_runs import World

from furu_async import FuruConfig
from furu_async.testing import Fails, FakeExecutor, run_virtual, tmp_root

TARGET = Part(name="never")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FuruConfig]:
    mortal(monkeypatch)
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def world_of(config: FuruConfig) -> World:
    """One node, each attempt of which fails after ten seconds."""
    world = World(config)
    world.targets = [TARGET]
    world.jobs = Jobs(config, FakeExecutor(default=Fails("compute", after=10.0)), world.targets)
    world.slurm.program = world.jobs
    return world


def ends(config: FuruConfig) -> Counter[str]:
    """How the generations of the node ended."""
    folder = Path(path_of(str(config.path), TARGET).ends)
    records: list[Any] = [json.loads(each.read_bytes()) for each in folder.glob("[0-9]*")]
    return Counter(each["failure"]["kind"] for each in records)


async def begun(world: World, at: float) -> None:
    """A controller that dies after so many seconds."""
    first = world.controller()
    running = asyncio.create_task(world.run(first))
    await asyncio.sleep(at)
    assert not running.done()
    await first.die()


AT = (5.0, 14.5, 22.0, 30.0, 44.0)


@pytest.mark.fault("F07", "F94")
@pytest.mark.parametrize("at", AT)
def test_attempts_of_a_job_that_is_joined_count_once(root: FuruConfig, at: float) -> None:
    async def main() -> None:
        world = world_of(root)
        await begun(world, at)
        report = await world.run(world.controller())
        node = report[TARGET]
        assert (node.status, node.attempts, len(world.slurm.jobs)) == ("failed", 4, 1)
        assert ends(root) == {"compute": 4}
        assert [line.partition(":")[0] for line in node.history] == ["compute"] * 3
        await rest()

    run_virtual(main(), seed=1)


@pytest.mark.fault("F07", "F94")
@pytest.mark.parametrize("at", AT)
def test_attempts_of_a_job_that_has_died_are_none_that_the_next_one_may_make(
    root: FuruConfig, at: float
) -> None:
    async def main() -> None:
        world = world_of(root)
        await begun(world, at)
        for copy in world.slurm.living:
            copy.kill()
        report = await world.run(world.controller())
        assert report[TARGET].status == "failed"
        found = ends(root)
        assert found["compute"] == 4, found
        between = at == 22.0  # a job that dies while it waits to try again is lost, without an end of its own
        assert report[TARGET].attempts == sum(found.values()) + between, found
        await rest()

    run_virtual(main(), seed=1)


@pytest.mark.fault("F41", "F43")
@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize("what", ["kill", "requeue", "preempt"])
def test_attempts_of_a_job_that_could_not_say_so_count(root: FuruConfig, what: str, at: float) -> None:
    """It was killed, or started again, after some of its own: their ends are the account."""

    async def main() -> None:
        world = world_of(root)
        run = asyncio.create_task(world.run(world.controller()))
        await asyncio.sleep(at)
        (copy,) = world.slurm.living
        if what == "kill":
            copy.kill()
        else:
            getattr(world.slurm, what)(copy.job_id)
        report = await run
        found = ends(root)
        assert report[TARGET].status == "failed"
        assert found["compute"] == 4, found
        assert report[TARGET].attempts in (sum(found.values()), sum(found.values()) + 1), found
        assert world.living() == []

    run_virtual(main(), seed=1)


async def rest() -> None:
    """End what the killed controller left on this loop."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
