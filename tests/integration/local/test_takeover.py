"""Several processes at the same artifacts: races, and the deaths of controller, keeper and child."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from local_artifacts import Held, lives, words

from furu_async import Local, RunEvent, Scheduler, run_dag
from furu_async.errors import FuruExecutorError, FuruRunCancelled, FuruRunFailed

pytestmark = pytest.mark.usefixtures("furu_tmp_root")
SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))
ONE = Local(workers=1)


class Contender:
    """A process of `contender.py`; what it said is in ``lines``."""

    def __init__(self, make: list[str], *, env: dict[str, str] | None = None, **wanted: Any) -> None:
        self.begun = time.monotonic()
        self.lines: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("contender.py")),
                json.dumps({"make": make, **wanted}),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self.errors = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
        self.errors = self.process.stderr.read()

    @property
    def pid(self) -> int:
        return self.process.pid

    def keepers(self) -> list[int]:
        """Its keeper processes that live."""
        below = psutil.Process(self.pid).children()
        return [p.pid for p in below if lives(p.pid) and "keeper_main" in words(p)]

    def keeper(self) -> int:
        """Its keeper process."""
        (found,) = self.keepers()
        return found

    def finish(self, seconds: float = 60) -> list[dict[str, Any]]:
        """Wait for its end; the lines with reports."""
        assert self.process.wait(seconds) == 0, self.errors
        self._reader.join(5)
        return [line for line in self.lines if "ok" in line or "error" in line]

    def saw(self, text: str) -> bool:
        """It said a line with this in it."""
        return any(text in json.dumps(line) for line in list(self.lines))

    def clean(self) -> None:
        """End it and what it started."""
        try:
            below = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for process in below:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self._reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


Start = Callable[..., Contender]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts contenders, and ends them after the test."""
    started: list[Contender] = []

    def begin(*make: str, **wanted: Any) -> Contender:
        started.append(Contender(list(make), **wanted))
        return started[-1]

    yield begin
    for each in started:
        each.clean()


class HeldFiles:
    """A `Held` artifact with its files."""

    def __init__(self, folder: Path) -> None:
        self.marks, self.hold = folder / "marks", folder / "hold"
        self.hold.touch()
        self.obj = Held(path=str(self.marks), hold=str(self.hold), n=7)
        self.text = f"Held(path={str(self.marks)!r}, hold={str(self.hold)!r}, n=7)"

    def signs(self, sign: str) -> list[int]:
        """Pids marked with a sign, in order."""
        if not self.marks.exists():
            return []
        return [int(line[1:]) for line in self.marks.read_text().split() if line[0] == sign]

    def begun(self, times: int = 1, seconds: float = 30) -> int:
        """Wait until ``_create`` has begun so often; the pid that is at it."""
        until(lambda: len(self.signs("+")) >= times, seconds)
        return self.signs("+")[-1]


@pytest.fixture
def held(tmp_path: Path) -> HeldFiles:
    return HeldFiles(tmp_path)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


# -- races ---------------------------------------------------------------------------------------------------


@pytest.mark.fault("F65", "F69")
@pytest.mark.parametrize(("size", "rounds"), [(2, 20), (8, 4)])
def test_processes_that_race_compute_each_artifact_once(
    size: int, rounds: int, start: Start, tmp_path: Path
) -> None:
    rounds = max(1, round(rounds * SCALE))
    meeting, calls = tmp_path / "meeting", tmp_path / "calls"
    meeting.mkdir()
    calls.mkdir()
    parts = ", ".join(f"Counted(path='{calls}/{{k}}-{i}')" for i in range(3))
    crowd = [
        start(f"Sum(parts=({parts},))", rounds=rounds, meet=[str(meeting), str(i), size]) for i in range(size)
    ]
    reports = [each.finish(110) for each in crowd]
    for k in range(rounds):
        assert [len((calls / f"{k}-{i}").read_text()) for i in range(3)] == [1, 1, 1], f"round {k}"
        mine = [report[k] for report in reports]
        assert all(line["ok"] and line["values"] == [3] for line in mine), mine
        assert sum(line["counts"]["created"] for line in mine) == 4, mine


# -- deaths --------------------------------------------------------------------------------------------------


