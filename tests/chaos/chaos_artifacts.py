"""Artifacts of the laboratory: every ``_create`` notes in a file outside of the store when it begins and ends."""

from __future__ import annotations

import os
import time

import failpoints

from furu_async import Furu
from furu_async._model.artifact import binding_of


def note(path: str, *what: object) -> None:
    """One line, whole also when many processes write; begins with the time on the clock that they share."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(fd, (" ".join(map(str, (f"{time.monotonic():.6f}", *what))) + "\n").encode())
    finally:
        os.close(fd)


def work(obj: Leaf | Join) -> str:
    """What every ``_create`` does here; returns something that no other does."""
    bound = binding_of(obj)
    what = (obj.key, bound.generation if bound else 0, os.getpid())
    note(obj.log, "begin", *what)
    failpoints.here("inside")
    time.sleep(obj.secs)
    while obj.hold and os.path.exists(obj.hold):
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
