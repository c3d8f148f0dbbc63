"""The run's journal: one JSON line per event, appended in batches.

Losing it costs a history for people; no result depends on it. Whoever goes on with a dead controller's run learns from
it which attempts had begun; without it they cost nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

import anyio
import msgspec

from furu_async._runtime.blocking import DOOR
from furu_async._store import atomic
from furu_async.report import RunEvent

if TYPE_CHECKING:
    from concurrent.futures import Future
    from io import FileIO

    from aiofiles.threadpool.binary import AsyncBufferedIOBase, AsyncFileIO

_ENCODER = msgspec.json.Encoder()
_PAUSE = 0.1
_CLOSE_SECS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_MOST_LINES = 100_000
"""Of what cannot be written the newest lines are kept."""


class Journal:
    """Appends events to ``journal.jsonl`` from a task of its own; never blocks the loop.

    Nothing is written before `open` names the file: a run that computes nothing leaves no folder.

    Attributes:
        trouble: why the file cannot be written now, or could not be at the end; empty if it can.
    """

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._path = ""
        self._head = b""
        self._wake = asyncio.Event()
        self._closed = asyncio.Event()
        self.trouble: str = ""

    def open(self, path: str, torn: bool = False) -> None:
        """Begin writing to ``path``, after what is there.

        Args:
            torn: what is there ends within a line.
        """
        self._path = path
        self._head = b"\n" if torn else b""
        self._wake.set()

    def add(self, event: RunEvent, generation: int = 0) -> None:
        """Note an event; it is on disk about a tenth of a second later.

        Args:
            generation: of the attempt that it tells of.
        """
        record = _slim(event)
        if generation:
            record["generation"] = generation
        self._lines.append(_ENCODER.encode(record))
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Write what is left and end `run`."""
        self._closed.set()
        self._wake.set()

    async def run(self) -> None:
        """The journal writer's task. What cannot be written is tried again until the run ends."""
        pause = _FIRST_PAUSE
        while not (self._closed.is_set() and (not self._lines or not self._path)):
            await self._wake.wait()
            self._wake.clear()
            if not self._path:
                continue
            try:
                await self._write()
                self.trouble, pause = "", _FIRST_PAUSE
            except OSError as error:
                self.trouble = f"the journal {self._path} cannot be written: {error}"
                if self._closed.is_set():
                    return
                with anyio.move_on_after(pause):
                    await self._closed.wait()
                pause = min(2 * pause, _LONGEST_PAUSE)
                self._wake.set()

    async def _write(self) -> None:
        # As a context manager it would be closed in the loop's own threads, for which asyncio.run waits.
        from aiofiles.threadpool import wrap

        opening = DOOR.logs.submit(_open, self._path)
        try:
            file = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unused)
            raise
        try:
            await self._append(wrap(file, executor=DOOR.logs))
        finally:
            # Also where a bug ends the run. It is not taken back when the store is too slow: it comes in its turn.
            closing = asyncio.wrap_future(DOOR.logs.submit(file.close))
            with anyio.move_on_after(_CLOSE_SECS, shield=True):
                await asyncio.shield(closing)

    async def _append(self, file: AsyncBufferedIOBase | AsyncFileIO) -> None:
        while True:
            if self._lines:
                lines, self._lines = self._lines, []
                data = self._head + b"\n".join(lines) + b"\n"
                try:
                    # As much as there was room for: the rest may find none either, and then the next try says why.
                    if await file.write(data) != len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    # A part of it may be there; a line twice does no harm.
                    self._head, self._lines = b"\n", [*lines, *self._lines][-_MOST_LINES:]
                    raise
                self._head, self.trouble = b"", ""
            elif self._closed.is_set():
                return
            with anyio.move_on_after(_PAUSE):
                await self._closed.wait()
            if not self._closed.is_set():
                await self._wake.wait()
                self._wake.clear()


def _open(path: str) -> FileIO:
    return open(path, "ab", buffering=0, opener=atomic.open_file)


def _close_unused(opening: Future[FileIO]) -> None:
    """Close a file that was opened when nobody waited for it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _slim(event: RunEvent) -> dict[str, object]:
    record: dict[str, object] = {"at": round(event.at, 3), "kind": event.kind}
    for name in ("hash", "name", "status", "attempt", "message", "worker"):
        value = getattr(event, name)
        if value:
            record[name] = value
    for name in ("since", "until"):
        value = getattr(event, name)
        if value is not None:
            record[name] = round(value, 3)
    if event.counts:
        record["counts"] = dict(event.counts)
    return record
