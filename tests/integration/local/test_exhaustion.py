"""What is scarce, slow or in the way: threads, workers, huge folders, names that cannot be removed."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exhaustion_artifacts import Blocks
from local_artifacts import Judged, Num, Sleeps
from tests.sim.sim_artifacts import Item

from furu_async import FuruConfig, Local, RunReport, Scheduler, run_dag
from furu_async._executors import crew
from furu_async._runner import keeper_client
from furu_async._runtime.blocking import DOOR, Lane, NoThread
from furu_async._runtime.config import active_config
from furu_async._store import artifacts, fs
from furu_async._store.beat import Beat
from furu_async._store.layout import ArtifactPaths
from furu_async.errors import FuruExecutorError
from furu_async.testing import Computes, Fails, FakeExecutor, Returns, run_virtual, tmp_root

SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))
MANY = int(os.environ.get("FURU_TEST_ENTRIES", "100000"))


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.ERROR)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def paths_of(item: Item) -> ArtifactPaths:
    return ArtifactPaths(str(active_config().path), "tests.sim.sim_artifacts.Item", item.furu_hash)


# -- threads -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("F107")
@pytest.mark.parametrize("lane", ["user", "logs", "probe", "process"])
async def test_a_lane_whose_threads_are_all_busy_holds_up_no_other(lane: str) -> None:
    """The beat is a process's of its own, and what the run needs is asked for in other lanes."""
    async with Scheduler(Local(workers=1)) as scheduler:
        held = scheduler.start(Sleeps(n=1, secs=3.0))
        events = held.events()
        async for event in events:
            if event.kind == "node_started":
                break
        beats = list(Path(held.run_dir, "workers").glob("*/beat"))
        before = beats[0].read_bytes()
        busy: Lane = getattr(DOOR, lane)
        free = threading.Event()
        # One thread of those that look at the store is left: with none, nothing could be planned.
        calls = [busy.submit(free.wait) for _ in range(busy.threads - (lane == "probe"))]
        try:
            report = await asyncio.wait_for(scheduler.start([Num(n=k) for k in range(5)]).wait(), 30 * SCALE)
            assert report.counts["created"] == 5
            assert (await asyncio.wait_for(held.wait(), 30 * SCALE)).ok
        finally:
            free.set()
            for call in calls:
                await asyncio.wrap_future(call)
        assert beats[0].exists() is False or beats[0].read_bytes() >= before


# -- user code that blocks ---------------------------------------------------------------------------------------


@pytest.mark.fault("F88")
async def test_user_code_that_blocks_does_not_block_the_loop() -> None:
    gaps: list[float] = []
    over = asyncio.Event()

    async def tick() -> None:
        last = time.perf_counter()
        while not over.is_set():
            await asyncio.sleep(0.002)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    await run_dag(Num(n=0), executor=Local(workers=1))  # what is imported only once
    gc.collect()
    ticker = asyncio.create_task(tick())
    report = await run_dag([Blocks(n=24), Blocks(n=25)], executor=Local(workers=1))
    over.set()
    await ticker
    assert report.counts["created"] == 2
    assert len(gaps) > 100
    # Another process may have the processor for a while: a few late ticks prove nothing, half a second would.
    assert sorted(gaps)[-3] < 0.1 * SCALE


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_lane_without_a_thread_answers_and_one_with_a_thread_goes_on_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poor, rich = Lane("poor", 2), Lane("rich", 2)
    begun, go_on = threading.Event(), threading.Event()
    first = rich.submit(lambda: (begun.set(), go_on.wait(30.0)))
    assert begun.wait(30.0)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(NoThread, match="ulimit -u"):
            await poor.run(int, deadline=30.0)
        second = rich.submit(lambda: "second")  # waits for the thread that there is
    assert poor.pending == 0
    assert await poor.run(lambda: "better now", deadline=30.0) == "better now"
    go_on.set()
    assert second.result(30.0) == "second"
    assert first.done()


