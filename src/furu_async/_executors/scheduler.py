"""`Scheduler` and `Run`: the long-lived form, on which every other way to run stands.

The scheduler's task group lives in a task of its own, so the block may be entered and left in different tasks,
and cancelling a task that awaits a run stops only that wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, Self

import anyio

from furu_async._executors.base import Executor
from furu_async._executors.driver import Driver
from furu_async._executors.ledger import Ledger
from furu_async._executors.local import Local, LocalExecutor
from furu_async._model import context as attempt_context
from furu_async._model.artifact import Furu
from furu_async._model.definition import dependency_methods_exist
from furu_async._plan.events import Policy
from furu_async._runner.loading import load_result
from furu_async._runtime import clock
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import FuruConfig, active_config, use_config
from furu_async._store.layout import RunPaths, root_warning
from furu_async.errors import (
    FuruDefinitionError,
    FuruError,
    FuruExecutorError,
    FuruRunCancelled,
    FuruRunFailed,
    FuruRunTimeout,
)
from furu_async.report import RunEvent, RunReport

OnFailure = Literal["continue", "drain", "cancel"]
ExecutorLike = Local
EventListener = Callable[[RunEvent], None]

CANCEL_SECS = 30.0
"""Bound on the end of a cancelled run."""

_LISTED = 50

logger = logging.getLogger("furu_async")

_current: ContextVar[Scheduler | None] = ContextVar("furu_scheduler", default=None)


def current_scheduler() -> Scheduler | None:
    """The scheduler whose block surrounds the caller, if it belongs to this loop and is open."""
    scheduler = _current.get()
    if scheduler is None or not scheduler.is_open_here():
        return None
    return scheduler


def check_targets(targets: Furu[Any] | Iterable[Furu[Any]]) -> list[Furu[Any]]:
    """The targets as a list.

    Raises:
        FuruDefinitionError: something else than artifacts was given.
    """
    if isinstance(targets, Furu):
        return [targets]
    try:
        objs: list[Any] = list(targets)
    except TypeError:
        objs = [targets]
    for obj in objs:
        if not isinstance(obj, Furu):
            what = f"the class {obj.__name__}" if isinstance(obj, type) else repr(obj)[:80]
            raise FuruDefinitionError(
                f"targets must be artifacts, not {what}",
                "give an instance of a Furu class, or several in a list",
            )
    return objs


class Run:
    """One run of a `Scheduler`. ``await run`` gives its report, or raises as `run_dag` does.

    Cancelling a task that awaits a run stops only that wait; `cancel` ends the run.
    """

    def __init__(self, driver: Driver, ledger: Ledger, check: bool, timeout: float | None) -> None:
        self.run_id = driver.run_id
        self._driver = driver
        self._ledger = ledger
        self._check = check
        self._timeout = timeout
        self._started = asyncio.get_running_loop().time()
        self._ended = asyncio.Event()
        self._report: RunReport | None = None
        self._crash: BaseException | None = None

    def __repr__(self) -> str:
        state = "ended" if self._ended.is_set() else "running"
        return f"<Run {self.run_id} {state} {self.counts()}>"

    @property
    def done(self) -> bool:
        """The run has ended."""
        return self._ended.is_set()

    @property
    def run_dir(self) -> str:
        """``<root>/runs/<run_id>``; exists only if something had to be computed."""
        return RunPaths(self._driver.root, self.run_id).base

    @property
    def report(self) -> RunReport | None:
        """The report once the run has ended, however it ended; None before."""
        return self._report

    def counts(self) -> dict[str, int]:
        """Nodes by what they do right now."""
        return self._driver.state.counts()

    def why(self, obj: Furu[Any]) -> str:
        """What a node of this run is waiting for, in words."""
        return self._driver.state.why(obj.furu_hash)

    def cancel(self) -> None:
        """End the run.

        Hand out nothing more, stop its work, leave other people's alone. Who awaits it sees FuruRunCancelled.
        """
        if not self.done:
            self._driver.stop("cancel", "run.cancel() was called")

    def events(self) -> AsyncIterator[RunEvent]:
        """Events from now on; ends with the run. A reader that falls far behind loses the oldest ones."""
        return self._ledger.stream()

    def __await__(self) -> Generator[Any, None, RunReport]:
        return self.wait().__await__()

    async def wait(self) -> RunReport:
        """Wait for the end.

        Raises:
            FuruRunFailed: with ``check``, a node failed.
            FuruRunTimeout: ``timeout`` passed; the run was cancelled.
            FuruRunCancelled: by `cancel`, or by the scheduler's end.
            FuruError: what kept the run as a whole from going on.
        """
        await self._ended.wait()
        return self.result()

    def result(self) -> RunReport:
        """The report of an ended run; raises as `wait`."""
        report = self._report
        if self._crash is not None:
            raise self._crash
        if report is None:
            raise RuntimeError("the run has not ended")
        end = self._driver.end
        error = self._driver.error
        if error is not None:
            raise error
        why = end.why if end is not None else "cancel"
        if why == "timeout":
            raise FuruRunTimeout(
                f"run {self.run_id} did not end within {self._timeout:g} s and was cancelled: {report.counts}",
                "what it finished is kept; the same call goes on from there",
                report,
            )
        if why == "cancel":
            raise FuruRunCancelled(f"run {self.run_id} was cancelled: {report.counts}", "", report)
        if why == "error" and not report.counts["failed"]:
            raise FuruExecutorError(f"run {self.run_id} was ended: {end.detail if end else ''}")
        if why == "error" and self._check:
            raise FuruRunFailed(f"run {self.run_id} was ended: {self._failed_list(report)}", "", report)
        if self._check and not report.ok:
            raise FuruRunFailed(f"run {self.run_id} failed: {report.counts}", "", report)
        return report

    def _failed_list(self, report: RunReport) -> str:
        """Every failed node on a line of its own, up to a bound; for a run that was refused or given up."""
        failed = [node for node in report if node.status == "failed"]
        lines = [f"{n.label} [{n.hash[:12]}]: {n.failure.line() if n.failure else ''}" for n in failed[:_LISTED]]
        if len(failed) > _LISTED:
            lines.append(f"… and {len(failed) - _LISTED} more")
        refused = not any(node.attempts for node in failed) and not self._driver.state.policy.retry_failed
        why = "these have failed before, and retry_failed=False lets that stand" if refused else "it cannot go on"
        return "\n  ".join([f"{why}:", *lines])

    # -- inside ----------------------------------------------------------------------------------------------

    async def _live(self, executor: Executor) -> None:
        """The run's task in the scheduler's group."""
        driver, ledger = self._driver, self._ledger
        timer = None
        if self._timeout is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._timeout, driver.stop, "timeout", f"timeout={self._timeout:g}")
        try:
            ledger.run_started(f"root {driver.root}")
            await driver.run()
        except Exception as error:
            self._crash = error
        finally:
            if timer is not None:
                timer.cancel()
            with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_SECS):
                await executor.release(driver)
            self._close()

    def _close(self) -> None:
        driver, ledger = self._driver, self._ledger
        end = driver.end
        duration = asyncio.get_running_loop().time() - self._started
        root = driver.root

        async def load(obj: Furu[Any]) -> Any:
            with use_config(driver.config):
                inside = contextvars.copy_context()
            return await DOOR.user.run(lambda: inside.run(load_result, obj, root))

        if ledger.journal.trouble:
            ledger.notes.append(ledger.journal.trouble)
        self._report = RunReport(
            run_id=self.run_id,
            run_dir=self.run_dir,
            ok=bool(end is not None and end.ok and not end.why and driver.error is None),
            nodes=ledger.outcomes,
            duration=duration,
            notes=tuple(ledger.notes),
            _loader=load,
        )
        ledger.run_ended(self._report.counts, end.detail if end is not None else "")
        self._ended.set()


class Scheduler:
    """Runs DAGs for a service: several runs share its workers, a node wanted by two is computed once.

    ``async with Scheduler(Local(workers=8)) as s: run = s.start(targets); report = await run``. Leaving the
    block cancels what runs, within 30 s; ``await s.drain()`` waits for it first.

    Args:
        executor: default `Local()`.
        config: default: the active config when the block is entered.
    """

    def __init__(self, executor: ExecutorLike | None = None, *, config: FuruConfig | None = None) -> None:
        if executor is not None and not isinstance(executor, Local):
            raise FuruDefinitionError(f"executor={executor!r} is not an executor", "use Local(...)")
        self._description = executor or Local()
        self._config = config
        self._executor: LocalExecutor | None = None
        self._host: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._runs: set[Run] = set()
        self._closing = asyncio.Event()
        self._changed = asyncio.Event()
        self._token: contextvars.Token[Scheduler | None] | None = None

    def is_open_here(self) -> bool:
        """Open, and of the running loop."""
        return (
            self._host is not None
            and not self._host.done()
            and not self._closing.is_set()
            and self._loop is asyncio.get_running_loop()
        )

    async def __aenter__(self) -> Self:
        await self.open()
        self._token = _current.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            try:
                _current.reset(self._token)
            except ValueError:
                pass  # closed from another context than the one that opened it, which is allowed
        await self.aclose()

    async def open(self) -> None:
        """Enter without a block; `aclose` leaves."""
        _refuse_other_loops()
        if self._host is not None:
            raise FuruError("this Scheduler was opened before", "make a new one; a Scheduler is used once")
        self._loop = asyncio.get_running_loop()
        self._config = self._config or active_config()
        self._executor = LocalExecutor(self._description, self._config)
        opened = asyncio.Event()
        self._host = self._loop.create_task(
            self._live(opened), name="furu scheduler", context=contextvars.Context()
        )
        await opened.wait()

    async def _live(self, opened: asyncio.Event) -> None:
        """The scheduler's own task: holds the task group of all runs."""
        assert self._executor is not None
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                opened.set()
                await self._closing.wait()
                with anyio.move_on_after(CANCEL_SECS):
                    while self._runs:
                        self._changed.clear()
                        await self._changed.wait()
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_SECS):
                await self._executor.aclose()

    def start(
        self,
        targets: Furu[Any] | Iterable[Furu[Any]],
        *,
        on_failure: OnFailure = "continue",
        max_failures: int | None = None,
        timeout: float | None = None,
        retry_failed: bool | None = None,
        retries: int | None = None,
        rerun: Sequence[str] = (),
        check: bool = True,
        config: FuruConfig | None = None,
        on_event: EventListener | Sequence[EventListener] | None = None,
    ) -> Run:
        """Begin a run; returns at once. Arguments as of `run_dag`.

        Raises:
            FuruDefinitionError: an argument is wrong.
            FuruError: the scheduler is not open.
        """
        if not self.is_open_here() or self._executor is None or self._group is None:
            raise FuruError("this Scheduler is not open here", "use `async with Scheduler(...) as s:`")
        if attempt_context.current.get() is not None:
            raise FuruError("a run cannot be started inside _create, _load or _validate")
        settings = config or self._config or active_config()
        policy = make_policy(
            settings, on_failure, max_failures, retry_failed, retries, self._executor.has_limits
        )
        if timeout is not None and (isinstance(timeout, bool) or not math.isfinite(timeout) or timeout <= 0):
            raise FuruDefinitionError(f"timeout={timeout!r}: use a number of seconds greater than 0")
        objs = check_targets(targets)
        names = check_rerun(rerun)
        listeners = [] if on_event is None else [on_event] if callable(on_event) else list(on_event)
        run_id = make_run_id()
        ledger = Ledger(run_id, str(settings.path), listeners)
        driver = Driver(run_id, objs, self._executor, policy, settings, names, ledger)
        run = Run(driver, ledger, check, timeout)
        warning = root_warning(str(settings.path))
        if warning:
            ledger.note(warning)
        announce(str(settings.path))
        self._runs.add(run)
        self._group.start_soon(self._host_run, run, name=f"furu run {run_id}")
        return run

    async def _host_run(self, run: Run) -> None:
        assert self._executor is not None
        try:
            await run._live(self._executor)
        finally:
            self._runs.discard(run)
            self._changed.set()

    async def drain(self) -> None:
        """Wait until every run that was started has ended."""
        while self._runs:
            await asyncio.gather(*(run._ended.wait() for run in list(self._runs)))
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Cancel what runs and end all workers, within 30 s."""
        host = self._host
        if host is None:
            return
        for run in list(self._runs):
            if not run.done:
                run._driver.stop("cancel", "its scheduler was closed")
        self._closing.set()
        await _outlive(host)


async def _outlive(host: asyncio.Task[None]) -> None:
    """Wait for a task that must end by itself; being cancelled meanwhile is passed on afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not host.done():
        try:
            await asyncio.shield(host)
        except asyncio.CancelledError as error:
            if host.done():
                break
            cancelled = error
        except Exception:
            break
    if cancelled is not None:
        raise cancelled
    if not host.cancelled():
        crash = host.exception()
        if crash is not None:
            raise collapse(crash)


