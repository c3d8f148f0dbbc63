"""What is known of processes, and ending those that are proven to be ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from furu_async._store.layout import RunPaths, beat_path
from furu_async._store.liveness import (
    TOKEN_VARIABLE,
    children_of,
    end_children,
    end_left_behind,
    known_dead,
    on_this_host,
    start_time,
    this_owner,
)
from furu_async._store.records import ChildRecord, Claim, Owner, encode

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(100)"]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[Any]]]:
    started: list[subprocess.Popen[Any]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def owner_of(pid: int) -> Owner:
    return msgspec.structs.replace(this_owner(), pid=pid, start_time=start_time(pid) or 0)


def wait_until_gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while start_time(pid) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_this_process_lives() -> None:
    owner = this_owner()
    assert on_this_host(owner)
    assert owner.start_time > 0
    assert known_dead(owner) is False


def test_the_start_time_is_exact() -> None:
    import psutil

    ticks = start_time(os.getpid())
    assert ticks is not None
    hz = os.sysconf("SC_CLK_TCK")
    assert abs(psutil.boot_time() + ticks / hz - psutil.Process().create_time()) < 1.5


def test_an_ended_process_is_dead_even_before_it_is_reaped(processes: list[subprocess.Popen[Any]]) -> None:
    process = subprocess.Popen(SLEEP)
    processes.append(process)
    owner = owner_of(process.pid)
    assert known_dead(owner) is False
    process.kill()
    assert wait_until_gone(process.pid), "a zombie is dead"
    assert known_dead(owner) is True
    process.wait()
    assert known_dead(owner) is True


def test_a_stopped_process_is_alive(processes: list[subprocess.Popen[Any]]) -> None:
    process = subprocess.Popen(SLEEP)
    processes.append(process)
    owner = owner_of(process.pid)
    os.kill(process.pid, signal.SIGSTOP)
    assert known_dead(owner) is False


def test_a_pid_that_passed_to_another_process_is_dead() -> None:
    assert known_dead(msgspec.structs.replace(this_owner(), start_time=this_owner().start_time - 1)) is True


@pytest.mark.parametrize(
    "change",
    [
        {"host": "elsewhere"},
        {"boot_id": "another"},
        {"pid_ns": "1"},
        {"host": ""},
        {"boot_id": ""},
        {"pid_ns": ""},
        {"pid": 0},
    ],
    ids=str,
)
def test_of_another_host_boot_or_namespace_nothing_is_known(change: dict[str, Any]) -> None:
    dead = msgspec.structs.replace(this_owner(), pid=2**22 - 1, start_time=1)
    assert known_dead(dead) is True
    assert known_dead(msgspec.structs.replace(dead, **change)) is None
    assert known_dead(Owner()) is None


def test_without_a_start_time_a_living_pid_says_nothing() -> None:
    assert known_dead(msgspec.structs.replace(this_owner(), start_time=0)) is None


def test_a_name_with_parentheses_is_parsed(tmp_path: Path, processes: list[subprocess.Popen[Any]]) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to(sys.executable)
    process = subprocess.Popen([str(odd), "-S", "-c", "import time; time.sleep(100)"])
    processes.append(process)
    time.sleep(0.1)
    found = start_time(process.pid)
    mine = start_time(os.getpid())
    assert found is not None
    assert mine is not None
    assert found >= mine


def spawn(processes: list[subprocess.Popen[Any]], token: str, code: str) -> subprocess.Popen[Any]:
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, TOKEN_VARIABLE: token},
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    processes.append(process)
    return process


LEADER = """
import subprocess, sys, time, os
clean = {k: v for k, v in os.environ.items() if k != "FURU_ASYNC_CHILD"}
code = [sys.executable, "-S", "-c", "import time; time.sleep(100)"]
a = subprocess.Popen(code)
b = subprocess.Popen(code, env=clean)
c = subprocess.Popen(code, start_new_session=True)
print(a.pid, b.pid, c.pid, flush=True)
"""


@pytest.mark.fault("F89", "F103")
@pytest.mark.parametrize("leader_lives", [True, False])
def test_a_whole_group_is_ended_daemons_too(
    leader_lives: bool, processes: list[subprocess.Popen[Any]]
) -> None:
    code = LEADER + ("time.sleep(100)" if leader_lives else "")
    leader = spawn(processes, "tok-group", code)
    assert leader.stdout is not None
    pids = list(map(int, leader.stdout.readline().split()))
    record = ChildRecord(pid=leader.pid, start_time=start_time(leader.pid) or 1, token="tok-group")
    if not leader_lives:
        leader.wait()
    assert all(start_time(pid) for pid in pids)
    assert end_children([record], 5.0)
    for pid in [leader.pid, *pids]:
        assert wait_until_gone(pid), pid


def test_a_process_that_is_not_proven_ours_is_left_alone(processes: list[subprocess.Popen[Any]]) -> None:
    other = spawn(processes, "tok-other", "import time; time.sleep(100)")
    started = start_time(other.pid)
    assert started
    assert end_children([ChildRecord(pid=other.pid, start_time=started - 1, token="tok-ours")], 0.2)
    assert end_children([ChildRecord(pid=other.pid, start_time=0, token="")], 0.2)
    assert end_children([ChildRecord(pid=1, start_time=start_time(1) or 0)], 0.2)
    assert end_children([ChildRecord(pid=other.pid, start_time=started - 1, token="tok")], 0.2), (
        "no prefix counts"
    )
    assert start_time(other.pid) == started


def test_it_says_if_something_is_left(
    processes: list[subprocess.Popen[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = spawn(processes, "tok-stays", "import time; time.sleep(100)")
    monkeypatch.setattr(os, "killpg", lambda pid, number: None)
    monkeypatch.setattr(os, "kill", lambda pid, number: None)
    record = ChildRecord(pid=child.pid, start_time=start_time(child.pid) or 0, token="tok-stays")
    assert not end_children([record], 0.1)
    monkeypatch.undo()


def test_what_a_dead_owner_left_is_found_by_its_claim(
    tmp_path: Path, processes: list[subprocess.Popen[Any]]
) -> None:
    child = spawn(processes, "tok-left", "import time; time.sleep(100)")
    worker = RunPaths(str(tmp_path), "run-1").worker("w1")
    os.makedirs(worker.children)
    record = ChildRecord(pid=child.pid, start_time=start_time(child.pid) or 0, token="tok-left")
    Path(worker.children, str(child.pid)).write_bytes(encode(record))
    Path(worker.children, "77").write_bytes(b"torn")
    Path(worker.children, "x").write_bytes(encode(record))
    assert children_of(worker) == [record]
    claim = Claim(token="t", backend="local", owner=this_owner(), beat=beat_path("run-1", "w1"))
    elsewhere = msgspec.structs.replace(claim, owner=msgspec.structs.replace(claim.owner, host="elsewhere"))
    assert end_left_behind(str(tmp_path), elsewhere)
    assert end_left_behind(str(tmp_path), msgspec.structs.replace(claim, beat="../../x"))
    assert start_time(child.pid)
    assert end_left_behind(str(tmp_path), claim)
    assert wait_until_gone(child.pid)


def test_slurm_is_part_of_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    owner = this_owner()
    assert (owner.job_id, owner.restart_count) == ("12", 2)
