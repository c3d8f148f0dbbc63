"""The arguments of a run, checked: what is wrong is said before anything runs."""

from __future__ import annotations

import inspect
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from furu_async._executors.base import Executor
from furu_async._model.artifact import Furu
from furu_async._model.definition import dependency_methods_exist
from furu_async._plan.events import OnFailure, Policy
from furu_async._runtime import clock
from furu_async._runtime.config import FuruConfig, is_rerun_name
from furu_async.errors import FuruDefinitionError
from furu_async.report import RunEvent

EventListener = Callable[[RunEvent], None]

logger = logging.getLogger("furu_async")


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
    if retry_failed is not None and not isinstance(retry_failed, bool):
        raise FuruDefinitionError(f"retry_failed={retry_failed!r}: use True, False or None")
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
    if not isinstance(rerun, Iterable) or isinstance(rerun, type):
        raise FuruDefinitionError(f"rerun={rerun!r}: use names such as 'module.Class', or 'ALL'")
    rerun = tuple(rerun)
    for name in rerun:
        if not is_rerun_name(name):
            raise FuruDefinitionError(f"rerun={rerun!r}: use names such as 'module.Class', or 'ALL'")
    return rerun


def make_run_id() -> str:
    """A name for a run: when it began (UTC, for people) and something random."""

    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(clock.wall()))
    return f"{stamp}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def check_config(config: FuruConfig | None) -> FuruConfig | None:
    """The settings given for a run, if they are settings."""
    if config is not None and not isinstance(config, FuruConfig):
        raise FuruDefinitionError(f"config={config!r} is not a FuruConfig")
    return config


def check_listeners(on_event: EventListener | Sequence[EventListener] | None) -> list[EventListener]:
    """The listeners as a list; each is called on the loop and must be an ordinary function."""
    if on_event is None:
        return []
    listeners = [on_event] if callable(on_event) else on_event
    if not isinstance(listeners, list | tuple):
        raise FuruDefinitionError(f"on_event={on_event!r}: use a function that takes a RunEvent")
    for listener in listeners:
        if not callable(listener) or inspect.iscoroutinefunction(listener):
            raise FuruDefinitionError(
                f"on_event={listener!r}: use an ordinary function that takes a RunEvent",
                "in async code, iterate over run.events() instead",
            )
    return list(listeners)


def check_on_cancel(on_cancel: object, executor: Executor) -> Literal["cancel", "detach"]:
    """What becomes of a run that is cancelled.

    Raises:
        FuruDefinitionError: it is none of the two, or the executor has nothing that could go on by itself.
    """
    if on_cancel == "cancel":
        return "cancel"
    if on_cancel != "detach":
        raise FuruDefinitionError(f"on_cancel={on_cancel!r}: use 'cancel' or 'detach'")
    if not executor.can_detach:
        raise FuruDefinitionError(
            "on_cancel='detach' leaves Slurm work running; with this executor there is none to leave"
        )
    return "detach"


def check_timeout(timeout: float | None) -> None:
    """Seconds greater than 0, or None."""
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise FuruDefinitionError(f"timeout={timeout!r}: use a number of seconds")
    if not math.isfinite(timeout) or timeout <= 0:
        raise FuruDefinitionError(f"timeout={timeout!r}: use a number of seconds greater than 0")
