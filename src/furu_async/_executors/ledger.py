"""What a run remembers for people: outcomes for the report, events for whoever listens, the journal."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping

from furu_async._executors.base import Node
from furu_async._executors.journal import Journal
from furu_async._plan import commands as do
from furu_async._runtime import clock
from furu_async._store.layout import ArtifactPaths, RunPaths
from furu_async.report import Failure, NodeOutcome, RunEvent

logger = logging.getLogger("furu_async")

_NOTES = 200


class Ledger:
    """Collects what happens in one run.

    Args:
        on_event: called on the loop for each event; an exception in it is logged once and does not touch the run.
    """

    def __init__(self, run_id: str, root: str, listeners: list[Callable[[RunEvent], None]]) -> None:
        self.run_id = run_id
        self.root = root
        self.journal: Journal = Journal()
        self.outcomes: dict[str, NodeOutcome] = {}
        self.notes: list[str] = []
        self.last_counts: dict[str, int] = {}
        self._listeners = listeners
        self._streams: list[_Stream] = []
        self._complained: set[int] = set()
        self._over = False
        self._workers: tuple[dict[str, int], str] = ({}, "")

    def open(self, torn: bool = False) -> None:
        """The run has a folder: the journal goes there (after one that may end within a line)."""
        self.journal.open(RunPaths(self.root, self.run_id).journal, torn)

    # -- events ----------------------------------------------------------------------------------------------

    def emit(self, event: RunEvent) -> None:
        """Give an event to journal, listeners and streams."""
        self.journal.add(event)
        self._tell(event)

    def _tell(self, event: RunEvent) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                if id(listener) not in self._complained:
                    self._complained.add(id(listener))
                    logger.exception("on_event raised; the run goes on, further errors of it are not shown")
        for stream in self._streams:
            stream.put(event)

    def stream(self) -> AsyncIterator[RunEvent]:
        """Events from now on, until the run ends; none of a run that has ended."""
        stream = _Stream()
        if self._over:
            stream.put(None)
        self._streams.append(stream)
        return stream.read(lambda: self._streams.remove(stream))

    def run_started(self, message: str) -> None:
        """The run begins."""
        self.emit(RunEvent(at=clock.wall(), kind="run_started", message=message))

    def planned(self, counts: Mapping[str, int]) -> None:
        """All nodes of the run are known."""
        self.emit(RunEvent(at=clock.wall(), kind="planned", counts=dict(counts)))

    def started(self, node: Node, attempt: int, worker: str) -> None:
        """An attempt runs now."""
        node.attempts = max(node.attempts, attempt)
        node.worker = worker
        at = clock.wall()
        if node.started_at is None:
            node.started_at = at
        event = RunEvent(
            at=at, kind="node_started", hash=node.hash, name=node.name, attempt=attempt, worker=worker
        )
        self.journal.add(event, node.generation)
        self._tell(event)

    def waiting(self, node: Node, message: str, since: float, until: float) -> None:
        """It waits for somebody else, or for trouble to pass; says for whom, since when and until when."""
        self.emit(
            RunEvent(
                at=clock.wall(),
                kind="node_waiting",
                hash=node.hash,
                name=node.name,
                message=message,
                since=since,
                until=until,
            )
        )

    def retrying(self, node: Node, command: do.Retrying, delay: float) -> None:
        """It failed and will run again."""
        message = f"{command.failure.line()}; again in {delay:.1f} s"
        self._again(node, command.attempt, message, clock.wall() + delay)

    def tried_again(self, node: Node, attempt: int, why: str) -> None:
        """It failed, and runs again, or did, of which is heard only now."""
        self._again(node, attempt, f"{why}; tried again by its job", None)

    def _again(self, node: Node, attempt: int, message: str, until: float | None) -> None:
        self.emit(
            RunEvent(
                at=clock.wall(),
                kind="node_retry",
                hash=node.hash,
                name=node.name,
                label=repr(node.obj),
                attempt=attempt,
                message=message,
                until=until,
            )
        )

    def ended(self, node: Node, command: do.Ended) -> None:
        """It is final."""
        at = clock.wall()
        node.ended_at = at
        bad = command.status not in ("created", "cached")
        failure = command.failure
        if failure is not None and not failure.attempt and node.attempts:
            failure = _with_attempt(failure, node.attempts)
        self.outcomes[node.hash] = NodeOutcome(
            hash=node.hash,
            name=node.name,
            label=repr(node.obj) if bad else "",
            status=command.status,
            attempts=node.attempts,
            failure=failure,
            history=_earlier(node.history, failure if command.status == "failed" else None),
            because=command.because,
            root=command.root,
            started_at=node.started_at,
            ended_at=at if node.started_at is not None else None,
            directory=self._directory(node, failure) if bad or command.status == "created" else "",
        )
        message = failure.line() if failure is not None else command.because
        self.emit(
            RunEvent(
                at=at,
                kind="node_done",
                hash=node.hash,
                name=node.name,
                label=repr(node.obj) if bad else "",
                status=command.status,
                attempt=node.attempts,
                message=message,
            )
        )

    def note(self, text: str) -> None:
        """Something a person should read; kept in the report, bounded."""
        if text in self.notes:
            return
        if len(self.notes) < _NOTES:
            self.notes.append(text)
        logger.warning("%s", text, extra={"furu_note": True})
        self.emit(RunEvent(at=clock.wall(), kind="note", message=text))

    def workers(self, counts: Mapping[str, int], text: str) -> None:
        """How the executor's jobs are; not for the journal, it changes often and decides nothing."""
        if self._workers != (counts, text):
            self._workers = (dict(counts), text)
            self._tell(RunEvent(at=clock.wall(), kind="workers", counts=dict(counts), message=text))

    def counts(self) -> dict[str, int]:
        """How many nodes ended in which way so far."""
        counts: dict[str, int] = {}
        for outcome in self.outcomes.values():
            counts[outcome.status] = counts.get(outcome.status, 0) + 1
        return counts

    def close_journal(self, message: str) -> None:
        """Nothing more happens to any node: note the end, write what is left."""
        self.journal.add(RunEvent(at=clock.wall(), kind="run_ended", counts=self.counts(), message=message))
        self.journal.close()

    def run_ended(self, counts: Mapping[str, int], message: str) -> None:
        """The run is over; streams end."""
        self._over = True
        self._tell(RunEvent(at=clock.wall(), kind="run_ended", counts=dict(counts), message=message))
        for stream in self._streams:
            stream.put(None)

    def _directory(self, node: Node, failure: Failure | None) -> str:
        paths = ArtifactPaths(self.root, node.name, node.hash)
        if failure is not None:  # an attempt that wrote nothing has no folder of its own
            return failure.log_path or paths.base
        return paths.attempt(node.generation) if node.generation else paths.base


def _earlier(history: tuple[str, ...], failure: Failure | None) -> tuple[str, ...]:
    """What went wrong before the failure that is told in full."""
    return (
        history[:-1] if failure is not None and history and history[-1].endswith(failure.line()) else history
    )


def _with_attempt(failure: Failure, attempt: int) -> Failure:
    import msgspec

    return msgspec.structs.replace(failure, attempt=attempt)


class _Stream:
    """One reader of events; a slow reader loses the oldest beyond a bound, never holds the run."""

    def __init__(self, limit: int = 100_000) -> None:
        self._items: deque[RunEvent | None] = deque(maxlen=limit)
        self._wake = asyncio.Event()

    def put(self, item: RunEvent | None) -> None:
        self._items.append(item)
        self._wake.set()

    async def read(self, forget: Callable[[], None]) -> AsyncIterator[RunEvent]:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._items:
                    item = self._items.popleft()
                    if item is None:
                        return
                    yield item
        finally:
            forget()
