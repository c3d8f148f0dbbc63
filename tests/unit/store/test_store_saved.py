"""The digest of a checkpoint: equal where nothing has changed, whatever the times of its files say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from furu_async._store import saved


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "saved" / "deep").mkdir(parents=True)
    (tmp_path / "saved" / "weights").write_bytes(b"w" * 1000)
    (tmp_path / "saved" / "deep" / "state").write_bytes(b"s")
    return tmp_path / "saved"


def test_nothing_is_saved(tmp_path: Path) -> None:
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    assert saved.digest(str(tmp_path / "missing")) == saved.digest(str(tmp_path / "empty")) == ""


def test_the_same_written_again_is_no_change(folder: Path) -> None:
    before = saved.digest(str(folder))
    for path in (folder / "weights", folder / "deep" / "state"):
        path.write_bytes(path.read_bytes())
        os.utime(path, (1, 1))
    assert before == saved.digest(str(folder)) != ""
    moved = folder.rename(folder.with_name("2"))
    assert saved.digest(str(moved)) == before, "it is carried from attempt to attempt"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "deep" / "state").write_bytes(b"t"),
        lambda folder: (folder / "weights").write_bytes(b"w" * 1001),
        lambda folder: (folder / "new").touch(),
        lambda folder: (folder / "weights").unlink(),
        lambda folder: (folder / "weights").rename(folder / "other"),
        lambda folder: (folder / "deep").rename(folder / "deeper"),
    ],
)
def test_every_change_shows(folder: Path, change: Callable[[Path], object]) -> None:
    before = saved.digest(str(folder))
    change(folder)
    assert saved.digest(str(folder)) != before


@pytest.mark.parametrize("at", [0, 300_000])
def test_of_a_large_file_both_ends_count(folder: Path, at: int) -> None:
    data = bytearray(300_001)
    (folder / "large").write_bytes(data)
    before = saved.digest(str(folder))
    data[at] = 1
    (folder / "large").write_bytes(data)
    assert saved.digest(str(folder)) != before


def test_what_cannot_be_read_counts_by_its_name(folder: Path) -> None:
    before = saved.digest(str(folder))
    (folder / "link").symlink_to("weights")
    os.mkfifo(folder / "pipe")
    assert saved.digest(str(folder)) not in ("", before)
