"""The journal on a store that fails for a while: what happened meanwhile is written afterwards."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Awaitable, Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from furu_async._executors import journal as journals
from furu_async._executors.journal import Journal
from furu_async.report import RunEvent
from furu_async.testing import VirtualLoop, run_virtual


def event(number: int) -> RunEvent:
    return RunEvent(at=float(number), kind="note", message=str(number))


def numbers(path: Path) -> list[int]:
    """What lines that are whole say."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(int(json.loads(line)["message"]))
        except ValueError:
            continue
    return found


async def written(journal: Journal, work: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.get_running_loop().create_task(journal.run())
    await work()
    journal.close()
    async with asyncio.timeout(5):
        await task


def test_what_could_not_be_written_is_written_when_that_goes_again(tmp_path: Path) -> None:
    path = tmp_path / "later" / "journal.jsonl"
    journal = Journal()

    async def work() -> None:
        journal.open(str(path))
        for number in range(50):
            journal.add(event(number))
            await asyncio.sleep(1)
        assert "cannot be written" in journal.trouble
        path.parent.mkdir()
        await asyncio.sleep(120)
        assert journal.trouble == ""
        assert numbers(path) == list(range(50))
        journal.add(event(50))

    run_virtual(written(journal, work))
    assert numbers(path) == list(range(51))
    assert journal.trouble == ""


@pytest.mark.parametrize("told", [True, False], ids=["error", "short count"])
def test_a_write_that_failed_half_way_spoils_no_other_line(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal()
    failures = [2]

    class Half(FileIO):
        """A file of which the first writes write a half and fail, or only say how much they have written."""

        def write(self, data: Any) -> int:
            if not failures[0]:
                return super().write(data)
            failures[0] -= 1
            count = super().write(data[: len(data) // 2])
            if told:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return count

    monkeypatch.setattr(journals, "_open", lambda path: Half(path, "ab"))

    async def work() -> None:
        journal.open(str(path))
        for number in range(10):
            journal.add(event(number))
        await asyncio.sleep(30)

    run_virtual(written(journal, work))
    found = numbers(path)
    assert sorted(set(found)) == list(range(10))
    assert found[-10:] == list(range(10))


@pytest.mark.fault("F33", "F98")
@pytest.mark.parametrize("hung", [False, True], ids=["quick", "hung"])
def test_no_file_stays_open_whenever_the_journal_is_cancelled(
    hung: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is opened after the cancellation is closed too; one that cannot be closed in time, later."""
    opened: list[FileIO] = []
    real = journals._open

    def kept(path: str) -> FileIO:
        opened.append(real(path))
        return opened[-1]

    monkeypatch.setattr(journals, "_open", kept)

    async def main(turns: int) -> bool:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        journal = Journal()
        task = loop.create_task(journal.run())
        journal.open(str(tmp_path / "journal.jsonl"))
        journal.add(event(turns))
        end = loop.steps + turns
        while loop.steps < end and not opened:
            await asyncio.sleep(0.0001)
        for _ in range(turns):
            await asyncio.sleep(0.0001)
        if hung:
            loop.hang("logs", 3600.0)
        journal.add(event(turns))
        await asyncio.sleep(0.0001 * turns)
        began = loop.time()
        task.cancel()
        await asyncio.wait([task])
        assert loop.time() - began < 2
        return bool(opened)

    times = [run_virtual(main(turns), seed=turns) for turns in range(40)]
    assert any(times)
    assert all(file.closed for file in opened)


@pytest.mark.fault("F98")
async def test_a_file_that_a_thread_opens_after_the_cancellation_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    opened: list[FileIO] = []
    real = journals._open

    def slow(path: str) -> FileIO:
        begun.set()
        go.wait(30)
        opened.append(real(path))
        return opened[-1]

    monkeypatch.setattr(journals, "_open", slow)
    journal = Journal()
    task = asyncio.get_running_loop().create_task(journal.run())
    journal.open(str(tmp_path / "journal.jsonl"))
    assert await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    await asyncio.wait([task], timeout=30)
    assert task.cancelled()
    go.set()
    async with asyncio.timeout(30):
        while not (opened and opened[0].closed):
            await asyncio.sleep(0.01)


def test_a_journal_that_cannot_be_written_at_the_end_says_so_and_holds_nobody(tmp_path: Path) -> None:
    journal = Journal()

    async def work() -> None:
        journal.open(str(tmp_path / "never" / "journal.jsonl"))
        journal.add(event(1))
        await asyncio.sleep(300)

    run_virtual(written(journal, work))
    assert "No such file" in journal.trouble


def test_a_journal_without_a_file_ends(tmp_path: Path) -> None:
    """A run that computes nothing has events and no folder."""
    journal = Journal()

    async def work() -> None:
        journal.add(event(1))
        await asyncio.sleep(1)

    run_virtual(written(journal, work))
    assert list(tmp_path.iterdir()) == []
    assert journal.trouble == ""
