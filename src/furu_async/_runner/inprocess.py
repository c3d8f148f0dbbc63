"""Attempts in this very process: modes ``thread`` and ``inline``, for light work.

They give the same results as a child process, with the same words for failures, but isolate nothing: what
user code changes in the process stays changed, a thread cannot be ended, and what is printed goes where the
caller's output goes. `logging` is captured as far as the caller's own configuration lets records through to
the root logger, in the attempt's tasks and thread (threads that user code starts by itself do not know their
attempt).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any

from furu_async._model import context
from furu_async._model.artifact import Furu
from furu_async._model.context import StopFlag
from furu_async._runner.attempt import Attempt, Canceller, run_awaitable
from furu_async._runner.capture import AttemptLog
from furu_async._runner.messages import TaskResult, TaskSpec
from furu_async._runtime import clock
from furu_async._runtime.blocking import Lane
from furu_async._store.records import ManifestEntry
from furu_async.report import Failure

LANE = Lane("attempt", 128)
"""Threads for attempts. Wide, as how many run at once is the executor's decision."""

_log: ContextVar[AttemptLog | None] = ContextVar("furu_async_log", default=None)


async def run_inline(task: TaskSpec, obj: Furu[Any], lane: Lane = LANE) -> TaskResult:
    """Run an attempt: an async ``_create`` awaited right here, so that it can be cancelled, a sync one in a thread.

    Args:
        lane: where file work, and a sync ``_create``, is done.

    Raises:
        CancelledError: the awaiting task was cancelled (not: user code raised one).
    """
    if not inspect.iscoroutinefunction(type(obj)._create):
        return await run_in_thread(task, obj, lane)
    started_at = clock.wall()
    me = asyncio.current_task()
    attempt, log = Attempt(task, obj), AttemptLog(task.directory, "inline")
    raised: BaseException | None = None
    try:
        await lane.run(attempt.prepare)
        bound = attempt.bind(obj)
        with _capturing(log), context.running(bound, StopFlag()):
            value = await attempt.create()
            inside = copy_context()
            await lane.run(inside.run, _keep, attempt, value)
    except BaseException as error:
        if _is_our_end(error, me):
            log.close()
            raise
        raised = error
    return await lane.run(_conclude, attempt, raised, False, log, started_at)


def _is_our_end(error: BaseException, me: asyncio.Task[Any] | None) -> bool:
    """Whether we are cancelled, or closed with the loop, and it is not user code that raised the like."""
    if isinstance(error, asyncio.CancelledError):
        return me is not None and me.cancelling() > 0
    if isinstance(error, GeneratorExit):
        try:
            return asyncio.current_task() is not me
        except RuntimeError:
            return True  # no loop runs: nothing may be awaited any more
    return False


async def run_in_thread(task: TaskSpec, obj: Furu[Any], lane: Lane = LANE) -> TaskResult:
    """Run an attempt in a thread; an async ``_create`` gets a loop of its own there.

    Raises:
        CancelledError: the awaiting task was cancelled. The thread goes on, with `stop_requested` set; what it still
            does is not reported.
    """
    flag, canceller = StopFlag(), Canceller()
    inside = copy_context()
    try:
        return await lane.run(inside.run, _whole, task, obj, flag, canceller)
    except asyncio.CancelledError:
        context.request_stop(flag)
        canceller()
        raise


def _whole(task: TaskSpec, obj: Furu[Any], flag: StopFlag, canceller: Canceller) -> TaskResult:
    started_at = clock.wall()
    attempt, log = Attempt(task, obj), AttemptLog(task.directory, "thread")
    raised: BaseException | None = None
    try:
        attempt.prepare()
        with _capturing(log), context.running(attempt.bind(obj), flag):
            value = attempt.create()
            if inspect.isawaitable(value):
                value = run_awaitable(value, canceller)
            _keep(attempt, value)
    except BaseException as error:
        raised = error
    return _conclude(attempt, raised, flag.is_set, log, started_at)


def _keep(attempt: Attempt, value: Any) -> None:
    attempt.store(value)
    attempt.validate()


def _conclude(
    attempt: Attempt, raised: BaseException | None, stopped: bool, log: AttemptLog, started_at: float
) -> TaskResult:
    if raised is not None:
        return _failed(attempt, raised, log, started_at, stopped)
    manifest: list[ManifestEntry] = []
    logged = log.close()
    failure: Failure | None = None
    try:
        manifest = attempt.manifest({log.name} if logged else set())
    except Exception as error:
        failure = attempt.failure(error, stopped=False, log_tail="", logged=logged)
    return attempt.conclude(failure, manifest, logged, started_at)


def _failed(
    attempt: Attempt, error: BaseException, log: AttemptLog, started_at: float, stopped: bool = False
) -> TaskResult:
    tail = log.tail()
    logged = log.close()
    failure = attempt.failure(error, stopped=stopped, log_tail=tail, logged=logged)
    return attempt.conclude(failure, [], logged, started_at)


class _Handler(logging.Handler):
    """Sends a record to the log of the attempt in whose context it was made."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = _log.get()
            if log is not None:
                log.write(record)
            # Without us the root might have no handler, and Python would print warnings by itself.
            last = logging.lastResort if len(logging.root.handlers) == 1 else None
            if last is not None and record.levelno >= last.level:
                last.handle(record)
        except Exception:
            self.handleError(record)


_handler = _Handler()
_users = 0
_lock = threading.Lock()


@contextmanager
def _capturing(log: AttemptLog) -> Iterator[None]:
    """While open, what is logged in this context also goes to ``log``; the root handler is there only as long."""
    global _users
    token = _log.set(log)
    with _lock:
        _users += 1
        if _users == 1:
            logging.root.addHandler(_handler)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                logging.root.removeHandler(_handler)
        _log.reset(token)
