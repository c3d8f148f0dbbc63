"""Hands jobs to children, and takes what comes back: the shell behind `Local` in process mode.

Everything here is callbacks of the loop that do a little and return; claims and publications go through the keeper
in batches. `Dispatcher.pump` is the only place where a job moves forward.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable
from typing import Any

from furu_async._executors.checks import Checks
from furu_async._executors.crew import Crew, Seat, died_at_start, end_child, patience
from furu_async._executors.jobs import Job, Step, Steps
from furu_async._executors.monitor import Monitor
from furu_async._executors.resources import NOTHING, Budget, visible_devices
from furu_async._plan.events import Started
from furu_async._runner.messages import TaskBegun, TaskResult, TaskSpec
from furu_async._runner.supervisor import ChildGone
from furu_async.errors import FuruError
from furu_async.report import Failure

_EARLY_DEATHS = 5
_AT_ONCE = 12  # jobs moved in one turn of the loop
_MOST_SKIPPED = 64  # how far down the queue to look for a job that fits into what is free


class Dispatcher:
    """See the module.

    Args:
        folder: gives the folder for children's spool files.
        grace: seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self, steps: Steps, budget: Budget, size: int, folder: Callable[[], str], log_level: str, grace: float
    ) -> None:
        self.steps = steps
        self.budget = budget
        self.grace = grace
        self.queue: list[Job] = []
        self.claimed: list[Job] = []
        self.by_task: dict[int, Job] = {}
        self.claiming = 0
        self._folder = folder
        self._log_level = log_level
        self._size = size
        self._crew: Crew | None = None
        self._pump_due = self._closing = False
        self._next_id = 0
        self.checks = Checks(self.poke, self._number, self._end_child)
        self._monitor = Monitor(self)
        self.take_back: Callable[[Job], None] = self._monitor.take_back
        self._loop = asyncio.get_running_loop()
        self._start_failures = 0
        self._background: set[asyncio.Task[Any]] = set()

    # -- in --------------------------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Queue a job."""
        heapq.heappush(self.queue, job)
        self.poke()

    def poke(self) -> None:
        """Something changed: pump before the loop waits again."""
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self.pump)

    def on_claimed(self, job: Job) -> None:
        """The claim is held."""
        self.claiming -= 1
        self._back_to_claimed(job)
        if job.unwanted:
            self.take_back(job)
        self.poke()

    def on_claim_over(self, job: Job) -> None:
        """The claim step ended without a claim."""
        self.claiming -= 1
        self._give_back(job)
        self.poke()

    # -- the pump --------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Move jobs forward as far as there is room."""
        self._pump_due = False
        if self._closing:
            return
        self._hand_out()
        self._hire()
        self._claim_ahead()
        if self.by_task:
            self._monitor.wake()

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id

    @property
    def seats(self) -> list[Seat]:
        """The seats there are now."""
        return list(self._crew.seats) if self._crew is not None else []

    @property
    def crew(self) -> Crew:
        """The children; there are none before the first job."""
        if self._crew is None:
            self._crew = Crew(
                self._size,
                self._folder(),
                self._log_level,
                self._on_message,
                self._on_ready,
                self._on_broken,
            )
        return self._crew

    def _backlog(self) -> int:
        while self.queue and self.queue[0].step is not Step.QUEUED:
            heapq.heappop(self.queue)
        return len(self.queue) + len(self.claimed) + self.claiming + len(self.checks)

    def _hire(self) -> None:
        backlog = self._backlog()
        if not backlog:
            return
        crew = self.crew
        idle = crew.idle()
        while crew.active() < crew.size and idle < backlog:
            crew.hire()
            idle += 1
        if self.checks and not idle:
            crew.hire_aside()

    def _claim_ahead(self) -> None:
        if self._crew is None or not self.queue:
            return
        prefetch = not self.budget.counted
        room = -len(self.claimed) - self.claiming
        for seat in self._crew.seats:
            held = len(seat.child.tasks) if seat.child is not None else 0
            room += max(0, (seat.depth(prefetch) or (0 if seat.retiring or seat.aside else 1)) - held)
        skipped: list[Job] = []
        asked = 0
        while room > 0 and self.queue and len(skipped) < _MOST_SKIPPED:
            if asked >= _AT_ONCE:
                self.poke()
                break
            job = heapq.heappop(self.queue)
            if job.step is not Step.QUEUED:
                continue
            if self.budget.counted:
                grant = self.budget.take(job.spec())
                if grant is None:
                    skipped.append(job)
                    continue
                job.grant = grant
            room -= 1
            asked += 1
            self.claiming += 1
            self.steps.claim(job)
        for job in skipped:
            heapq.heappush(self.queue, job)

    def _hand_out(self) -> None:
        if self._crew is None:
            return
        if self.checks:
            self.checks.hand_out(self.seats)
        if not self.claimed:
            return
        if self.budget.gpus:
            self._hand_out_with_gpus(self._crew)
            return
        prefetch = not self.budget.counted
        rooms = [(len(s.child.tasks), s.number, s) for s in self._crew.seats if s.child is not None]
        heapq.heapify(rooms)
        given = 0
        while self.claimed and rooms:
            if given >= _AT_ONCE:
                self.poke()  # the rest in the next turn of the loop: others want it too
                return
            held, number, seat = rooms[0]
            if held >= seat.depth(prefetch):
                heapq.heappop(rooms)
                continue
            job = heapq.heappop(self.claimed)
            if job.unwanted:
                self.release(job)
                continue
            self._give(job, seat)
            given += 1
            heapq.heapreplace(rooms, (held + 1, number, seat))

    def _hand_out_with_gpus(self, crew: Crew) -> None:
        """Each job goes to a child that sees just the GPUs it holds; such a child may have to be started first."""
        later: list[Job] = []
        for job in sorted(self.claimed):
            if job.unwanted:
                self.release(job)
                continue
            seat = crew.seat_seeing(visible_devices(job.grant))
            if seat is None or seat.child is None:
                later.append(job)
            else:
                self._give(job, seat)
        self.claimed = later

    def _give(self, job: Job, seat: Seat) -> None:
        child = seat.child
        assert child is not None
        job.task_id = self._number()
        try:
            task = job.task(child.entries_for(job.origin.node.obj))
        except FuruError as error:  # the artifact was changed after it was hashed: its own trouble only
            self._fail(job, Failure(kind="protocol", error_type=type(error).__name__, message=str(error)))
            return
        job.step = Step.GIVEN
        job.worker = seat
        self.by_task[job.task_id] = job
        child.give(task)

    # -- what children say -----------------------------------------------------------------------------------

    def _on_ready(self, seat: Seat) -> None:
        self._start_failures = 0
        child = seat.child
        if child is not None:
            self.steps.keeper.request(
                ("child", seat.name, child.pid, child.start_time, child.token), lambda _: None
            )
        self.poke()

    def _on_broken(self, seat: Seat, error: Exception) -> None:
        self._start_failures += 1
        if self._start_failures < _EARLY_DEATHS:
            self._loop.call_later(0.2 * self._start_failures, self.poke)
            return
        failure = died_at_start(self._start_failures, error)
        for job in [*self.claimed, *(j for j in self.queue if j.step is Step.QUEUED)]:
            if job.step is Step.CLAIMED:
                self._fail(job, failure)
            else:
                job.step = Step.OVER
                self.steps.drop(job, failure)
        self.claimed.clear()
        self.queue.clear()

    def _on_message(self, seat: Seat) -> None:
        child = seat.child
        if child is None:
            return
        for message in child.poll():
            if isinstance(message, TaskResult):
                self._on_result(seat, message)
            elif isinstance(message, TaskBegun):
                self._on_begun(seat, message)
            elif isinstance(message, ChildGone):
                self._on_gone(seat, message)
        if seat.retiring and child.alive and not child.tasks:
            self.steps.keeper.request(("child_gone", child.pid), lambda _: None)
            self.crew.dismiss(seat)
        self.poke()

    def _on_begun(self, seat: Seat, message: TaskBegun) -> None:
        job = self.by_task.get(message.id)
        if job is None or job.begun:
            return
        job.begun = True
        job.since = self._loop.time()
        for request in job.requests:
            request.run.begun(request.node, request.attempt, seat.name)
            request.run.post(Started(request.node.hash, request.ticket))

    def _on_result(self, seat: Seat, result: TaskResult) -> None:
        if self.checks.take_result(result):
            seat.retiring = seat.retiring or (seat.aside and not self.checks)
            return
        job = self.by_task.pop(result.id, None)
        seat.learn(result.duration, result.rss_mb)
        if result.dirty:
            seat.retiring = True
            if job is not None and seat.child is not None:
                self.take_back_from(seat)
                job.origin.run.note(
                    f"{job.origin.node.obj!r} left something behind ({result.why_dirty}); its worker is replaced"
                )
                self.crew.dismiss(seat, grace=0.0)
        if job is None:
            return
        if not result.ok and job.stopped and result.failure is not None:
            result.failure = job.as_stopped(result.failure)
        log_path = job.paths.attempt(job.generation) if result.logged else ""
        self._conclude(job, result, log_path)

    def _on_gone(self, seat: Seat, gone: ChildGone) -> None:
        """The child's process group is gone; its output lies in the attempt's folder."""
        self.steps.keeper.request(("child_gone", gone.pid), lambda _: None)
        self.crew.dismiss(seat)
        self.checks.on_gone(gone)
        self._not_begun(gone.not_begun)
        if gone.running is None:
            return
        job = self.by_task.pop(gone.running.id, None)
        if job is not None:
            failure = gone.failure()
            if job.stopped:
                failure = job.as_stopped(failure)
            result = TaskResult(id=job.task_id, ok=False, failure=failure, logged=gone.logged)
            self._conclude(job, result, failure.log_path)

    # -- moving jobs on --------------------------------------------------------------------------------------

    def _conclude(self, job: Job, result: TaskResult, log_path: str) -> None:
        self._give_back(job)
        self.steps.conclude(job, result, log_path)

    def _fail(self, job: Job, failure: Failure) -> None:
        self._conclude(job, TaskResult(id=0, ok=False, failure=failure), "")

    def _give_back(self, job: Job) -> None:
        if job.grant is not NOTHING:
            self.budget.give_back(job.grant)
            job.grant = NOTHING

    def _back_to_claimed(self, job: Job) -> None:
        job.step = Step.CLAIMED
        job.worker = None
        job.since = self._loop.time()
        heapq.heappush(self.claimed, job)

    def release(self, job: Job) -> None:
        """Nothing of it began and nobody wants it now: end the claim, say so."""
        self._give_back(job)
        job.step = Step.PUBLISHING
        self.steps.release(job)

    def take_back_from(self, seat: Seat) -> None:
        """Get back what a child was given and has not begun; the claims stay ours."""
        if seat.child is not None:
            self._not_begun(seat.child.take_back())

    def _not_begun(self, tasks: Iterable[TaskSpec]) -> None:
        for task in tasks:
            if not self.checks.take_back(task.id):
                job = self.by_task.pop(task.id, None)
                if job is not None:
                    self._back_to_claimed(job)

    # -- stopping --------------------------------------------------------------------------------------------

    def stop(self, job: Job, kind: str, text: str) -> None:
        """End a job that is past the queue, whatever it does."""
        job.unwanted = True
        if job.step is not Step.GIVEN or job.stopped:
            return
        seat: Seat = job.worker
        if not job.begun:
            self.take_back_from(seat)
        if job.step is Step.GIVEN:
            job.stopped, job.stop_text = kind, text
            self._end_child(seat, patience(kind, job.origin.node.info.resumable, self.grace))
        self.poke()

    def _end_child(self, seat: Seat, grace: float | None = None) -> None:
        child = seat.child
        if child is None:
            return
        self.take_back_from(seat)
        seat.retiring = True
        self.spawn(end_child(child, self.grace if grace is None else grace))

    def hurry(self) -> None:
        """Kill the children whose end was asked for and has not come."""
        for child in [seat.child for seat in self.seats if seat.retiring and seat.child is not None]:
            self.spawn(end_child(child, 0.0))

    def spawn(self, work: Any) -> None:
        """Have a coroutine run in the background; `aclose` waits for it."""
        task = self._loop.create_task(work, name="furu local")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def aclose(self) -> None:
        """End all children."""
        self._closing = True
        self._monitor.close()
        if self._crew is not None:
            await self._crew.aclose(self.grace)
        while background := set(self._background):
            await asyncio.gather(*background, return_exceptions=True)
            self._background -= background
