"""Asks ``_validate`` of published nodes for executors that have no children of their own, as those for Slurm."""

from __future__ import annotations

import asyncio
import os

from furu_async._executors import overrides
from furu_async._executors.base import Node, RunPort
from furu_async._executors.dispatch import Dispatcher
from furu_async._executors.held_runs import HeldRuns
from furu_async._executors.jobs import Steps
from furu_async._executors.resources import Budget, default_workers
from furu_async._executors.validity import validate_stored
from furu_async._runner.validity import Validation
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import FuruConfig
from furu_async._store.layout import RunPaths
from furu_async._store.runs import remove_spool

_MOST_CHILDREN = 4
_IDLE_SECS = 10.0
_GRACE_SECS = 1.0
_REMOVE_SECS = 5.0


class Asker:
    """User code is asked in child processes, which may hang or die without harm to the controller.

    They are started when there is something to ask, and end when there has been nothing for some seconds.

    Args:
        held: the runs of the executor: at its keeper, in its name.
    """

    def __init__(self, held: HeldRuns, config: FuruConfig) -> None:
        self._held = held
        self._config = config
        self._children: Dispatcher | None = None
        self._spool = ""
        self._asked = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def validate(self, run: RunPort, node: Node, files: bool) -> Validation:
        """The verdict on a published node; in a thread where no user code is asked."""
        if not node.info.has_validate or run.context.run(overrides.active):
            return await validate_stored(node.obj, run.config, files, files)
        children = self._hire(run)
        self._asked += 1
        if self._timer is not None:
            self._timer.cancel()
        try:
            return await children.checks.ask(run, node, files)
        finally:
            self._asked -= 1
            if not self._asked and self._children is children:
                self._timer = self._loop.call_later(_IDLE_SECS, self._dismiss)

    async def aclose(self) -> None:
        """End the children."""
        self._dismiss()
        while closing := set(self._closing):
            await asyncio.gather(*closing, return_exceptions=True)
            self._closing -= closing

    def _hire(self, run: RunPort) -> Dispatcher:
        if self._children is None:
            worker = RunPaths(run.root, run.run_id).worker(self._held.identity.worker_id)
            spool = self._spool = os.path.join(worker.base, "spool")
            self._children = Dispatcher(
                Steps(self._held.keeper, lambda _: None, lambda *_: None),
                Budget(None, None, None),
                min(_MOST_CHILDREN, default_workers()),
                lambda: spool,
                self._config.log_level,
                _GRACE_SECS,
            )
        return self._children

    def _dismiss(self) -> None:
        children, self._children = self._children, None
        if self._timer is not None:
            self._timer.cancel()
        if children is not None:
            work = self._loop.create_task(_close(children, self._spool), name="furu validation ends")
            self._closing.add(work)
            work.add_done_callback(self._closing.discard)


async def _close(children: Dispatcher, spool: str) -> None:
    await children.aclose()
    try:
        await DOOR.files.run(remove_spool, spool, deadline=_REMOVE_SECS)
    except OSError:  # a deadline that has passed, too: a folder is left
        pass
