"""What becomes of the tasks of a worker that has died: which had begun, what is told, what is given out again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pool_artifacts import Leaf
from pool_env import HOME, Home

from furu_async._executors.base import Node, Request
from furu_async._model.artifact import class_info
from furu_async._plan.events import Event, Failed, TakenBack
from furu_async._pool import crew, orphans
from furu_async._pool.crew import Gone, Left, Remains, Worker
from furu_async._pool.entries import QueueEntry, WorkerStatus
from furu_async._pool.queue import Buckets, Place, Taker, put
from furu_async._pool.wanted import Stage, Task
from furu_async._slurm.states import Ended
from furu_async._store import artifacts, atomic
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths, RunPaths, beat_path
from furu_async._store.records import Claim, encode

WID = "w1"


class Listener:
    """A run that keeps what it is told."""

    def __init__(self, home: Home) -> None:
        self.run_id, self.root, self.config = HOME, home.root, home.config
        self.events: list[Event] = []

    def post(self, event: Event) -> None:
        self.events.append(event)

    def begun(self, node: Node, attempt: int, worker: str) -> None: ...

    def jitter(self) -> float:
        return 0.0


class Control:
    """As much of a controller as orphans need."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.again: list[Task] = []
        self.put_back_names: list[str] = []
        self.feeder = self.fleet = self
        self.open = True

    def poke(self) -> None: ...

    def serves(self, key: str) -> bool:
        return self.open

    def forget_running(self, wid: str, name: str) -> None: ...

    def put_back(self, wid: str, name: str, place: Place) -> None:
        self.put_back_names.append(name)

    def over(self, task: Task) -> None:
        task.stage = Stage.OVER
        del self.tasks[task.file]

    def care_for(self, entries: Sequence[Left], how: Any = "failed") -> None:
        worker = Worker("0001", "k", wid=WID, job_id="7")
        gone = Gone(worker, Ended(how, "FAILED"), Remains(entries=entries))
        orphans.care_for(gone, self, self.again.append, self.over)  # type: ignore[arg-type]


def make(home: Home, control: Control, n: int) -> tuple[Task, Listener]:
    obj = Leaf(n=n)
    info = class_info(type(obj))
    listener: Any = Listener(home)
    task = Task(Request(listener, Node(obj, obj.furu_hash, info.name, info), 1, 0, 0, 5))
    task.number, task.stage, task.spec_key = 1, Stage.OUT, "k"
    entry = QueueEntry(hash=task.hash, name=info.name, spec_key="k", run_id=HOME)
    task.place = Buckets().place(entry)
    put(home.paths, entry, task.place)
    control.tasks[task.file] = task
    return task, listener


def take(home: Home, *claimed: Task, began: Sequence[Task] = (), slots: int = 1) -> None:
    """Have the worker take everything, claim some of it, and say what of it has begun."""
    worker = RunPaths(home.root, HOME).worker(WID)
    taker = Taker(home.paths, "k", WID, random.Random(1))
    taker.prepare()
    while taker.take(10):
        pass
    card = Card(worker, Claim(token="w", backend="pool", run_id=HOME, beat=beat_path(HOME, WID)))
    card.write()
    for task in claimed:
        paths = ArtifactPaths(home.root, task.origin.node.name, task.hash)
        assert artifacts.claim(paths, 1, card).r == "claimed"
    status = WorkerStatus(wid=WID, spec_key="k", slots=slots, began=[task.file for task in began])
    atomic.replace(worker.status, encode(status))


def seen(home: Home, control: Control) -> dict[str, Left]:
    return {left.name: left for left in crew.examine(home.paths, WID, "", control.tasks).entries}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def control() -> Control:
    return Control()


def test_the_only_claimed_one_had_begun(home: Home, control: Control) -> None:
    (ran, _), (ahead, _) = make(home, control, 1), make(home, control, 2)
    take(home, ran)
    left = seen(home, control)
    assert (left[ran.file].begun, left[ran.file].suspect) == (True, False)
    assert (left[ahead.file].begun, left[ahead.file].suspect) == (False, False)


def test_what_the_worker_said_last_tells_which(home: Home, control: Control) -> None:
    (ran, _), (ahead, _) = make(home, control, 1), make(home, control, 2)
    take(home, ran, ahead, began=[ran])
    left = seen(home, control)
    assert left[ran.file].begun
    assert (left[ahead.file].begun, left[ahead.file].suspect) == (False, False)


@pytest.mark.fault("F12")
def test_one_of_several_is_blamed_the_second_time(home: Home, control: Control) -> None:
    (one, run), (other, _) = make(home, control, 1), make(home, control, 2)
    take(home, one, other)
    left = seen(home, control)
    assert all(each.suspect and not each.begun for each in left.values())
    control.care_for(list(left.values()))
    assert run.events == []
    assert {task.file for task in control.again} == {one.file, other.file}
    control.care_for([left[one.file]])
    assert isinstance(run.events[-1], Failed)
    assert run.events[-1].failure.kind == "lost"


def test_what_was_ended_with_its_run_is_cancelled(home: Home, control: Control) -> None:
    (ran, run), (ahead, other) = make(home, control, 1), make(home, control, 2)
    ran.unwanted = ahead.unwanted = True
    take(home, ran)
    control.care_for(list(seen(home, control).values()))
    last = run.events[-1]
    assert isinstance(last, Failed)
    assert last.failure.kind == "cancelled"
    assert isinstance(other.events[-1], TakenBack)


@pytest.mark.fault("F46")
def test_a_person_who_cancels_a_worker_harms_no_task(home: Home, control: Control) -> None:
    (ran, run), (ahead, other) = make(home, control, 1), make(home, control, 2)
    take(home, ran)
    control.care_for(list(seen(home, control).values()), "cancelled")
    assert isinstance(run.events[-1], TakenBack)
    assert other.events == []
    assert control.put_back_names == [ahead.file]
