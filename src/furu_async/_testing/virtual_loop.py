"""An event loop on which waiting costs nothing: time jumps to the next timer when nothing else is to be done.

Time stands still while a call is under way in a thread: one of the library's lanes, `run_in_executor` or
`anyio.to_thread`. Where nothing can ever happen again, an error lists who waits for what. Child processes and sockets
are not seen: while there is a timer, time does not wait for them.

With a ``seed`` a run is a function of it: tasks that are ready at the same time go on in an order drawn from it, and
what the library would give to its threads is done on the loop, each call after a small delay of virtual time, drawn
too. Another seed is another interleaving.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import selectors
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack

from furu_async._runtime.blocking import Lane
from furu_async._testing.waiting import describe_tasks
from furu_async.errors import FuruError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

YEAR_SECS = 366 * 86400.0
_LONGEST_LATENCY = 0.002
_SHORTEST_NAP = 0.0001
_LONGEST_NAP = 0.005


class VirtualDeadlock(FuruError):
    """On a `VirtualLoop`: nothing can happen any more, or nothing but timers for a year; says who waits for what."""


class _Selector(selectors.DefaultSelector):
    """Asks the loop what to do where another one would wait."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return self.loop._select(timeout, super().select)


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. Its time begins at 0.

    Args:
        seed: for the order of what is ready; None: as it came, with real threads.
        cancel_at: the main task is cancelled at this step (from 1), if it is still there; for going through all the
            moments at which a cancellation can arrive. A step is one turn of the loop.
        patience: real seconds after which a thread that does not answer is taken to hang, and time goes on without it,
            so that deadlines pass. None waits as long as it takes.
        horizon: virtual seconds after which the loop gives up; for what only ever sets new timers.

    Attributes:
        steps: turns of the loop so far.
    """

    # asyncio's own, in every version there is; typeshed does not tell of them.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _selector: selectors.BaseSelector

    def __init__(
        self,
        seed: int | None = None,
        *,
        cancel_at: int | None = None,
        patience: float | None = None,
        horizon: float = YEAR_SECS,
    ) -> None:
        self.steps: int = 0
        self._now = 0.0
        self._threads = 0
        self._ending = False
        self._cancel_at = cancel_at
        self._patience = patience
        self._horizon = horizon
        self._main: asyncio.Task[Any] | None = None
        self._random = None if seed is None else random.Random(seed)
        self._calls: dict[int, Callable[[], None]] = {}
        self._call_numbers = itertools.count()
        self._hung: dict[str, float] = {}
        self._own_thread = 0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def sleep_through(self, seconds: float) -> None:
        """Let time pass while nothing runs, as when the process was stopped: timers are late by so much."""
        self._now += seconds

    def hang(self, lane: str, seconds: float) -> None:
        """With a seed: calls that are handed to this lane from now on begin ``seconds`` later, as on a hung mount."""
        self._hung[lane] = self._now + seconds

    # -- one turn --------------------------------------------------------------------------------------------

    def _select(
        self, timeout: float | None, select: Callable[[float | None], list[Any]]
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Called by each turn of the loop before it runs what is ready; ``timeout`` 0: something is."""
        self.steps += 1
        if self.steps == self._cancel_at and self._main is not None:
            self._main.cancel()
        if self._random is not None:
            self._shuffle(self._random)
        if self._ready or (timeout is not None and timeout <= 0):
            return select(0)
        idle_since = time.monotonic()
        nap = _SHORTEST_NAP
        while True:
            # Before the look at the selector: a thread that is done by now has woken it already.
            busy = self._busy()
            events = select(0)
            if events:
                return events
            if not busy:
                break
            patience = None if self._ending else self._patience
            if patience is not None and time.monotonic() - idle_since > patience:
                break
            events = select(nap)
            if events:
                return events
            nap = min(nap * 2, _LONGEST_NAP)
        if self._jump(timeout):
            return []
        if busy or len(self._selector.get_map()) > 1:
            return select(0.05)  # a hung thread, or somebody else's socket: only real time can tell
        self._give_up(
            "nothing can happen any more: there is no timer, nothing is ready, no thread is at work"
        )

    def _jump(self, timeout: float | None) -> bool:
        """Go to the next timer, if there is one."""
        if timeout is None:
            return False
        # asyncio shortens long waits, and a timer at infinity is none.
        when: float = self._scheduled[0].when() if self._scheduled else self._now + timeout
        if math.isinf(when):
            return False
        if when > self._horizon and not self._ending:
            self._give_up(f"nothing but timers for {self._horizon:g} s of virtual time")
        self._now = max(self._now, when)
        return True

    def _give_up(self, why: str) -> NoReturn:
        raise VirtualDeadlock(f"at {self._now:g} s of virtual time {why}\n{describe_tasks(self)}")

    def _busy(self) -> bool:
        """Something is under way in a thread."""
        if self._threads or self._ending:
            return True
        if Lane.stand_in is None and Lane.under_way():
            return True
        if "anyio.to_thread" not in sys.modules:
            return False
        return _anyio_threads() > 0

    def _shuffle(self, source: random.Random) -> None:
        """Change the order of tasks among themselves; other callbacks may count on theirs, and keep it."""
        ready = self._ready
        places = [at for at, handle in enumerate(ready) if _is_task(handle)]
        if len(places) < 2:
            return
        handles = [ready[at] for at in places]
        source.shuffle(handles)
        for at, handle in zip(places, handles, strict=True):
            ready[at] = handle

    # -- threads ---------------------------------------------------------------------------------------------

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As of any loop; counted, so that time stands still meanwhile."""
        future = super().run_in_executor(executor, func, *args)
        if not isinstance(executor, Lane):  # lanes count for themselves
            self._threads += 1
            future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1

    def _take_call(self, lane: Lane, call: Callable[[], None]) -> None:
        """In place of the lanes' threads: make the call a little later on the loop."""
        assert self._random is not None
        if threading.get_ident() != self._own_thread:
            call()
            return
        number = next(self._call_numbers)
        self._calls[number] = call
        delay = self._random.random() * _LONGEST_LATENCY + max(
            0.0, self._hung.get(lane.name, 0.0) - self._now
        )
        self.call_later(delay, self._make_call, number)

    def _make_call(self, number: int) -> None:
        self._calls.pop(number)()

    # -- beginning and end -----------------------------------------------------------------------------------

    def run_until_complete(self, future: Any) -> Any:
        """As of any loop; the first task that is given is the main one."""
        if self._main is None and isinstance(future, asyncio.Task):
            self._main = future
        return super().run_until_complete(future)

    def run_forever(self) -> None:
        """As of any loop."""
        before, self._own_thread = Lane.stand_in, threading.get_ident()
        if self._random is not None:
            Lane.stand_in = self._take_call
        try:
            super().run_forever()
        finally:
            Lane.stand_in = before

    async def shutdown_default_executor(self, *args: Any) -> None:  # a timeout since Python 3.12
        """As of any loop. It waits for a thread of its own, which nobody counts."""
        self._ending = True
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._ending = False

    def close(self) -> None:
        """As of any loop. Calls that were still to be made are made now, as threads would have."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call()
        super().close()


def _is_task(handle: Any) -> bool:
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)


def _anyio_threads() -> int:
    import anyio.to_thread

    sniffio = sys.modules.get("sniffio")
    before = sniffio.thread_local.name if sniffio is not None else None
    try:
        if sniffio is not None:
            sniffio.thread_local.name = "asyncio"  # outside of a task it would see no loop
        return anyio.to_thread.current_default_thread_limiter().borrowed_tokens
    finally:
        if sniffio is not None:
            sniffio.thread_local.name = before


def run_virtual(
    main: Coroutine[Any, Any, T],
    *,
    seed: int | None = None,
    cancel_at: int | None = None,
    patience: float | None = None,
    horizon: float = YEAR_SECS,
) -> T:
    """Run a coroutine on a `VirtualLoop`, as `asyncio.run` would.

    Args:
        seed, cancel_at, patience, horizon: as of `VirtualLoop`.

    Raises:
        VirtualDeadlock: nothing can happen any more.
        asyncio.CancelledError: by ``cancel_at``.
    """

    def make() -> VirtualLoop:
        return VirtualLoop(seed, cancel_at=cancel_at, patience=patience, horizon=horizon)

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main)
