"""Running a coroutine from synchronous code: the only place, with the command line, that touches signal handlers.

First SIGINT, SIGTERM or SIGHUP: cancel, within the bound. Second: at once. The handlers that were there are put back.
A signal that comes again at once is one: the terminal sent it to all, and a wrapper (``uv run``) passes it on.
SIGHUP, the end of a terminal, often comes twice, and is left alone where it is ignored (``nohup``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

from furu_async._runtime import clock
from furu_async.errors import FuruError

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_SECS = 0.25


class _Interrupts:
    """Turns the first signal into a cancellation and the second into an immediate end."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: asyncio.Task[Any] | None = None
        self._first_at = 0.0
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # signals are the main thread's
        for number in _SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._on_signal)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in self.seen and (
            number == signal.SIGHUP or clock.monotonic() - self._first_at < _ONE_SECS
        ):
            return
        if not self.seen:
            self._first_at = clock.monotonic()
        self.seen.append(number)
        if len(self.seen) >= 2:
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, b"\ninterrupted twice: ending now\n")
            # Children and keeper notice our end by themselves: their pipe closes.
            os._exit(128 + number)
        if self.loop is not None and self.task is not None:
            self.loop.call_soon_threadsafe(self.task.cancel)


def run_sync(make: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine to its end on a loop of its own.

    Raises:
        KeyboardInterrupt: SIGINT arrived; what ran was cancelled first.
        SystemExit: SIGTERM or SIGHUP arrived, with code 143 or 129.
        FuruError: called inside a running event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise FuruError(
            "a synchronous call was made inside a running event loop", "use the async form with await"
        )
    interrupts = _Interrupts()

    async def main() -> T:
        interrupts.loop = asyncio.get_running_loop()
        interrupts.task = asyncio.current_task()
        if interrupts.seen:
            raise asyncio.CancelledError
        return await make()

    interrupts.install()
    try:
        return _run_loop(main())
    except asyncio.CancelledError:
        if signal.SIGINT in interrupts.seen:
            raise KeyboardInterrupt from None
        if interrupts.seen:
            raise SystemExit(128 + interrupts.seen[0]) from None
        raise
    finally:
        interrupts.restore()


def _run_loop(main: Coroutine[Any, Any, T]) -> T:
    runner = asyncio.Runner()
    try:
        loop = runner.get_loop()
        task = loop.create_task(main, name="furu main")
        return loop.run_until_complete(task)
    finally:
        runner.close()
