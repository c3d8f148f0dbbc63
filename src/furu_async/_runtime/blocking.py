"""The single door to threads.

Every blocking call of the library goes through a `Lane`: a few daemon threads of its own and a queue. Lanes
keep kinds of work apart, so that a hung file system in one never starves another; daemon threads, because a
thread stuck in a dead mount must not keep the process from exiting. A call carries a deadline: when it passes, the
awaiter gets `BlockingTimeout` and goes on, while the stuck thread is left behind and replaced.

One logical operation or one batch is one hop (a hop costs as much as the whole record of a small task).
"""

from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")

_IDLE_SECS = 10.0


class BlockingTimeout(TimeoutError):
    """A blocking call gave no answer in time; it may still be running in its thread.

    Attributes:
        lane: the lane it ran in.
        seconds: how long was waited.
    """

    def __init__(self, lane: str, seconds: float) -> None:
        super().__init__(lane, seconds)
        self.lane = lane
        self.seconds = seconds

    def __str__(self) -> str:
        return f"no answer from a blocking call in lane {self.lane!r} for {self.seconds:g} s"


class NoThread(BlockingTimeout):
    """A blocking call was not made: the system allows no thread now. To be treated as one that was too slow."""

    def __str__(self) -> str:
        return f"no thread can be started for lane {self.lane!r}: see `ulimit -u`, and pids.max of the cgroup"


StandIn = Callable[["Lane", Callable[[], None]], None]


class Lane(Executor):
    """A small pool of daemon threads; also usable as a `concurrent.futures.Executor` (aiofiles takes one).

    Args:
        name: appears in thread names and errors.
        threads: how many calls run at once.

    Attributes:
        stand_in: for simulations, in place of the threads of all lanes: it is given each call, which answers its own
            future, and makes it whenever it likes. None, but for `furu_async.testing`.
    """

    stand_in: ClassVar[StandIn | None] = None
    _all: ClassVar[weakref.WeakSet[Lane]] = weakref.WeakSet()

    def __init__(self, name: str, threads: int) -> None:
        Lane._all.add(self)
        self.name = name
        self.threads = threads
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._live = 0
        self._idle = 0
        self._stuck = 0
        self._pending = 0

    @property
    def pending(self) -> int:
        """Calls handed over and not yet answered; a virtual clock must stand still while there are any."""
        return self._pending

    @classmethod
    def under_way(cls) -> int:
        """`pending` of all lanes of this process together, also of those that are not of the `DOOR`."""
        return sum(lane._pending for lane in cls._all)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Hand a call over; its future is answered in the thread that ran it.

        Where no thread can be had at all, the answer is `NoThread`.
        """
        future: Future[T] = Future()
        if Lane.stand_in is not None:
            with self._lock:
                self._pending += 1
            Lane.stand_in(self, lambda: self._answer(future, lambda: fn(*args, **kwargs)))
            return future
        with self._lock:
            serving = self._live - self._stuck
            wanted = self._idle <= self._queue.qsize() and serving < self.threads
            if wanted and not self._start_one() and serving <= 0:
                future.set_exception(NoThread(self.name, 0.0))
                return future
            self._pending += 1
            self._queue.put((future, lambda: fn(*args, **kwargs)))
        return future

    def _start_one(self) -> bool:
        """One more thread; False if the system allows none."""
        name = f"furu-{self.name}-{self._live + 1}"
        try:
            threading.Thread(target=self._serve, name=name, daemon=True).start()  # noqa: TID251
        except RuntimeError:
            return False
        self._live += 1
        return True

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                future, call = self._queue.get(timeout=_IDLE_SECS)
            except queue.Empty:
                with self._lock:
                    self._idle -= 1
                    if not self._queue.empty():
                        continue
                    self._live -= 1
                    return
            with self._lock:
                self._idle -= 1
            self._answer(future, call)
            del future, call

    def _answer(self, future: Future[Any], call: Callable[[], Any]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        finally:
            with self._lock:
                self._pending -= 1

    def give_up_one(self) -> None:
        """One of the threads is taken for stuck: allow one more in its place."""
        with self._lock:
            self._stuck += 1

    def stuck_ended(self) -> None:
        """A thread that was taken for stuck has answered after all."""
        with self._lock:
            self._stuck -= 1

    async def run(self, fn: Callable[..., T], /, *args: Any, deadline: float | None = None) -> T:
        """Run ``fn(*args)`` in this lane and await its result.

        Cancelling the awaiter does not stop the call; its result is dropped.

        Args:
            deadline: seconds; None waits as long as it takes.

        Raises:
            BlockingTimeout: no answer within ``deadline``.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        call = self.submit(fn, *args)
        call.add_done_callback(lambda done: _hand_back(loop, answer, done))
        if deadline is None:
            return await answer
        try:
            await asyncio.wait([answer], timeout=deadline)
            if answer.done():
                return answer.result()
        finally:
            # An error that comes when nobody waits any more is not one that somebody forgot to look at.
            if not answer.cancel() and not answer.cancelled():
                answer.exception()
        if not call.cancel():
            self.give_up_one()
            call.add_done_callback(lambda _: self.stuck_ended())
        raise BlockingTimeout(self.name, deadline)


def _hand_back(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T], done: Future[T]) -> None:
    try:
        loop.call_soon_threadsafe(_settle, answer, done)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more


def _settle(answer: asyncio.Future[T], done: Future[T]) -> None:
    if answer.done() or done.cancelled():
        return
    error = done.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())


class Door:
    """The lanes of this process.

    Attributes:
        probe: reading markers, claims and ends while planning and watching.
        files: protocol steps and results.
        logs: journal and logs, streamed.
        user: users' ``_validate`` and ``_load``.
        process: starting and ending of processes.
    """

    def __init__(self) -> None:
        self.probe = Lane("probe", 4)
        self.files = Lane("files", 4)
        self.logs = Lane("logs", 2)
        self.user = Lane("user", 8)
        self.process = Lane("process", 4)

    @property
    def pending(self) -> int:
        """Calls under way in any lane."""
        return sum(lane.pending for lane in (self.probe, self.files, self.logs, self.user, self.process))


DOOR = Door()
