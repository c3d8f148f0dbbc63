"""A keeper in this process that beats on virtual time; after a simulated SIGKILL nothing it is asked has an effect."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from furu_async._runner.keeper_client import Op
from furu_async._store.beat import Beat
from furu_async._store.keeper import Keeper
from furu_async._testing.keeper import InProcessKeeper, _NoSweeper


class _Steps(Keeper):
    """Its beats are written by whoever has it."""

    def __init__(self, heartbeat: float) -> None:
        super().__init__(heartbeat)
        self._sweeper = _NoSweeper()
        self.beats: list[Beat] = []

    def _start_beat(self, beat: Beat) -> None:
        self.beats.append(beat)


class MortalKeeper(InProcessKeeper):
    """A keeper that beats on the loop's time and can be killed."""

    def __init__(self, heartbeat: float) -> None:
        super().__init__()
        self._steps = self.steps = _Steps(heartbeat)  # type: ignore[assignment]
        self.alive = True
        self.beating = True
        self._every = heartbeat
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        await super().start()
        self._beat()

    def _beat(self) -> None:
        if not self.alive:
            return
        if self.beating:
            for beat in self.steps.beats:
                if not beat._stopped.is_set():
                    with contextlib.suppress(OSError):
                        beat.once()
        self._timer = self._here.call_later(self._every, self._beat)

    def request(self, op: Op, reply: Callable[[Any], None]) -> None:
        if self.alive:
            super().request(op, lambda answer: reply(answer) if self.alive else None)

    def die(self) -> None:
        self.alive = False
        if self._timer is not None:
            self._timer.cancel()

    async def aclose(self, seconds: float = 5.0) -> None:
        if self.alive:
            await super().aclose(seconds)
            self.die()
