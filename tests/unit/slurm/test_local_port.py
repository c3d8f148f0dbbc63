"""This machine behind the port of Slurm: real processes, looked after by a real daemon."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from furu_async import SlurmSpec
from furu_async._runner.processes import processes
from furu_async._slurm import local_files as files
from furu_async._slurm.local_port import LocalPort
from furu_async._slurm.parameters import Wish, request
from furu_async._slurm.port import JobRow, Refused, Rows, Submitted
from furu_async._store.atomic import read_bytes
from furu_async._store.records import decode
from furu_async.testing import faulty_storage

SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))


class Machine:
    """A store with jobs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = LocalPort(str(root))

    async def submit(
        self, script: str, minutes: float = 5, port: LocalPort | None = None, **wish: Any
    ) -> str:
        spec = SlurmSpec(cpus=1, mem_gb=0.1, time_min=minutes)
        made = request(spec, Wish("furu-x", ("sh", "-c", script), str(self.root / "logs"), **wish))
        answer = await (port or self.port).submit(made)
        assert isinstance(answer, Submitted), answer
        return answer.job_id

    async def row(self, job_id: str, *states: str) -> JobRow:
        """Wait until a job is in one of these states."""
        async with asyncio.timeout(30 * SCALE):
            while True:
                answer = await self.port.query()
                assert isinstance(answer, Rows), answer
                for row in answer.rows:
                    if row.id == job_id and row.state in states:
                        return row
                await asyncio.sleep(0.05)

    def daemon(self) -> int:
        """Pid of the daemon that was started last."""
        path = f"{self.port.paths.daemons}/{files.newest_daemon(self.port.paths)}"
        return decode(files.LocalDaemon, read_bytes(path), path).owner.pid


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    answer = await machine.port.query()
    assert isinstance(answer, Rows)
    await machine.port.cancel([row.id for row in answer.rows])
    async with asyncio.timeout(30 * SCALE):
        while files.daemon_lives(machine.port.paths):
            await asyncio.sleep(0.05)


async def test_ends_are_told_as_slurm_tells_them(machine: Machine) -> None:
    good = await machine.submit("echo $SLURM_JOB_ID; exit 0")
    bad = await machine.submit("exit 3")
    shot = await machine.submit("kill -SEGV $$")
    assert (await machine.row(good, "COMPLETED")).exit_code == 0
    assert (await machine.row(bad, "FAILED")).exit_code == 3
    assert (await machine.row(shot, "FAILED")).signal == signal.SIGSEGV
    assert (machine.root / "logs" / f"furu-x-{good}.log").read_text() == f"{good}\n"


async def test_a_secret_of_the_environment_is_in_no_file_of_the_store(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hunter2hunter2")
    job = await machine.submit("echo ${#SOME_API_KEY}", hold=True)
    await machine.row(job, "PENDING")
    kept = files.read_job(machine.port.paths, job)
    assert kept is not None
    assert os.stat(kept.env).st_mode & 0o777 == 0o600
    there = [path for path in machine.root.rglob("*") if path.is_file()]
    assert there
    assert not [path for path in there if b"hunter2" in path.read_bytes()]
    await machine.port.release([job])
    await machine.row(job, "COMPLETED")
    assert (machine.root / "logs" / f"furu-x-{job}.log").read_text() == "14\n"
    assert not [
        path for path in machine.root.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()
    ]
    async with asyncio.timeout(30 * SCALE):
        while os.path.exists(kept.env):
            await asyncio.sleep(0.02)


@pytest.mark.fault("F19")
async def test_the_environment_of_a_job_that_could_not_be_written_is_left_nowhere(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    made = request(SlurmSpec(cpus=1, mem_gb=0.1), Wish("furu-x", ("true",), str(tmp_path / "logs")))
    with faulty_storage(errno.ENOSPC, path="*/jobs/*", operation="link", times=None):
        assert isinstance(await machine.port.submit(made), Refused)
    assert list((tmp_path / "temporary").iterdir()) == []
    await machine.row(await machine.submit("true"), "COMPLETED")


async def test_dependencies_hold_and_arrays(machine: Machine) -> None:
    held = await machine.submit("true", hold=True)
    after = await machine.submit("true", dependency=f"afterok:{held}")
    failing = await machine.submit("exit 1")
    never = await machine.submit("true", dependency=f"afterok:{failing}")
    array = await machine.submit("exit $SLURM_ARRAY_TASK_ID", array=2)
    assert (await machine.row(held, "PENDING")).reason in ("", "JobHeldUser")
    assert (await machine.row(never, "CANCELLED")).reason == "DependencyNeverSatisfied"
    assert (await machine.row(after, "PENDING")).reason == "Dependency"
    await machine.row(f"{array}_0", "COMPLETED")
    await machine.row(f"{array}_1", "FAILED")
    await machine.port.release([held])
    await machine.row(after, "COMPLETED")


async def test_a_cancelled_job_is_told_and_nothing_of_it_stays(machine: Machine) -> None:
    job = await machine.submit("trap 'echo told; exit 0' TERM; sleep 300 & sleep 300 & echo ready; wait")
    log = machine.root / "logs" / f"furu-x-{job}.log"
    row = await machine.row(job, "RUNNING")
    async with asyncio.timeout(30 * SCALE):
        while not log.exists() or "ready" not in log.read_text():
            await asyncio.sleep(0.02)
    said = files.read_state(machine.port.paths, row.id)
    assert said is not None
    await machine.port.cancel([job])
    await machine.row(job, "CANCELLED")
    assert "told" in log.read_text()
    async with asyncio.timeout(30 * SCALE):
        while _of_session(said.pid):  # what was killed may take a moment
            await asyncio.sleep(0.02)


def _of_session(leader: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for pid in processes():
        try:
            if os.getsid(pid) == leader:
                found.append(pid)
        except ProcessLookupError:
            continue
    return found


async def test_a_time_limit_ends_a_job_after_a_notice(machine: Machine) -> None:
    job = await machine.submit("trap 'echo notice' USR2; while :; do sleep 0.05; done", minutes=1 / 60)
    await machine.row(job, "TIMEOUT")
    assert "notice" in (machine.root / "logs" / f"furu-x-{job}.log").read_text()


async def test_at_most_so_many_at_once(machine: Machine) -> None:
    port = LocalPort(str(machine.root), at_once=1)
    first = await machine.submit("sleep 300", port=port)
    await machine.row(first, "RUNNING")
    second = await machine.submit("true", port=port)
    async with asyncio.timeout(30 * SCALE):
        while (await machine.row(second, "PENDING")).reason != "Resources":
            await asyncio.sleep(0.02)
    await machine.port.cancel([first])
    await machine.row(second, "COMPLETED")


async def test_jobs_outlive_a_daemon_that_is_killed(machine: Machine) -> None:
    job = await machine.submit("sleep 300")
    await machine.row(job, "RUNNING")
    os.kill(machine.daemon(), signal.SIGKILL)
    later = await machine.submit("true")
    await machine.row(later, "COMPLETED")
    await machine.row(job, "RUNNING")
    await machine.port.cancel([job])
    await machine.row(job, "CANCELLED")
