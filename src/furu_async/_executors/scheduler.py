"""`Scheduler` and `Run`: the long-lived form, on which every other way to run stands.

The scheduler's task group lives in a task of its own, so the block may be entered and left in different tasks,
and cancelling a task that awaits a run stops only that wait.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, Self

import anyio

from furu_async._executors.arguments import (
    EventListener,
    announce,
    check_config,
    check_listeners,
    check_on_cancel,
    check_rerun,
    check_targets,
    check_timeout,
    make_policy,
    make_run_id,
)
from furu_async._executors.base import Executor, collapse
from furu_async._executors.base import ExecutorLike as ExecutorLike
from furu_async._executors.driver import Driver
from furu_async._executors.ledger import Ledger
from furu_async._executors.local import Local
from furu_async._executors.runs import CANCEL_SECS, Run
from furu_async._model import context as attempt_context
from furu_async._model.artifact import Furu
from furu_async._plan.events import OnFailure
from furu_async._runtime.config import FuruConfig, active_config
from furu_async._store.layout import root_warning
from furu_async.errors import FuruDefinitionError, FuruError, FuruProtocolError

_CLOSE_SECS = 8.0
"""For the end of children and keeper, after the runs have ended."""

_current: ContextVar[Scheduler | None] = ContextVar("furu_scheduler", default=None)


def current_scheduler() -> Scheduler | None:
    """The scheduler whose block surrounds the caller, if it belongs to this loop and is open."""
    scheduler = _current.get()
    if scheduler is None or not scheduler.is_open_here():
        return None
    return scheduler


class Scheduler:
    """Runs DAGs for a service: several runs share its workers, a node wanted by two is computed once.

    ``async with Scheduler(Local(workers=8)) as s: run = s.start(targets); report = await run``. Leaving the
    block cancels what runs, within 30 s; ``await s.drain()`` waits for it first.

    Args:
        executor: default `Local()`.
        config: default: the active config when the block is entered.
    """

    def __init__(self, executor: ExecutorLike | None = None, *, config: FuruConfig | None = None) -> None:
        if executor is not None and not isinstance(executor, ExecutorLike):
            raise FuruDefinitionError(f"executor={executor!r} is not an executor", "use Local(...)")
        self._description = executor or Local()
        self._config = check_config(config)
        self._executor: Executor | None = None
        self._host: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._runs: set[Run] = set()
        self._closing = asyncio.Event()
        self._changed = asyncio.Event()
        self._token: contextvars.Token[Scheduler | None] | None = None

    @property
    def executor(self) -> Executor:
        """What the scheduler's runs are executed by, once it is open."""
        if self._executor is None:
            raise FuruError("this Scheduler is not open", "use `async with Scheduler(...) as s:`")
        return self._executor

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
        self._executor = self._description.open(self._config)
        opened = asyncio.Event()
        self._host = self._loop.create_task(
            self._live(opened), name="furu scheduler", context=contextvars.Context()
        )
        try:
            await opened.wait()
        except BaseException:
            # Who is cancelled while entering a block never leaves it.
            await self.aclose()
            raise

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
            with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_SECS):
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
        on_cancel: Literal["cancel", "detach"] = "cancel",
        check: bool = True,
        config: FuruConfig | None = None,
        on_event: EventListener | Sequence[EventListener] | None = None,
        distrust: Sequence[Furu[Any]] = (),
        keep: bool = True,
    ) -> Run:
        """Begin a run; returns at once. Arguments as of `run_dag`.

        If a controller that is dead had begun the same run and not ended it (the same set of targets, the same kind of
        executor, the same store), it goes on under its name and with its counts.

        Args:
            distrust: artifacts whose result somebody could not use: a marker is not believed, their files are
                looked at.
            keep: False: a run that ends well leaves no folder.

        Raises:
            FuruDefinitionError: an argument is wrong.
            FuruError: the scheduler is not open.
        """
        if not self.is_open_here() or self._executor is None or self._group is None:
            raise FuruError("this Scheduler is not open here", "use `async with Scheduler(...) as s:`")
        attempt_context.refuse_while_importing("Scheduler.start")
        if attempt_context.current.get() is not None:
            raise FuruProtocolError(
                "a run cannot be started inside _create, _load or _validate",
                "declare what is needed as a field or with @dependency, and load it with get() or aget()",
            )
        settings = check_config(config) or self._config or active_config()
        policy = make_policy(
            settings, on_failure, max_failures, retry_failed, retries, self._executor.has_limits
        )
        check_timeout(timeout)
        objs = check_targets(targets)
        names = check_rerun(rerun)
        listeners = check_listeners(on_event)
        run_id = make_run_id()
        ledger = Ledger(run_id, str(settings.path), listeners)
        driver = Driver(run_id, objs, self._executor, policy, settings, names, ledger, self._executor.seed)
        driver.keep = keep
        driver.on_cancel = check_on_cancel(on_cancel, self._executor)
        driver.distrust.update(obj.furu_hash for obj in distrust)
        run = Run(driver, ledger, check, timeout)
        if warning := root_warning(str(settings.path)):
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
        if self._executor is not None:
            self._executor.no_more()
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


def _refuse_other_loops() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise FuruError(
            "furu_async runs on asyncio (and uvloop); there is no running asyncio loop here"
        ) from None
