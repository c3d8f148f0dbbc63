"""The run itself in its keeper's hands: claimed while its controller lives, and ended, or left to whoever goes on."""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import Any

from furu_async._executors.base import RunPort
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runtime import clock
from furu_async._runtime.config import FuruConfig
from furu_async._store.layout import beat_path
from furu_async._store.liveness import this_owner
from furu_async._store.records import Claim, encode
from furu_async._store.runs import Unfinished
from furu_async.errors import FuruError, FuruStoreError

_ADOPT_SECS = 10.0
_CLOSE_SECS = 5.0


class RunHolder:
    """See the module; all methods belong to one event loop.

    Args:
        keeper: made, not started; it is started with the first run.

    Attributes:
        continued: ids of runs that an earlier controller had begun.
    """

    def __init__(self, config: FuruConfig, keeper: KeeperClient | None = None) -> None:
        self.worker_id: str = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.opened: dict[str, RunPort] = {}
        self.continued: set[str] = set()
        self._keeper = keeper or KeeperClient(config.heartbeat_secs)
        self._keeper.on_broken = self._on_broken
        self._starting: asyncio.Task[None] | None = None

    async def adopt(self, run: RunPort, found: Unfinished) -> bool:
        """Claim an unfinished run for ``run``; False if that cannot be had in time."""
        asking = asyncio.get_running_loop().create_task(
            self._open(run, found.run_id, found.generation), name="furu adopt run"
        )
        done, _ = await asyncio.wait([asking], timeout=_ADOPT_SECS)
        if done and asking.result()["r"] == "ok":
            self.opened[found.run_id] = run
            self.continued.add(found.run_id)
            return True
        asking.add_done_callback(lambda _: None)
        self._keeper.request(("close_run", run.root, found.run_id, "lost"), lambda _: None)
        return False

    async def open(self, run: RunPort) -> None:
        """Claim a new run, unless it is held already.

        Raises:
            FuruStoreError: the store does not let it.
        """
        if run.run_id in self.opened:
            return
        reply = await self._open(run, run.run_id, 0)
        if reply["r"] != "ok":
            text, path = reply.get("text", ""), reply.get("path") or run.root
            hint = "check that FURU_PATH names a folder you may write to, with free space"
            raise FuruStoreError(f"the store {run.root} cannot be written: {text} ({path})", hint, path, text)
        self.opened[run.run_id] = run

    async def close(self, run: RunPort) -> None:
        """End a run as it says that it has ended, and forget it; bounded in time."""
        if self.opened.pop(run.run_id, None) is None:
            return
        op = ("close_run", run.root, run.run_id, *run.ending(), clock.wall(), run.keep)
        asking = asyncio.get_running_loop().create_task(self._keeper.ask(op), name="furu close run")
        await asyncio.wait([asking], timeout=_CLOSE_SECS)

    async def aclose(self) -> None:
        """End the keeper."""
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
            await self._keeper.aclose()

    async def _open(self, run: RunPort, run_id: str, after: int) -> Any:
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start(), name="furu keeper start")
        claim = Claim(
            backend="dag",
            phase="running",
            run_id=run_id,
            token=run.token,
            owner=this_owner(),
            beat=beat_path(run_id, self.worker_id),
        )
        return await self._keeper.ask(
            ("open", run.root, run_id, self.worker_id, encode(claim), run.key, after)
        )

    async def _start(self) -> None:
        try:
            await self._keeper.start()
        except Exception as error:
            self._keeper.fail(str(error))

    def _on_broken(self, error: FuruError) -> None:
        for run in list(self.opened.values()):
            run.fail(error)
