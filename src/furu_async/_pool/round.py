"""One look of a worker at the queue: everything that blocks, in one hop off the loop.

What ended is written first, then new work is taken, so that a worker that is stopped between the two holds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from furu_async._pool import guardian, queue
from furu_async._pool.entries import QueueEntry, Report
from furu_async._pool.guardian import Sighting
from furu_async._pool.objects_log import Table
from furu_async._pool.queue import Place, Taken, Taker
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._store import atomic
from furu_async._store.layout import QueuePaths, WorkerPaths
from furu_async._store.records import Damaged


@dataclass(slots=True, kw_only=True)
class Ask:
    """What a round is to do.

    Attributes:
        done: entries that ended with a published result.
        reports: entries that ended otherwise.
        back: entries that are to wait again.
        fulfilled: wishes to cancel that need not be looked at again.
        want: how many entries to take.
        known: entries that the worker has; given where an earlier round met an error.
        lookup: hashes whose table entries had not come.
        unread: entries that could not be read in an earlier round.
        look: whether to look for wishes to cancel, and whether the queue is closed.
        watch: whether to look for the controller.
        status: to be written; empty: nothing new.
    """

    done: list[str] = field(default_factory=list)
    reports: list[tuple[str, Report]] = field(default_factory=list)
    back: list[tuple[str, Place]] = field(default_factory=list)
    fulfilled: list[str] = field(default_factory=list)
    want: int = 0
    known: Collection[str] | None = None
    lookup: list[str] = field(default_factory=list)
    unread: list[Taken] = field(default_factory=list)
    look: bool = True
    watch: bool = False
    status: bytes = b""

    @property
    def writes(self) -> bool:
        """Whether there is anything of an entry to be written."""
        return bool(self.done or self.reports or self.back)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        does = self.want or self.look or self.watch or self.status or self.lookup or self.fulfilled
        return not (self.writes or does)


@dataclass(slots=True)
class Answer:
    """What came of it. What could not be written is there again, to be asked once more.

    Attributes:
        entries: newly taken, each with what it says, or why it cannot be read.
        unread: taken, and not to be read now.
        there: hashes whose table entries are there, of those taken and of those looked up.
        closed, cancelled, recalled: None where that was not looked at.
        bad: paths of what was set aside.
        trouble: the first error, for people; empty if there was none.
        blind: why the queue could not be looked at; empty: it could, None: that was not tried.
    """

    done: list[str] = field(default_factory=list)
    reports: list[tuple[str, Report]] = field(default_factory=list)
    back: list[tuple[str, Place]] = field(default_factory=list)
    entries: list[tuple[Taken, QueueEntry | Damaged]] = field(default_factory=list)
    unread: list[Taken] = field(default_factory=list)
    there: set[str] = field(default_factory=set)
    closed: bool | None = None
    cancelled: list[str] | None = None
    recalled: list[str] | None = None
    sighting: Sighting | None = None
    bad: list[str] = field(default_factory=list)
    trouble: str = ""
    blind: str | None = None

    def failed(self, error: OSError) -> str:
        """Something could not be done; what, for people."""
        text = f"{error.strerror or error} ({error.filename or 'the store'})"
        self.trouble = self.trouble or text
        return text

    @property
    def stuck(self) -> str | None:
        """As ``blind``; also where what was to be written, or to be read of what it holds, could not be."""
        kept = self.done or self.reports or self.back or self.unread
        return self.blind or (self.trouble if kept and self.trouble else self.blind)


class Round:
    """One that is under way, off the loop; what hangs there does not keep its worker from deciding."""

    def __init__(self, desk: Desk, ask: Ask) -> None:
        self.ask: Ask = ask
        self._call = asyncio.ensure_future(DOOR.files.run(desk.round, ask))

    async def has_ended(self, seconds: float) -> bool:
        """Whether it has, after waiting for that."""
        await asyncio.wait([self._call], timeout=seconds)
        return self._call.done()

    def answer(self) -> Answer:
        """What came of it, when it has ended."""
        try:
            return self._call.result()
        except BlockingTimeout as error:  # no thread can be had: nothing of it was done
            ask, text = self.ask, str(error)
            return Answer(ask.done, ask.reports, ask.back, unread=ask.unread, trouble=text, blind=text)

    def leave(self) -> None:
        """Nobody will ask for its answer."""
        self._call.cancel()


class Desk:
    """Where a worker does its rounds; one at a time, in any thread."""

    def __init__(self, paths: QueuePaths, taker: Taker, wid: str, table: Table) -> None:
        self.paths = paths
        self.taker = taker
        self.wid = wid
        self.table = table
        self._status: str = WorkerPaths(paths.root, paths.home, wid).status

    def round(self, ask: Ask) -> Answer:
        """Do one; blocks, never raises ``OSError``."""
        answer = Answer(unread=list(ask.unread))
        self._write(ask, answer)
        try:
            self._look(ask, answer)
            if not answer.closed:
                self._take(ask, answer)
            if ask.look or ask.want:
                answer.blind = ""
        except OSError as error:
            answer.blind = answer.failed(error)
        if ask.watch:
            try:
                answer.sighting = guardian.look(self.paths.root, self.paths.home)
            except OSError as error:
                answer.failed(error)
        return answer

    def _write(self, ask: Ask, answer: Answer) -> None:
        for name in ask.done:
            try:
                queue.finish(self.paths, self.wid, name)
            except OSError as error:
                answer.done.append(name)
                answer.failed(error)
        for name, what in ask.reports:
            try:
                queue.report(self.paths, self.wid, name, what)
            except OSError as error:
                answer.reports.append((name, what))
                answer.failed(error)
        for name, place in ask.back:
            try:
                queue.put_back(self.paths, self.wid, name, place)
            except OSError as error:
                answer.back.append((name, place))
                answer.failed(error)
        for name in ask.fulfilled:
            queue.forget_cancel(self.paths, name)
        if ask.status:
            try:
                atomic.replace(self._status, ask.status)
            except OSError as error:
                answer.failed(error)

    def _look(self, ask: Ask, answer: Answer) -> None:
        if ask.look:
            answer.closed = queue.is_closed(self.paths)
            answer.cancelled, answer.recalled = queue.wishes(self.paths)
        answer.there.update(wanted for wanted in ask.lookup if self.table.has(wanted))

    def _take(self, ask: Ask, answer: Answer) -> None:
        unread, answer.unread = answer.unread, []
        for taken in unread:
            self._read(taken, answer)
        if ask.known is not None:
            for taken in self.taker.found(ask.known):
                self._read(taken, answer)
        want = ask.want - len(answer.entries)
        if want > 0:
            for taken in self.taker.take(want):
                self._read(taken, answer)
        answer.bad, self.taker.bad = self.taker.bad, []

    def _read(self, taken: Taken, answer: Answer) -> None:
        try:
            entry = self.taker.load(taken.name)
        except Damaged as error:
            queue.set_aside(self.paths, f"{self.taker.mine}/{taken.name}", error.reason)
            answer.entries.append((taken, error))
            return
        except FileNotFoundError:
            return  # it was taken away again: this worker looked dead
        except OSError as error:
            answer.unread.append(taken)
            answer.failed(error)
            return
        answer.entries.append((taken, entry))
        try:
            if self.table.has(entry.hash):
                answer.there.add(entry.hash)
        except OSError as error:
            answer.failed(error)
