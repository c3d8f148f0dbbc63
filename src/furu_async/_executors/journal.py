"""The run's journal: one JSON line per event, appended in batches.

Losing it costs a history for people; no result depends on it. Whoever goes on with a dead controller's run learns from
it which attempts had begun; without it they cost nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import msgspec

from furu_async._runtime.blocking import DOOR
from furu_async._store import atomic
from furu_async.report import RunEvent

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedIOBase, AsyncFileIO

_ENCODER = msgspec.json.Encoder()
_PAUSE = 0.1
_CLOSE_SECS = 1.0


class Journal:
    """Appends events to ``journal.jsonl`` from a task of its own; never blocks the loop.

    Nothing is written before `open` names the file: a run that computes nothing leaves no folder.
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
        """The journal writer's task."""
        import aiofiles

        while not (self._closed.is_set() and (not self._lines or not self._path)):
            await self._wake.wait()
            self._wake.clear()
            if not self._path:
                continue
            try:
                # As a context manager it would be closed in the loop's own threads, for which asyncio.run waits.
                file = await aiofiles.open(
                    self._path, "ab", buffering=0, executor=DOOR.logs, opener=atomic.open_file
                )
                try:
                    await self._append(file)
                finally:
                    with anyio.move_on_after(_CLOSE_SECS, shield=True):  # also where a bug ends the run
                        await file.close()
            except OSError as error:
                self.trouble = f"the journal {self._path} cannot be written: {error}"
                return

    async def _append(self, file: AsyncBufferedIOBase | AsyncFileIO) -> None:
        while True:
            if self._lines:
                lines, self._lines = self._lines, []
                head, self._head = self._head, b""
                await file.write(head + b"\n".join(lines) + b"\n")
            elif self._closed.is_set():
                return
            with anyio.move_on_after(_PAUSE):
                await self._closed.wait()
            if not self._closed.is_set():
                await self._wake.wait()
                self._wake.clear()


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
