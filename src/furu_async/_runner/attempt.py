"""One attempt: folder, ``_create``, storing, validating, listing. In a child process, or step by step in this one.

Nothing is published here: the outcome goes to the dispatcher, whose keeper publishes it under the claim.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from furu_async._model import artifact, context, dag
from furu_async._model.artifact import Binding, ClassInfo, Furu
from furu_async._model.resources import Retry
from furu_async._runner import failures
from furu_async._runner.capture import Capture
from furu_async._runner.failures import Phase
from furu_async._runner.messages import TaskResult, TaskSpec
from furu_async._runner.objects import Objects
from furu_async._runner.restore import Snapshot
from furu_async._runner.validity import judge
from furu_async._runtime.config import FuruConfig, active_config, use_config
from furu_async._store import atomic, fs, results
from furu_async._store.manifest import manifest_of, sync_tree
from furu_async._store.records import ManifestEntry
from furu_async.report import Failure

POWER_SECS = 1.0


class Canceller:
    """Reaches the loop on which an async ``_create`` runs. Calling it is safe in a signal handler and in any thread."""

    def __init__(self) -> None:
        self.cancel: Callable[[], object] | None = None

    def __call__(self) -> None:
        cancel = self.cancel
        if cancel is not None:
            cancel()


in_child = Canceller()
"""Cancels the async ``_create`` that a child process runs, if it runs one."""


class Attempt:
    """The steps of one attempt, in the order in which they are called. Each blocks, but for `create` of an async class.

    Attributes:
        phase: the step under way; part of what a failure says.
        obj: the artifact, once known.
        bound: its copy that belongs to this attempt.
        result, value: kind of the stored result, and the result itself if it is small.
        pid: of the process that made this; a fork of user code's may come out of ``_create`` as well.
    """

    def __init__(self, task: TaskSpec, obj: Furu[Any] | None = None) -> None:
        self.task = task
        self.obj = obj
        self.bound: Furu[Any] | None = None
        self.phase: Phase = "prepare"
        self.result = ""
        self.value = b""
        self.pid = os.getpid()
        self.started = time.monotonic()

    def prepare(self) -> None:
        """See to it that the attempt's folder is empty, or not there: it is made when something is put into it."""
        self.phase = "prepare"
        path = self.task.directory
        try:
            if not fs.listdir(path):
                return
        except FileNotFoundError:
            return
        # Only the holder of the claim comes here, so this is what an earlier child left of the same
        # generation. Moved first: whoever still writes there writes into what is being deleted.
        folder, name = os.path.split(path)
        aside = os.path.join(folder, f".stale-{name}-{os.getpid()}-{time.monotonic_ns()}")
        fs.rename(path, aside)
        import shutil

        shutil.rmtree(aside, ignore_errors=True)

    def bind(self, obj: Furu[Any]) -> Furu[Any]:
        """Make the copy on which ``_create`` runs."""
        self.obj = obj
        self.bound = artifact.bind(
            obj, Binding(self.task.directory, self.task.checkpoint, self.task.generation)
        )
        return self.bound

    @property
    def info(self) -> ClassInfo:
        """What the artifact's class says about itself."""
        assert self.obj is not None
        return artifact.class_info(type(self.obj))

    def create(self) -> Any:
        """Call ``_create``; of an async class, the awaitable."""
        self.phase = "create"
        self.started = time.monotonic()
        assert self.bound is not None
        return self.bound._create()

    def store(self, value: Any) -> None:
        """Store what ``_create`` returned, unless the class loads by itself."""
        self.phase = "save"
        if self.info.has_load:
            self.result = "load"
            return
        data = results.small(value)
        if data is not None:
            self.result, self.value = "inline", data
        else:
            atomic.make_folders(self.task.directory)
            self.result = results.save(value, self.task.directory)

    def validate(self) -> None:
        """Ask ``_validate``, if the class has one.

        Raises:
            FuruValidationError: it does not accept what was just made.
        """
        if not self.info.has_validate:
            return
        self.phase = "validate"
        assert self.bound is not None
        answer = self.bound._validate()
        if answer is not True:
            raise failures.not_valid(answer)

    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.started

    def manifest(self, logs: set[str]) -> list[ManifestEntry]:
        """List the folder's files without the logs, synced and with checksums where durability asks for it."""
        self.phase = "publish"
        power = self.task.power == "power" or (self.task.power == "auto" and self.seconds() >= POWER_SECS)
        return sync_tree(self.task.directory, logs) if power else manifest_of(self.task.directory, logs)

    def conclude(
        self, failure: Failure | None, manifest: list[ManifestEntry], logged: bool, started_at: float
    ) -> TaskResult:
        """What is reported."""
        return TaskResult(
            id=self.task.id,
            ok=failure is None,
            result=self.result,
            value=self.value,
            manifest=manifest,
            failure=failure,
            started_at=started_at,
            duration=self.seconds(),
            logged=logged,
        )

    def failure(self, error: BaseException, *, stopped: bool, log_tail: str, logged: bool) -> Failure:
        """Translate what a step raised."""
        wants: Retry | None = None
        declared: tuple[str, ...] = ()
        if self.obj is not None:
            wants = self.info.retry or Retry()
            if self.phase == "create":
                declared = _declared(self.obj)
        return failures.failure_of(
            error,
            self.phase,
            wants=wants,
            stopped=stopped,
            declared=declared,
            log_path=self.task.directory if logged else "",
            log_tail=log_tail,
        )


