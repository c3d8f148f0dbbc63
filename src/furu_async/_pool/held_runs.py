"""The runs of a pool, held at the controller's keeper: claimed and ended there, with a beat that workers watch.

No artifact is claimed here: that is what workers do, each in its own name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from furu_async._executors.base import RunPort
from furu_async._executors.identity import Identity
from furu_async._executors.local import not_opened
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runtime import clock
from furu_async._store.runs import Unfinished
from furu_async.errors import FuruError
from furu_async.report import Failure

_ADOPT_SECS = 10.0

Then = Callable[[Failure | None], None]


class HeldRuns:
    """See the module; all methods belong to one event loop.

    Attributes:
        opened: runs that are claimed, by id.
    """

    def __init__(self, keeper: KeeperClient, identity: Identity) -> None:
        self.keeper: KeeperClient = keeper
        self.keeper.on_broken = self._on_broken
        self.identity: Identity = identity
        self.opened: dict[str, RunPort] = {}
        self._waiting: dict[str, list[Then]] = {}
        self._loop = asyncio.get_running_loop()
        self._up: asyncio.Task[None] | None = None

    def open(self, run: RunPort, then: Then) -> None:
        """Have a run claimed, once; ``then`` is told when it is, or why not (None: the run has been ended for it)."""
        if run.run_id in self.opened:
            then(None)
            return
        waiting = self._waiting.get(run.run_id)
        if waiting is not None:
            waiting.append(then)
            return
        self._waiting[run.run_id] = [then]
        self._ask(run, run.run_id, 0, lambda reply: self._on_open(run, reply))

    def is_open(self, run: RunPort) -> bool:
        """Whether it is claimed here."""
        return run.run_id in self.opened

    async def adopt(self, run: RunPort, found: Unfinished) -> bool:
        """Claim a dead controller's run; a claim that comes too late is given back."""
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        close = ("close_run", run.root, found.run_id, "lost")
        self._ask(run, found.run_id, found.generation, answer.set_result)
        done: set[Any] = set()
        try:
            done, _ = await asyncio.wait([answer], timeout=_ADOPT_SECS)
        finally:
            if not done:
                answer.add_done_callback(lambda _: self.keeper.request(close, lambda _: None))
        if not done:
            return False
        if answer.result()["r"] != "ok":
            self.keeper.request(close, lambda _: None)
            return False
        self.opened[found.run_id] = run
        return True

    def close(self, run: RunPort) -> None:
        """Write how a run has ended."""
        if self.opened.pop(run.run_id, None) is not None:
            op = ("close_run", run.root, run.run_id, *run.ending(), clock.wall(), run.keep)
            self.keeper.request(op, lambda _: None)

    async def aclose(self) -> None:
        """End the keeper."""
        if self._up is not None:
            await asyncio.gather(self._up, return_exceptions=True)
            await self.keeper.aclose()

    def _ask(self, run: RunPort, run_id: str, after: int, reply: Callable[[dict[str, Any]], None]) -> None:
        if self._up is None:
            self._up = self._loop.create_task(self._start(), name="furu keeper start")
        self.keeper.request(self.identity.opening(run.root, run_id, run.token, run.key, after), reply)

    async def _start(self) -> None:
        try:
            await self.keeper.start()
        except Exception as error:
            self.keeper.fail(str(error))

    def _on_open(self, run: RunPort, reply: dict[str, Any]) -> None:
        failure: Failure | None = None
        if reply["r"] == "ok":
            self.opened[run.run_id] = run
            run.opened()
        else:
            failure = not_opened(run, reply)
        for then in self._waiting.pop(run.run_id, ()):
            then(failure)

    def _on_broken(self, error: FuruError) -> None:
        for run in list(self.opened.values()):
            run.fail(error)
