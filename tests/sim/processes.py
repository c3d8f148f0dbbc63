"""Simulated hosts and processes on one virtual-time loop, to be killed, paused and cut off at any step.

A process is a context variable: every task, callback and blocking call that descends from it carries it. The loop
looks at it before each step, so a process that was killed takes no further one (no ``finally`` of it runs, as after
kill -9), and one that is paused takes them late. Blocking calls (what the library gives to its lanes, and the keeper's
work) run in greenlets that can be suspended between any two of their operations on the store, so other processes get in
between, and a process can be killed there.

Each host has clocks of its own: a monotonic one with offset and drift, and a wall clock that is simply wrong.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import math
import random
import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Literal

import greenlet
from anyio._backends import _asyncio as anyio_states

from furu_async._runtime.blocking import Lane
from furu_async._testing.virtual_loop import VirtualLoop

_AHEAD = 1e-8
_LATENCY = 0.002


class Killed(BaseException):
    """A blocking call of a process that was killed went on while it was being disposed of."""


class Host:
    """A machine.

    Attributes:
        boot: how often it was started; a crash begins the next one.
        offset, drift: of its monotonic clock: it says offset + (1 + drift) times the true time.
        wall_offset: its wall clock is wrong by so much; may change at any time.
        hung_until: true time until which its mount does not answer.
        hangs: from when to when it did not, or was not to.
        asleep_until: true time until which nothing runs on it.
        up: false between a crash and the next start.
    """

    def __init__(self, name: str, rng: random.Random, skewed: bool) -> None:
        self.name = name
        self.boot = 1
        self.up = True
        self.offset = rng.uniform(0, 40_000) if skewed else 0.0
        self.drift = rng.choice([-1, 1]) * 10 ** rng.uniform(-4, -2) if skewed else 0.0
        self.wall_offset = rng.uniform(-600, 600) if skewed else 0.0
        self.hung_until = 0.0
        self.hangs: list[tuple[float, float]] = []
        self.asleep_until = 0.0
        self.processes: dict[int, Process] = {}
        self._next_pid = 100

    def clock(self, true: float) -> float:
        """What its monotonic clock says."""
        return self.offset + true * (1.0 + self.drift)

    def true(self, local: float) -> float:
        """The true time at which its clock has reached this."""
        return (local - self.offset) / (1.0 + self.drift) + _AHEAD

    def new_pid(self, rng: random.Random) -> int:
        """A process id; now and then one that a dead process had."""
        dead = [pid for pid, process in self.processes.items() if process.dead]
        if dead and rng.random() < 0.2:
            return rng.choice(dead)
        self._next_pid += 1
        return self._next_pid


class Process:
    """See the module. Made by `ClusterLoop.start_process`.

    Attributes:
        steps: how many it has taken.
        crisis_at, crisis: at this step the second is called, between two steps.
        on_death: called when it has died, however.
        supervisor: of a keeper or a child: the controller that started it.
        pauses: from when to when it was paused.
        paused_until: true time at which the present pause ends.
        born, died_at: when, or infinity.
    """

    def __init__(self, host: Host, kind: str, number: int, pid: int, start_time: int) -> None:
        self.host = host
        self.boot = host.boot
        self.kind = kind
        self.number = number
        self.pid = pid
        self.start_time = start_time
        self.state: Literal["running", "paused", "dead"] = "running"
        self.held: deque[asyncio.Handle] = deque()
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.kept: list[asyncio.Task[Any]] = []
        self.calls: dict[int, Lane] = {}
        self.greenlets: set[greenlet.greenlet] = set()
        self.steps = 0
        self.crisis_at = -1
        self.crisis: Callable[[], None] = lambda: None
        self.on_death: list[Callable[[], None]] = []
        self.supervisor: Process | None = None
        self.pauses: list[tuple[float, float]] = []
        self.paused_until = 0.0
        self.born = 0.0
        self.died_at = math.inf
        self.context = contextvars.Context()
        self.context.run(here.set, self)

    @property
    def dead(self) -> bool:
        """It was killed or has ended."""
        return self.state == "dead"

    def __repr__(self) -> str:
        return f"{self.kind} {self.number} on {self.host.name}"


here: ContextVar[Process | None] = ContextVar("simulated process", default=None)
"""The process whose step this is; None: the world itself."""


class ClusterLoop(VirtualLoop):
    """A `VirtualLoop` with processes. It knows of no threads, files or sockets but simulated ones.

    Args:
        seed: of interleavings and latencies.
        grain: chance that a blocking call is suspended before each of its operations on the store.
    """

    def __init__(self, seed: int, grain: float) -> None:
        super().__init__(seed, horizon=10 * 86400.0)
        self.rng = random.Random(seed)
        self.grain = grain
        self.endpoints: dict[int, Any] = {}
        self.processes: list[Process] = []
        self.slow_until: dict[str, float] = {}
        self._hub = greenlet.getcurrent()
        self._numbers = 0

    # -- time ------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """True time, in seconds since the loop was made."""
        return self._now

    def time(self) -> float:
        """The monotonic clock of the host on which this is asked."""
        process = here.get()
        return self._now if process is None else process.host.clock(self._now)

    def wall(self) -> float:
        """The wall clock of the host on which this is asked."""
        process = here.get()
        return 1.7e9 + self._now + (0.0 if process is None else process.host.wall_offset)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        """As of any loop; ``when`` is on the caller's clock."""
        process = here.get()
        if process is not None:
            when = process.host.true(when)
        return super().call_at(when, callback, *args, context=context)

    def at(self, process: Process | None, delay: float, call: Callable[..., Any], *args: Any) -> None:
        """Have a process make a call after this much true time, unless it is dead by then."""
        context = contextvars.Context() if process is None else process.context.copy()
        super().call_at(self._now + delay, call, *args, context=context)

    # -- one turn --------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        self.steps += 1
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                self._give_up("nothing can happen any more: nothing is ready and there is no timer")
            when = scheduled[0].when()
            if when > self._horizon:
                self._give_up(f"nothing but timers for {self._horizon:g} s of virtual time")
            self._now = max(self._now, when)
        end = self._now + 1e-9
        while scheduled and scheduled[0].when() <= end:
            handle = heapq.heappop(scheduled)
            if not handle.cancelled():
                ready.append(handle)
        self._shuffle(self.rng)
        for _ in range(len(ready)):
            self._step(ready.popleft())

    def _step(self, handle: Any) -> None:
        if handle._cancelled:
            return
        process: Process | None = handle._context.get(here)
        if process is not None:
            if process.state == "running":
                process.steps += 1
                if process.steps == process.crisis_at:
                    process.crisis()
            if process.state == "dead":
                return
            if process.state == "paused":
                process.held.append(handle)
                return
        handle._run()

    # -- processes -------------------------------------------------------------------------------------------

    def start_process(self, host: Host, kind: str, number: int) -> Process:
        """A new process, with nothing to do yet."""
        process = Process(host, kind, number, host.new_pid(self.rng), 1 + len(self.processes))
        host.processes[process.pid] = process
        self.processes.append(process)
        if host.asleep_until > self._now:
            self.pause(process, host.asleep_until - self._now)
        return process

    def run_in(self, process: Process, main: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Make a coroutine a task of a process."""
        context = process.context.copy()
        return context.run(lambda: self.create_task(main, name=name, context=context))

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        """As of any loop; the task belongs to the process that makes it."""
        process = here.get()
        if process is None:
            return super().create_task(coro, name=name, context=context)
        if process.dead:
            coro.close()
            raise Killed
        if context is not None and context.get(here) is not process:
            context.run(here.set, process)
        task: asyncio.Task[Any] = super().create_task(coro, name=name, context=context)
        process.tasks.add(task)
        return task

    def kill(self, process: Process) -> None:
        """As kill -9, or its own end: it takes no further step."""
        if process.dead:
            return
        process.state = "dead"
        process.died_at = self._now
        self._paused_until_now(process)
        process.kept = [task for task in process.tasks if not task.done()]
        process.held.clear()  # which alone may have held on to a task
        for lane in process.calls.values():
            lane._pending -= 1
        process.calls.clear()
        for task in process.kept:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            asyncio.tasks._unregister_task(task)
        for ended in process.on_death:
            ended()

    def pause(self, process: Process, seconds: float) -> None:
        """As SIGSTOP, and SIGCONT after some true seconds; of several pauses the last end counts."""
        if process.state == "running":
            process.state = "paused"
            process.pauses.append((self._now, math.inf))
        process.paused_until = max(process.paused_until, self._now + seconds)
        self.at(None, seconds, self._wake, process)

    def _wake(self, process: Process) -> None:
        if self._now >= process.paused_until - _AHEAD:
            self.resume(process)

    def resume(self, process: Process) -> None:
        """As SIGCONT."""
        if process.state == "paused":
            process.state = "running"
            process.paused_until = 0.0
            self._paused_until_now(process)
            self._ready.extend(process.held)
            process.held.clear()

    def _paused_until_now(self, process: Process) -> None:
        if process.pauses and process.pauses[-1][1] == math.inf:
            process.pauses[-1] = (process.pauses[-1][0], self._now)

    # -- blocking calls --------------------------------------------------------------------------------------

    def spawn(self, process: Process, call: Callable[[], Any], delay: float = 0.0) -> None:
        """Have a process make a blocking call, as in a thread of its own."""
        self.at(process, delay, self._begin, process, call)

    def _begin(self, process: Process, call: Callable[[], Any]) -> None:
        def body() -> None:
            try:
                call()
            except (Killed, greenlet.GreenletExit):
                pass
            finally:
                process.greenlets.discard(thread)

        thread = greenlet.greenlet(body, self._hub)
        thread.gr_context = process.context.copy()
        process.greenlets.add(thread)
        thread.switch()

    def block(self, seconds: float) -> None:
        """In a blocking call: let this much true time pass."""
        self.at(here.get(), seconds, greenlet.getcurrent().switch)
        self._hub.switch()

    def wait(self, waiters: list[Callable[[], Any]]) -> None:
        """In a blocking call: wait until somebody takes the call that is added here and makes it, as this process."""
        waiters.append(greenlet.getcurrent().switch)
        self._hub.switch()

    def alive(self) -> None:
        """Whoever is disposed of has no effect any more."""
        process = here.get()
        if process is not None and process.dead:
            raise Killed

    def operation(self) -> None:
        """Called before each operation on the store: others may come in between here."""
        process = here.get()
        if process is None:
            return
        if process.dead:
            raise Killed
        if greenlet.getcurrent() is self._hub:
            return
        hung = process.host.hung_until - self._now
        if hung > 0:
            self.block(hung + self.rng.random() * _LATENCY)
        elif self.grain and self.rng.random() < self.grain:
            slow = self.rng.random()
            self.block(slow * _LATENCY if slow > 0.01 else slow * 50)

    def _take_call(self, lane: Lane, call: Callable[[], None]) -> None:
        """In place of the lanes' threads."""
        process = here.get()
        if process is None:
            call()
            return
        if process.dead:
            lane._pending -= 1
            raise Killed
        self._numbers += 1
        number = self._numbers
        process.calls[number] = lane

        def make() -> None:
            try:
                call()
            finally:
                if process.calls.pop(number, None) is None:
                    lane._pending += 1  # it was taken off when the process was killed

        self.spawn(process, make, self.rng.random() * _LATENCY)

    # -- simulated sockets -----------------------------------------------------------------------------------

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        """Of simulated sockets only."""
        self.endpoints[fd].watch(callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        """Of simulated sockets only."""
        self.endpoints[fd].watch(None)
        return True

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector."""

    # -- the end ---------------------------------------------------------------------------------------------

    def dispose(self) -> list[str]:
        """End what is left of all processes without effect on the store; gives the tasks that nobody killed."""
        left = [
            f"{task.get_name()} of {process!r}"
            for process in self.processes
            if not process.dead
            for task in process.tasks
            if not task.done()
        ]
        before, Lane.stand_in = Lane.stand_in, self._take_call
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        self.set_exception_handler(lambda *_: None)
        warned = warnings.catch_warnings()
        warned.__enter__()
        warnings.simplefilter("ignore")  # coroutines that were killed before their first step
        try:
            for process in self.processes:
                process.on_death.clear()
                self.kill(process)
            self._ready.clear()
            self._scheduled.clear()
            for process in self.processes:
                _dispose(process)
                process.kept.clear()
                process.tasks.clear()
            gc.collect(0)
        finally:
            warned.__exit__(None, None, None)
            Lane.stand_in, sys.unraisablehook = before, hook
        return left

    def close(self) -> None:
        """As of any loop; calls that were not made never are."""
        self._calls.clear()
        super().close()


def _dispose(process: Process) -> None:
    token = here.set(process)
    try:
        for thread in list(process.greenlets):
            try:
                thread.throw(greenlet.GreenletExit)
            except BaseException:
                pass
        for task in process.kept:
            coro: Any = task.get_coro()
            for _ in range(100):
                try:
                    coro.close()
                    break
                except BaseException:  # a `finally` that awaits
                    continue
        for task in process.tasks:
            # A task leaves this table by its own last steps; until then its entry holds it, and it all else.
            anyio_states._task_states.pop(task, None)
    finally:
        here.reset(token)
