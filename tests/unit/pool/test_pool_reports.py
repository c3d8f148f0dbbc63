"""What the controller makes of what workers say: read back, judged, or set aside."""

from __future__ import annotations

import contextvars
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from pool_artifacts import Leaf
from pool_env import HOME, Home

from furu_async._executors.base import Node, Request
from furu_async._model.artifact import class_info
from furu_async._plan.events import Event, Failed, Started, Succeeded
from furu_async._pool import home, queue, reports
from furu_async._pool.entries import UNREADABLE, Report
from furu_async._pool.objects_log import ObjectsLog
from furu_async._pool.wanted import Stage, Task
from furu_async._runtime.config import FuruConfig
from furu_async._store import artifacts, fs
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths, RunPaths
from furu_async._store.records import Claim, End
from furu_async.report import Failure


class Listener:
    """A run that keeps what it is told."""

    def __init__(self, home: Home, run_id: str = HOME) -> None:
        self.run_id = run_id
        self.key = ""
        self.keep = True
        self.root = home.root
        self.config: FuruConfig = home.config
        self.token = "t"
        self.context = contextvars.copy_context()
        self.events: list[Event] = []

    def post(self, event: Event) -> None:
        self.events.append(event)

    def begun(self, node: Node, attempt: int, worker: str) -> None: ...

    def jitter(self) -> float:
        return 0.0


class Desk:
    """A judge and what it asks for."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.tasks: dict[str, Task] = {}
        self.again: list[Task] = []
        self.now = 0.0
        self.judge = reports.Judge(
            self.home.paths, self.tasks, self.again.append, self.over, lambda: self.now
        )

    def over(self, task: Task) -> None:
        task.stage = Stage.OVER
        del self.tasks[task.file]

    def task(self, n: int, number: int = 1, **run: Any) -> tuple[Task, Listener]:
        obj = Leaf(n=n)
        info = class_info(type(obj))
        listener: Any = Listener(self.home, **run)
        task = Task(Request(listener, Node(obj, obj.furu_hash, info.name, info), 1, 0, 0, 5))
        task.number, task.stage = number, Stage.OUT
        self.tasks[task.file] = task
        return task, listener

    def publish(self, task: Task, run_id: str = HOME) -> None:
        paths = ArtifactPaths(self.home.root, task.origin.node.name, task.hash)
        worker = RunPaths(self.home.root, run_id).worker("w1")
        card = Card(worker, Claim(token="w", backend="pool", run_id=run_id))
        card.write()
        assert artifacts.claim(paths, 1, card).r == "claimed"
        end = End(generation=1, token="w", status="success", run_id=run_id, hash=task.hash)
        assert artifacts.publish(paths, 1, end).r == "published"

    def done(self, name: str) -> None:
        os.makedirs(self.home.paths.done, exist_ok=True)
        Path(self.home.paths.done, name).write_text("{}")

    def report(self, task: Task, outcome: Any, **more: Any) -> None:
        said = Report(
            hash=task.hash,
            name=task.origin.node.name,
            ticket=task.number,
            run_id=HOME,
            worker_id="w1",
            outcome=outcome,
            **more,
        )
        queue.report(self.home.paths, "w1", task.file, said)

    def round(self, unlink: list[str] | None = None) -> list[str]:
        return self.judge.judge(reports.look_round(self.home.paths, self.tasks, unlink or []))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def kinds(listener: Listener) -> list[str]:
    return [type(event).__name__ for event in listener.events]


@pytest.mark.fault("F54")
def test_a_success_is_believed_only_when_it_is_read_back(desk: Desk) -> None:
    task, run = desk.task(1)
    desk.done(task.file)
    assert desk.round() == []
    assert run.events == []
    desk.publish(task)
    (path,) = desk.round()
    assert run.events == [Started(task.hash, 5), Succeeded(task.hash, True, 5)]
    assert desk.round([path]) == []
    assert queue.done(desk.home.paths) == []


def test_a_result_of_another_run_was_found_not_created(desk: Desk) -> None:
    task, run = desk.task(1)
    desk.publish(task, "20250101-000000-1-bbbbbb")
    desk.done(task.file)
    desk.round()
    assert run.events[-1] == Succeeded(task.hash, False, 5)


@pytest.mark.fault("F07")
def test_an_attempt_that_was_counted_from_the_store_is_not_counted_twice(desk: Desk) -> None:
    """An earlier controller's entry: its attempt had ended before the node was looked at, or after that."""
    failure = Failure(kind="compute", message="fails")
    for n, generation, event in ((1, 2, "TakenBack"), (2, 3, "Failed")):
        task, run = desk.task(n)
        task.origin.node.counted = 2
        desk.report(task, "failed", failure=failure, generation=generation, begun=True)
        desk.round()
        assert kinds(run)[-1] == event
        assert ("Started" in kinds(run)) == (event == "Failed")


