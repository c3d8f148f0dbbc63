"""What the controller does to the queue goes on in order, whatever the file system says."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pool_artifacts import Leaf
from pool_env import Home

from furu_async._pool import queue
from furu_async._pool.feeder import Feeder
from furu_async._pool.objects_log import ObjectsReader
from furu_async._store import fs

pytestmark = pytest.mark.virtual_time


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def settled(feeder: Feeder, secs: float = 5000.0) -> None:
    assert feeder._task is not None
    async with asyncio.timeout(secs):
        await asyncio.wait([feeder._task])


def put(home: Home, feeder: Feeder, n: int, replies: list[Any]) -> str:
    entry = home.entry(Leaf(n=n))
    feeder.put(entry, home.buckets.place(entry), home.objects.missing(Leaf(n=n)), replies.append)
    return entry.file


def broken(monkeypatch: pytest.MonkeyPatch, until: float, number: int = errno.ENOSPC) -> Callable[[], int]:
    """No file can be written before this time of the loop; how often that was tried."""
    loop = asyncio.get_running_loop()
    tried = 0
    write = fs.write

    def failing(*given: Any) -> int:
        nonlocal tried
        if loop.time() < until:
            tried += 1
            raise OSError(number, "no space")
        return write(*given)

    monkeypatch.setattr(fs, "write", failing)
    return lambda: tried


async def test_entries_come_after_what_the_table_needs_for_them(home: Home) -> None:
    feeder = Feeder(home.paths, home.objects, 900.0)
    replies: list[Any] = []
    names = [put(home, feeder, n, replies) for n in range(300)]
    await settled(feeder)
    assert replies == [None] * 300
    assert home.todo() == sorted(names)
    assert len(ObjectsReader(home.paths.objects).read()) == 300


async def test_trouble_is_waited_out_told_once_and_nothing_is_lost(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    tried = broken(monkeypatch, 200.0)
    feeder = Feeder(home.paths, home.objects, 900.0, told.append)
    replies: list[Any] = []
    names = [put(home, feeder, n, replies) for n in range(3)]
    await settled(feeder)
    assert replies == [None] * 3
    assert home.todo() == sorted(names)
    assert len(ObjectsReader(home.paths.objects).read()) == 3
    assert len(told) == 1
    assert "no space" in told[0]
    assert 10 < tried() < 60


@pytest.mark.fault("F19")
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_table_whose_reading_was_interrupted_is_read_whole(
    home: Home, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    feeder = Feeder(home.paths, home.objects, 900.0)
    reader = ObjectsReader(home.paths.objects)
    put(home, feeder, 0, [])
    await settled(feeder)
    assert len(reader.read()) == 1
    for n in range(1, 10):
        put(home, feeder, n, [])
    await settled(feeder)
    real, calls = fs.read, 0

    def read(fd: int, size: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.EIO, "no")
        return real(fd, min(size, 700))

    monkeypatch.setattr(fs, "read", read)
    with pytest.raises(OSError, match="no"):
        reader.read()
    assert len(reader.read()) == 9
    assert reader.unreadable == 0


async def test_after_so_long_each_operation_is_given_up_with_its_error(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, 1e9)
    feeder = Feeder(home.paths, home.objects, 50.0)
    replies: list[Any] = []
    for n in range(3):
        put(home, feeder, n, replies)
    await settled(feeder)
    assert [reply.errno for reply in replies] == [errno.ENOSPC] * 3
    assert asyncio.get_running_loop().time() < 100


@pytest.mark.fault("F74")
async def test_an_entry_that_a_worker_has_is_not_taken_back(home: Home) -> None:
    feeder = Feeder(home.paths, home.objects, 900.0)
    name = home.put(Leaf(n=1))
    place = queue.waiting(home.paths)[home.entry(Leaf(n=1)).spec_key][name]
    (taken,) = home.taker("w1").take()
    answers: list[Any] = []
    feeder.withdraw(place, name, answers.append)
    feeder.put_back("w1", taken.name, taken.place)
    feeder.withdraw(place, name, answers.append)
    feeder.withdraw(place, name, answers.append)
    await settled(feeder)
    assert answers == [False, True, False]
    assert (home.todo(), home.running()) == ([], [])


async def test_the_end_waits_for_what_is_under_way_for_a_while(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, 1e9)
    feeder = Feeder(home.paths, home.objects, 900.0)
    put(home, feeder, 1, [])
    await feeder.settle(5.0)
    assert asyncio.get_running_loop().time() < 6.0
    assert feeder._task is not None
    assert feeder._task.done()
