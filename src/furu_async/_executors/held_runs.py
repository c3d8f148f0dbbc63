"""The runs of one executor, held at its keeper: claimed while they run, and ended there or left to whoever goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from furu_async._executors.base import RunPort
from furu_async._executors.identity import Identity
from furu_async._executors.publishing import NEEDS_A_PERSON, what_to_do
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runtime import clock
from furu_async._store.runs import Unfinished
from furu_async.errors import FuruError, FuruStoreError
from furu_async.report import Failure

_ADOPT_SECS = 10.0
"""How long the claim of an unfinished run is waited for; then it is a new run."""

_CLOSE_SECS = 5.0
"""How long the keeper's word that a run's end is written is waited for."""

_PAUSE_SECS, _PAUSE_MOST_SECS = 0.5, 10.0

Then = Callable[[Failure | None], None]


class HeldRuns:
    """See the module; all methods belong to one event loop.

    Args:
        keeper: made, not started: it is started with the first run.
        identity: in whose name the runs are opened.
        prepare: awaited before the keeper is started.
        on_open: called when a new run is open, before all that wait for it; by default its `RunPort.opened`.

    Attributes:
        opened: runs that are open here, by id.
        continued: ids of those that an earlier controller had begun.
    """

    def __init__(
        self,
        keeper: KeeperClient,
        identity: Identity,
        prepare: Callable[[], Awaitable[None]] | None = None,
        on_open: Callable[[RunPort], None] | None = None,
    ) -> None:
        self.keeper: KeeperClient = keeper
        self.keeper.on_broken = self._on_broken
        self.identity: Identity = identity
        self.opened: dict[str, RunPort] = {}
        self.continued: set[str] = set()
        self._prepare = prepare
        self._opened = on_open
        self._waiting: dict[str, list[Then]] = {}
        self._loop = asyncio.get_running_loop()
        self._up: asyncio.Task[None] | None = None

    def open(self, run: RunPort, then: Then) -> None:
        """Have a run opened, once; ``then`` is told when it is, or why not (None: the run has been ended for it).

        Whether it is open is to be asked with `is_open` then.
        """
        if run.run_id in self.opened:
            then(None)
            return
        waiting = self._waiting.get(run.run_id)
        if waiting is not None:
            waiting.append(then)
            return
        self._waiting[run.run_id] = [then]
        self._ask(run, run.run_id, 0, lambda reply: self._on_open(run, reply))

    async def have_open(self, run: RunPort, patience: float) -> bool:
        """Have a run opened, and wait for it.

        Args:
            patience: how long trouble of the store is waited out, in seconds.

        Returns:
            False: it cannot be had, and has been ended for that.
        """
        until, pause = self._loop.time() + patience, _PAUSE_SECS
        while True:
            failure = await self._answer(run)
            if failure is None:
                return run.run_id in self.opened
            if self._loop.time() + pause > until:
                run.fail(FuruStoreError(failure.message, "try again once the file system answers", run.root))
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_MOST_SECS)

    async def _answer(self, run: RunPort) -> Failure | None:
        answer: asyncio.Future[Failure | None] = self._loop.create_future()

        def then(failure: Failure | None) -> None:
            if not answer.done():
                answer.set_result(failure)

        self.open(run, then)
        return await answer

    def is_open(self, run: RunPort) -> bool:
        """Whether it is open here."""
        return run.run_id in self.opened

    def is_known(self, run: RunPort) -> bool:
        """Whether it is open here or is being opened."""
        return run.run_id in self.opened or run.run_id in self._waiting

    async def adopt(self, run: RunPort, found: Unfinished) -> bool:
        """Claim a dead controller's run; a claim that comes too late is given back, for others to go on with."""
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
            self.keeper.request(
                close, lambda _: None
            )  # else a keeper that is started again would ask once more
            return False
        self.opened[found.run_id] = run
        self.continued.add(found.run_id)
        return True

    def close(self, run: RunPort) -> asyncio.Future[None]:
        """Write how a run has ended, and forget it.

        Returns:
            Is done when that is written, or when the keeper has not answered for some seconds.
        """
        written: asyncio.Future[None] = self._loop.create_future()
        if self.opened.pop(run.run_id, None) is None:
            written.set_result(None)
            return written

        def done(_: object = None) -> None:
            if not written.done():
                written.set_result(None)

        self._loop.call_later(_CLOSE_SECS, done)
        op = ("close_run", run.root, run.run_id, *run.ending(), clock.wall(), run.keep)
        self.keeper.request(op, done)
        return written

    async def aclose(self) -> None:
        """End the keeper."""
        if self._up is not None:
            await asyncio.gather(self._up, return_exceptions=True)
            await self.keeper.aclose()

    # -- inside ----------------------------------------------------------------------------------------------

    def _ask(self, run: RunPort, run_id: str, after: int, reply: Callable[[dict[str, Any]], None]) -> None:
        if self._up is None:
            self._up = self._loop.create_task(self._start(), name="furu keeper start")
        self.keeper.request(self.identity.opening(run.root, run_id, run.token, run.key, after), reply)

    async def _start(self) -> None:
        try:
            if self._prepare is not None:
                await self._prepare()
            await self.keeper.start()
        except FuruError as error:
            self.keeper.fail(error.message, error.hint)
        except Exception as error:
            self.keeper.fail(str(error))

    def _on_open(self, run: RunPort, reply: dict[str, Any]) -> None:
        failure: Failure | None = None
        if reply["r"] == "ok":
            self.opened[run.run_id] = run
            if self._opened is None:
                run.opened()
            else:
                self._opened(run)
        elif self.keeper.broken is not None:  # it is not the store that is in trouble
            run.fail(self.keeper.broken)
        else:
            failure = _not_opened(run, reply)
        for then in self._waiting.pop(run.run_id, ()):
            then(failure)

    def _on_broken(self, error: FuruError) -> None:
        for run in list(self.opened.values()):
            run.fail(error)


def _not_opened(run: RunPort, reply: dict[str, Any]) -> Failure | None:
    """The store does not let a run be opened: the failure that is waited out, or None where that ends the run."""
    number, path, text = reply.get("errno", 0), reply.get("path") or run.root, reply.get("text", "")
    words = f"the store {run.root} cannot be written: {text} ({path})"
    if number and number not in NEEDS_A_PERSON:
        return Failure(kind="infrastructure", error_type="OSError", message=words)
    run.fail(FuruStoreError(words, what_to_do(number), path, text))
    return None
