"""The persistent children of a `Local`: which there are, how deep each may be filled, when one is replaced.

A child gets its next task when it has room. For tasks of a few milliseconds it is given several at once, so
that it never waits for us; a task that was given and has not begun can be taken back and given to another
child.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from furu_async._runner.supervisor import Child
from furu_async.report import Failure

TASKS_PER_CHILD = 2000
"""After so many tasks a child is replaced: what user code leaks goes with it."""

RSS_GROWTH_MB = 1024.0
"""A child that has grown by so much since its first task is replaced."""

_AHEAD_SECS = 0.01
_MOST_AHEAD = 32

_HURRIED_SECS = 2.0

_LAST_SECS = 2.0
"""For the end of a killed child when the loop ends; one that hangs in the kernel ends when that lets go of it."""


def patience(kind: str, resumable: bool, grace: float) -> float:
    """Seconds that a task has to end: a preempted one with nothing to save has less, to run again the sooner."""
    return min(grace, _HURRIED_SECS) if kind == "preempted" and not resumable else grace


async def end_child(child: Child, grace: float) -> None:
    """End a child; when we are cancelled meanwhile (the loop ends), without further patience, and bounded."""
    try:
        await child.kill(grace)
    except asyncio.CancelledError:
        try:
            async with asyncio.timeout(_LAST_SECS):
                await child.kill(0)
        except TimeoutError:
            pass
        raise


def died_at_start(count: int, error: Exception) -> Failure:
    """Nothing can run where no worker process comes up; ends the run."""
    text = f"worker processes die at start ({count} in a row): {error}"
    return Failure(kind="protocol", error_type=type(error).__name__, message=text, run_wide=True)


class Seat:
    """One place for a child; the child in it changes.

    Attributes:
        seconds: moving average of what a task takes, None before the first.
        retiring: it gets nothing new and is ended when its tasks are done.
        aside: it is beyond the crew's size, and gets no tasks but questions.
        stuck: id of a task that takes so long that nothing is to wait behind it.
    """

    __slots__ = (
        "aside",
        "child",
        "done",
        "env",
        "first_rss",
        "name",
        "number",
        "retiring",
        "seconds",
        "shown",
        "starting",
        "stuck",
    )

    def __init__(self, number: int, name: str, env: Mapping[str, str] | None = None) -> None:
        self.number = number
        self.name = name
        self.env = env
        self.child: Child | None = None
        self.starting: asyncio.Task[None] | None = None
        self.seconds: float | None = None
        self.done = 0
        self.first_rss = 0.0
        self.retiring = False
        self.aside = False
        self.shown = 0
        self.stuck = 0

    def depth(self, prefetch: bool) -> int:
        """How many tasks it may hold, begun or not."""
        if self.child is None or self.retiring or self.aside or not self.child.alive:
            return 0
        if not prefetch or self.seconds is None or self.seconds > _AHEAD_SECS:
            return 1
        if self.stuck and self.child.running == self.stuck:
            return 1
        return min(_MOST_AHEAD, 2 + int(_AHEAD_SECS / max(self.seconds, 1e-5)))

    def learn(self, seconds: float, rss_mb: float) -> None:
        """A task has ended."""
        self.done += 1
        self.seconds = seconds if self.seconds is None else 0.8 * self.seconds + 0.2 * seconds
        if not self.first_rss:
            self.first_rss = rss_mb
        grown = rss_mb - self.first_rss > RSS_GROWTH_MB
        if self.done >= TASKS_PER_CHILD or grown:
            self.retiring = True


class Crew:
    """Starts, counts and ends children.

    Args:
        size: how many may work at the same time.
        folder: where children's spool files lie.
        on_message: called when a seat's child has said something.
        on_ready: called when a seat has a child.
        on_broken: called with the error when a child cannot be started.
    """

    def __init__(
        self,
        size: int,
        folder: str,
        log_level: str,
        on_message: Callable[[Seat], None],
        on_ready: Callable[[Seat], None],
        on_broken: Callable[[Seat, Exception], None],
    ) -> None:
        self.size = size
        self.folder = folder
        self.log_level = log_level
        self.seats: list[Seat] = []
        self._on_message = on_message
        self._on_ready = on_ready
        self._on_broken = on_broken
        self._count = 0
        self._ending: set[asyncio.Task[None]] = set()

    def active(self) -> int:
        """Seats that take tasks, or will as soon as their child is there."""
        return sum(not seat.retiring and not seat.aside for seat in self.seats)

    def idle(self) -> int:
        """Those of them that have nothing to do now."""
        free = (seat for seat in self.seats if not seat.retiring and not seat.aside)
        return sum(seat.child is None or not seat.child.tasks for seat in free)

    def hire_aside(self) -> None:
        """Start a further child that only answers questions, unless there is one: all others are at long tasks."""
        if not any(seat.aside and not seat.retiring for seat in self.seats):
            self.hire().aside = True

    def seat_seeing(self, devices: str) -> Seat | None:
        """A free seat whose child sees just these GPUs, or is being started so; if there is none one is made.

        None: every seat is busy.
        """
        env = {"CUDA_VISIBLE_DEVICES": devices}
        free = [s for s in self.seats if not (s.retiring or s.aside or (s.child and s.child.tasks))]
        for seat in free:
            if seat.env == env:
                return seat
        if self.active() >= self.size:
            idle = [seat for seat in free if seat.child is not None]
            if not idle:
                return None
            self.dismiss(idle[0])
        return self.hire(env)

    def hire(self, env: Mapping[str, str] | None = None) -> Seat:
        """Add a seat and start its child."""
        self._count += 1
        seat = Seat(self._count, f"w{self._count}", env)
        self.seats.append(seat)
        loop = asyncio.get_running_loop()
        seat.starting = loop.create_task(self._start(seat), name=f"furu start of {seat.name}")
        return seat

    async def _start(self, seat: Seat) -> None:
        try:
            child = await Child.start(
                wid=seat.name,
                spool_dir=self.folder,
                env=seat.env,
                on_message=lambda _: self._on_message(seat),
                log_level=self.log_level,
            )
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.seats.remove(seat)
            seat.starting = None
            self._on_broken(seat, error)
            return
        seat.child = child
        seat.starting = None
        self._on_ready(seat)

    def dismiss(self, seat: Seat, grace: float | None = None) -> None:
        """Take a seat away; its child ends in the background (``grace`` seconds after a SIGTERM, if given)."""
        if seat in self.seats:
            self.seats.remove(seat)
        seat.retiring = True
        task = asyncio.get_running_loop().create_task(self._end(seat, grace), name=f"furu end of {seat.name}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, seat: Seat, grace: float | None) -> None:
        if seat.starting is not None:
            if not seat.starting.cancelling():  # else it is ending its child already: let it
                seat.starting.cancel()
            await asyncio.gather(seat.starting, return_exceptions=True)
        child = seat.child
        if child is None:
            return
        if grace is not None:
            await child.kill(grace)
        await child.aclose()

    async def aclose(self, grace: float) -> None:
        """End every child; those with a task get SIGTERM and ``grace`` seconds first."""
        for seat in list(self.seats):
            busy = seat.child is not None and bool(seat.child.tasks)
            self.dismiss(seat, grace if busy else None)
        while ending := set(self._ending):
            await asyncio.gather(*ending, return_exceptions=True)
            self._ending -= ending  # from 3.12 on, waiting for what has ended gives their callbacks no turn
