"""`Local`: the default executor, persistent child processes on this machine.

`Local` is a frozen description; `LocalExecutor` is what it becomes when a scheduler opens it: one keeper, one
dispatcher, and the table of jobs by which several runs share what they both want.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from furu_async._executors import overrides
from furu_async._executors.base import Executor, ExecutorLike, Node, Request, RunPort
from furu_async._executors.dispatch import Dispatcher
from furu_async._executors.identity import Identity
from furu_async._executors.inplace import InPlace
from furu_async._executors.jobs import Job, Step, Steps
from furu_async._executors.provenance import metadata
from furu_async._executors.publishing import NEEDS_A_PERSON
from furu_async._executors.resources import Budget, default_workers
from furu_async._executors.validity import validate_stored
from furu_async._executors.workers import Workers
from furu_async._model.resources import SlurmSpec
from furu_async._plan.events import Started, TakenBack
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runner.validity import Validation
from furu_async._runtime import clock
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import FuruConfig
from furu_async._store.layout import RunPaths
from furu_async._store.runs import Unfinished, remove_spool
from furu_async.errors import FuruDefinitionError, FuruError, FuruStoreError
from furu_async.report import Failure, FailureKind

Mode = Literal["process", "thread", "inline"]

GRACE_SECS = 5.0
"""Between SIGTERM and SIGKILL."""

_ADOPT_SECS = 10.0
"""How long the claim of an unfinished run is waited for; then it is a new run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Local(ExecutorLike):
    """Run nodes on this machine.

    Attributes:
        workers: child processes (or threads); default: cores by affinity and cgroup, at most 8.
        mode: ``process`` (persistent children; a node that segfaults, hangs or eats memory harms only its own
            child), ``thread`` or ``inline`` (async on the caller's loop, sync in a thread) for light work.
            A class's ``_mode`` wins over it.
        cpus, gpus, mem_gb: what may be in use at the same time (cores, devices, GiB). Nodes' `SlurmSpec`
            counts only when at least one of them is given. With ``gpus`` each child has its own
            ``CUDA_VISIBLE_DEVICES``.
        max_inline: how many nodes run at the same time in mode ``inline``.

    Raises:
        FuruDefinitionError: a value is not allowed.
    """

    workers: int | None = None
    mode: Mode = "process"
    cpus: int | None = None
    gpus: int | None = None
    mem_gb: float | None = None
    max_inline: int = 100

    def __post_init__(self) -> None:
        _whole("workers", self.workers, 1)
        _whole("cpus", self.cpus, 1)
        _whole("gpus", self.gpus, 0)
        _whole("max_inline", self.max_inline, 1)
        if self.mode not in ("process", "thread", "inline"):
            raise FuruDefinitionError(f"Local(mode={self.mode!r}): use 'process', 'thread' or 'inline'")
        mem = self.mem_gb
        if mem is not None and (
            isinstance(mem, bool) or not isinstance(mem, int | float) or not math.isfinite(mem) or mem <= 0
        ):
            raise FuruDefinitionError(f"Local(mem_gb={mem!r}): use a number of GiB greater than 0")

    def open(self, config: FuruConfig) -> Executor:
        """Make its executor, on the running loop; children start when there is work."""
        return LocalExecutor(self, config)


def not_opened(run: RunPort, reply: dict[str, Any]) -> Failure | None:
    """The store does not let a run be opened: the failure that is waited out, or None where that ends the run."""
    number, path, text = reply.get("errno", 0), reply.get("path") or run.root, reply.get("text", "")
    words = f"the store {run.root} cannot be written: {text} ({path})"
    if number and number not in NEEDS_A_PERSON:
        return Failure(kind="infrastructure", error_type="OSError", message=words)
    hint = "check that FURU_PATH names a folder you may write to, with free space"
    run.fail(FuruStoreError(words, hint, path, text))
    return None


def _whole(name: str, value: int | None, least: int) -> None:
    if value is None and name != "max_inline":
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise FuruDefinitionError(f"Local({name}={value!r}): use a whole number, {least} or more")


