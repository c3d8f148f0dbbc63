"""`Local`: the default executor, persistent child processes on this machine.

`Local` is a frozen description; `LocalExecutor` is what it becomes when a scheduler opens it: one keeper, one
dispatcher, and the table of jobs by which several runs share what they both want.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from furu_async._executors import overrides
from furu_async._executors.base import Executor, ExecutorLike, Find, Node, Request, RunPort
from furu_async._executors.dispatch import Dispatcher
from furu_async._executors.held_runs import HeldRuns
from furu_async._executors.identity import Identity
from furu_async._executors.inplace import InPlace
from furu_async._executors.jobs import Job, Step, Steps
from furu_async._executors.provenance import metadata
from furu_async._executors.resources import Budget, default_workers
from furu_async._executors.sharing import leave, withdraw
from furu_async._executors.validity import validate_stored
from furu_async._executors.workers import Workers
from furu_async._model.resources import SlurmSpec
from furu_async._plan.events import Started
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runner.validity import Validation
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import FuruConfig
from furu_async._store.layout import RunPaths
from furu_async._store.runs import Unfinished, remove_spool
from furu_async.errors import FuruDefinitionError
from furu_async.report import Failure, FailureKind

Mode = Literal["process", "thread", "inline"]

GRACE_SECS = 5.0
"""Between SIGTERM and SIGKILL."""


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
    specs_in_turn: bool = False
    can_detach: bool = False
    find_job: Find | None = None

    def __init__(self, local: Local, config: FuruConfig, identity: Identity | None = None) -> None:
        self.local, self.config = local, config
        self.budget = Budget(local.cpus, local.gpus, local.mem_gb)
        self.keeper = self._make_keeper()
        self.runs = HeldRuns(self.keeper, identity or Identity(), self._prepare, self._on_open)
        self.steps = Steps(self.keeper, self._claimed, self._over)
        self.size = local.workers or default_workers()
        self.dispatcher = self._make_workers()
        self.inplace = InPlace(self.steps, self.size, local.max_inline)
        self.jobs: dict[tuple[str, str], Job] = {}
        self._seq = 0
        self._job_over = asyncio.Event()
        self._leaving: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self.work_as(self.runs.identity)

    def work_as(self, identity: Identity) -> None:
        """Before anything is started: do it in this name."""
        self.runs.identity = identity
        self.worker_id: str = identity.worker_id
        self._spool = identity.spool

    # -- the port --------------------------------------------------------------------------------------------

    @property
    def has_limits(self) -> bool:
        """Specs count, so a node may be refused."""
        return self.budget.counted

    def check(self, node: Node, specs: Sequence[SlurmSpec]) -> str | None:
        """Why none of its specs can ever fit here, or None."""
        refusals = [self.budget.refusal(spec) for spec in specs]
        return None if not refusals or None in refusals else refusals[0]

    def why(self, run: RunPort, node: str) -> str:
        """Nothing that the run does not know itself."""
        return ""

    def start(self, request: Request) -> None:
        """Queue a node, or join the job that is already at it for another run."""
        key = (request.run.root, request.node.hash)
        job = self.jobs.get(key)
        if job is not None and job.unwanted:
            job.after.append(request)
            return
        if job is not None:
            job.requests.append(request)
            self._open(request.run, None)  # the job is claimed in its name if the others leave before that
            if job.begun:
                request.run.begun(request.node, request.attempt, getattr(job.worker, "name", "inline"))
                request.run.post(Started(request.node.hash, request.ticket))
            return
        self._seq += 1
        job = Job(request, self._seq)
        self.jobs[key] = job
        self._open(request.run, job)

    def take_back(self, run: RunPort, node: str) -> None:
        """Return the node if no process has begun it."""
        job = self.jobs.get((run.root, node))
        if job is None or withdraw(job.after, run) or job.begun or self._leave(job, run):
            return
        if job.step is Step.QUEUED:
            self._drop(job)
        elif self.inplace.has(job):
            job.unwanted = True
        elif job.step in (Step.CLAIMING, Step.CLAIMED, Step.GIVEN):
            self.dispatcher.take_back(job)

    def kill(
        self, run: RunPort, node: str, kind: FailureKind = "cancelled", text: str = "cancelled with its run"
    ) -> None:
        """End the attempt, as a failure of this kind; if another run wants it too, only this run lets go."""
        job = self.jobs.get((run.root, node))
        if job is None or withdraw(job.after, run) or self._leave(job, run):
            return
        if job.step is Step.QUEUED:
            self._drop(job)
        elif self.inplace.has(job):
            self.inplace.stop(job, kind, text)
        else:
            self.dispatcher.stop(job, kind, text)

    def join(self, run: RunPort) -> None:
        """Have the run open before there is a job for it: its beat begins. Says so by `RunPort.opened`, or ``fail``."""
        self._open(run, None)

    def hurry(self) -> None:
        """What is being ended gets no more time."""
        self.dispatcher.hurry()

    async def adopt(self, run: RunPort, found: Unfinished) -> bool:
        """Ask the keeper for its claim."""
        taken = await self.runs.adopt(run, found)
        if taken:
            self._have_spool(run.root, found.run_id)
        return taken

    async def validate(self, run: RunPort, node: Node, files: bool) -> Validation:
        """In a child where the node itself would run in one, else in a thread."""
        if self.mode_of(node) != "process" or run.context.run(overrides.active):
            return await validate_stored(node.obj, run.config, files, files)
        self._have_spool(run.root, run.run_id)
        return await self.dispatcher.checks.ask(run, node, files)

    def no_more(self) -> None:
        """Children and keeper notice by themselves when this process is gone."""

    async def release(self, run: RunPort) -> None:
        """The run is over here: end what it still has; its beat stops when the last claim under its card has ended."""
        for key, job in list(self.jobs.items()):
            if any(request.run is run for request in (*job.requests, *job.after)):
                self.kill(run, key[1])
        while any(request.run is run for job in self.jobs.values() for request in job.requests):
            self._job_over.clear()
            await self._job_over.wait()
        if self.runs.is_known(run):
            self._leaving.add(run.run_id)
            self._close_if_idle(run)

    def _close_if_idle(self, run: RunPort) -> None:
        """Some of its claims may still be open: what another run wants too goes on under its card."""
        if run.run_id not in self._leaving or not self.runs.is_open(run):
            return
        if not any(job.origin.run is run for job in self.jobs.values()):
            self._leaving.discard(run.run_id)
            self.runs.close(run)

    async def aclose(self) -> None:
        """End children, threads and keeper. On a mount that hangs a folder is left."""
        await self.inplace.aclose()
        await self.dispatcher.aclose()
        await self.runs.aclose()
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

    async def _prepare(self) -> None:
        self.steps.metadata = await DOOR.process.run(metadata, self.config)

    def _open(self, run: RunPort, job: Job | None) -> None:
        """Have a run opened, and go on with a job that waits for it."""
        self.runs.open(run, lambda failure: self._answered(run, job, failure))

    def _on_open(self, run: RunPort) -> None:
        self._have_spool(run.root, run.run_id)
        if run.run_id not in self._leaving:
            run.opened()

    def _answered(self, run: RunPort, job: Job | None, failure: Failure | None) -> None:
        if job is not None:
            self._go_on(job, run, failure)
        if not self.runs.is_open(run):
            self._leaving.discard(run.run_id)
        elif self._leaving:
            self._close_if_idle(run)

    def _go_on(self, job: Job, asked: RunPort, failure: Failure | None) -> None:
        run = job.origin.run
        if job.step is not Step.QUEUED:
            return
        if self.runs.is_open(run):
            self._route(job)
        elif run is not asked:  # the run that it waited for has left it to another
            self._open(run, job)
        else:
            job.step = Step.OVER
            self.jobs.pop(job.key, None)
            self._job_over.set()
            if failure is None:
                job.taken_back()
            else:
                job.failed(failure)

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

    def _leave(self, job: Job, run: RunPort) -> bool:
        left = leave(job.requests, run)
        if left and job.step is Step.QUEUED and job.origin.run is run:
            job.origin = job.requests[0]
        return left

    def _drop(self, job: Job) -> None:
        job.step = Step.OVER
        self.jobs.pop(job.key, None)
        self._job_over.set()
        self.inplace.forget(job)
        job.taken_back()

    def _have_spool(self, root: str, run_id: str) -> None:
        if not self._spool:
            self._spool = os.path.join(RunPaths(root, run_id).worker(self.worker_id).base, "spool")

    def _spool_folder(self) -> str:
        return self._spool