@pytest.mark.fault("F06", "F07", "F103")
def test_a_killed_controller_takes_its_child_along_and_the_next_run_takes_over(
    held: HeldFiles, start: Start
) -> None:
    first = start(held.text)
    child, keeper = held.begun(), first.keeper()
    kill(first.pid)
    until(lambda: not lives(child) and not lives(keeper), 5)
    held.hold.unlink()
    report = asyncio.run(run_dag([held.obj], executor=ONE, progress=False))
    assert report.counts["created"] == 1
    assert report.duration < 2, "no lease is waited for"
    assert held.signs("!") == []
    assert len(held.signs("+")) == 2


@pytest.mark.fault("F06")
def test_a_killed_keeper_is_started_again(held: HeldFiles, start: Start) -> None:
    first = start(held.text)
    held.begun()
    before = first.keeper()
    kill(before)
    until(lambda: not lives(before))
    held.hold.unlink()
    (report,) = first.finish()
    assert report["ok"]
    assert len(held.signs("+")) == 1
    assert held.obj.get_state()["status"] == "published"


@pytest.mark.fault("F15")
def test_a_keeper_that_dies_again_and_again_ends_the_run(held: HeldFiles, start: Start) -> None:
    first = start(held.text)
    held.begun()
    before = 0
    for _ in range(6):
        until(lambda before=before: first.keepers() not in ([], [before]), 10)  # type: ignore[misc]
        (before,) = first.keepers()
        kill(before)
    (report,) = first.finish(30)
    assert "keeper" in report["text"]
    assert report["error"] == "FuruExecutorError"
    held.hold.unlink()
    second = start(held.text)
    assert second.finish(30)[0]["ok"], "what it left behind is in nobody's way"
    assert held.signs("!") == []


@pytest.mark.fault("F105")
async def test_a_keeper_that_cannot_be_started_again_ends_the_run(
    held: HeldFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = asyncio.create_task(run_dag([held.obj], executor=ONE, progress=False))
    await asyncio.to_thread(held.begun)

    def spawn(*_: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("furu_async._store.keeper.spawn", spawn)
    kill(*(p.pid for p in psutil.Process().children() if "keeper_main" in words(p)))
    with pytest.raises(FuruExecutorError, match=r"keeper(?s:.)*temporarily unavailable"):
        await asyncio.wait_for(task, 30)


@pytest.mark.fault("F06", "F66")
def test_controller_and_keeper_killed_at_once(held: HeldFiles, start: Start) -> None:
    first = start(held.text)
    held.begun()
    kill(first.keeper(), first.pid)
    held.hold.unlink()
    others = [start(held.text) for _ in range(2)]
    for other in others:
        (report,) = other.finish()
        assert report["ok"]
        assert report["seconds"] < 10
    assert held.signs("!") == [], "the old child was ended before the new one began"
    assert len(held.signs("+")) <= 2


@pytest.mark.fault("F10")
def test_a_killed_child_costs_its_node_one_try(held: HeldFiles, start: Start) -> None:
    first = start(held.text)
    child = held.begun()
    kill(child)
    begin = time.monotonic()
    assert held.begun(2, 10) != child
    assert time.monotonic() - begin < 3
    held.hold.unlink()
    (report,) = first.finish()
    assert report["ok"]
    assert len(report["history"]) == 1
    assert report["history"][0].startswith("killed")


# -- silence -------------------------------------------------------------------------------------------------

QUICK = {"FURU_LEASE_SECS": "2", "FURU_HEARTBEAT_SECS": "0.25", "FURU_HEARTBEAT_GRACE_SECS": "2"}


@pytest.mark.fault("F15", "F108")
def test_a_stopped_controller_whose_keeper_beats_is_alive(held: HeldFiles, start: Start) -> None:
    first = start(held.text, env=QUICK)
    held.begun()
    os.kill(first.pid, signal.SIGSTOP)
    second = start(held.text, env=QUICK)
    until(lambda: second.saw("node_waiting"))
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 5 or len(held.signs("+")) > 1)
    assert len(held.signs("+")) == 1, "it was taken over while its keeper told that it lives"
    os.kill(first.pid, signal.SIGCONT)
    held.hold.unlink()
    assert first.finish()[0]["counts"]["created"] == 1
    assert second.finish()[0]["counts"]["cached"] == 1


@pytest.mark.fault("F14", "F67")
def test_an_owner_that_is_silent_for_a_lease_is_replaced_and_harmless_afterwards(
    held: HeldFiles, start: Start
) -> None:
    first = start(held.text, env=QUICK)
    stopped = [held.begun(), first.keeper(), first.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    second = start(held.text, env=QUICK)
    new = held.begun(2, 30)
    assert new != stopped[0]
    assert held.signs("!") == [], "the stopped child was ended before the new one began"
    for pid in stopped[1:]:
        os.kill(pid, signal.SIGCONT)
    until(lambda: first.saw("node_waiting") or first.saw("node_retry"))
    held.hold.unlink()
    assert second.finish()[0]["counts"]["created"] == 1
    (late,) = first.finish()
    assert late["ok"]
    assert late["counts"]["created"] == 0
    assert len(held.signs("+")) == 2
    assert held.obj.get_state()["generation"] == 2


@pytest.mark.fault("F63")
def test_an_observer_that_was_asleep_itself_declares_nobody_lost(held: HeldFiles, start: Start) -> None:
    first = start(held.text, env=QUICK)
    owner = [held.begun(), first.keeper(), first.pid]
    second = start(held.text, env=QUICK)
    until(lambda: second.saw("node_waiting"))
    for pid in (second.pid, *owner):
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 3)
    # The observer wakes first: all it sees for a moment is a beat that is older than a lease.
    for pid in (second.pid, *owner):
        os.kill(pid, signal.SIGCONT)
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 1.5 or len(held.signs("+")) > 1)
    assert len(held.signs("+")) == 1
    held.hold.unlink()
    assert first.finish()[0]["counts"]["created"] == 1
    assert second.finish()[0]["counts"]["cached"] == 1


