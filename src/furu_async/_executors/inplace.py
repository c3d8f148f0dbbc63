"""Runs jobs in the caller's own process: modes ``thread`` and ``inline``.

For light work: nothing is isolated, a thread cannot be ended, and what is printed is not captured (logging is).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from contextlib import suppress
from typing import Any

from furu_async._executors.jobs import Job, Step, Steps
from furu_async._plan.events import Started
from furu_async._runner.inprocess import run_in_thread, run_inline
from furu_async._runner.messages import TaskResult
from furu_async.report import Failure

_GRACE_SECS = 5.0

logger = logging.getLogger("furu_async")


async def _cancelled(attempt: asyncio.Future[TaskResult]) -> TaskResult:
    """Cancel an attempt and give it a while to clean up; what it still brings to its end counts."""
    attempt.cancel()
    with suppress(asyncio.CancelledError):  # cancelled again: no more patience
        await asyncio.wait([attempt], timeout=_GRACE_SECS)
    if attempt.done() and not attempt.cancelled() and attempt.exception() is None:
        return attempt.result()
    return TaskResult(id=0, ok=False)


class InPlace:
    """See the module.

    Args:
        threads: attempts at the same time in mode ``thread``.
        inline: attempts at the same time in mode ``inline``.
    """

    def __init__(self, steps: Steps, threads: int, inline: int) -> None:
        self.steps = steps
        self._room = {"thread": threads, "inline": inline}
        self._queues: dict[str, list[Job]] = {"thread": [], "inline": []}
        self._mode: dict[Job, str] = {}
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._running: set[Job] = set()
        self._loop = asyncio.get_running_loop()

    def has(self, job: Job) -> bool:
        """The job runs, or will run, here."""
        return job in self._mode

    def add(self, job: Job, mode: str) -> None:
        """Queue a job."""
        self._mode[job] = mode
        heapq.heappush(self._queues[mode], job)
        self._pump(mode)

    def forget(self, job: Job) -> None:
        """A queued job was dropped."""
        self._mode.pop(job, None)

    def _pump(self, mode: str) -> None:
        queue = self._queues[mode]
        while queue and self._room[mode] > 0:
            job = heapq.heappop(queue)
            if job.step is Step.QUEUED:
                self._room[mode] -= 1
                self.steps.claim(job)

    def on_claimed(self, job: Job) -> None:
        """The claim is held: run it."""
        if job.unwanted:
            job.step = Step.PUBLISHING
            self.steps.release(job)
            return
        job.step = Step.GIVEN
        job.begun = True
        run = job.origin.run
        task = self._loop.create_task(
            self._run(job), name=f"furu {job.origin.node.name}", context=run.context.copy()
        )
        self._tasks[job] = task

    def on_over(self, job: Job) -> None:
        """Its end is about to be told."""
        mode = self._mode.pop(job)
        self._room[mode] += 1
        self._loop.call_soon(self._pump, mode)

    async def _run(self, job: Job) -> None:
        if job.unwanted:
            self._tasks.pop(job)
            job.step = Step.PUBLISHING
            self.steps.release(job)
            return
        self._running.add(job)
        mode = self._mode[job]
        node = job.origin.node
        for request in job.requests:
            request.run.begun(request.node, request.attempt, mode)
            request.run.post(Started(request.node.hash, request.ticket))
        task = job.task()
        run: Any = run_inline if mode == "inline" else run_in_thread
        attempt = asyncio.ensure_future(run(task, node.obj))
        try:
            result = await self._limited(job, attempt, node.info.time_limit)
        except asyncio.CancelledError:
            if not job.stopped:
                job.stopped, job.stop_text = "cancelled", "cancelled with its run"
            result = await _cancelled(attempt)
        except Exception as error:  # a bug of ours: the job must end all the same
            logger.exception("an attempt in this process could not be run")
            text = f"furu_async could not run it: {type(error).__name__}: {error}"
            result = TaskResult(id=0, ok=False, failure=Failure(kind="protocol", message=text))
        self._tasks.pop(job, None)
        self._running.discard(job)
        if not result.ok and job.stopped:
            kind: Any = job.stopped
            result.failure = Failure(kind=kind, message=job.stop_text)
        log_path = task.directory if result.logged else ""
        self.steps.conclude(job, result, log_path)

    async def _limited(
        self, job: Job, attempt: asyncio.Future[TaskResult], limit: float | None
    ) -> TaskResult:
        done, _ = await asyncio.wait([attempt], timeout=limit)
        if done:
            return attempt.result()
        result = await _cancelled(attempt)
        text = f"it ran longer than its _time_limit of {limit:g} s"
        if self._mode.get(job) == "thread":
            text += "; its thread cannot be ended and goes on, its result will not be used"
        job.stopped, job.stop_text = "timeout", text
        return result

    def stop(self, job: Job, kind: str, text: str) -> None:
        """End a job that is past the queue."""
        job.unwanted = True
        task = self._tasks.get(job)
        # A task that is cancelled before its first step never takes it, and nobody would hear of the job again.
        if task is not None and job in self._running and not job.stopped:
            job.stopped, job.stop_text = kind, text
            task.cancel()

    async def aclose(self) -> None:
        """Cancel what runs and wait for it."""
        for job in list(self._tasks):
            self.stop(job, "cancelled", "cancelled with its run")
        tasks = list(self._tasks.values())
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
