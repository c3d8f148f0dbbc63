"""The keeper inside this process: real steps on a real store, without a process, beats or sweeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec

from furu_async._runner.keeper_client import KeeperClient, Op
from furu_async._runtime.blocking import DOOR
from furu_async._store.beat import Beat
from furu_async._store.keeper import Keeper
from furu_async._store.layout import ArtifactPaths
from furu_async._store.records import Claim, decode, encode
from furu_async._store.sweep import Sweeper
from furu_async.errors import FuruExecutorError


class _NoSweeper(Sweeper):
    def add(self, paths: ArtifactPaths, n: int) -> None:
        """Remove nothing: it is a temporary store."""


def _without_beat(claim_json: bytes) -> bytes:
    return encode(msgspec.structs.replace(decode(Claim, claim_json, "claim"), beat=""))


class _Steps(Keeper):
    """A keeper whose claims name no beat: its owner lives as long as this process, whatever virtual time says."""

    def __init__(self) -> None:
        super().__init__(heartbeat=1.0)
        self._sweeper = _NoSweeper()

    def _open(
        self, root: str, run_id: str, wid: str, claim_json: bytes, key: str = "", after: int = 0
    ) -> dict[str, Any]:
        return super()._open(root, run_id, wid, _without_beat(claim_json), key, after)

    def _join(self, root: str, run_id: str, wid: str, claim_json: bytes) -> dict[str, Any]:
        return super()._join(root, run_id, wid, _without_beat(claim_json))

    def _start_beat(self, beat: Beat) -> None:
        """A beat of virtual time would be a timer without end, and of real time a thread."""


class InProcessKeeper(KeeperClient):
    """Takes the same operations as the real client, in order, one batch at a time, in a lane."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self._here = asyncio.get_running_loop()
        self._steps = _Steps()
        self._asked: list[tuple[Op, Callable[[Any], None]]] = []
        self._up = False
        self._at_work = False

    @property
    def waiting(self) -> int:
        """Operations asked and not yet answered."""
        return len(self._asked)

    async def start(self) -> None:
        """Begin to work on what was asked."""
        self._up = True
        self._begin()

    def request(self, op: Op, reply: Callable[[Any], None]) -> None:
        """Ask for one operation; ``reply`` is called on the loop with its result."""
        self._asked.append((op, reply))
        self._here.call_soon(self._begin)

    def forget(self, op: Op) -> None:
        """It is not started again."""

    def fail(self, why: str, hint: str = "") -> None:
        """It cannot go on: every operation that waits ends in an error."""
        self.broken = FuruExecutorError(why, hint)
        asked, self._asked = self._asked, []
        for _, reply in asked:
            reply({"r": "error", "text": why, "errno": 0, "path": ""})

    async def aclose(self, seconds: float = 5.0) -> None:
        """Carry out what is still asked, then end what is open."""
        await self.ask(("close",))

    def _begin(self) -> None:
        if self._at_work or not self._up or not self._asked:
            return
        self._at_work = True
        asked, self._asked = self._asked, []
        call = DOOR.files.submit(self._carry_out, [op for op, _ in asked])
        replies = [reply for _, reply in asked]
        call.add_done_callback(
            lambda done: self._here.call_soon_threadsafe(self._answer, replies, done),
        )

    def _carry_out(self, ops: list[Op]) -> list[Any]:
        return [self._steps.handle(list(op)) for op in ops]

    def _answer(self, replies: list[Callable[[Any], None]], done: Future[list[Any]]) -> None:
        self._at_work = False
        for reply, result in zip(replies, done.result(), strict=True):
            reply(result)
        self._begin()