def collapse(error: BaseException) -> BaseException:
    """The single error inside an exception group, or the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def make_policy(
    config: FuruConfig,
    on_failure: OnFailure,
    max_failures: int | None,
    retry_failed: bool | None,
    retries: int | None,
    has_limits: bool,
) -> Policy:
    """The core's policy from a run's arguments and settings.

    Raises:
        FuruDefinitionError: an argument is not allowed.
    """
    if on_failure not in ("continue", "drain", "cancel"):
        raise FuruDefinitionError(f"on_failure={on_failure!r}: use 'continue', 'drain' or 'cancel'")
    if max_failures is not None and (
        isinstance(max_failures, bool) or not isinstance(max_failures, int) or max_failures < 1
    ):
        raise FuruDefinitionError(f"max_failures={max_failures!r}: use a whole number, 1 or more, or None")
    if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
        raise FuruDefinitionError(f"retries={retries!r}: use a whole number, 0 or more, or None")
    return Policy(
        on_failure=on_failure,
        max_failures=max_failures,
        retry_failed=config.retry_failed if retry_failed is None else retry_failed,
        compute_retries=config.max_compute_retries if retries is None else retries,
        preempt_max=config.preempt_max,
        infra_secs=config.infra_secs,
        hold_starts=has_limits or dependency_methods_exist(),
    )


_announced: set[str] = set()


def announce(root: str) -> None:
    """Say once per process which store is used."""
    if root not in _announced:
        _announced.add(root)
        logger.info("furu_async keeps its results in %s (FURU_PATH)", root)


def check_rerun(rerun: Sequence[str]) -> tuple[str, ...]:
    """Names of classes to be computed again."""
    if isinstance(rerun, str):
        rerun = (rerun,)
    for name in rerun:
        if not isinstance(name, str):
            raise FuruDefinitionError(f"rerun={rerun!r}: use names such as 'module.Class', or 'ALL'")
    return tuple(rerun)


def make_run_id() -> str:
    """A name for a run: when it began (UTC, for people) and something random."""
    import time

    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(clock.wall()))
    return f"{stamp}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def _refuse_other_loops() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise FuruError(
            "furu_async runs on asyncio (and uvloop); there is no running asyncio loop here"
        ) from None
