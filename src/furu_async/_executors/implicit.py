"""The implicit scheduler behind `aget` where none surrounds it: one per event loop, shared by concurrent calls.

It is opened by the first call, and closed a little after the last, or with the loop.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from typing import Any

from furu_async._executors.scheduler import ExecutorLike, Scheduler, current_scheduler
from furu_async._model.artifact import Furu
from furu_async._runtime.config import active_config
from furu_async.errors import FuruComputeError, FuruRunFailed

LINGER_SECS = 2.0


class _Implicit:
    """The scheduler of one loop and who uses it."""

    def __init__(self) -> None:
        self.scheduler: Scheduler | None = None
        self.users = 0
        self.lock = asyncio.Lock()
        self.closer: asyncio.TimerHandle | None = None
        self.closing: asyncio.Task[None] | None = None

    async def enter(self) -> Scheduler:
        self.users += 1
        if self.closer is not None:
            self.closer.cancel()
            self.closer = None
        async with self.lock:
            if self.scheduler is None or not self.scheduler.is_open_here():
                scheduler = Scheduler()
                await scheduler.open()
                self.scheduler = scheduler
            return self.scheduler

    def leave(self) -> None:
        self.users -= 1
        if self.users == 0:
            loop = asyncio.get_running_loop()
            self.closer = loop.call_later(LINGER_SECS, self._close_later)

    def _close_later(self) -> None:
        self.closer = None
        if self.users == 0:
            self.closing = asyncio.get_running_loop().create_task(self.close(), name="furu implicit end")

    async def close(self) -> None:
        async with self.lock:
            scheduler, self.scheduler = self.scheduler, None
            if scheduler is not None:
                await scheduler.aclose()


_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Implicit] = weakref.WeakKeyDictionary()


async def compute(objs: Sequence[Furu[Any]], executor: ExecutorLike | None) -> None:
    """Have ``objs`` computed: by the given executor, the surrounding scheduler, or the loop's implicit `Local`.

    Raises:
        FuruComputeError: one could not be computed; the cause is the run's error.
    """
    if executor is not None:
        async with Scheduler(executor) as own:
            await _run(own, objs)
        return
    surrounding = current_scheduler()
    if surrounding is not None:
        await _run(surrounding, objs)
        return
    loop = asyncio.get_running_loop()
    implicit = _by_loop.get(loop)
    if implicit is None:
        implicit = _by_loop[loop] = _Implicit()
    scheduler = await implicit.enter()
    try:
        await _run(scheduler, objs)
    finally:
        implicit.leave()


async def _run(scheduler: Scheduler, objs: Sequence[Furu[Any]]) -> None:
    run = scheduler.start(objs, config=active_config(), distrust=objs, keep=False)
    try:
        await run
    except FuruRunFailed as error:
        failures = error.failures
        failure = failures[0].failure if failures else None
        raise FuruComputeError(
            f"{', '.join(repr(obj) for obj in objs[:3])} could not be computed\n{error}", "", failure
        ) from error
    except asyncio.CancelledError:
        run.cancel()
        await run.ended()  # what it had running is stopped before the caller goes on
        raise


async def close_implicit() -> None:
    """End the implicit scheduler of this loop now."""
    implicit = _by_loop.pop(asyncio.get_running_loop(), None)
    if implicit is not None:
        if implicit.closer is not None:
            implicit.closer.cancel()
        await implicit.close()
