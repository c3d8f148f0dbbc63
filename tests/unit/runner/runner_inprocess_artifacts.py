"""Artifacts for the in-process modes."""

from __future__ import annotations

import asyncio
import logging
import threading

from furu_async import Furu, stop_requested

started = threading.Event()
ended: list[str] = []


class Sync(Furu[int]):
    """Runs in a thread."""

    n: int = 0

    def _create(self) -> int:
        logging.getLogger("mine").warning("sync %s", self.n)
        return self.n


class Async(Furu[str]):
    """Runs on the caller's loop, or on one of its own in a thread."""

    n: int = 0

    async def _create(self) -> str:
        await asyncio.sleep(0)
        logging.getLogger("mine").warning("async %s", self.n)
        return threading.current_thread().name


class Breaks(Furu[int]):
    """Raises what it is told to."""

    what: str
    sync: bool = False

    async def _create(self) -> int:
        await asyncio.sleep(0)
        logging.getLogger("mine").error("about to")
        raise {
            "SystemExit": SystemExit(2),
            "KeyboardInterrupt": KeyboardInterrupt(),
            "CancelledError": asyncio.CancelledError(),
            "GeneratorExit": GeneratorExit(),
            "ValueError": ValueError("no"),
        }[self.what]


class BreaksSync(Breaks):
    """The same, sync."""

    def _create(self) -> int:  # type: ignore[override]
        raise {"SystemExit": SystemExit(2), "KeyboardInterrupt": KeyboardInterrupt()}[self.what]


class Waits(Furu[int]):
    """Waits until cancelled."""

    async def _create(self) -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("async")
        return 1


class WaitsSync(Furu[int]):
    """Waits until it sees that it is to stop."""

    def _create(self) -> int:
        started.set()
        while not stop_requested():
            threading.Event().wait(0.005)
        ended.append("sync")
        return 1


class Asks(Furu[bool]):
    """Asks for its folder, and puts nothing into it."""

    def _create(self) -> bool:
        return self.furu_dir.is_dir()