def _declared(obj: Furu[Any]) -> tuple[str, ...]:
    try:
        return tuple(other.furu_hash for other in dag.dependencies(obj))
    except Exception:
        return ()


def run_awaitable(awaitable: Any, canceller: Canceller) -> Any:
    """Run an async ``_create`` on a loop of its own, in the current context."""
    import asyncio

    async def body() -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        cancel = task.cancel
        canceller.cancel = lambda: loop.call_soon_threadsafe(cancel)
        if context.stop_requested():
            cancel()
        return await awaitable

    try:
        with asyncio.Runner() as runner:
            return runner.run(body())
    finally:
        canceller.cancel = None


def run_in_child(task: TaskSpec, objects: Objects, capture: Capture, snapshot: Snapshot) -> TaskResult:
    """Run a whole attempt in this process, whose only business it is; never raises what user code raised."""
    started_at = time.time()  # noqa: TID251  (a record; the runtime's clock would import asyncio)
    attempt = Attempt(task)
    capture.begin(task.directory)
    raised: BaseException | None = None
    tail = ""
    try:
        copy_context().run(_body, attempt, objects, snapshot)
    except BaseException as error:
        raised = error
        if os.getpid() == attempt.pid:
            tail = capture.tail()
    if os.getpid() != attempt.pid:
        os._exit(0)  # a fork of user code's that came out of _create: it is not the one that reports
    stopped = context.stop_requested()
    snapshot.restore()
    capture.restore()
    logs: set[str] = set()
    manifest: list[ManifestEntry] = []
    try:
        logs = capture.end()
        if raised is None:
            manifest = attempt.manifest(logs)
    except Exception as error:  # a full disk, or what cannot be part of a result
        if raised is None:
            raised, stopped = error, False
    failure = None
    if raised is not None:
        failure = attempt.failure(raised, stopped=stopped, log_tail=tail, logged=bool(logs))
    return attempt.conclude(failure, manifest, bool(logs), started_at)


def validate_in_child(task: TaskSpec, objects: Objects, capture: Capture, snapshot: Snapshot) -> TaskResult:
    """Ask ``_validate`` of a published result; the verdict is the result's ``value``."""
    attempt = Attempt(task)

    def body() -> bytes:
        obj = _build(attempt, objects, snapshot)
        attempt.phase = "validate"
        closely = task.action == "validate-files"
        return msgspec.json.encode(judge(obj, _config(task.root), files=closely, content=closely))

    failure: Failure | None = None
    try:
        attempt.value = copy_context().run(body)
    except BaseException as error:
        failure = attempt.failure(error, stopped=False, log_tail="", logged=False)
    snapshot.restore()
    capture.restore()
    capture.discard()
    return attempt.conclude(failure, [], False, 0.0)


def _body(attempt: Attempt, objects: Objects, snapshot: Snapshot) -> None:
    attempt.prepare()
    if context.stop_requested():
        attempt.phase = "create"
        raise KeyboardInterrupt("asked to stop before it began")
    bound = attempt.bind(_build(attempt, objects, snapshot))
    with use_config(_config(attempt.task.root)), context.running(bound):
        value = attempt.create()
        if inspect.isawaitable(value):
            value = run_awaitable(value, in_child)
        if os.getpid() == attempt.pid:
            attempt.store(value)
            attempt.validate()


def _build(attempt: Attempt, objects: Objects, snapshot: Snapshot) -> Furu[Any]:
    attempt.phase = "build"
    modules = len(sys.modules)
    obj = objects.get(attempt.task.hash)
    if len(sys.modules) != modules:
        snapshot.take()  # the user's modules were imported: what that did to the process stays
    return obj


@lru_cache(maxsize=8)
def _config(root: str) -> FuruConfig:
    """The settings of this process's environment, with the root that the task says."""
    return replace(active_config(), path=Path(root))