@pytest.mark.fault("F07")
def test_what_was_reported_to_a_dead_controller_is_left_for_the_next(desk: Desk) -> None:
    """The end of an attempt may be newer than what was counted; what is no attempt is begun afresh."""
    failure = Failure(kind="compute", message="fails")
    attempt, _ = desk.task(1)
    refused, _ = desk.task(2)
    desk.report(attempt, "failed", failure=failure, generation=3)
    desk.report(refused, "failed", failure=Failure(kind="protocol", message="not mine"))
    damaged = "e" * 32 + ".4"
    Path(desk.home.paths.failed, damaged).write_text("{")
    config = desk.home.config
    survey = home.prepare(desk.home.paths, home.settings_of(config), ObjectsLog(desk.home.paths.objects))
    assert survey.entries == {attempt.hash: home.LeftEntry(attempt.number)}
    assert survey.numbers == {attempt.hash: attempt.number, refused.hash: refused.number, "e" * 32: 4}
    assert queue.failed(desk.home.paths) == [attempt.file]


@pytest.mark.fault("F07", "F19")
def test_a_survey_that_an_error_has_interrupted_finds_the_same_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tickets that were given are not given again."""
    refused, _ = desk.task(1)
    desk.report(refused, "failed", failure=Failure(kind="protocol", message="not mine"))
    paths, settings = desk.home.paths, home.settings_of(desk.home.config)
    submissions, listdir = RunPaths(paths.root, paths.home).submissions, fs.listdir

    def fails(path: str) -> list[str]:
        if path == submissions:
            raise OSError(errno.EIO, "no", path)
        return listdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "listdir", fails)
        with pytest.raises(OSError, match="no"):
            home.prepare(paths, settings, ObjectsLog(paths.objects))
    survey = home.prepare(paths, settings, ObjectsLog(paths.objects))
    assert survey.numbers == {refused.hash: refused.number}
    assert queue.failed(paths) == []


@pytest.mark.fault("F54")
def test_a_result_that_stays_invisible_is_trouble_and_not_a_success(desk: Desk) -> None:
    task, run = desk.task(1)
    desk.done(task.file)
    for desk.now in (0.0, reports.VISIBLE_SECS - 1):
        desk.round()
        assert run.events == []
    desk.now = reports.VISIBLE_SECS
    assert desk.round() == [f"{desk.home.paths.done}/{task.file}"]
    (event,) = run.events
    assert isinstance(event, Failed)
    assert event.failure.kind == "infrastructure"


def test_each_outcome_becomes_its_event(desk: Desk) -> None:
    told = []
    for n, (outcome, more) in enumerate(
        [
            ("failed", {"failure": Failure(kind="compute", message="no"), "begun": True, "generation": 3}),
            ("elsewhere", {"detail": "somebody", "generation": 7}),
            ("returned", {}),
        ]
    ):
        task, run = desk.task(n)
        desk.report(task, outcome, **more)
        told.append((task, run))
    assert len(desk.round()) == 3
    assert [kinds(run) for _, run in told] == [["Started", "Failed"], ["Elsewhere"], ["TakenBack"]]
    assert told[0][0].origin.node.generation == 3
    assert told[1][0].origin.node.held == 7
    assert desk.tasks == {}


def test_a_task_that_was_ended_with_its_run_is_cancelled(desk: Desk) -> None:
    for n, begun in enumerate((True, False)):
        task, run = desk.task(n)
        task.unwanted = True
        desk.report(task, "returned", begun=begun, detail="cancelled")
        desk.round()
        assert kinds(run) == (["Started", "Failed"] if begun else ["TakenBack"])
        if begun:
            event = run.events[-1]
            assert isinstance(event, Failed)
            assert event.failure.kind == "cancelled"


@pytest.mark.fault("F67")
def test_a_report_of_an_old_ticket_changes_nothing(desk: Desk) -> None:
    task, run = desk.task(1, number=1)
    desk.report(task, "returned")
    del desk.tasks[task.file]
    task.number = 2
    desk.tasks[task.file] = task
    (path,) = desk.round()
    assert path.endswith(".1")
    assert run.events == []


@pytest.mark.fault("F78")
def test_foreign_files_are_set_aside_once(desk: Desk) -> None:
    for folder in (desk.home.paths.done, desk.home.paths.failed):
        os.makedirs(folder, exist_ok=True)
        Path(folder, "notes.txt").write_text("mine")
        Path(folder, "a folder").mkdir()
    desk.round()
    assert not queue.done(desk.home.paths) + queue.failed(desk.home.paths)
    assert len([name for name in os.listdir(desk.home.paths.bad) if not name.endswith(".why")]) == 4


@pytest.mark.fault("F78")
def test_a_task_whose_report_cannot_be_read_twice_has_failed(desk: Desk) -> None:
    task, run = desk.task(1)
    os.makedirs(desk.home.paths.failed, exist_ok=True)
    for text in (b"", b"{"):
        assert run.events == []
        Path(desk.home.paths.failed, task.file).write_bytes(text)
        desk.round()
        assert desk.again == [task]
    (event,) = run.events
    assert isinstance(event, Failed)
    assert (event.failure.kind, event.failure.run_wide) == ("protocol", False)


@pytest.mark.fault("F78")
def test_an_entry_that_a_worker_could_not_read_is_written_again_once(desk: Desk) -> None:
    task, run = desk.task(1)
    failure = Failure(kind="protocol", message="it is empty")
    desk.report(task, "failed", failure=failure, detail=UNREADABLE)
    desk.round()
    assert desk.again == [task]
    assert run.events == []


def test_a_protocol_failure_of_the_run_has_its_whole_story(desk: Desk) -> None:
    task, run = desk.task(1)
    task.spec_key = "spec-7"
    failure = Failure(kind="protocol", message="another version", run_wide=True)
    desk.report(task, "failed", failure=failure, node="n5")
    desk.round()
    (event,) = run.events
    assert isinstance(event, Failed)
    assert event.failure.run_wide
    for part in (desk.home.paths.failed, task.hash, "spec-7", "w1", "n5", "attempt 1", "another version"):
        assert part in event.failure.message


def test_all_runs_that_want_a_task_are_told(desk: Desk) -> None:
    task, first = desk.task(1)
    second: Any = Listener(desk.home, "20260101-000000-1-cccccc")
    node = task.origin.node
    task.requests.append(Request(second, Node(node.obj, node.hash, node.name, node.info), 1, 0, 0, 9))
    desk.publish(task)
    desk.done(task.file)
    desk.round()
    assert first.events[-1] == Succeeded(task.hash, True, 5)
    assert second.events[-1] == Succeeded(task.hash, False, 9)


def test_folders_that_cannot_be_read_are_told_and_stop_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.task(1)

    def broken(path: str) -> Any:
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(fs, "listdir", broken)
    found = reports.look_round(desk.home.paths, desk.tasks, [])
    assert "Input/output error" in found.trouble
    assert desk.judge.judge(found) == []


def test_one_look_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST", 3)
    for n in range(10):
        task, _ = desk.task(n)
        desk.report(task, "returned")
    unlink: list[str] = []
    for left in (10, 7, 4, 1):
        found = reports.look_round(desk.home.paths, desk.tasks, unlink)
        assert found.more == (left > 3)
        unlink = desk.judge.judge(found)
    assert desk.tasks == {}
