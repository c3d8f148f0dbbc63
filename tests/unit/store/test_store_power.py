"""Power loss on a model of a file system that writes when it likes: only what was synced is certain.

The changing calls of a publication are recorded. After each of them the power may fail; of what was not synced by
then any part may be on disk: each name of a folder, and each file's content whole, empty or half. Every such state
(or a random choice, where there are too many) is built in a fresh folder and looked at.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_env import create, every_call, owner_card, paths_at, recover, scaled, success, value, write_result

from furu_async._store import artifacts
from furu_async._store.layout import ArtifactPaths

Name = tuple[str, int]


class Disk:
    """What was done to names and contents, and which of it is certain.

    Attributes:
        names: (path, inode) in the order they were made; removals as inode 0.
        certain: how many of ``names`` are on disk for each folder.
        content: bytes by inode; None for a folder.
        synced: inodes whose content is on disk.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.names: list[Name] = []
        self.certain: set[int] = set()
        self.content: dict[int, bytes | None] = {}
        self.synced: set[int] = set()
        self._inodes: dict[int, int] = {}
        self._open: dict[int, tuple[str, int]] = {}
        self._next = itertools.count(1)

    def inode(self, path: str) -> int:
        found = os.lstat(path)
        return self._inodes.setdefault(found.st_ino, next(self._next))

    def note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        if name in ("open", "create"):
            found = os.fstat(result)
            inode = self._inodes.setdefault(found.st_ino, next(self._next))
            self._open[result] = (args[0], inode)
            if name == "create":
                self.content.setdefault(inode, b"")
                self.names.append((args[0], inode))
            elif args[1] & os.O_TMPFILE == os.O_TMPFILE:
                self.content.setdefault(inode, b"")
        elif name == "write":
            inode = self._open[args[0]][1]
            self.content[inode] = (self.content.get(inode) or b"") + bytes(args[1])
        elif name == "fsync":
            path, inode = self._open[args[0]]
            self.synced.add(inode)
            # Syncing a folder makes its names durable, and that of a folder its own existence with its parents'
            # entries only if those are synced themselves.
            for i, (entry, _) in enumerate(self.names):
                if os.path.dirname(entry) == path.rstrip("/"):
                    self.certain.add(i)
        elif name == "mkdir":
            inode = self.inode(args[0])
            self.content[inode] = None
            self.names.append((args[0], inode))
        elif name == "link":
            self.names.append((args[1], self.inode(args[1])))
        elif name in ("rename", "replace"):
            self.names.append((args[1], self.inode(args[1])))
            self.names.append((args[0], 0))
        elif name in ("unlink", "rmdir"):
            self.names.append((args[0], 0))

    def build(self, target: str, keep: Callable[[int], bool], torn: Callable[[int], float]) -> None:
        """Make the state in which of the uncertain names those of ``keep`` are there."""
        made: dict[int, str] = {}
        for i, (path, inode) in enumerate(self.names):
            if i not in self.certain and not keep(i):
                continue
            there = target + path[len(self.root) :]
            if not os.path.isdir(os.path.dirname(there)):
                continue
            if inode == 0:
                if os.path.isfile(there):
                    os.unlink(there)
            elif self.content.get(inode, b"") is None:
                os.makedirs(there, exist_ok=True)
            elif not os.path.lexists(there):
                if inode in made and os.path.exists(made[inode]):
                    os.link(made[inode], there)
                else:
                    content = self.content.get(inode) or b""
                    part = 1.0 if inode in self.synced else torn(inode)
                    Path(there).write_bytes(content[: int(len(content) * part)])
                    made[inode] = there


def record(root: str, actions: Callable[[], None]) -> Iterator[Disk]:
    """The disk after each changing call of what is done."""
    disk = Disk(root)
    states: list[tuple[list[Name], set[int], dict[int, bytes | None], set[int]]] = []

    def note(k: int, name: str, operation: Any, args: Any, kwargs: Any) -> Any:
        result = operation(*args, **kwargs)
        disk.note(name, args, result)
        states.append((list(disk.names), set(disk.certain), dict(disk.content), set(disk.synced)))
        return result

    with every_call(note):
        actions()
    for state in states:
        disk.names, disk.certain, disk.content, disk.synced = state
        yield disk


def choices(disk: Disk, rng: random.Random) -> Iterator[tuple[Callable[[int], bool], Callable[[int], float]]]:
    """Everything written, nothing written, and some random parts."""
    yield (lambda i: True), (lambda inode: 1.0)
    yield (lambda i: True), (lambda inode: 0.0)
    yield (lambda i: False), (lambda inode: 0.0)
    for _ in range(scaled(6)):
        share = rng.choice([0.5, 0.8, 0.95])
        kept = {i for i in range(len(disk.names)) if rng.random() < share}
        part = rng.choice([0.0, 0.5, 1.0])
        yield (lambda i, kept=kept: i in kept), (lambda inode, part=part: part)  # type: ignore[misc]