def test_where_no_thread_can_be_had_the_run_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    # The lanes that there are may have threads already.
    for name in ("probe", "files", "logs", "user", "process"):
        monkeypatch.setattr(DOOR, name, Lane(name, 2))
    monkeypatch.setattr(Lane, "_start_one", lambda _: False)
    report = asyncio.run(
        run_dag(Num(n=1), check=False, progress=False, config=replace(active_config(), infra_secs=1.0))
    )
    (node,) = report.nodes.values()
    assert node.failure is not None
    assert node.failure.kind == "infrastructure"
    assert "ulimit -u" in node.failure.message


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.EAGAIN, "ulimit -u"), (errno.EMFILE, "ulimit -n"), (errno.ENOMEM, "memory")]
)
def test_without_a_keeper_process_the_advice_is_not_about_the_store(
    monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(keeper_client, "_start", refuse)
    with pytest.raises(FuruExecutorError, match="keeper process") as caught:
        asyncio.run(run_dag(Num(n=1), progress=False))
    assert os.strerror(number) in caught.value.message
    assert advice in caught.value.hint
    assert "FURU_PATH" not in str(caught.value)


def test_a_run_whose_beat_has_no_thread_is_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beat = Beat(str(tmp_path / "beat"), 1.0)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(OSError, match="ulimit -u"):
        beat.start()


# -- workers -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("F73")
async def test_what_arrives_as_the_last_worker_leaves_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each child is replaced after one task, and the next task comes at the very moment the last one is done."""
    monkeypatch.setattr(crew, "TASKS_PER_CHILD", 1)
    runs: list[Any] = []
    async with Scheduler(Local(workers=1)) as scheduler:

        def begin(number: int) -> None:
            def listen(event: Any) -> None:
                if event.kind == "node_done" and number < 8:
                    begin(number + 1)

            runs.append(scheduler.start(Num(n=number), on_event=listen))

        begin(0)
        async with asyncio.timeout(60 * SCALE):
            while len(runs) < 9 or not all(run.done for run in runs):
                await asyncio.gather(*(run.ended() for run in runs))
    assert [run.report.counts["created"] for run in runs] == [1] * 9


@pytest.mark.fault("F87", "F107")
async def test_a_validation_waits_for_no_long_attempt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every worker is busy for longer than a ``_validate`` may take: it is asked all the same, not called unknown."""
    monkeypatch.setattr("furu_async._executors.checks.VALIDATE_SECS", 2.0)
    (tmp_path / "verdict").write_text("yes")
    checked = Judged(verdict=str(tmp_path / "verdict"))
    async with Scheduler(Local(workers=1)) as scheduler:
        assert (await scheduler.start(checked)).ok
        long = scheduler.start(Sleeps(n=1, secs=6.0))
        async for event in long.events():
            if event.kind == "node_started":
                break
        report = await asyncio.wait_for(scheduler.start(checked).wait(), 60 * SCALE)
        assert report[checked].status == "cached"
        assert not any("retry" in text for text in report.notes)
        assert not long.done, "it did not wait for the long one"
        await long


# -- folders -----------------------------------------------------------------------------------------------------


class Calls:
    """Counts the operations on the store."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.listed: set[str] = set()

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.counts[name] += 1
            if name == "listdir":
                self.listed.add(str(args[0]))
            return real(*args, **more)

        return call


async def compute(*targets: Item, script: Any = None, **options: Any) -> RunReport:
    executor = FakeExecutor(script or (lambda obj, n: Computes() if obj.inputs else Returns(obj.number)))
    return await run_dag(targets, executor=executor, **options)


@pytest.mark.fault("F28")
def test_a_step_costs_the_same_among_a_hundred_thousand_entries(root: FuruConfig, tmp_path: Path) -> None:
    counted: list[Counter[str]] = []
    above = [Item(number=k, inputs=(Item(number=k + 100),)) for k in range(5)]
    for entries in (0, MANY):
        with tmp_root(tmp_path / f"store-{entries}", record_git="off"):
            folder = Path(os.path.dirname(paths_of(above[0]).base))
            folder.mkdir(parents=True)
            runs = Path(str(active_config().path), "runs")
            runs.mkdir()
            for number in range(entries):
                os.mkdir(f"{folder}/{number:032x}")
                if number % 100 == 0:
                    os.mkdir(f"{runs}/2020-{number}")
            calls = Calls()
            fs.install(calls.wrap)
            try:
                assert run_virtual(compute(*above), seed=1).counts["created"] == 10
                assert run_virtual(compute(*above), seed=1).counts["cached"] == 5
            finally:
                fs.restore()
            counted.append(calls.counts)
            assert not calls.listed & {str(folder), str(runs)}, "nothing goes through all of them"
    few, many = counted
    assert few["link"] > 0
    assert few == many


@pytest.mark.fault("F23")
def test_nothing_depends_on_deletion(root: FuruConfig) -> None:
    """On NFS what somebody holds open is not removed but gets another name, and its folder cannot be removed either."""
    left = 0

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def unlink(path: str, **more: Any) -> None:
            nonlocal left
            os.lstat(path)
            left += 1
            os.rename(path, f"{os.path.dirname(path)}/.nfs{left:024x}")

        def rmdir(path: str, **more: Any) -> None:
            if os.listdir(path):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
            real(path)

        return {"unlink": unlink, "rmdir": rmdir}.get(name, real)

    item = Item(number=1, inputs=(Item(number=2),))
    script = {item: [Fails("killed"), Fails("lost"), Returns(3)], item.inputs[0]: Returns(2)}
    fs.install(wrap)
    try:
        for again in ((), ("ALL",), ("ALL",)):
            report = run_virtual(compute(item, script=script, rerun=again))
            assert report.counts["created"] == 2
        seen = artifacts.look(paths_of(item))
        assert (seen.verdict, seen.generation) == ("published", 9)
    finally:
        fs.restore()
    assert left > 5
    # Whoever comes next, on a system that removes, is not disturbed by what is left.
    assert run_virtual(compute(item)).counts["cached"] == 1
    assert run_virtual(compute(item, rerun=("ALL",))).counts["created"] == 2
