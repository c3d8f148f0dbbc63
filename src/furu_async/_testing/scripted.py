"""Workers that follow a script: in place of the child processes of `LocalExecutor`."""

from __future__ import annotations

import asyncio
import heapq
from typing import Any, assert_never

from furu_async._executors.base import Node, RunPort
from furu_async._executors.jobs import Job, Step, Steps
from furu_async._executors.validity import validate_stored
from furu_async._model import context
from furu_async._model.artifact import Furu
from furu_async._plan.events import Started
from furu_async._runner.attempt import Attempt
from furu_async._runner.inprocess import run_inline
from furu_async._runner.messages import TaskResult
from furu_async._runner.validity import Validation
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import use_config
from furu_async._testing.script import (
    Computes,
    Elsewhere,
    Fails,
    Hangs,
    Outcome,
    Raises,
    Returns,
    Script,
    outcome_of,
)
from furu_async._testing.strangers import Stranger
from furu_async.errors import FuruError
from furu_async.report import Failure


class _Checks:
    async def ask(self, run: RunPort, node: Node, files: bool) -> Validation:
        return await validate_stored(node.obj, run.config, files)


class ScriptedWorkers:
    """See the module.

    Args:
        steps: where claims and ends are asked for.
        size: attempts at the same time.
        script, default: what becomes of them.
        heartbeat: seconds between two signs of life of somebody else.
    """

    def __init__(self, steps: Steps, size: int, script: Script, default: Outcome, heartbeat: float) -> None:
        self.checks = _Checks()
        self.steps = steps
        self._script = script
        self._default = default
        self._heartbeat = heartbeat
        self._free = size
        self._queue: list[Job] = []
        self._busy: dict[Job, Outcome] = {}
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._running: set[Job] = set()
        self._strangers: set[asyncio.Task[None]] = set()
        self._begun: dict[tuple[str, str], int] = {}
        self._loop = asyncio.get_running_loop()

    # -- what the executor calls -----------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Queue a job."""
        heapq.heappush(self._queue, job)
        self.poke()

    def poke(self) -> None:
        """Look for room, soon."""
        self._loop.call_soon(self._pump)

    def take_back(self, job: Job) -> None:
        """Return a job whose claim is being asked for; nothing waits after that."""
        job.unwanted = True

    def on_claimed(self, job: Job) -> None:
        """The claim is held: begin, unless nobody wants it any more."""
        if job.unwanted:
            job.step = Step.PUBLISHING
            self.steps.release(job)
            return
        if isinstance(self._busy[job], Elsewhere):
            self._busy[job] = self._default  # they were done before we asked, or nothing was free for them
        job.step = Step.GIVEN
        job.begun = True
        run = job.origin.run
        self._count(job)
        self._tasks[job] = self._loop.create_task(
            self._run(job), name=f"scripted {job.origin.node.name}", context=run.context.copy()
        )

    def on_claim_over(self, job: Job) -> None:
        """`on_over` comes for it, too."""

    def on_over(self, job: Job) -> None:
        """Its end is about to be told: there is room for another one."""
        if self._busy.pop(job, None) is not None:
            self._free += 1
            self.poke()

    def stop(self, job: Job, kind: str, text: str) -> None:
        """End a job that is past the queue."""
        job.unwanted = True
        task = self._tasks.get(job)
        # A task that is cancelled before its first step never takes it.
        if task is not None and job in self._running and not job.stopped:
            job.stopped, job.stop_text = kind, text
            task.cancel()

    def hurry(self) -> None:
        """What is stopped ends at once in any case."""

    async def aclose(self) -> None:
        """End everything, strangers too."""
        for job in list(self._tasks):
            self.stop(job, "cancelled", "cancelled with its run")
        for stranger in self._strangers:
            stranger.cancel()
        await asyncio.gather(*self._tasks.values(), *self._strangers, return_exceptions=True)

    # -- inside ----------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        while self._queue and self._free:
            job = heapq.heappop(self._queue)
            if job.step is Step.QUEUED:
                self._begin(job)

    def _count(self, job: Job) -> None:
        self._begun[job.key] = self._begun.get(job.key, 0) + 1

    def _begin(self, job: Job) -> None:
        self._free -= 1
        node, attempt = job.origin.node, self._begun.get(job.key, 0) + 1
        try:
            outcome = outcome_of(self._script, self._default, node.obj, attempt)
        except Exception as error:
            self._give_up(job, error)
            outcome = self._default
        self._busy[job] = outcome
        if not isinstance(outcome, Elsewhere):
            self.steps.claim(job)
            return
        self._count(job)
        job.step = Step.CLAIMING
        task = self._loop.create_task(self._elsewhere(job, outcome), name=f"stranger at {node.name}")
        self._strangers.add(task)
        task.add_done_callback(self._strangers.discard)

    def _give_up(self, job: Job, error: Exception) -> None:
        """The script is wrong, or says that the test has failed: so has every run that asks."""
        for request in job.requests:
            wrong = FuruError(f"the script of the FakeExecutor raised: {type(error).__name__}: {error}")
            wrong.__cause__ = error
            request.run.fail(wrong)

    async def _elsewhere(self, job: Job, outcome: Elsewhere) -> None:
        """Somebody else claims it, and only then our own claim is asked for."""
        stranger = Stranger(job.origin.run.root, job.origin.node.obj)
        theirs = await DOOR.files.run(stranger.claim)
        self.steps.claim(job)
        until = self._loop.time() + outcome.after
        while theirs and self._loop.time() < until:
            await asyncio.sleep(min(self._heartbeat, until - self._loop.time()))
            await DOOR.files.run(stranger.beat)
        if theirs and outcome.ends == "published":
            await DOOR.files.run(stranger.publish, outcome.value)
        elif theirs and outcome.ends == "failed":
            await DOOR.files.run(stranger.fail, outcome.kind)

    async def _run(self, job: Job) -> None:
        if job.unwanted:
            self._tasks.pop(job)
            job.step = Step.PUBLISHING
            self.steps.release(job)
            return
        self._running.add(job)
        node = job.origin.node
        for request in job.requests:
            request.run.begun(request.node, request.attempt, "scripted")
            request.run.post(Started(request.node.hash, request.ticket))
        limit = node.info.time_limit
        try:
            async with asyncio.timeout(limit):
                result = await self._play(job, self._busy[job])
        except TimeoutError:
            result = _failure("timeout", f"it ran longer than its _time_limit of {limit:g} s")
        except asyncio.CancelledError:
            if not job.stopped:
                job.stopped, job.stop_text = "cancelled", "cancelled with its run"
            result = _failure(job.stopped, job.stop_text)
        except Exception as error:
            self._give_up(job, error)
            result = _failure("cancelled", "its run cannot go on")
        self._tasks.pop(job, None)
        self._running.discard(job)
        self.steps.conclude(job, result, "")

    async def _play(self, job: Job, outcome: Outcome) -> TaskResult:
        match outcome:
            case Hangs():
                await self._loop.create_future()
                raise AssertionError("a future that nobody sets was set")
            case Returns(value, after):
                await asyncio.sleep(after)
                obj = job.origin.node.obj
                return await DOOR.files.run(_store, job, value(obj) if callable(value) else value)
            case Raises(error, after):
                await asyncio.sleep(after)
                return _raised(job, error)
            case Fails():
                await asyncio.sleep(outcome.after)
                return TaskResult(
                    id=0,
                    ok=False,
                    failure=Failure(
                        kind=outcome.kind,
                        message=outcome.message,
                        retryable=outcome.retryable,
                        run_wide=outcome.run_wide,
                    ),
                )
            case Computes(after):
                await asyncio.sleep(after)
                return await run_inline(job.task(), job.origin.node.obj)
            case Elsewhere():
                raise AssertionError("somebody else's attempt was begun here")
            case _:
                assert_never(outcome)