def publish_on(paths: ArtifactPaths, power: bool) -> None:
    from furu_async._store import fs

    card = owner_card(paths.root, "a")
    reply = artifacts.claim(paths, 1, card)
    assert reply.r == "claimed"
    for folder in (paths.attempts, paths.attempt(1), paths.attempt(1) + "/sub"):
        fs.mkdir(folder)
    for name in ("value.txt", "sub/more"):
        fd = fs.open(f"{paths.attempt(1)}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        fs.write(fd, b"new")
        fs.close(fd)
    assert artifacts.publish(paths, 1, success(paths, 1, card, power), power).r == "published"


@pytest.mark.fault("F13", "F30")
@pytest.mark.parametrize("power", [True, False])
def test_after_a_power_loss_a_result_is_whole_or_not_there(power: bool, tmp_path: Path) -> None:
    """With ``power`` also once it was announced; without, readable states are all that is promised."""
    root = tmp_path / "real"
    root.mkdir()
    rng = random.Random(7)
    count = 0
    seen_values = set()
    disks = record(str(root), lambda: publish_on(paths_at(root), power))
    last = None
    for disk in disks:
        for keep, torn in choices(disk, rng):
            target = tmp_path / f"state-{count}"
            target.mkdir()
            count += 1
            disk.build(str(target), keep, torn)
            paths = paths_at(target)
            seen = artifacts.look(paths)
            assert seen.verdict in ("free", "claimed", "published"), seen
            found = artifacts.read_success(paths)
            assert (found and found[0]) == (seen.generation if seen.verdict == "published" else None)
            if found is not None and power:
                assert artifacts.verify_manifest(paths, *found, checksums=True) == []
            last = found
            seen_values.add(found is not None)
            for _ in range(2):
                # What a run does: what is not whole is invalidated, what is not there is made.
                if found is not None and artifacts.verify_manifest(paths, *found):
                    assert artifacts.invalidate(paths, found[0], "its files are gone")
                recover(paths, owner_card(target, "next"))
                found = artifacts.read_success(paths)
            assert value(paths) in ("recovered", "new")
    assert seen_values == {True, False}
    if power:
        assert last is not None, "what was announced as published survives, whatever else was not written"


@pytest.mark.fault("F13", "F30")
def test_what_was_announced_with_power_is_there_whatever_was_not_written(tmp_path: Path) -> None:
    root = tmp_path / "real"
    root.mkdir()
    rng = random.Random(8)
    disk = list(record(str(root), lambda: publish_on(paths_at(root), True)))[-1]
    for count, (keep, torn) in enumerate(itertools.chain(choices(disk, rng), choices(disk, rng))):
        target = tmp_path / f"state-{count}"
        target.mkdir()
        disk.build(str(target), keep, torn)
        paths = paths_at(target)
        assert value(paths) == "new"
        assert artifacts.look(paths).verdict == "published"
        found = artifacts.read_success(paths)
        assert found is not None
        assert artifacts.verify_manifest(paths, *found, checksums=True) == []


@pytest.mark.fault("F30")
def test_a_silent_owner_stays_fenced_when_the_power_of_who_replaced_it_fails(tmp_path: Path) -> None:
    """The owner lives on another host: what it had written is there, whatever this one loses."""
    root = tmp_path / "real"
    root.mkdir()
    paths = paths_at(root)
    old = owner_card(root, "old")
    artifacts.claim(paths, 1, old)
    write_result(paths, 1, "old")
    before = tmp_path / "before"
    shutil.copytree(root, before)

    def replace() -> None:
        reply = artifacts.takeover(paths, 1, owner_card(root, "new"), "silent", power=True)
        assert reply.r == "claimed"

    disk = list(record(str(root), replace))[-1]
    rng = random.Random(9)
    for count, (keep, torn) in enumerate(itertools.chain(choices(disk, rng), choices(disk, rng))):
        target = tmp_path / f"state-{count}"
        shutil.copytree(before, target)
        disk.build(str(target), keep, torn)
        seen = paths_at(target)
        assert artifacts.publish(seen, 1, success(seen, 1, old)).r == "fenced"
        assert artifacts.look(seen).verdict != "published"


@pytest.mark.fault("F30")
def test_the_syncs_of_a_publication_come_in_the_order_that_needs_them(
    root: str, paths: ArtifactPaths
) -> None:
    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    write_result(paths, 1, "x")
    end = success(paths, 1, card, power=True)
    said: list[str] = []
    opened: dict[int, str] = {}

    def note(k: int, name: str, operation: Any, args: Any, kwargs: Any) -> Any:
        result = operation(*args, **kwargs)
        if name in ("open", "create"):
            opened[result] = str(args[0])
        elif name == "fsync":
            said.append(f"sync {os.path.basename(opened[args[0]])}")
        elif name == "link":
            said.append(f"link {os.path.basename(args[1])}")
        return result

    with every_call(note):
        artifacts.publish(paths, 1, end, power=True)
    committed = said.index("link 1")
    before = {
        "sync claims",
        "sync attempts",
        "sync .furu",
        f"sync {paths.hash}",
        "sync Train",
        "sync pkg",
        "sync data",
    }
    assert before <= set(said[:committed])
    assert said[committed : committed + 3] == ["link 1", "sync ends", "link SUCCESS.json"]
    calls: list[str] = []

    def count(k: int, name: str, operation: Any, args: Any, kwargs: Any) -> Any:
        calls.append(name)
        return operation(*args, **kwargs)

    with every_call(count):
        create(paths_at(root, "e" * 32), card, "x")
    assert "fsync" not in calls, "nothing is synced without being asked for"
