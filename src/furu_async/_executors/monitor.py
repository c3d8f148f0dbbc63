"""Looks at running attempts every tenth of a second: time limits, logs to show, tasks stuck behind a long one."""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING

from furu_async._executors.crew import Seat
from furu_async._executors.jobs import Job, Step
from furu_async._runner.messages import TaskSpec
from furu_async._runner.spools import EXPOSE_SECS
from furu_async._runner.supervisor import Child
from furu_async._runtime.blocking import DOOR

if TYPE_CHECKING:
    from furu_async._executors.dispatch import Dispatcher

_PERIOD_SECS = 0.1
_STUCK_AHEAD_SECS = 0.05
_RELEASE_SECS = 2.0
_EXPOSE_DEADLINE = 30.0


async def _expose(child: Child, task: TaskSpec) -> None:
    """Show the output of an attempt while it runs; where that cannot be, it is there when the attempt has ended."""
    try:
        await DOOR.files.run(child.expose_logs, task, deadline=_EXPOSE_DEADLINE)
    except OSError:  # also a deadline that has passed
        pass


class Monitor:
    """One timer for all children, so that a task of a millisecond costs no timer of its own."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Something runs: look again soon."""
        if self._timer is None:
            self._timer = self._loop.call_later(_PERIOD_SECS, self._look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        dispatcher = self._dispatcher
        if not dispatcher.by_task and not dispatcher.claimed:
            return
        now = self._loop.time()
        seats = dispatcher.seats
        idle = any(s.child is not None and s.child.alive and not s.child.tasks and not s.aside for s in seats)
        for seat in seats:
            self._look_at(seat, now, idle)
        if not idle and not any(seat.starting for seat in seats):
            self._release_waiting(now)
        self.wake()

    def _look_at(self, seat: Seat, now: float, idle: bool) -> None:
        child, dispatcher = seat.child, self._dispatcher
        if child is None or child.running is None:
            return
        ran = now - child.running_since
        job = dispatcher.by_task.get(child.running)
        if job is not None:
            self._check_limit(job, ran)
            if ran > EXPOSE_SECS:
                self._show_logs(seat)
        if len(child.tasks) > 1 and ran > _STUCK_AHEAD_SECS and (idle or ran > _RELEASE_SECS):
            seat.stuck = child.running
            dispatcher.take_back_from(seat)
            dispatcher.poke()

    def _check_limit(self, job: Job, ran: float) -> None:
        limit = job.origin.node.info.time_limit
        if limit is not None and ran > limit and not job.stopped:
            text = f"it ran longer than its _time_limit of {limit:g} s and was ended"
            self._dispatcher.stop(job, "timeout", text)

    def _show_logs(self, seat: Seat) -> None:
        child = seat.child
        if child is None or child.running is None or seat.shown == child.running:
            return
        task = child.tasks.get(child.running)
        if task is not None:
            seat.shown = task.id
            self._dispatcher.spawn(_expose(child, task))

    def take_back(self, job: Job) -> None:
        """Return a job, unless its child has just begun it."""
        dispatcher = self._dispatcher
        if job.step is Step.GIVEN:
            dispatcher.take_back_from(job.worker)
        job.unwanted = job.step is not Step.GIVEN
        if job.step is Step.CLAIMED:
            dispatcher.claimed.remove(job)
            heapq.heapify(dispatcher.claimed)
            dispatcher.release(job)
        dispatcher.poke()

    def _release_waiting(self, now: float) -> None:
        """Claims that we hold and cannot use soon: others may want them."""
        dispatcher = self._dispatcher
        for job in [j for j in dispatcher.claimed if now - j.since > _RELEASE_SECS and not j.unwanted]:
            dispatcher.claimed.remove(job)
            heapq.heapify(dispatcher.claimed)
            dispatcher.steps.requeue(job, dispatcher.add)
