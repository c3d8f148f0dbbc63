"""One node's job: it takes over the claim that was made for it, computes, tries again, publishes, says how it ended.

It is a `LocalExecutor` for one node. Compute failures are repeated here, within walltime and budget: a job that exits
non-zero has all jobs cancelled that wait for it. What needs another job (another specification) is left to whoever
follows the run, in an outcome; so is the reason for an end that was asked for by a signal, which only Slurm knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from furu_async._dag import orders
from furu_async._dag.counting import Counting, left_by
from furu_async._dag.orders import Order, OrderNode, Outcome
from furu_async._executors.base import Executor, Node, Request, RunPort
from furu_async._executors.joined import JoinedRun
from furu_async._model.artifact import Furu, class_info
from furu_async._plan import retry
from furu_async._plan.events import (
    Elsewhere,
    Event,
    Failed,
    Policy,
    Started,
    Succeeded,
    TakenBack,
    WatchEnded,
)
from furu_async._runtime import clock, exit_codes
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import FuruConfig, use_config
from furu_async._slurm.admission import JobIdentity
from furu_async._store import atomic
from furu_async._store.artifacts import is_marked
from furu_async._store.layout import ArtifactPaths, RunPaths
from furu_async._store.look import look
from furu_async._store.records import encode
from furu_async._store.submissions import note_job
from furu_async.errors import FuruError
from furu_async.report import Failure, FailureKind

INPUT_SECS = 30.0
"""How long a result is waited for that another host has just published."""

STORE_SECS = 60.0

PATIENCE_SECS = 120.0
"""How long a job waits, at each step, for a store that gives errors."""

_LOOK_EVERY = 0.5
_AGAIN_SECS = 1.0
_LAST_SECS = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a job has to do.

    Attributes:
        policy: of the run.
        load: gives the artifact; blocks, and imports the user's modules.
    """

    root: str
    run_id: str
    sid: str
    node: OrderNode
    job: JobIdentity
    config: FuruConfig
    policy: Policy
    load: Callable[[str], Furu[Any]]

    @property
    def wid(self) -> str:
        """Token of the claim that it works under."""
        return self.node.wid + (f"-r{self.job.restarts}" if self.job.restarts else "")

    @property
    def paths(self) -> ArtifactPaths:
        """Of the artifact."""
        return ArtifactPaths(self.root, self.node.name, self.node.hash)


def assigned(order: Order, job: JobIdentity) -> OrderNode | None:
    """The node of an order that this job is for."""
    k = max(job.task, 0)
    return order.nodes[k] if k < len(order.nodes) else None


class JobRun(JoinedRun):
    """The run as the job's executor sees it: its events wait to be read, and what a person may read is logged."""

    def __init__(self, assignment: Assignment, say: Say) -> None:
        with use_config(assignment.config):
            super().__init__(assignment.run_id, assignment.wid, assignment.config)
        self.root = assignment.root
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.error: FuruError | None = None
        self._say = say

    def post(self, event: Event) -> None:
        """See `RunPort`."""
        self.events.put_nowait(event)

    def begun(self, node: Node, attempt: int, worker: str) -> None:
        """See `RunPort`."""
        self._say(f"attempt {attempt} of {node.name}/{node.hash} begins, generation {node.generation}")

    def fail(self, error: FuruError) -> None:
        """See `RunPort`."""
        self.error = error
        failure = Failure(kind="infrastructure", error_type=type(error).__name__, message=str(error))
        self.post(Failed("", failure))

    def note(self, text: str) -> None:
        """See `RunPort`."""
        self._say(text)


class JobExecutor(Executor, Protocol):
    """What computes in a job."""

    def kill(self, run: RunPort, node: str, kind: FailureKind = ..., text: str = ...) -> None:
        """End the node's attempt, as a failure of this kind and with this text."""


