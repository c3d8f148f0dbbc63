"""Artifacts for runs on real workers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from furu_async import Furu, Retry, SlurmSpec, field

FAST = Retry(retries=2, backoff=0.02)


class Item(Furu[int]):
    number: int
    inputs: tuple[Furu[int], ...] = ()

    def _create(self) -> int:
        return self.number + sum(each.get() for each in self.inputs)


class Other(Item):
    """On another spec."""

    def _spec(self) -> SlurmSpec:
        return SlurmSpec(cpus=2, mem_gb=1, time_min=30)


class Fails(Furu[int]):
    calls: str
    _retry = FAST

    def _create(self) -> int:
        with open(self.calls, "a") as file:
            file.write("x")
        raise ValueError("cannot do it")


class Flaky(Furu[int]):
    """Fails twice, then works."""

    calls: str
    _retry = FAST

    def _create(self) -> int:
        with open(self.calls, "a") as file:
            file.write("x")
        if os.path.getsize(self.calls) < 3:
            raise ValueError("not yet")
        return 1


class KillsItsWorker(Furu[int]):
    """Kills the worker that runs it: the first ``times`` times."""

    calls: str
    times: int = 1

    def _create(self) -> int:
        with open(self.calls, "a") as file:
            file.write("x")
        if os.path.getsize(self.calls) <= self.times:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        return 1


class Sleeps(Furu[int]):
    """Says that it has begun, and takes its time unless a file says that it may end."""

    calls: str
    number: int = 0
    secs: float = field(default=60.0, identity=False)

    def _create(self) -> int:
        with open(self.calls, "a") as file:
            file.write("x")
        until = time.monotonic() + self.secs
        while time.monotonic() < until and not Path(self.calls + ".go").exists():
            time.sleep(0.02)
        return self.number
