"""What a run's events add up to: numbers per state, who runs since when, how long it may still take.

Pure: no output, no clock; ``now`` is an argument, in seconds of any monotonic clock. `Tally.feed` is called for each
event of a run on its event loop, ten thousand times a second if need be, so it does a few dictionary operations and no
more; everything that is computed for display is computed in `Tally.snapshot`, which may be called from another
thread.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from furu_async.report import RunEvent

__all__ = ["Active", "Snapshot", "Tally"]

_MIN_SAMPLES = 3  # finished nodes below which no remaining time is estimated


@dataclass(frozen=True, slots=True)
class Active:
    """A node that is running or waiting: its last event, and for how many seconds it has been so."""

    event: RunEvent
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Numbers at one moment.

    Attributes:
        total: nodes of the run, or None while planning is under way.
        ended: nodes by final status.
        running, waiting: nodes being computed, and waiting for something that is told.
        longest: the longest-running nodes, longest first.
        waits: nodes that wait for something out of the run's hands, or before a retry; longest first.
        workers: how the executor's jobs are, or empty where it has none.
        remaining: estimated seconds until the end, or None where nothing can be said.
    """

    total: int | None
    done: int
    ended: Mapping[str, int]
    running: int
    waiting: int
    retries: int
    longest: tuple[Active, ...]
    waits: tuple[Active, ...]
    remaining: float | None
    workers: str = ""


@dataclass(slots=True)
class _Durations:
    """Number and sum of the durations of finished nodes of one class."""

    count: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Tally:
    """Aggregates the events of one run."""

    total: int | None = None
    done: int = 0
    retries: int = 0
    workers: str = ""
    ended: dict[str, int] = field(
        default_factory=lambda: {"created": 0, "cached": 0, "failed": 0, "skipped": 0, "cancelled": 0}
    )
    _active: dict[str, tuple[RunEvent, float]] = field(default_factory=dict)
    _by_class: dict[str, _Durations] = field(default_factory=dict)
    _all: _Durations = field(default_factory=_Durations)
    _first_start: float | None = None

    def feed(self, event: RunEvent, now: float) -> float | None:
        """Take one event in; returns the seconds a node ran, if this is its end and its start was seen."""
        kind = event.kind
        if kind == "node_done":
            return self._end(event, now)
        if kind == "node_started":
            if self._first_start is None:
                self._first_start = now
            self._active[event.hash] = (event, now)
        elif kind == "node_waiting":
            known = self._active.get(event.hash)
            # The same wait told again, with other words perhaps, goes on from its beginning.
            since = known[1] if known is not None and known[0].kind == kind else now
            self._active[event.hash] = (event, since)
        elif kind == "node_retry":
            self.retries += 1
            self._active[event.hash] = (event, now)
        elif kind == "workers":
            self.workers = event.message
        elif kind == "planned":
            self.total = event.counts.get("total", sum(event.counts.values()))
        return None

    def _end(self, event: RunEvent, now: float) -> float | None:
        known = self._active.pop(event.hash, None)
        self.done += 1
        status = event.status or "created"
        self.ended[status] = self.ended.get(status, 0) + 1
        if known is None or known[0].kind != "node_started":
            return None
        seconds = now - known[1]
        if status == "created":
            for durations in (self._all, self._by_class.setdefault(event.name, _Durations())):
                durations.count += 1
                durations.seconds += seconds
        return seconds

    def snapshot(self, now: float, most: int = 8) -> Snapshot:
        """The numbers at ``now``, with at most ``most`` running and waiting nodes each."""
        active = list(self._active.values())  # one step under the interpreter lock: safe from another thread
        running = [entry for entry in active if entry[0].kind == "node_started"]
        waiting = [entry for entry in active if entry[0].kind in ("node_waiting", "node_retry")]
        total = None if self.total is None else max(self.total, self.done + len(active))
        return Snapshot(
            total=total,
            done=self.done,
            ended=dict(self.ended),
            running=len(running),
            waiting=len(waiting),
            retries=self.retries,
            longest=_oldest(running, now, most),
            waits=_oldest(waiting, now, most),
            remaining=self._remaining(running, active, total, now),
            workers=self.workers,
        )

    def _remaining(
        self,
        running: list[tuple[RunEvent, float]],
        active: list[tuple[RunEvent, float]],
        total: int | None,
        now: float,
    ) -> float | None:
        """Seconds of work that is left, divided by how many nodes ran at a time on average so far.

        The average of the past is used, not the number of workers, since a chain keeps one worker busy however many
        there are.
        """
        if total is None or self._first_start is None or self._all.count < _MIN_SAMPLES or total <= self.done:
            return None
        if not running and any(event.kind in ("node_waiting", "node_retry") for event, _since in active):
            return None  # everything waits: how long is not ours to say
        mean = self._all.seconds / self._all.count
        means = {name: each.seconds / each.count for name, each in list(self._by_class.items()) if each.count}
        work = max(0, total - self.done - len(active)) * mean
        longest = 0.0
        for event, since in active:
            left = means.get(event.name, mean)
            if event.kind == "node_started":
                left = max(0.0, left - (now - since))
                longest = max(longest, left)
            work += left
        busy = self._all.seconds + sum(now - since for _event, since in running)
        at_a_time = max(1.0, busy / max(now - self._first_start, 1e-6))
        return max(longest, work / at_a_time)


def _oldest(entries: list[tuple[RunEvent, float]], now: float, most: int) -> tuple[Active, ...]:
    oldest = heapq.nsmallest(most, entries, key=lambda entry: entry[1])
    return tuple(Active(event, now - since) for event, since in oldest)