# -- waiting -------------------------------------------------------------------------------------------------


@pytest.mark.fault("F65")
async def test_a_wait_is_told_and_ends_with_the_others_result(held: HeldFiles, start: Start) -> None:
    first = start(held.text)
    await asyncio.to_thread(held.begun)
    events: list[RunEvent] = []
    task = asyncio.create_task(run_dag([held.obj], executor=ONE, progress=False, on_event=events.append))
    async with asyncio.timeout(20):
        while not any(event.kind == "node_waiting" for event in events):
            await asyncio.sleep(0.01)
    message = next(event.message for event in events if event.kind == "node_waiting")
    assert f"pid {first.pid} on {os.uname().nodename}" in message
    assert "taken over if silent for 120 s" in message
    held.hold.unlink()
    report = await asyncio.wait_for(task, 30)
    assert report.counts["cached"] == 1
    assert await report.load(held.obj) == 7
    first.finish()


async def test_a_wait_can_be_cancelled(held: HeldFiles, start: Start) -> None:
    first = start(held.text)
    await asyncio.to_thread(held.begun)
    told = asyncio.Event()

    def listen(event: RunEvent) -> None:
        if event.kind == "node_waiting":
            told.set()

    async with Scheduler(ONE) as scheduler:
        run = scheduler.start([held.obj], on_event=listen)
        await asyncio.wait_for(told.wait(), 20)
        begin = time.monotonic()
        run.cancel()
        with pytest.raises(FuruRunCancelled):
            await run
        assert time.monotonic() - begin < 2
    assert held.obj.get_state()["status"] == "claimed", "the other's work is left alone"
    held.hold.unlink()
    assert first.finish()[0]["counts"]["created"] == 1


@pytest.mark.fault("F16")
async def test_a_wait_ends_by_its_own_limit(
    held: HeldFiles, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    from furu_async._runtime.config import reset_config

    first = start(held.text)
    await asyncio.to_thread(held.begun)
    monkeypatch.setenv("FURU_MAX_WAIT_SECS", "1")
    reset_config()
    with pytest.raises(FuruRunFailed) as caught:
        await asyncio.wait_for(run_dag([held.obj], executor=ONE, progress=False), 30)
    failure = caught.value.failures[0].failure
    assert failure is not None
    assert failure.kind == "timeout"
    assert failure.error_type == "FuruWaitTimeout"
    assert "FURU_MAX_WAIT_SECS" in failure.message
    assert f"pid {first.pid}" in failure.message
    held.hold.unlink()
    assert first.finish()[0]["ok"]
