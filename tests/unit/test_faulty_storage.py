"""`faulty_storage` fails what it was asked to, as often as it was asked to, and nothing after its block."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from furu_async import Furu, run_dag
from furu_async._store import atomic, fs
from furu_async.testing import FakeExecutor, Returns, faulty_storage, run_virtual, tmp_root


class Text(Furu[str]):
    number: int = 0

    def _create(self) -> str:
        raise NotImplementedError


def read(path: Path) -> bytes:
    return atomic.read_bytes(str(path))


def test_only_what_matches_fails_and_only_so_often(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).write_bytes(b"1")
    with faulty_storage(errno.EIO, path="*/x", times=2, skip=1) as faulty:
        assert read(tmp_path / "y") == b"1"
        with pytest.raises(OSError, match="x") as error:
            read(tmp_path / "x")  # it can be opened, and not read
        assert error.value.errno == errno.EIO
        with pytest.raises(OSError, match="Input/output error"):
            read(tmp_path / "x")
        assert read(tmp_path / "x") == b"1"
    assert faulty.hits == [("fstat", f"{tmp_path}/x"), ("open", f"{tmp_path}/x")]
    assert fs.open is os.open


def test_space_runs_out_only_where_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    with faulty_storage(errno.ENOSPC, times=None) as faulty:
        assert read(tmp_path / "x") == b"1"
        fs.unlink(str(tmp_path / "x"))
        with pytest.raises(OSError, match="No space"):
            atomic.write_new(str(tmp_path / "x"), b"2")
        with pytest.raises(OSError, match="No space"):
            fs.mkdir(str(tmp_path / "folder"))
    assert [name for name, _ in faulty.hits] == ["create", "mkdir"]
    assert not list(tmp_path.iterdir())


def test_a_lost_answer_is_of_something_that_was_done(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with faulty_storage(errno.ETIMEDOUT, operation="[ml]*", times=None, done=True):
        for action in (
            lambda: fs.mkdir(str(tmp_path / "folder")),
            lambda: fs.link(str(tmp_path / "x"), str(tmp_path / "y")),
        ):
            (tmp_path / "x").touch()
            with pytest.raises(TimeoutError):
                action()
    with faulty_storage(errno.EIO, operation="create", done=True), pytest.raises(OSError, match="z"):
        fs.open(str(tmp_path / "z"), os.O_CREAT | os.O_WRONLY)
    with faulty_storage(errno.EIO, operation="close"), pytest.raises(OSError, match="new"):
        atomic.write_new(str(tmp_path / "new"), b"1")
    assert sorted(os.listdir(tmp_path)) == ["folder", "x", "y", "z"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_blocks_can_be_nested(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    with faulty_storage(errno.EIO, times=None) as outer:
        with (
            faulty_storage(errno.ESTALE, operation="open", times=2) as inner,
            pytest.raises(OSError, match="Stale") as error,
        ):
            read(tmp_path / "x")  # a stale name is tried twice
        assert error.value.errno == errno.ESTALE
        with pytest.raises(OSError, match="Input/output"):
            read(tmp_path / "x")
    assert (len(inner.hits), len(outer.hits)) == (2, 1)
    assert read(tmp_path / "x") == b"1"


@pytest.mark.fault("F17")
@pytest.mark.parametrize("size", [1, 10_000])
def test_a_run_waits_until_the_disk_has_room(size: int, tmp_path: Path) -> None:
    """A small result is in its record, a big one has a file."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        with faulty_storage(errno.ENOSPC, path="*/data/*", times=5) as faulty:
            report = await run_dag(Text(), executor=FakeExecutor({Text: Returns("x" * size)}))
        assert report.ok
        assert len(faulty.hits) == 5
        return loop.time()

    with tmp_root(tmp_path, record_git="off"):
        assert run_virtual(main()) > 3.0
        assert Text().load_existing() == "x" * size
