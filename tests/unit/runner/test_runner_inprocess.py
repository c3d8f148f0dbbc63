"""Attempts in the caller's own process: same results and failures, and nothing of the user's escapes."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from runner_inprocess_artifacts import Asks, Async, Breaks, BreaksSync, Sync, Waits, WaitsSync, ended, started

from furu_async._model.artifact import Furu, class_info
from furu_async._runner import inprocess
from furu_async._runner.inprocess import run_in_thread, run_inline
from furu_async._runner.loading import bound_to_published, load_result
from furu_async._runner.messages import TaskSpec
from furu_async._runtime.blocking import Lane
from furu_async._store import artifacts, results
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths, RunPaths
from furu_async._store.records import Claim, End


def task_for(obj: Furu[Any], root: Path) -> TaskSpec:
    folder = str(root / obj.furu_hash / "attempts" / "1")
    return TaskSpec(id=1, hash=obj.furu_hash, name="n", generation=1, root=str(root), directory=folder)


MODES = [run_inline, run_in_thread]


@pytest.fixture(autouse=True)
def _clean() -> None:
    started.clear()
    ended.clear()


@pytest.mark.parametrize("run", MODES)
@pytest.mark.parametrize("obj", [Sync(n=3), Async(n=3)])
async def test_result_and_log(run: Any, obj: Furu[Any], tmp_path: Path) -> None:
    task = task_for(obj, tmp_path)
    handlers = list(logging.root.handlers)
    answer = await run(task, obj)
    assert answer.ok, answer.failure
    value = results.load(task.directory, answer.result, answer.value)
    if isinstance(obj, Async):
        assert (value == threading.current_thread().name) == (run is run_inline)
    assert answer.logged
    assert " 3" in Path(task.directory, "log").read_text()
    assert answer.result == "inline"
    assert answer.manifest == []
    assert logging.root.handlers == handlers
    assert answer.duration >= 0
    assert answer.started_at > 1.6e9


async def test_many_at_once_each_have_their_own_log(tmp_path: Path) -> None:
    objs: list[Furu[Any]] = [Sync(n=n) for n in range(20)] + [Async(n=n) for n in range(20)]
    tasks = [task_for(obj, tmp_path) for obj in objs]
    answers = await asyncio.gather(*(run_inline(task, obj) for task, obj in zip(tasks, objs, strict=True)))
    assert all(answer.ok for answer in answers)
    for task, obj in zip(tasks, objs, strict=True):
        (line,) = Path(task.directory, "log").read_text().splitlines()
        assert line.endswith(f"{type(obj).__name__.lower()} {obj.n}")  # type: ignore[attr-defined]


@pytest.mark.fault("F85")
@pytest.mark.parametrize("run", MODES)
@pytest.mark.parametrize(
    "what", ["SystemExit", "KeyboardInterrupt", "CancelledError", "GeneratorExit", "ValueError"]
)
async def test_nothing_escapes(run: Any, what: str, tmp_path: Path) -> None:
    obj = Breaks(what=what)
    answer = await run(task_for(obj, tmp_path), obj)
    assert answer.failure is not None
    assert (answer.failure.kind, answer.failure.error_type.rpartition(".")[2]) == ("compute", what)
    assert "about to" in answer.failure.log_tail
    assert "_runner" not in answer.failure.traceback


@pytest.mark.fault("F85")
@pytest.mark.parametrize("what", ["SystemExit", "KeyboardInterrupt"])
async def test_nothing_escapes_from_a_sync_create(what: str, tmp_path: Path) -> None:
    obj = BreaksSync(what=what)
    answer = await run_inline(task_for(obj, tmp_path), obj)
    assert answer.failure is not None
    assert answer.failure.error_type == what


async def test_cancelling_reaches_an_async_create_and_the_caller(tmp_path: Path) -> None:
    obj = Waits()
    running = asyncio.ensure_future(run_inline(task_for(obj, tmp_path), obj))
    async with asyncio.timeout(10):
        while not started.is_set():
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["async"]
    assert inprocess._users == 0


@pytest.mark.fault("F93")
@pytest.mark.parametrize(("cls", "how"), [(Waits, "async"), (WaitsSync, "sync")])
async def test_cancelling_asks_a_thread_to_stop(cls: type[Furu[int]], how: str, tmp_path: Path) -> None:
    obj = cls()
    running = asyncio.ensure_future(run_in_thread(task_for(obj, tmp_path), obj))
    async with asyncio.timeout(10):
        while not started.is_set():
            await asyncio.sleep(0.005)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        while inprocess.LANE.pending:
            await asyncio.sleep(0.005)
    assert ended == [how]


@pytest.mark.parametrize(("cls", "how"), [(Waits, "async"), (WaitsSync, "sync")])
async def test_an_attempt_that_is_to_stop_before_it_has_a_thread_ends(
    cls: type[Furu[int]], how: str, tmp_path: Path
) -> None:
    lane, free, obj = Lane("one attempt", 1), threading.Event(), cls()
    lane.submit(free.wait, 60)
    running = asyncio.ensure_future(run_in_thread(task_for(obj, tmp_path), obj, lane))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    free.set()
    async with asyncio.timeout(20):
        while lane.pending:
            await asyncio.sleep(0.005)
    assert ended == [how]


async def test_unwritable_folder_is_infrastructure(tmp_path: Path) -> None:
    obj = Sync(n=1)
    task = task_for(obj, tmp_path)
    Path(task.directory).parent.parent.mkdir()
    Path(task.directory).parent.write_text("a file where a folder should be")
    for run in MODES:
        answer = await run(task, obj)
        assert answer.failure is not None
        assert answer.failure.kind == "infrastructure"
        assert "folder was made" in answer.failure.message


@pytest.mark.parametrize("run", MODES)
async def test_a_folder_is_there_for_who_asks(run: Any, tmp_path: Path) -> None:
    obj = Asks()
    task = task_for(obj, tmp_path)
    answer = await run(task, obj)
    assert (answer.result, answer.value, answer.manifest) == ("inline", b"true", [])
    assert Path(task.directory).is_dir()


def test_a_small_published_result_has_a_folder_once_asked_for(tmp_path: Path) -> None:
    obj, root = Asks(), str(tmp_path)
    paths = ArtifactPaths(root, class_info(Asks).name, obj.furu_hash)
    card = Card(RunPaths(root, "r").worker("w"), Claim(token="t", backend="local"))
    card.write()
    assert artifacts.claim(paths, 1, card).r == "claimed"
    end = End(
        generation=1,
        token="t",
        status="success",
        hash=paths.hash,
        result="inline",
        value=msgspec.Raw(b"true"),
    )
    assert artifacts.publish(paths, 1, end).r == "published"
    assert load_result(obj, root) is True
    assert not Path(paths.attempts).exists()
    found = bound_to_published(obj, root)
    assert found is not None
    assert found[0].furu_dir == Path(paths.attempt(1))
    assert Path(paths.attempt(1)).is_dir()
    assert load_result(obj, root) is True
