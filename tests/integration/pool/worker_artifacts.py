"""What the workers of these tests run; imported by processes that are told where to find it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from furu_async import Furu, SlurmSpec, stop_requested

SPEC = SlurmSpec(partition="p")


class Base(Furu[int]):
    """Marks that it has begun, and with which process."""

    n: int = 0
    marks: str = ""

    def _spec(self) -> SlurmSpec:
        return SPEC

    def mark(self, what: str) -> None:
        Path(self.marks, f"{self.n}.{what}").write_text(str(os.getpid()))

    def _create(self) -> int:
        self.mark("began")
        return self.n


class Quick(Base):
    """Runs for no time."""

    def _create(self) -> int:
        return self.n


class Needs(Base):
    """Loads another one."""

    below: Quick = Quick()

    async def _create(self) -> int:
        return await self.below.aget() + 1


class Sleeps(Base):
    """Runs for ever, unless it is asked to stop."""

    def _create(self) -> int:
        self.mark("began")
        while not stop_requested():
            time.sleep(0.01)
        raise KeyboardInterrupt


class Stubborn(Base):
    """Runs for ever, and hears no signal."""

    async def _create(self) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.mark("began")
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.mark("asked")


class Inline(Base):
    """Would run in the caller's own process under `Local`."""

    _mode = "inline"

    def _create(self) -> int:
        self.mark("began")
        return self.n


class Kills(Base):
    """Kills the worker that runs it: its parent."""

    def _create(self) -> int:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(3600)
        return 0


class Reads(Base):
    """Says what it sees of the settings and of secrets."""

    def _create(self) -> int:
        text = f"{os.environ.get('FURU_LEASE_SECS')} {os.environ.get('FURU_PATH')} {os.getcwd()}"
        Path(self.marks, f"{self.n}.saw").write_text(text)
        return self.n
