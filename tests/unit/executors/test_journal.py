"""The journal on a store that fails for a while: what happened meanwhile is written afterwards."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiofiles
import pytest

from furu_async._executors.journal import Journal
from furu_async.report import RunEvent
from furu_async.testing import run_virtual


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


def test_a_write_that_failed_half_way_spoils_no_other_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal()
    real = aiofiles.open
    failures = [2]

    class Half:
        """A file of which the first writes write a half and fail."""

        def __init__(self, file: Any) -> None:
            self.file = file

        async def write(self, data: bytes) -> int:
            if failures[0]:
                failures[0] -= 1
                await self.file.write(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(await self.file.write(data))

        async def close(self) -> None:
            await self.file.close()

    async def half(*args: Any, **kwargs: Any) -> Half:
        return Half(await real(*args, **kwargs))

    monkeypatch.setattr(aiofiles, "open", half)

    async def work() -> None:
        journal.open(str(path))
        for number in range(10):
            journal.add(event(number))
        await asyncio.sleep(30)

    run_virtual(written(journal, work))
    found = numbers(path)
    assert sorted(set(found)) == list(range(10))
    assert found[-10:] == list(range(10))


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
