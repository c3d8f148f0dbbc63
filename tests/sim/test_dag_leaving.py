"""Calls of a `SlurmDag` that are cancelled, or that leave their jobs to themselves, at awkward moments."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sim.dag_sim import Jobs, Part, SimDag
from tests.sim.simulate import path_of
from tests.sim.test_dag_runs import World

from furu_async import FuruConfig
from furu_async._dag.run import DagRun
from furu_async._store.look import look
from furu_async._testing.slurm_jobs import Copy
from furu_async.errors import FuruRunCancelled
from furu_async.testing import Fails, FakeExecutor, Hangs, Returns, run_virtual, tmp_root


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def claimed(world: World) -> list[Any]:
    """Nodes of which the store says that somebody is at them."""
    objs = world.jobs.objs.values()
    return [obj for obj in objs if look(path_of(str(world.config.path), obj)).verdict == "claimed"]


async def left(world: World, secs: float) -> None:
    """A run whose controller leaves after so many seconds."""
    call = asyncio.create_task(world.run(world.controller(), on_cancel="detach"))
    await asyncio.sleep(secs)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()


def slow_claims(monkeypatch: pytest.MonkeyPatch, before: float = 0.0) -> asyncio.Event:
    """The answer to the first claims takes three seconds; set once they are made, or that is about to begin."""
    made, patiently = asyncio.Event(), DagRun.patiently

    async def slowly(self: DagRun, fn: Any, *args: Any) -> Any:
        first = getattr(fn, "__name__", "") == "_prepare" and not made.is_set()
        if first and before:
            made.set()
            await asyncio.sleep(before)
        answer = await patiently(self, fn, *args)
        if first:
            made.set()
            await asyncio.sleep(3)
        return answer

    monkeypatch.setattr(DagRun, "patiently", slowly)
    return made


@pytest.mark.fault("F46", "F96")
@pytest.mark.parametrize("secs", [0.0, 0.01, 0.05, 0.2, 0.5])
def test_a_run_that_is_gone_on_with_and_cancelled_at_once(root: FuruConfig, secs: float) -> None:
    """Also what it has not joined yet, of what the earlier controller had submitted, is cancelled; and that is waited
    for.
    """

    async def main() -> None:
        world = World(root, script=lambda obj, attempt: Hangs())
        await left(world, 10.0)
        assert len(world.living()) == 11
        again = world.controller()
        call = asyncio.create_task(world.run(again))
        while again.executor is None or not again.executor.shared.held.continued:
            await asyncio.sleep(0.001)
        await asyncio.sleep(secs)
        began = asyncio.get_running_loop().time()
        call.cancel()
        await asyncio.wait([call])
        assert asyncio.get_running_loop().time() - began < 10
        assert world.living() == []
        assert claimed(world) == []

    run_virtual(main(), seed=1)


@pytest.mark.fault("F46", "F96")
@pytest.mark.parametrize("before", [0.0, 2.0], ids=["made, not answered", "about to be made"])
def test_a_claim_that_is_just_being_made_is_ended(
    root: FuruConfig, monkeypatch: pytest.MonkeyPatch, before: float
) -> None:
    async def main() -> None:
        world, made = World(root), slow_claims(monkeypatch, before)
        call = asyncio.create_task(world.run(world.controller()))
        await made.wait()
        assert bool(claimed(world)) == (not before)
        call.cancel()
        await asyncio.wait([call])
        assert claimed(world) == []
        assert world.slurm.counts["submit"] == 0

    run_virtual(main(), seed=1)


def test_who_leaves_submits_nothing_any_more(root: FuruConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was just being claimed is submitted by whoever makes the same call again."""

    async def main() -> None:
        world, made = World(root), slow_claims(monkeypatch)
        call = asyncio.create_task(world.run(world.controller(), on_cancel="detach"))
        await made.wait()
        call.cancel()
        await asyncio.wait([call])
        await asyncio.sleep(60)
        assert world.slurm.counts["submit"] == 0
        report = await world.run(world.controller())
        assert report.ok
        assert set(world.jobs.acted.values()) == {1}

    run_virtual(main(), seed=1)


@pytest.mark.fault("F96")
def test_a_result_that_is_there_when_its_run_is_cancelled(root: FuruConfig) -> None:
    """Nobody waits for the end of its job: it has ended."""

    async def main() -> None:
        world, loop = World(root), asyncio.get_running_loop()
        first = next(obj for obj in world.jobs.objs.values() if getattr(obj, "name", "") == "a0")
        world.jobs.fake = FakeExecutor({first: Returns(1, after=5.0)}, default=Hangs())
        dag, began = world.controller(), [0.0]

        async def stopping(copy: Copy) -> int:
            code = await world.jobs(copy)
            if not code:
                assert dag.executor is not None
                (run,) = dag.executor.runs
                began[0] = loop.time()
                run.stop("cancel")
            return code

        world.slurm.program = stopping
        with pytest.raises(FuruRunCancelled) as raised:
            await world.run(dag)
        assert loop.time() - began[0] < 5
        assert raised.value.report is not None
        assert raised.value.report.counts["created"] == 1
        assert world.living() == []

    run_virtual(main(), seed=1)


@pytest.mark.fault("F39")
@pytest.mark.parametrize("fails", [1, 2, 9])
def test_a_job_that_is_about_to_try_again_is_joined(root: FuruConfig, fails: int) -> None:
    """Nothing is claimed while it waits for that."""

    async def main() -> None:
        world = World(root)
        world.targets = [Part(name="x")]
        tried: list[int] = []

        def script(obj: Any, attempt: int) -> Any:
            tried.append(attempt)
            return Fails("compute") if len(tried) <= fails else Returns(1)

        world.jobs = Jobs(root, FakeExecutor(script), world.targets)
        world.slurm.program = world.jobs
        call = asyncio.create_task(world.run(world.controller(), on_cancel="detach"))
        while not (tried and not claimed(world) and world.slurm.living):
            await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.wait([call])
        report = await world.run(dag := world.controller())
        assert isinstance(dag, SimDag)
        assert report.ok == (fails < 4)
        assert len(tried) == min(fails + 1, 4)
        if report.ok:
            assert report[world.targets[0]].attempts == len(tried)
        assert len(world.slurm.jobs) == 1

    run_virtual(main(), seed=1)
