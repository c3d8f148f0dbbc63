"""Artifacts of the laboratory: every ``_create`` notes in a file outside of the store when it begins and ends."""

from __future__ import annotations

import os
import time

import failpoints

from furu_async import Furu
from furu_async._model.artifact import binding_of

HURRY = "FURU_CHAOS_HURRY"
"""Processes with this in their environment do not wait for ``hold``."""


def note(path: str, *what: object) -> None:
    """One line, whole also when many processes write; begins with the time on the clock that they share."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(fd, (" ".join(map(str, (f"{time.monotonic():.6f}", *what))) + "\n").encode())
    finally:
        os.close(fd)


def at_work(log: str, key: str) -> list[int]:
    """Processes that have begun with a key, have not ended, and run (a stopped one does not)."""
    begun: dict[str, int] = {}
    try:
        with open(log) as file:
            lines = [line.split() for line in file]
    except FileNotFoundError:
        return []
    for _, what, one, generation, pid in lines:
        if one == key and what == "begin":
            begun[generation] = int(pid)
        elif one == key and what == "end":
            begun.pop(generation, None)
    return [pid for pid in begun.values() if pid != os.getpid() and _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X", b"T", b"t")
    except OSError:
        return False


def work(obj: Leaf | Join) -> str:
    """What every ``_create`` does here; returns something that no other does."""
    bound = binding_of(obj)
    what = (obj.key, bound.generation if bound else 0, os.getpid())
    for pid in at_work(obj.log, obj.key):
        note(obj.log, "meets", *what[:2], pid)
    note(obj.log, "begin", *what)
    failpoints.here("inside")
    time.sleep(obj.secs)
    while obj.hold and os.path.exists(obj.hold) and HURRY not in os.environ:
        time.sleep(0.005)
    note(obj.log, "end", *what)
    return os.urandom(8).hex()


class Leaf(Furu[str]):
    """A small value, different each time it is computed.

    Attributes:
        log: where it notes what it does.
        key: tells it from others there.
        secs: how long it takes.
        hold: goes on when this file is away.
    """

    log: str
    key: str
    secs: float = 0.0
    hold: str = ""

    def _create(self) -> str:
        return work(self)


class Files(Leaf):
    """The same, in two files of its own."""

    def _create(self) -> str:
        (self.furu_dir / "first").write_text("half")
        value = work(self)
        (self.furu_dir / "first").write_text(value)
        (self.furu_dir / "deep").mkdir()
        (self.furu_dir / "deep" / "second").write_text(value)
        return value

    def _load(self) -> str:
        first, second = (self.furu_dir / name for name in ("first", "deep/second"))
        if first.read_text() != second.read_text():
            raise ValueError("the files of a result do not belong together")
        return first.read_text()


class Join(Furu[str]):
    """Needs others; its value is made of theirs."""

    log: str
    key: str
    parts: tuple[Furu[str], ...]
    secs: float = 0.0
    hold: str = ""

    async def _create(self) -> str:
        values = [await part.aget() for part in self.parts]
        return "+".join([work(self), *values])