class NodeJob:
    """See the module.

    Args:
        open_executor: makes the executor, on the running loop.
        say: writes a line into the job's log.
    """

    def __init__(
        self, assignment: Assignment, open_executor: Callable[[Assignment], JobExecutor], say: Say
    ) -> None:
        self.assignment = assignment
        self.say = say
        self.failures: list[Failure] = []
        self._generations: list[int] = []
        self._before: list[tuple[int, Failure]] = []
        self.final = False
        self._open_executor = open_executor
        self._stopping = asyncio.Event()
        self._why = ""
        self._kill: Callable[[], None] = lambda: None
        self._resumable = False
        self._request: Request | None = None
        self._planned = False
        loop = asyncio.get_running_loop()
        end = assignment.job.end_time
        self._ends_at = loop.time() + end - clock.wall() if end else None

    def warn(self) -> None:
        """The end of the walltime is near (SIGUSR2): what can go on from a checkpoint ends in time."""
        if self._resumable:
            self._planned = not self._stopping.is_set()
            if self._request is not None:
                self._request.share = "whole"  # what it has saved decides whether that counts
            self.stop("the end of its walltime is near")

    def stop(self, why: str) -> None:
        """End soon (SIGTERM)."""
        if not self._stopping.is_set():
            self.say(f"ends: {why}")
            self._why = why
            self._stopping.set()
            self._kill()

    async def run(self) -> int:
        """Do the work; the exit code."""
        one = self.assignment
        try:
            code = await self._work()
        except FuruError as error:
            name = type(error).__name__
            self._fail(Failure(kind="protocol", error_type=name, message=str(error), run_wide=True))
            code = exit_codes.VERSION_SKEW
        if code not in (exit_codes.ENDED, exit_codes.NOT_WANTED):
            await self._leave_word()
        self.say(f"{one.node.name}/{one.node.hash}: exit code {code}")
        return code

    def _fail(self, failure: Failure, generation: int = 0) -> None:
        self.failures.append(failure)
        self._generations.append(0 if generation in self._generations else generation)
        self.final = False

    async def _work(self) -> int:
        one = self.assignment
        if one.job.restarts:
            from furu_async._dag.claims import reclaim  # most jobs start faster without

            await self._patiently(reclaim, one.root, one.run_id, one.node, one.wid)
            paths = ArtifactPaths(one.root, one.node.name, one.node.hash)
            self._before = await self._patiently(left_by, paths, one.sid, one.node.generation - 1)
        state: int | None = await self._patiently(self._standing)
        if state is not None:
            return state
        if not await self._inputs_there():
            return exit_codes.INPUTS
        obj = await DOOR.user.run(one.load, one.node.hash)
        info = class_info(type(obj))
        self._resumable = info.resumable
        node = Node(obj, one.node.hash, info.name, info, history=tuple(one.node.history))
        executor = self._open_executor(one)
        run = JobRun(one, self.say)
        try:
            return await self._attempts(executor, run, node)
        finally:
            await executor.release(run)
            await executor.aclose()

    def _standing(self) -> int | None:
        """Whether there is anything to do: the exit code if not. Blocks."""
        one = self.assignment
        seen = look(one.paths)
        if seen.verdict == "published":
            self.say("the result is there already")
            return exit_codes.ENDED
        mine = seen.claim is not None and seen.claim.token == one.wid
        if mine:
            note_job(f"{one.paths.jobs}/{seen.generation}", one.wid, one.job.id)
        elif seen.verdict == "free" and seen.generation >= one.node.generation and not one.job.restarts:
            self.say("its claim was ended before it started: it is not wanted any more")
            return exit_codes.NOT_WANTED
        return None

    async def _inputs_there(self) -> bool:
        one = self.assignment
        missing = [ArtifactPaths(one.root, name, digest) for name, digest in one.node.inputs]
        loop = asyncio.get_running_loop()
        until = loop.time() + INPUT_SECS
        while missing:
            missing = await self._patiently(_missing, missing)
            if not missing:
                break
            if loop.time() >= until or self._stopping.is_set():
                names = ", ".join(f"{each.name}/{each.hash}" for each in missing[:3])
                self._fail(
                    Failure(kind="inputs", message=f"{len(missing)} of its inputs have no result: {names}")
                )
                return False
            await self._pause(_LOOK_EVERY)
        return True

    async def _patiently(self, fn: Callable[..., Any], *args: Any) -> Any:
        """A step on the store, again and again while that gives errors; not for long once the job is told to end."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_SECS
        while True:
            try:
                return await DOOR.files.run(fn, *args, deadline=STORE_SECS)
            except OSError as error:
                if self._stopping.is_set():
                    until = min(until, loop.time() + _LAST_SECS)
                if loop.time() >= until:
                    raise
                self.say(f"tried again: {error}")
            await asyncio.sleep(_AGAIN_SECS)

    async def _pause(self, seconds: float) -> None:
        """Less if the job is told to end."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            pass

    # -- attempts --------------------------------------------------------------------------------------------

    async def _attempts(self, executor: JobExecutor, run: JobRun, node: Node) -> int:
        one = self.assignment
        counting = Counting(one.node, self._before)
        info = node.info.retry
        rules = orders.rules(*((info.retries, info.backoff) if info is not None else (None, None)))
        loop = asyncio.get_running_loop()
        ticket = 0
        while True:
            if self._stopping.is_set():
                self._fail(Failure(kind="preempted", message=self._why))
                return exit_codes.INTERRUPTED
            ticket += 1
            attempt = one.node.attempt + len(self.failures)
            event = await self._attempt(executor, run, Request(run, node, attempt, 0, one.node.spec, ticket))
            if isinstance(event, Succeeded):
                return exit_codes.ENDED
            if isinstance(event, Elsewhere):
                waited = await self._wait_for_others(node, run)
                if waited is not None and waited.how == "timeout":
                    self._fail(waited.failure or Failure(kind="lost", message=waited.detail))
                    return exit_codes.FAILED
                continue
            if isinstance(event, TakenBack):
                continue
            assert isinstance(event, Failed)
            failure = event.failure
            self._fail(failure, node.generation)
            if self._stopping.is_set():
                return exit_codes.INTERRUPTED
            counters = counting.after(failure, loop.time())
            decision = retry.decide(failure, counters, one.policy, rules, run.jitter())
            if not isinstance(decision, retry.Again) or failure.kind not in orders.IN_ITS_JOB:
                self.final = failure.kind in orders.IN_ITS_JOB
                return exit_codes.FAILED
            if self._ends_at is not None and loop.time() + decision.delay > self._ends_at:
                return exit_codes.FAILED
            self.say(f"{failure.line()}; again in {decision.delay:.1f} s")
            node.history = (*node.history, failure.line())[-20:]
            await self._pause(decision.delay)

    async def _attempt(self, executor: JobExecutor, run: JobRun, request: Request) -> Event:
        self._kill = lambda: _end_for(executor, run, request.node)
        self._request = request
        executor.start(request)
        while True:
            event = await run.events.get()
            if isinstance(event, Started):
                await self._note_job(request.node)
            elif getattr(event, "ticket", 0) in (0, request.ticket) and not isinstance(event, WatchEnded):
                self._kill = lambda: None
                return event

    async def _note_job(self, node: Node) -> None:
        one = self.assignment
        path = f"{one.paths.jobs}/{node.generation}"
        try:
            await DOOR.files.run(note_job, path, one.wid, one.job.id, deadline=STORE_SECS)
        except (OSError, TimeoutError) as error:
            self.say(f"the job's id could not be noted: {error}")

    async def _wait_for_others(self, node: Node, run: JobRun) -> WatchEnded | None:
        """Somebody else has the claim: until it is ended, or its owner is lost, or this job is told to end."""
        from furu_async._executors.watcher import Watcher

        one, loop = self.assignment, asyncio.get_running_loop()
        answer: asyncio.Future[WatchEnded] = loop.create_future()
        watcher = Watcher(
            one.root, one.config, answer.set_result, lambda _, text, since, until: self.say(text), run.jitter
        )
        watcher.watch(node)
        tasks: list[asyncio.Future[Any]] = [
            loop.create_task(watcher.run(), name="furu claim watcher"),
            loop.create_task(self._stopping.wait(), name="furu job stop"),
        ]
        try:
            await asyncio.wait([answer, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            watcher.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return answer.result() if answer.done() else None

    async def _leave_word(self) -> None:
        """Say how it ended, for whoever follows the run."""
        one = self.assignment
        record = Outcome(
            hash=one.node.hash,
            generation=one.node.generation,
            failures=self.failures,
            generations=self._generations,
            final=self.final,
            interrupted=self._stopping.is_set() and not self._planned,
            job_id=one.job.id,
        )
        path = orders.outcome_path(RunPaths(one.root, one.run_id).submission(one.sid), one.wid)
        try:
            await self._patiently(atomic.replace, path, encode(record))
        except OSError as error:
            self.say(f"how it ended could not be written: {error}")


def _missing(inputs: list[ArtifactPaths]) -> list[ArtifactPaths]:
    return [each for each in inputs if not is_marked(each) and look(each).verdict != "published"]


def _end_for(executor: JobExecutor, run: JobRun, node: Node) -> None:
    """End the attempt as `preempted`: why it was told to, the job cannot know."""
    executor.kill(run, node.hash, "preempted", "its job was told to end")
