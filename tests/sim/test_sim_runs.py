"""Whole runs on virtual time: hundreds of random ones, and those that show a fault by themselves."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.laboratory import counting, split
from tests.sim.sim_artifacts import Item, Limited, Stubborn
from tests.sim.simulate import path_of, simulate

from furu_async import FuruConfig, Local, RunReport, Scheduler, run_dag
from furu_async._executors.base import Executor, ExecutorLike, RunPort
from furu_async._executors.local import LocalExecutor
from furu_async._executors.runs import CANCEL_SECS
from furu_async._executors.watcher import Watcher
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runtime import clock
from furu_async._runtime.blocking import DOOR
from furu_async._store.artifacts import look
from furu_async._testing.keeper import InProcessKeeper
from furu_async._testing.strangers import Stranger
from furu_async.errors import FuruError, FuruRunCancelled
from furu_async.testing import (
    Computes,
    Elsewhere,
    Fails,
    FakeExecutor,
    Hangs,
    Raises,
    Returns,
    VirtualLoop,
    faulty_storage,
    run_virtual,
    tmp_root,
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.ERROR)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


# -- random runs ---------------------------------------------------------------------------------------------


@pytest.mark.fault("F33", "F63", "F68", "F96", "F102")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("first", "runs"), split("whole-runs", 10))
def test_random_runs_keep_every_promise(first: int, runs: int) -> None:
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with counting("whole-runs") as counts:
        for seed in range(first, first + runs):
            counts.trials += 1
            try:
                simulate(seed, folder)
            except BaseException as error:
                counts.harm("endless")
                error.add_note(f"again with: python tests/sim/campaign.py --runs 1 --seed {seed}")
                raise


@pytest.mark.parametrize("seed", range(0, 200, 13))
def test_the_same_seed_gives_the_same_events_at_the_same_times(seed: int, tmp_path: Path) -> None:
    assert simulate(seed, str(tmp_path)).digest() == simulate(seed, str(tmp_path)).digest()


@pytest.mark.fault("F61", "F62", "F64")
@pytest.mark.parametrize("seed", range(5, 60, 5))
def test_the_wall_clock_decides_nothing(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = simulate(seed, str(tmp_path)).digest()
    steps = random.Random(seed)
    monkeypatch.setattr(clock, "wall", lambda: 1.7e9 + steps.uniform(-7200, 7200))
    assert simulate(seed, str(tmp_path)).digest() == right


class Inline(ExecutorLike):
    """`Local(mode="inline")` with a keeper in this process, so that all of it is on virtual time."""

    def open(self, config: FuruConfig) -> Executor:
        return _Inline(Local(mode="inline"), config)


class _Inline(LocalExecutor):
    seed = 0

    def _make_keeper(self) -> KeeperClient:
        return InProcessKeeper()

    async def _start_keeper(self) -> None:
        await self.keeper.start()


# -- cancellation at every step --------------------------------------------------------------------------------


@pytest.mark.fault("F96", "F98")
@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_cancellation_at_any_step_leaves_nothing_and_is_quick(
    seed: int, inline: bool, tmp_path: Path
) -> None:
    a = Item(number=1)
    b, c = Stubborn(number=2, inputs=(a,)), Limited(number=3, inputs=(a,))
    script = {b: [Raises(ValueError("once")), Returns(2)], c: Elsewhere("published", 1.0, value=3)}
    executor = Inline() if inline else FakeExecutor(script)
    cancelled_at = 0

    async def main(config: FuruConfig) -> RunReport | None:
        loop = asyncio.get_running_loop()
        me = asyncio.current_task()
        assert me is not None
        before = loop.time()
        try:
            return await run_dag([b, c], executor=executor, config=config)
        except asyncio.CancelledError:
            assert loop.time() - before < 20  # a run that is not cancelled takes 13 s
            me.uncancel()
            return None
        finally:
            left = [task.get_name() for task in asyncio.all_tasks() if task is not me]
            assert not left, f"cancelled at step {step}: {left}"

    for step in itertools.count(2):
        config = FuruConfig(path=tmp_path / str(step), record_git="off")
        report = run_virtual(main(config), seed=seed, cancel_at=step)
        for item in (a, b, c):
            seen = look(path_of(str(config.path), item))
            assert seen.verdict != "claimed" or (seen.claim and seen.claim.run_id.startswith("elsewhere-"))
        if report is not None:
            assert report.ok
            break
        cancelled_at = step
    assert cancelled_at > 50


# -- single runs -----------------------------------------------------------------------------------------------


def virtual(*targets: Item, script: Any, **options: Any) -> tuple[RunReport, float]:
    """The report, and how many virtual seconds it took."""

    async def main() -> tuple[RunReport, float]:
        report = await run_dag(targets, executor=FakeExecutor(script), check=False, **options)
        return report, asyncio.get_running_loop().time()

    return run_virtual(main())


def test_every_outcome_is_what_it_says() -> None:
    above = Item(number=9, inputs=(Item(number=1),))
    stuck, once = Limited(number=2), Item(number=3)
    report, took = virtual(
        above,
        stuck,
        once,
        script={
            "not a hash": Hangs(),
            Item(number=1): Returns(lambda obj: obj.number * 10),
            above: Computes(after=2.0),
            stuck: Hangs(),
            Item: [Raises(ConnectionError("no answer")), Fails("killed"), Fails("lost"), Returns(3)],
        },
    )
    assert report[above].status == "created"
    assert report[stuck].failure is not None
    assert report[stuck].failure.kind == "timeout"
    assert (report[once].status, report[once].attempts) == ("created", 4)
    assert [line.split(":")[0] for line in report[once].history] == ["compute", "killed", "lost"]
    assert 50.0 <= took < 51.0

    async def results() -> tuple[int, int]:
        return await report.load(above), await once.aload()

    assert run_virtual(results()) == (19, 3)


def test_what_a_class_says_of_retries_counts() -> None:
    report, took = virtual(Stubborn(number=1), script={Stubborn: Raises(ValueError("never"))}, retries=5)
    assert report[Stubborn(number=1)].attempts == 2
    assert 2 * 1.0 + 2.5 <= took <= 2 * 1.0 + 5.0 + 0.1


def test_an_error_in_the_script_ends_the_run() -> None:
    def script(obj: Any, attempt: int) -> Returns:
        raise KeyError("oops")

    with pytest.raises(FuruError, match="the script of the FakeExecutor raised: KeyError"):
        virtual(Item(number=1), script=script)


def test_a_result_that_is_there_is_not_made_again() -> None:
    first, _ = virtual(Item(number=1), script={})
    second, _ = virtual(Item(number=1), script={Item: Fails("oom")})
    assert (first.counts["created"], second.counts["cached"]) == (1, 1)


@pytest.mark.fault("F01", "F06", "F62")
def test_somebody_elses_silence_is_taken_over_after_a_lease(root: FuruConfig) -> None:
    report, took = virtual(Item(number=1), script={Item: [Elsewhere("lost", 100.0), Returns(1)]})
    assert report.counts["created"] == 1
    assert 100 + root.lease_secs - 15 <= took <= 100 + root.lease_secs * 1.3


@pytest.mark.fault("F63", "F108")
def test_an_observer_that_slept_does_not_declare_others_lost() -> None:
    async def main() -> RunReport:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        for at in (20, 40, 60):
            loop.call_later(at, loop.sleep_through, 600.0)
        script = {Item: [Elsewhere("published", 2000.0, value=1), Fails("protocol", run_wide=True)]}
        return await run_dag(Item(number=1), executor=FakeExecutor(script))

    assert run_virtual(main(), seed=1).counts["cached"] == 1


@pytest.mark.fault("F14", "F63")
def test_an_owner_that_is_back_while_its_successor_waits_for_room_is_left_alone(root: FuruConfig) -> None:
    theirs = Item(number=1)

    async def main() -> RunReport:
        stranger = Stranger(str(root.path), theirs)
        assert await DOOR.files.run(stranger.claim)
        script = {Limited: Returns(0, after=49.0), Item: Fails("protocol", "two at the same time")}
        async with Scheduler(FakeExecutor(script, workers=1), config=root) as scheduler:
            run = scheduler.start([theirs, *(Limited(number=k) for k in range(9))])
            for beats in range(40):  # silent for two leases, lost after one, back before there is room
                await asyncio.sleep(root.heartbeat_secs)
                if beats > 14:
                    await DOOR.files.run(stranger.beat)
            await DOOR.files.run(stranger.publish, 1)
            return await run

    assert run_virtual(main(), seed=1)[theirs].status == "cached"


def test_what_runs_in_this_process_uses_the_settings_of_its_run(tmp_path: Path) -> None:
    config = FuruConfig(path=tmp_path / "another", record_git="off")
    above = Item(number=1, inputs=(Item(number=2),))

    async def main() -> RunReport:
        return await run_dag(above, executor=Inline(), config=config)

    assert run_virtual(main()).counts["created"] == 2


@pytest.mark.fault("F102")
def test_who_still_wants_a_queued_node_gets_it_without_a_strike() -> None:
    async def main() -> RunReport:
        script = {Limited: Returns(0, after=30.0)}
        async with Scheduler(FakeExecutor(script, workers=1)) as scheduler:
            busy = scheduler.start(Limited(number=0))
            await asyncio.sleep(1)
            one, other = (scheduler.start(Item(number=1)) for _ in range(2))
            await asyncio.sleep(1)
            one.cancel()  # it had asked first, and leaves while the node is queued
            with pytest.raises(FuruRunCancelled):
                await one
            await busy
            return await other

    report = run_virtual(main())
    node = report[Item(number=1)]
    assert (node.status, node.attempts, node.history) == ("created", 1, ())


@pytest.mark.fault("F33", "F96")
@pytest.mark.parametrize("lane", ["probe", "logs", "files"])
def test_a_cancelled_run_does_not_wait_for_a_store_that_hangs(lane: str) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with Scheduler(FakeExecutor({Item: Hangs()})) as scheduler:
            run = scheduler.start([Item(number=0), Item(number=1)])
            if lane != "probe":
                await asyncio.sleep(1)
            loop.hang(lane, 3600.0)
            await asyncio.sleep(1)
            began = loop.time()
            run.cancel()
            with pytest.raises(FuruRunCancelled):
                await run
            return loop.time() - began

    assert run_virtual(main(), seed=1) <= CANCEL_SECS


@pytest.mark.fault("F17", "F19")
def test_two_runs_do_not_wait_for_each_others_ends_that_could_not_be_written(root: FuruConfig) -> None:
    a, b = Item(number=1), Item(number=2)

    async def main() -> list[RunReport]:
        fake = FakeExecutor({Item: Fails("protocol", after=5.0)}, workers=1)
        async with Scheduler(fake, config=root) as one, Scheduler(fake, config=root) as other:
            # What others depend on comes first: each has a claim, and wants the other's.
            pairs = ((one, a, b), (other, b, a))
            runs = [
                scheduler.start([Item(number=3, inputs=(first,)), second], check=False, timeout=300)
                for scheduler, first, second in pairs
            ]
            await asyncio.sleep(4)
            with faulty_storage(errno.EIO, path="*/ends/*", operation="link", times=None):
                await asyncio.sleep(8)
            return [await run for run in runs]

    reports = run_virtual(main(), seed=1)
    assert {report[node].status for report in reports for node in (a, b)} == {"failed"}
    assert all(report.duration < 30 for report in reports)


@pytest.mark.fault("F33")
def test_a_run_leaves_nothing_in_the_threads_that_asyncio_waits_for() -> None:
    async def main() -> object:
        report = await run_dag(Item(number=1), executor=FakeExecutor())
        assert (Path(report.run_dir) / "journal.jsonl").exists()
        return getattr(asyncio.get_running_loop(), "_default_executor", None)

    assert run_virtual(main()) is None  # a mount that hangs while the journal is closed would hang the exit


@pytest.mark.fault("F99")
def test_a_task_of_ours_that_crashes_ends_the_run_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(self: Watcher) -> None:
        await asyncio.sleep(5)
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Watcher, "run", crash)

    async def main() -> float:
        with pytest.raises(ZeroDivisionError, match="a bug"):
            await run_dag(Item(number=1), executor=FakeExecutor({Item: Hangs()}))
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) < 5 + CANCEL_SECS


def test_work_is_seen_off_where_the_task_of_a_scheduler_is_cancelled(
    root: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `asyncio.run` does with what its main coroutine left open; an executor takes its time to end what runs."""
    whole: list[bool] = []
    release = LocalExecutor.release

    async def slowly(self: LocalExecutor, run: RunPort) -> None:
        await asyncio.sleep(3)
        await release(self, run)
        whole.append(True)

    monkeypatch.setattr(LocalExecutor, "release", slowly)
    item = Item(number=1)

    async def main() -> float:
        scheduler = Scheduler(FakeExecutor({Item: Hangs()}))
        await scheduler.open()
        run = scheduler.start(item)
        await asyncio.sleep(5)
        assert scheduler._host is not None
        scheduler._host.cancel()
        began = asyncio.get_running_loop().time()
        await asyncio.wait([scheduler._host])
        assert run.done
        return asyncio.get_running_loop().time() - began

    assert run_virtual(main(), seed=1) <= CANCEL_SECS
    assert whole == [True]
    left = look(path_of(str(root.path), item))
    assert (left.verdict, left.next_generation) == ("free", 2)
