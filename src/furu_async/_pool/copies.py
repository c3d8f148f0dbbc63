"""The run of a job before Slurm started the job again: it may still be writing its reports, or live on. Pure.

What a worker says of its tasks counts more than what can be guessed, and a claim that it still holds is in everybody's
way. So what it left is looked at when it has said that it has ended, or has been silent for some seconds. One that
lives on, because its node was given up while it worked, is nobody's business until its beat is silent: see `audit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from furu_async._pool.crew import Glance, Worker

PATIENCE_SECS = 7.0
"""A little more than a task may take to end; a worker that lives writes its status more often."""

Fate = Literal["wait", "over", "alive"]


class Copy:
    """One such run.

    Attributes:
        worker: what is known of it.
    """

    def __init__(self, worker: Worker, now: float) -> None:
        self.worker: Worker = worker
        self._until = now + PATIENCE_SECS
        self._first: Glance | None = None

    def see(self, glance: Glance, now: float) -> Fate:
        """One more look at what it writes."""
        if glance.status is not None and glance.status.stage == "ended":
            return "over"
        if glance.trouble:
            self._first, self._until = None, max(self._until, now + PATIENCE_SECS)
            return "wait"
        if glance.status is None and glance.beat is None:
            return "over"  # it never began
        first = self._first
        if first is None:
            self._first = glance
        if now < self._until:
            return "wait"
        return "over" if first is None or first == glance else "alive"


class Copies:
    """All such runs that are looked at."""

    def __init__(self) -> None:
        self._all: list[Copy] = []

    def add(self, worker: Worker, now: float) -> None:
        """Slurm has started the job of a worker again: from here on the run that was is another one."""
        past = Worker(worker.sid, worker.spec_key, worker.index, worker.wid, worker.name, worker.job_id)
        past.log, past.status, past.seen, past.began_at = (
            worker.log,
            worker.status,
            worker.seen,
            worker.began_at,
        )
        past.ending = past.gone = True
        self._all.append(Copy(past, now))

    def wids(self) -> list[str]:
        """Whose folders are to be looked at."""
        return [copy.worker.wid for copy in self._all]

    def judge(self, glances: Sequence[Glance], now: float) -> list[Worker]:
        """One more look at each, in the order of `wids`; those that are over. What is decided is looked at no more."""
        fates = [(copy, copy.see(glance, now)) for copy, glance in zip(self._all, glances, strict=False)]
        for copy, fate in fates:
            if fate != "wait":
                self._all.remove(copy)
        return [copy.worker for copy, fate in fates if fate == "over"]