def _failure(kind: Any, text: str) -> TaskResult:
    return TaskResult(id=0, ok=False, failure=Failure(kind=kind, message=text))


def _attempt(job: Job) -> tuple[Attempt, Furu[Any]]:
    attempt = Attempt(job.task())
    return attempt, attempt.bind(job.origin.node.obj)


def _store(job: Job, value: Any) -> TaskResult:
    """What follows on a ``_create`` that returned: store, validate, list. Blocking."""
    attempt, bound = _attempt(job)
    try:
        attempt.prepare()
        with use_config(job.origin.run.config), context.running(bound):
            attempt.store(value)
            attempt.validate()
        result = attempt.conclude(None, attempt.manifest(set()), False, 0.0)
    except Exception as error:
        return _concluded(attempt, error)
    return _timeless(result)


def _raised(job: Job, error: BaseException) -> TaskResult:
    attempt, _ = _attempt(job)
    attempt.phase = "create"
    return _concluded(attempt, error)


def _concluded(attempt: Attempt, error: BaseException) -> TaskResult:
    failure = attempt.failure(error, stopped=False, log_tail="", logged=False)
    return _timeless(attempt.conclude(failure, [], False, 0.0))


def _timeless(result: TaskResult) -> TaskResult:
    """The record's times are the machine's, and a virtual second is none of those."""
    result.duration = 0.0
    return result
