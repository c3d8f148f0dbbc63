"""What a run tells about itself: failures, outcomes, events, the report. Frozen data, no I/O.

`Failure` is also the shape in which a failure is written to the store, so a field added here needs a default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

if TYPE_CHECKING:
    from furu_async._model.artifact import Furu

T = TypeVar("T")

FailureKind = Literal[
    "compute",
    "protocol",
    "inputs",
    "timeout",
    "oom",
    "killed",
    "lost",
    "preempted",
    "infrastructure",
    "cancelled",
]
NodeStatus = Literal["created", "cached", "failed", "skipped", "cancelled"]
EventKind = Literal[
    "run_started",
    "planned",
    "node_started",
    "node_retry",
    "node_waiting",
    "node_done",
    "workers",
    "note",
    "run_ended",
]

__all__ = ["EventKind", "Failure", "FailureKind", "NodeOutcome", "NodeStatus", "RunEvent", "RunReport"]


_LINE = 500
_NOT_THE_USERS = (os.path.dirname(os.path.abspath(__file__)) + os.sep, "<string>", "<frozen ")
_FRAME = re.compile(r'\s*(?:\|\s*)*File "([^"]+)", line (\d+), in (\S+)')


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why one attempt failed.

    Attributes:
        kind: which line of the failure taxonomy it is.
        error_type: qualified name of the exception class, or empty.
        message: text of the exception, bounded; made in the child, so it exists even where ``str()`` raises.
        traceback: formatted traceback, bounded, without local variables.
        log_path: folder with ``log``, ``stdout`` and ``stderr`` of the attempt, or empty.
        log_tail: last lines of what the attempt wrote, bounded.
        retryable: what the class's ``_retry`` says of this exception; None where no exception was seen.
        run_wide: a protocol failure that concerns the whole run, not one node.
        planned: the node met the end of its worker's walltime after only a part of it: costs nothing of a budget.
        checkpoint: of a ``_resumable`` node that met it after the whole: a digest of what it had saved, or empty.
        attempt: which attempt of the run it was, from 1.
    """

    kind: FailureKind
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    log_path: str = ""
    log_tail: str = ""
    retryable: bool | None = None
    run_wide: bool = False
    planned: bool = False
    checkpoint: str = ""
    attempt: int = 0

    def where(self) -> str:
        """The innermost frame of user code: ``file:line in function: code``; empty if there is none."""
        rows = self.traceback.splitlines()
        for index in range(len(rows) - 1, -1, -1):
            found = _FRAME.match(rows[index])
            # A `<string>` is what dataclasses generate.
            if found and not found[1].startswith(_NOT_THE_USERS):
                code = rows[index + 1].strip() if index + 1 < len(rows) else ""
                return f"{found[1]}:{found[2]} in {found[3]}" + (f": {code[:200]}" if code else "")
        return ""

    def hint(self) -> str:
        """What the error says one can do, if it says so."""
        _, mark, text = self.message.partition("hint: ")
        return text.strip().splitlines()[0][:_LINE] if mark and text.strip() else ""

    def line(self) -> str:
        """One short line for histories and tables."""
        what = self.error_type.rpartition(".")[2]
        text = self.message.strip().splitlines()[0] if self.message.strip() else ""
        return ": ".join(part for part in (self.kind, what, text[:_LINE]) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOutcome:
    """How one node of a run ended.

    Attributes:
        hash: the artifact's ``furu_hash``.
        name: its class name as used in the store.
        label: a bounded repr.
        status: ``created``, ``cached``, ``failed``, ``skipped`` or ``cancelled``.
        attempts: how many times this run started it.
        failure: the last failure, for ``failed``; None otherwise.
        history: one short line per earlier failed attempt, of the last twenty.
        because: for ``skipped``: ``dependency``, ``drain`` or ``cancel``.
        root: for ``because == "dependency"``: hash of the failed node at the root of it.
        started_at, ended_at: seconds since the epoch on this host's wall clock, for people; None if never started.
        directory: where its files are; for a failed node the last attempt's folder.
    """

    hash: str
    name: str
    label: str = ""
    status: NodeStatus
    attempts: int = 0
    failure: Failure | None = None
    history: tuple[str, ...] = ()
    because: Literal["", "dependency", "drain", "cancel"] = ""
    root: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    directory: str = ""

    def describe_failure(self) -> str:
        """Class, error, where it was raised, what to do, last log line and log path, each on a line."""
        failure = self.failure
        if failure is None:
            return f"- {self.name}/{self.hash[:12]}: {self.status}"
        lines = [f"- {self.label or self.name} [{self.hash[:12]}] failed after {self.attempts} attempt(s)"]
        lines.append(f"    {failure.line()}")
        if failure.where():
            lines.append(f"    at {failure.where()}")
        if failure.hint():
            lines.append(f"    hint: {failure.hint()}")
        tail = failure.log_tail.strip().splitlines()
        if tail:
            lines.append(f"    last log line: {tail[-1][:200]}")
        if failure.log_path:
            lines.append(f"    log: {failure.log_path}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """One thing that happened in a run; the same objects go to ``on_event``, ``run.events()`` and the journal.

    Attributes:
        at: seconds since the epoch on this host's wall clock.
        kind: what happened.
        hash, name: the node, or empty for events of the run.
        status: the node's final status, for ``node_done``.
        attempt: from 1, for ``node_started`` and ``node_retry``.
        message: for people; why a node waits or is retried, what a note says.
        counts: in ``planned`` and ``run_ended`` of nodes; in ``workers`` of the executor's Slurm jobs, by state
            (``pending``, ``running``, …).
        since: for ``node_waiting``: when the wait began, in seconds since the epoch.
        until: for ``node_waiting`` and ``node_retry``: when it is decided at the latest if nothing changes, or when it
            runs again; in seconds since the epoch, for people.
    """

    at: float
    kind: EventKind
    hash: str = ""
    name: str = ""
    label: str = ""
    status: NodeStatus | Literal[""] = ""
    attempt: int = 0
    message: str = ""
    worker: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    since: float | None = None
    until: float | None = None


Loader = Callable[["Furu[Any]"], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a run did, node by node.

    What lies below a valid cached node was not looked at and is not in here.

    Attributes:
        run_id: name of the run, also of its folder.
        run_dir: ``<root>/runs/<run_id>``; exists only if something had to be computed.
        ok: every target has a result.
        nodes: outcome by ``furu_hash``.
        duration: seconds, on the monotonic clock.
        notes: what went wrong without failing the run (a raising ``_validate``, …), or that it goes on with the run
            of a controller that died.
    """

    run_id: str
    run_dir: str
    ok: bool
    nodes: Mapping[str, NodeOutcome]
    duration: float
    notes: tuple[str, ...] = ()
    _loader: Loader | None = field(default=None, repr=False, compare=False)

    @property
    def counts(self) -> dict[str, int]:
        """Number of nodes by status; adds up to ``len(report.nodes)``."""
        counts = {"created": 0, "cached": 0, "failed": 0, "skipped": 0, "cancelled": 0}
        for node in self.nodes.values():
            counts[node.status] += 1
        return counts

    def __getitem__(self, obj: Furu[Any]) -> NodeOutcome:
        try:
            return self.nodes[obj.furu_hash]
        except KeyError:
            raise KeyError(
                f"{obj!r} is not in the report of run {self.run_id}: it is no part of the DAG, "
                "or lies below a cached node that was not looked into"
            ) from None

    def __contains__(self, obj: object) -> bool:
        return getattr(obj, "furu_hash", None) in self.nodes

    def __iter__(self) -> Iterator[NodeOutcome]:
        return iter(self.nodes.values())

    async def load(self, obj: Furu[T]) -> T:
        """Load the result of a node of this run, off the loop, from the root the run used.

        Raises:
            FuruMissingArtifact: it has no result.
        """
        if self._loader is None:
            raise RuntimeError("this report was unpickled or made by hand; use `await obj.aload()`")
        result: T = await self._loader(obj)
        return result

    def __getstate__(self) -> tuple[Any, ...]:
        return (self.run_id, self.run_dir, self.ok, dict(self.nodes), self.duration, self.notes)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for name, value in zip(
            ("run_id", "run_dir", "ok", "nodes", "duration", "notes", "_loader"), (*state, None), strict=True
        ):
            object.__setattr__(self, name, value)
