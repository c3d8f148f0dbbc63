"""What the controller does to the queue: in order, in batches, one hop off the loop for each.

An operation that the file system refuses is tried again, with those that came after it waiting, for as long as
infrastructure trouble is waited out; each may be carried out twice without harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from furu_async._model.table import Entry
from furu_async._plan.retry import backoff
from furu_async._pool import queue
from furu_async._pool.entries import QueueEntry
from furu_async._pool.objects_log import ObjectsLog
from furu_async._pool.queue import Place
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._store import atomic
from furu_async._store.layout import QueuePaths

_DEADLINE = 60.0
_FIRST = 0.2
_LONGEST = 10.0
_MOST = 200

Reply = Callable[[Any], None]


@dataclass(slots=True, eq=False)
class _Do:
    """One operation; ``reply`` gets its result, or the OSError that it was given up for."""

    call: Callable[[], Any]
    reply: Reply
    entries: Sequence[Entry] = field(default=())


def _ignore(_: Any) -> None:
    pass


class Feeder:
    """See the module; all methods belong to one event loop.

    Args:
        infra_secs: how long trouble is waited out.
        on_trouble: told what the file system says, when it begins to say it.
    """

    def __init__(
        self,
        paths: QueuePaths,
        objects: ObjectsLog,
        infra_secs: float,
        on_trouble: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.paths: QueuePaths = paths
        self.objects: ObjectsLog = objects
        self._infra_secs = infra_secs
        self._on_trouble = on_trouble
        self._todo: list[_Do] = []
        self._unwritten: list[Entry] = []
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def put(self, entry: QueueEntry, place: Place, entries: Sequence[Entry], reply: Reply) -> None:
        """Put an entry into the queue, after what the table lacks of its artifact."""
        self._add(_Do(lambda: queue.put(self.paths, entry, place), reply, entries))

    def withdraw(self, place: Place, name: str, reply: Reply) -> None:
        """Take an entry back; True if no worker has it."""
        self._add(_Do(lambda: queue.withdraw(self.paths, place, name), reply))

    def put_back(self, wid: str, name: str, place: Place, reply: Reply = _ignore) -> None:
        """Let an entry wait again that a dead worker had taken."""
        self._add(_Do(lambda: queue.put_back(self.paths, wid, name, place), reply))

    def forget_running(self, wid: str, name: str) -> None:
        """Remove an entry that a dead worker had taken."""
        self._add(_Do(lambda: queue.forget_running(self.paths, wid, name), _ignore))

    def cancel(self, name: str, begun: bool = True) -> None:
        """Have the worker that has an entry return it; ``begun``: also if a process is at it, which is ended."""
        self._add(_Do(lambda: queue.ask_to_cancel(self.paths, name, begun), _ignore))

    def forget_cancel(self, name: str) -> None:
        """The task is over, so nobody need look for that wish."""
        self._add(_Do(lambda: queue.forget_cancel(self.paths, name), _ignore))

    def discard(self, place: Place, name: str) -> None:
        """Remove an entry that a dead controller left and that nobody wants."""
        self._add(_Do(lambda: atomic.try_unlink(f"{place.folder(self.paths)}/{name}"), _ignore))

    def close(self) -> None:
        """Close the queue, after all that was asked before and what followed from its answers."""
        self._add(_Do(lambda: None, lambda _: self._add(_Do(lambda: queue.close(self.paths), _ignore))))

    def _add(self, do: _Do) -> None:
        self._todo.append(do)
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run(), name="furu pool feeder")

    async def settle(self, seconds: float) -> None:
        """Wait until all is done, for a while; what is left is dropped."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=seconds)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        since: float | None = None
        tries = 0
        while self._todo:
            batch = self._todo[:_MOST]
            results, error = await self._hop(batch)
            del self._todo[: len(results)]
            for do, result in zip(batch, results, strict=False):
                do.reply(result)
            if error is None:
                since, tries = None, 0
                continue
            now = self._loop.time()
            tries += 1
            if since is None:
                since = now
                self._on_trouble(f"{error.filename or self.paths.base}: {error.strerror or error}")
            if now - since >= self._infra_secs:
                self._todo.pop(0).reply(error)
                continue
            await asyncio.sleep(backoff(_FIRST, _LONGEST, tries, 0.0))

    async def _hop(self, batch: list[_Do]) -> tuple[list[Any], OSError | None]:
        try:
            return await DOOR.files.run(self._carry_out, batch, deadline=_DEADLINE)
        except BlockingTimeout as error:
            return [], OSError(str(error))

    def _carry_out(self, batch: list[_Do]) -> tuple[list[Any], OSError | None]:
        results: list[Any] = []
        for do in batch:
            self._unwritten += do.entries
            do.entries = ()
        try:
            if self._unwritten:
                self.objects.append(self._unwritten)
                self._unwritten = []
            # One after the other, so that what was done before an error is known.
            results.extend(do.call() for do in batch)
        except OSError as error:
            return results, error
        return results, None
