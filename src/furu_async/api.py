"""`run_dag` and its synchronous form: arguments to wiring to report; no logic of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeVar

from furu_async._executors.arguments import EventListener, check_config, check_targets
from furu_async._executors.runs import Run
from furu_async._executors.scheduler import ExecutorLike, Scheduler
from furu_async._executors.sync import run_sync
from furu_async._model.artifact import Furu
from furu_async._model.context import refuse_while_importing
from furu_async._plan.events import OnFailure
from furu_async._runtime.config import FuruConfig, active_config
from furu_async.report import RunEvent, RunReport

__all__ = ["Progress", "run_dag", "run_dag_sync"]

T = TypeVar("T")

_logger = logging.getLogger("furu_async")


class Progress(Protocol):
    """What `run_dag(progress=)` takes besides None and bools."""

    def start(self, run_id: str, root: str) -> None:
        """The run begins."""

    def on_event(self, event: RunEvent) -> None:
        """Something happened; called on the loop, must be quick."""

    def stop(self, report: RunReport | None) -> None:
        """The run is over; None if it has no report."""


async def run_dag(
    targets: Furu[Any] | Iterable[Furu[Any]],
    *,
    executor: ExecutorLike | None = None,
    on_failure: OnFailure = "continue",
    max_failures: int | None = None,
    timeout: float | None = None,
    retry_failed: bool | None = None,
    retries: int | None = None,
    rerun: Sequence[str] = (),
    on_cancel: Literal["cancel", "detach"] = "cancel",
    check: bool = True,
    config: FuruConfig | None = None,
    progress: bool | Progress | None = None,
    on_event: EventListener | None = None,
) -> RunReport:
    """Compute what is missing of ``targets`` and of what they depend on, once, and report.

    Args:
        targets: one or several. What lies below a valid cached node is not looked at.
        executor: where nodes run; default `Local()`.
        on_failure: once a node has failed for good: ``continue`` runs what does not depend on it; ``drain`` starts
            nothing new and lets what runs finish; ``cancel`` stops that too.
        max_failures: with ``continue``: after so many failed nodes, drain.
        timeout: seconds for the whole run.
        retry_failed: False: a stored failure stays, one of kind ``lost`` too (``preempted``, ``cancelled``, ``inputs``
            and ``infrastructure`` do not), and the run refuses to start. Default: ``FURU_RETRY_FAILED``.
        retries: compute retries of a node. Default: ``FURU_MAX_COMPUTE_RETRIES``.
        rerun: ``module.Class`` names, or ``ALL``: computed again, once.
        on_cancel: ``detach`` leaves Slurm work running; an error with `Local`.
        check: raise if a node failed; False returns the report whatever is in it.
        config: settings for this run; default: the active ones.
        progress: None: on a terminal only.
        on_event: called on the loop for each `RunEvent`.

    Raises:
        FuruRunFailed: with ``check``; carries the report and every root failure.
        FuruRunTimeout: ``timeout`` passed (also a TimeoutError).
        FuruDefinitionError: an argument, a class or the DAG is wrong; nothing has run.
        FuruStoreError, FuruExecutorError: the surroundings do not work.
        asyncio.CancelledError: the caller was cancelled; what ran has been stopped, within 30 s.
    """
    refuse_while_importing("run_dag")
    settings, objs = check_config(config) or active_config(), check_targets(targets)
    display = _make_progress(progress, objs)
    async with Scheduler(executor, config=settings) as scheduler:
        run = scheduler.start(
            objs,
            on_failure=on_failure,
            max_failures=max_failures,
            timeout=timeout,
            retry_failed=retry_failed,
            retries=retries,
            rerun=rerun,
            on_cancel=on_cancel,
            check=check,
            config=settings,
            on_event=[each for each in (on_event, display.on_event if display else None) if each],
        )
        return await _shown(scheduler, run, display, str(settings.path))


async def _shown(scheduler: Scheduler, run: Run, display: Progress | None, root: str) -> RunReport:
    """Await a run while its progress is shown; when the awaiting task is cancelled, all of it ends."""
    try:
        if display is not None:
            await run.settled()
            _guarded(display.start, run.run_id, root)
        return await run
    except asyncio.CancelledError:
        await scheduler.aclose()
        raise
    finally:
        if display is not None:
            _guarded(display.stop, run.report)


def _guarded(step: Callable[..., object], *arguments: object) -> None:
    """What becomes of a display, such as one on a terminal that is gone, does not touch the run."""
    try:
        step(*arguments)
    except Exception:
        _logger.exception("the display of the run's progress failed; the run is not concerned")


def run_dag_sync(targets: Furu[Any] | Iterable[Furu[Any]], **options: Any) -> RunReport:
    """`run_dag` for synchronous code, with the same arguments; not inside a running event loop.

    While it runs it handles SIGINT, SIGTERM and SIGHUP (unless that is ignored): the first cancels within 30 s, the
    second ends the process.

    Raises:
        KeyboardInterrupt: after SIGINT, when everything is stopped.
    """
    return run_sync(lambda: run_dag(targets, **options))


def _make_progress(progress: bool | Progress | None, targets: Sequence[Furu[Any]]) -> Progress | None:
    from importlib import import_module

    if progress is False:
        return None
    if progress is None:
        import sys

        if not (sys.stderr is not None and sys.stderr.isatty()):
            return None
    made: Progress | None = import_module("furu_async._cli.progress").make_progress(progress, targets)
    return made