class LocalExecutor:
    """A `Local` at work, on one event loop, for any number of runs.

    Its keeper and what runs its processes are made by methods of their own, so that simulations can put others in
    their places and keep all of the rest.
    """

    kind = "local"
    seed: int | None = None

    def __init__(self, local: Local, config: FuruConfig, identity: Identity | None = None) -> None:
        self.local, self.config = local, config
        self.identity: Identity = identity or Identity()
        self.budget = Budget(local.cpus, local.gpus, local.mem_gb)
        self.worker_id: str = self.identity.worker_id
        self.keeper = self._make_keeper()
        self.keeper.on_broken = self._on_keeper_broken
        self.steps = Steps(self.keeper, self._claimed, self._over)
        self.size = local.workers or default_workers()
        self.dispatcher = self._make_workers()
        self.inplace = InPlace(self.steps, self.size, local.max_inline)
        self.jobs: dict[tuple[str, str], Job] = {}
        self._seq = 0
        self._opened: dict[str, RunPort] = {}
        self._job_over = asyncio.Event()
        self._leaving: set[str] = set()
        self._waiting: dict[str, list[Job]] = {}
        self._loop = asyncio.get_running_loop()
        self._keeper_up: asyncio.Task[None] | None = None
        self._spool = self.identity.spool

    # -- the port --------------------------------------------------------------------------------------------

    @property
    def has_limits(self) -> bool:
        """Specs count, so a node may be refused."""
        return self.budget.counted

    def check(self, node: Node, specs: Sequence[SlurmSpec]) -> str | None:
        """Why none of its specs can ever fit here, or None."""
        refusals = [self.budget.refusal(spec) for spec in specs]
        return None if not refusals or None in refusals else refusals[0]

    def start(self, request: Request) -> None:
        """Queue a node, or join the job that is already at it for another run."""
        key = (request.run.root, request.node.hash)
        job = self.jobs.get(key)
        if job is not None and job.unwanted:
            job.after.append(request)
            return
        if job is not None:
            job.requests.append(request)
            if request.run.run_id not in self._opened:
                self._open(request.run)  # the job is claimed in its name if the others leave before that
            if job.begun:
                request.run.begun(request.node, request.attempt, getattr(job.worker, "name", "inline"))
                request.run.post(Started(request.node.hash, request.ticket))
            return
        self._seq += 1
        job = Job(request, self._seq)
        self.jobs[key] = job
        self._with_run_open(request.run, job)

    def take_back(self, run: RunPort, node: str) -> None:
        """Return the node if it is still queued or merely claimed."""
        job = self.jobs.get((run.root, node))
        if job is None or self._withdraw(job, run) or job.begun or self._leave(job, run):
            return
        if job.step is Step.QUEUED:
            self._drop(job)
        elif job.step in (Step.CLAIMING, Step.CLAIMED):
            job.unwanted = True
            self.dispatcher.poke()

    def kill(
        self, run: RunPort, node: str, kind: FailureKind = "cancelled", text: str = "cancelled with its run"
    ) -> None:
        """End the attempt, as a failure of this kind; if another run wants it too, only this run lets go."""
        job = self.jobs.get((run.root, node))
        if job is None or self._withdraw(job, run) or self._leave(job, run):
            return
        if job.step is Step.QUEUED:
            self._drop(job)
        elif self.inplace.has(job):
            self.inplace.stop(job, kind, text)
        else:
            self.dispatcher.stop(job, kind, text)

    def join(self, run: RunPort) -> None:
        """Have the run open before there is a job for it: its beat begins. Says so by `RunPort.opened`, or ``fail``."""
        if run.run_id not in self._opened:
            self._open(run)

    def hurry(self) -> None:
        """What is being ended gets no more time."""
        self.dispatcher.hurry()

    async def adopt(self, run: RunPort, found: Unfinished) -> bool:
        """Ask the keeper for its claim; one that comes too late is given back, so that others may go on with it."""
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        close = ("close_run", run.root, found.run_id, "lost")
        self._ask_open(run, found.run_id, found.generation, answer.set_result)
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
            )  # else one that is started again would be asked once more
            return False
        self._has_opened(run, found.run_id)
        return True

    async def validate(self, run: RunPort, node: Node, files: bool) -> Validation:
        """In a child where the node itself would run in one, else in a thread."""
        if self.mode_of(node) != "process" or run.context.run(overrides.active):
            return await validate_stored(node.obj, run.config, files, files)
        if not self._spool:
            self._spool = os.path.join(run.root, "runs", run.run_id, "workers", self.worker_id, "spool")
        return await self.dispatcher.checks.ask(run, node, files)

    async def release(self, run: RunPort) -> None:
        """The run is over here: end what it still has; its beat stops when the last claim under its card has ended."""
        for key, job in list(self.jobs.items()):
            if any(request.run is run for request in (*job.requests, *job.after)):
                self.kill(run, key[1])
        while any(request.run is run for job in self.jobs.values() for request in job.requests):
            self._job_over.clear()
            await self._job_over.wait()
        if run.run_id in self._opened or run.run_id in self._waiting:
            self._leaving.add(run.run_id)
            self._close_if_idle(run)

    def _close_if_idle(self, run: RunPort) -> None:
        """Some of its claims may still be open: what another run wants too goes on under its card."""
        if run.run_id not in self._leaving or run.run_id not in self._opened:
            return
        if not any(job.origin.run is run for job in self.jobs.values()):
            self._leaving.discard(run.run_id)
            del self._opened[run.run_id]
            op = ("close_run", run.root, run.run_id, *run.ending(), clock.wall(), run.keep)
            self.keeper.request(op, lambda _: None)

    async def aclose(self) -> None:
        """End children, threads and keeper. On a mount that hangs a folder is left."""
        await self.inplace.aclose()
        await self.dispatcher.aclose()
        if self._keeper_up is not None:
            await asyncio.gather(self._keeper_up, return_exceptions=True)
            await self.keeper.aclose()
        if self._spool:
            removing = DOOR.files.run(remove_spool, self._spool, deadline=5.0)
            await asyncio.gather(removing, return_exceptions=True)

    # -- inside ----------------------------------------------------------------------------------------------

    def _make_keeper(self) -> KeeperClient:
        return KeeperClient(self.config.heartbeat_secs)

    def _make_workers(self) -> Workers:
        return Dispatcher(
            self.steps, self.budget, self.size, self._spool_folder, self.config.log_level, GRACE_SECS
        )

    def _with_run_open(self, run: RunPort, job: Job) -> None:
        if run.run_id in self._opened:
            self._route(job)
            return
        self._open(run).append(job)

    def _open(self, run: RunPort) -> list[Job]:
        """Have the keeper open a run, once; gives the jobs that wait for it."""
        waiting = self._waiting.get(run.run_id)
        if waiting is not None:
            return waiting
        waiting = self._waiting[run.run_id] = []
        self._ask_open(run, run.run_id, 0, lambda reply: self._on_open(run, reply))
        return waiting

    def _ask_open(
        self, run: RunPort, run_id: str, after: int, reply: Callable[[dict[str, Any]], None]
    ) -> None:
        if self._keeper_up is None:
            self._keeper_up = self._loop.create_task(self._start_keeper(), name="furu keeper start")
        self.keeper.request(self.identity.opening(run.root, run_id, run.token, run.key, after), reply)

    async def _start_keeper(self) -> None:
        try:
            self.steps.metadata = await DOOR.process.run(metadata, self.config)
            await self.keeper.start()
        except Exception as error:
            self.keeper.fail(str(error))

    def _on_keeper_broken(self, error: FuruError) -> None:
        for run in list(self._opened.values()):
            run.fail(error)

    def _on_open(self, run: RunPort, reply: dict[str, Any]) -> None:
        jobs = self._waiting.pop(run.run_id, [])
        if reply["r"] != "ok":
            failure = not_opened(run, reply)
            for job in jobs:
                job.step = Step.OVER
                self.jobs.pop(job.key, None)
                if failure is None:
                    job.taken_back()
                else:
                    job.failed(failure)
            self._job_over.set()
            self._leaving.discard(run.run_id)
            return
        self._has_opened(run, run.run_id)
        if run.run_id not in self._leaving:
            run.opened()
        for job in jobs:
            if job.step is Step.QUEUED:
                self._route(job)
        self._close_if_idle(run)

    def _has_opened(self, run: RunPort, run_id: str) -> None:
        self._opened[run_id] = run
        if not self._spool:
            self._spool = os.path.join(RunPaths(run.root, run_id).worker(self.worker_id).base, "spool")

    def _route(self, job: Job) -> None:
        mode = self.mode_of(job.origin.node)
        if mode == "process" and not job.origin.run.context.run(overrides.active):
            self.dispatcher.add(job)
        else:
            self.inplace.add(job, "thread" if mode == "process" else mode)

    def mode_of(self, node: Node) -> Mode:
        """The class's own mode, else the executor's."""
        mode = node.info.mode or self.local.mode
        assert mode in ("process", "thread", "inline")
        return mode  # type: ignore[return-value]

    def _claimed(self, job: Job) -> None:
        if self.inplace.has(job):
            self.inplace.on_claimed(job)
        else:
            self.dispatcher.on_claimed(job)

    def _over(self, job: Job, was: Step) -> None:
        if self.jobs.get(job.key) is job:
            del self.jobs[job.key]
        self._job_over.set()
        if self._leaving:
            self._close_if_idle(job.origin.run)
        if self.inplace.has(job):
            self.inplace.on_over(job)
        elif was is Step.CLAIMING:
            self.dispatcher.on_claim_over(job)
        for request in job.after:
            self._loop.call_soon(self.start, request)

    def _withdraw(self, job: Job, run: RunPort) -> bool:
        """Take back what a run asked for while the job was being ended; True if that was all it wanted."""
        mine = [request for request in job.after if request.run is run]
        for request in mine:
            job.after.remove(request)
            run.post(TakenBack(request.node.hash, request.ticket))
        return bool(mine)

    def _leave(self, job: Job, run: RunPort) -> bool:
        """Take a run off a job; True if the job goes on without it, because others want it too."""
        mine = [request for request in job.requests if request.run is run]
        if len(mine) == len(job.requests):
            return not mine
        for request in mine:
            job.requests.remove(request)
            run.post(TakenBack(request.node.hash, request.ticket))
        if job.step is Step.QUEUED and job.origin in mine:
            job.origin = job.requests[0]
        return True

    def _drop(self, job: Job) -> None:
        job.step = Step.OVER
        self.jobs.pop(job.key, None)
        self._job_over.set()
        self.inplace.forget(job)
        job.taken_back()

    def _spool_folder(self) -> str:
        return self._spool
