"""One run of a `SlurmDag`: joins what the core asks for, node by node, to the jobs that were submitted ahead."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, fields
from typing import Any

import furu_async
from furu_async._dag import orders
from furu_async._dag.dag import ARRAY_MOST
from furu_async._dag.ending import Closing, may_have_strays
from furu_async._dag.following import Following
from furu_async._dag.foreign import resolve
from furu_async._dag.leftovers import cancel_unwanted
from furu_async._dag.orders import JobSettings
from furu_async._dag.submitting import Submitting, log_dir
from furu_async._dag.tracks import Shared, Sub, Track
from furu_async._dag.units import Bounds, Command, Item, ItemPhase
from furu_async._dag.wiring import Wiring
from furu_async._executors.ahead import ToDo
from furu_async._executors.base import Request, RunPort
from furu_async._model.artifact import specs_of
from furu_async._plan.events import Policy
from furu_async._runner.launch import search_path
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import FuruConfig
from furu_async._slurm.tracking import reason_to_wait
from furu_async._store import atomic
from furu_async._store.layout import RunPaths
from furu_async._store.records import encode
from furu_async.errors import FuruError, FuruExecutorError, FuruInternalError

_STORE_SECS = 60.0
_PART = 100


class DagRun:
    """See the module; and `tracks.Core` for the attributes."""

    def __init__(self, shared: Shared, run: RunPort) -> None:
        self.shared = shared
        self.run = run
        self.paths = RunPaths(run.root, run.run_id)
        self.policy = Policy()
        self.wiring = Wiring()
        self.tracks: dict[str, Track] = {}
        self.subs: dict[int, Sub] = {}
        self.stopping = False
        self.submitted = asyncio.Event()
        self._planned = False
        self._following = Following(self)
        self._submitting = Submitting(self, self._following)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ready = False
        self._early: dict[str, Request] = {}
        self._unwanted: list[str] = []
        self._forgetting: asyncio.Task[None] | None = None

    # -- what the executor is asked --------------------------------------------------------------------------

    def planned(self, policy: Policy, todo: Sequence[ToDo]) -> None:
        """Everything that is to be computed, parents before children."""
        self.policy = policy
        self._planned = True
        for one in todo:
            self.tracks[one.node.hash] = Track(one.node, spec=one.spec, used=dict(one.node.spent))
        if todo:
            self.spawn(self._begin(list(todo)), "furu dag")
        else:
            self.submitted.set()

    def start(self, request: Request) -> None:
        """The core wants a node now."""
        if not self._ready:
            self._early[request.node.hash] = request
            return
        digest = request.node.hash
        track = self.tracks.get(digest)
        if track is None:
            track = self.tracks[digest] = Track(request.node, used=dict(request.node.spent))
        track.node, track.request = request.node, request
        item = self.wiring.items.get(digest)
        if track.over:
            self._following.answer_success(track)
        elif track.foreign:
            self._following.answer_foreign(track)
        elif track.failure is not None:
            failure, track.failure = track.failure, None
            self._following.lost(track, failure)
        elif item is not None and item.phase in ("todo", "unit") and item.spec == request.spec:
            self.wake()
        else:
            track.spec = request.spec
            self.do(self.wiring.again(digest, request.spec, self._key(track, request.spec)))

    def why(self, node: str) -> str:
        """Why a node does not run, as far as its job is the reason."""
        track = self.tracks.get(node)
        if track is None or track.request is None or not track.job_id or track.runs:
            return ""
        return f"job {track.job_id}: {reason_to_wait(track.alive)}"

    def take_back(self, node: str) -> None:
        """Return a node whose job does not run yet."""
        track = self.tracks.get(node)
        if track is None or not track.runs:
            self.kill(node)

    def kill(self, node: str) -> None:
        """Cancel a node's job, and say what became of it."""
        early = self._early.pop(node, None)
        track = self.tracks.get(node)
        if track is not None and early is not None:
            track.request = early
        if track is None or track.request is None or track.stopping:
            return
        track.stopping = True
        item = self.wiring.items.get(node)
        if item is None or item.unit is None or not track.uid:
            self._following.take_back(track)
            if item is not None:
                self.do(self.wiring.forget(node))
            return
        self.do(self.wiring.forget(node))

    def forget(self, node: str) -> None:
        """It will not be started any more."""
        track = self.tracks.get(node)
        if track is None or track.over:
            return
        self._early.pop(node, None)
        self._unwanted.append(node)
        # Of a run that is stopped these are all its nodes, one after the other.
        if self._ready and (self._forgetting is None or self._forgetting.done()):
            self._forgetting = self.spawn(self._forget_all(), "furu dag forget")

    async def _forget_all(self) -> None:
        while self._unwanted:
            some, self._unwanted = self._unwanted[:_PART], self._unwanted[_PART:]
            for node in some:
                if node in self.wiring.items:
                    self.do(self.wiring.forget(node))
            await asyncio.sleep(0)

    # -- what the parts ask ----------------------------------------------------------------------------------

    def do(self, commands: list[Command]) -> None:
        """Carry commands out, in the background."""
        for command in commands:
            self._submitting.carry_out(command)
        if self._ready and self.wiring.settled:
            self.submitted.set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something in the background; what it raises ends the run."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if not isinstance(error, FuruError):
            wrapped = FuruInternalError(f"{task.get_name()}: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            error = wrapped
        self.run.fail(error)

    def wake(self) -> None:
        """Look at the store soon."""
        self._following.wake()

    async def patiently(self, fn: Callable[..., Any], *args: Any) -> Any:
        """A step on the store, tried again while that gives trouble.

        Raises:
            FuruExecutorError: it did so for ``FURU_INFRA_SECS``.
        """
        loop = asyncio.get_running_loop()
        since, pause = loop.time(), 0.5
        while True:
            try:
                return await DOOR.files.run(fn, *args, deadline=_STORE_SECS)
            except (OSError, TimeoutError) as error:
                if loop.time() - since > self.shared.config.infra_secs:
                    raise FuruExecutorError(f"the store {self.run.root} gives trouble: {error}") from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 10.0)

    # -- beginning and end -----------------------------------------------------------------------------------

    async def _begin(self, todo: list[ToDo]) -> None:
        dag = self.shared.dag
        if not await self.shared.held.have_open(self.run, self.shared.config.infra_secs):
            return
        limits = await self.shared.port.limits()
        jobs = min(dag.max_jobs or limits.max_job_count, limits.max_job_count)
        array = min(limits.max_array_size - 1, ARRAY_MOST) if dag.arrays else 1
        self.wiring.bounds = Bounds(jobs=max(1, jobs), array=max(1, array))
        await self.patiently(self._write_settings)
        items = []
        for number, one in enumerate(todo):
            track = self.tracks[one.node.hash]
            phase: ItemPhase = "foreign" if one.elsewhere else "todo"
            items.append(Item(one.node.hash, one.parents, one.spec, self._key(track, one.spec), phase))
            if number % _PART == _PART - 1:
                self.wiring.plan(items, more=True)
                items = []
                await asyncio.sleep(0)
        self.spawn(self._following.run(), "furu dag follower")
        if self._is_continued:
            self.spawn(cancel_unwanted(self), "furu dag leftovers")
        self._ready = True
        for one in todo:
            if one.elsewhere:
                self.spawn(resolve(self, self.tracks[one.node.hash]), "furu dag dependency elsewhere")
        self.do(self.wiring.plan(items))
        early, self._early = self._early, {}
        for request in early.values():
            self.start(request)
        await self._forget_all()

    def _key(self, track: Track, spec: int) -> str:
        specs = specs_of(track.node.obj)
        return specs[min(spec, len(specs) - 1)].key

    def _write_settings(self) -> None:
        config = self.shared.config
        plain = {item.name: getattr(config, item.name) for item in fields(FuruConfig)}
        plain["path"] = self.run.root
        record = JobSettings(
            config=plain,
            path=search_path(),
            cwd=os.getcwd(),
            argv=[str(word) for word in sys.argv],
            library=furu_async.__version__,
            policy=asdict(self.policy),
        )
        atomic.make_folders(log_dir(self.paths))
        atomic.replace(orders.settings_path(self.paths), encode(record))

    async def close(self, detached: bool) -> None:
        """The run is over: nothing of it is left in Slurm, unless it was detached. Bounded in time: see `ending`."""
        self.stopping = True
        closing = Closing(self, self._submitting.cancelling, self._is_continued)
        if not detached:
            await closing.cancel_all()
            if self._is_continued and self.run.ending()[0] in ("cancelled", "error"):
                await closing.cancel_rest()
        self._following.close()
        strays = any(may_have_strays(sub) for sub in self.subs.values())
        await closing.settle(not detached and (strays or self._is_continued))
        if not detached:
            await closing.see_off()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sub in self.subs.values():
            for watch in sub.watches.values():
                watch.close()
        if not detached:
            closing.tell()

    @property
    def _is_continued(self) -> bool:
        return self.run.run_id in self.shared.held.continued
