"""One taken entry of a worker, and what it tells the `LocalExecutor` that it is a run."""

from __future__ import annotations

import contextvars
import platform
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

import furu_async
from furu_async._executors.base import Node, Request
from furu_async._executors.joined import JoinedRun
from furu_async._model.artifact import Furu, class_info, specs_of
from furu_async._plan.events import Event
from furu_async._pool.entries import UNREADABLE, Outcome, QueueEntry, Report
from furu_async._pool.objects_log import Table
from furu_async._pool.queue import Taken
from furu_async._runtime.config import FuruConfig
from furu_async._store.layout import parse_entry_name
from furu_async.errors import FuruError
from furu_async.report import Failure


class TaskRun(JoinedRun):
    """The run of one entry, or of the worker itself. Of one run all have the same token.

    Args:
        post: told what happens to the entry.
        failed: told why nothing can be done under this run.
        note: told what a person should read.
        opened: called when the run's folder is there.
    """

    def __init__(
        self,
        run_id: str,
        token: str,
        config: FuruConfig,
        context: contextvars.Context,
        post: Callable[[Event], None],
        failed: Callable[[FuruError], None],
        note: Callable[[str], None],
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(run_id, token, config, context)
        self._post = post
        self._failed = failed
        self._note = note
        self._opened = opened

    def post(self, event: Event) -> None:
        """What happened to the entry."""
        self._post(event)

    def opened(self) -> None:
        """The run's folder is there."""
        self._opened()

    def fail(self, error: FuruError) -> None:
        """Nothing can be done under this run."""
        self._failed(error)

    def note(self, text: str) -> None:
        """Something that a person should read."""
        self._note(text)

    def jitter(self) -> float:
        """The controller spreads what it does."""
        return 0.0


class Task:
    """See the module.

    Attributes:
        since: loop time at which it was taken.
        building: a thread is at it.
        request: once the artifact is built and the executor has it.
        began: loop time at which a process was at it; None before.
        first: nothing had ended here before it began.
        cancelled: the controller wants it no more.
        recalled: the same, as long as no process is at it.
        error: why its run cannot be worked for.
    """

    def __init__(self, taken: Taken, entry: QueueEntry, since: float) -> None:
        self.taken = taken
        self.name: str = taken.name
        self.entry = entry
        self.since = since
        self.building: bool = False
        self.request: Request | None = None
        self.began: float | None = None
        self.first: bool = False
        self.cancelled: bool = False
        self.recalled: bool = False
        self.error: str = ""

    @property
    def wish(self) -> str:
        """Why the controller is to be told where it is given back; empty: others may have it."""
        return "cancelled" if self.cancelled or self.recalled else ""

    def refusal(self, spec_key: str) -> Failure | None:
        """Why it is not to be run at all by a worker of this spec, or None."""
        entry = self.entry
        if entry.spec_key != spec_key:
            text = (
                f"{entry.name}/{entry.hash}: its entry asks for spec {entry.spec_key or '(none)'!r}, and this worker "
                f"has {spec_key!r}; the node's specs are {', '.join(entry.executor_keys) or '(none)'}"
            )
        elif entry.library != furu_async.__version__:
            text = f"{entry.name}/{entry.hash}: {versions(entry)}"
        else:
            return None
        return Failure(kind="protocol", error_type="FuruSpecMismatch", message=text, run_wide=True)


def versions(entry: QueueEntry) -> str:
    """Both sides' versions."""
    return (
        f"the controller has furu_async {entry.library} on Python {entry.python}, "
        f"this worker {furu_async.__version__} on Python {platform.python_version()}"
    )


def node_of(obj: Furu[Any], entry: QueueEntry) -> Node:
    """The node that an entry is about.

    Raises:
        FuruError: it is another one than the entry says.
    """
    info = class_info(type(obj))
    if info.name != entry.name:
        raise FuruError(f"the entry calls {entry.hash} {entry.name!r}, and the table {info.name!r}")
    own = [spec.key for spec in specs_of(obj)]
    if own != (entry.executor_keys or own):
        theirs = ", ".join(entry.executor_keys)
        raise FuruError(f"{info.name}._spec gives {', '.join(own)} here, and {theirs} there")
    return Node(
        obj,
        entry.hash,
        info.name,
        info,
        supersede=entry.supersede,
        takeover=entry.takeover,
        silent_at=entry.silent_at,
        history=tuple(entry.history),
    )


def nodes_of(table: Table, entries: Sequence[QueueEntry]) -> list[Node | Failure]:
    """The nodes that entries are about, or why there is none; blocks, and imports users' modules."""
    made: list[Node | Failure] = []
    for entry in entries:
        try:
            made.append(node_of(table.get(entry.hash), entry))
        except BaseException as error:  # importing a module may raise anything, SystemExit too
            made.append(cannot_build(error, entry))
    return made


def cannot_build(error: BaseException, entry: QueueEntry) -> Failure:
    """The failure of an artifact that this process cannot make. What the file system did not give may pass."""
    name = type(error).__name__
    text = f"{entry.name}/{entry.hash} cannot be made by this worker: {name}: {error} ({versions(entry)})"
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return Failure(kind="infrastructure", error_type=name, message=text[:4000])
    return Failure(kind="protocol", error_type=name, message=text[:4000], run_wide=True)


def report_of(
    entry: QueueEntry,
    outcome: Outcome,
    *,
    worker_id: str,
    node: str,
    job_id: str,
    begun: bool = False,
    generation: int = 0,
    failure: Failure | None = None,
    detail: str = "",
) -> Report:
    """The report of an entry."""
    said = msgspec.structs.asdict(entry)
    said.update(worker_id=worker_id, failure_kind="", error="")
    if failure is not None:
        said.update(failure_kind=failure.kind, error=failure.line())
    return Report(
        **said,
        outcome=outcome,
        begun=begun,
        generation=generation,
        failure=failure,
        detail=detail,
        node=node,
        job_id=job_id,
    )


def unreadable(name: str, why: str, *, spec_key: str) -> tuple[QueueEntry, Failure]:
    """What can be said of an entry that says nothing: what its name says."""
    found = parse_entry_name(name)
    assert found is not None
    entry = QueueEntry(hash=found[0], ticket=found[1], name="", spec_key=spec_key)
    text = f"queue entry {name} is {UNREADABLE}: {why}"
    return entry, Failure(kind="protocol", error_type="Damaged", message=text)
