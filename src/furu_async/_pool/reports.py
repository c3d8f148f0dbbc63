"""What workers say of their tasks, read and judged: ``done/`` and ``failed/`` of the queue.

A success is read back: of an entry in ``done/`` only the artifact's marker is believed. Nothing in these folders can
stop the controller: what is foreign or cannot be read is set aside, what is late is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from furu_async._pool import queue
from furu_async._pool.entries import UNREADABLE, Report
from furu_async._pool.wanted import CANCELLED, Task
from furu_async._store import fs
from furu_async._store.artifacts import look
from furu_async._store.layout import ArtifactPaths, QueuePaths, parse_entry_name
from furu_async._store.marker import read_marker
from furu_async._store.records import Damaged
from furu_async.report import Failure

MOST = 500
"""Entries that one round reads."""

VISIBLE_SECS = 120.0
"""How long a result that a worker has published may stay invisible here."""

_log = logging.getLogger("furu_async.pool")


@dataclass(frozen=True, slots=True)
class Published:
    """The result of an entry in ``done/``, read back; generation 0: it cannot be seen yet, or not be read now."""

    name: str
    generation: int = 0
    run_id: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file in ``failed/`` that is no report; it was set aside."""

    name: str
    why: str


@dataclass(slots=True)
class Round:
    """What one look found.

    Attributes:
        foreign: what was set aside: neither an entry nor a report.
        more: there is more of it.
        trouble: why the folders could not be read; empty if they could.
    """

    published: list[Published] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    more: bool = False
    trouble: str = ""

    def __bool__(self) -> bool:
        return bool(self.published or self.reports or self.unreadable or self.foreign or self.late)


def look_round(paths: QueuePaths, known: Mapping[str, Task], unlink: Sequence[str]) -> Round:
    """One look at what workers have said; blocks.

    Args:
        known: tasks by the names of their entries; read only.
        unlink: paths of what was judged before.
    """
    for path in unlink:
        _remove(paths, path)
    found = Round()
    try:
        _look_at_done(paths, known, found)
        _look_at_failed(paths, known, found)
    except OSError as error:
        found.trouble = f"{error.filename or paths.base}: {error.strerror or error}"
    return found


def _remove(paths: QueuePaths, path: str) -> None:
    try:
        fs.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:  # a folder, say: left there, it would be late for ever
        queue.set_aside(paths, path, f"it cannot be removed: {error.strerror or error}")


def _look_at_done(paths: QueuePaths, known: Mapping[str, Task], found: Round) -> None:
    names = queue.done(paths)
    found.more = len(names) > MOST
    for name in names[:MOST]:
        if parse_entry_name(name) is None:
            _set_aside(paths, f"{paths.done}/{name}", found)
            continue
        task = known.get(name)
        if task is None:
            found.late.append(f"{paths.done}/{name}")
        else:
            found.published.append(read_back(task.paths, name))


def read_back(paths: ArtifactPaths, name: str = "") -> Published:
    """The published result of an artifact, if it can be seen."""
    try:
        try:
            end = read_marker(paths)
        except Damaged:
            end = None
        if end is not None:
            return Published(name, end.generation, end.run_id)
        seen = look(paths)
    except OSError as error:
        return Published(name, trouble=f"{error.filename or paths.base}: {error.strerror or error}")
    if seen.verdict == "published":
        return Published(name, seen.generation, seen.end.run_id if seen.end is not None else "")
    return Published(name, trouble=f"{paths.base} has no published result: {seen.verdict}")


def _look_at_failed(paths: QueuePaths, known: Mapping[str, Task], found: Round) -> None:
    names = queue.failed(paths)
    found.more = found.more or len(names) > MOST
    for name in names[:MOST]:
        path = f"{paths.failed}/{name}"
        if parse_entry_name(name) is None:
            _set_aside(paths, path, found)
            continue
        if name not in known:
            found.late.append(path)
            continue
        try:
            report = queue.load_report(paths, name)
        except Damaged as error:
            queue.set_aside(paths, path, error.reason)
            found.unreadable.append(Unreadable(name, error.reason))
            continue
        if report is not None:
            found.reports.append(report)


def _set_aside(paths: QueuePaths, path: str, found: Round) -> None:
    if queue.set_aside(paths, path, "its name is not that of an entry"):
        found.foreign.append(path)


class Judge:
    """What follows from a round, on the loop.

    Args:
        again: writes a task's entry again, under a new number.
        over: a task is about to tell its end to its runs.
        now: the loop's clock.
    """

    def __init__(
        self,
        paths: QueuePaths,
        known: Mapping[str, Task],
        again: Callable[[Task], None],
        over: Callable[[Task], None],
        now: Callable[[], float],
    ) -> None:
        self._paths = paths
        self._known = known
        self._again = again
        self._over = over
        self._now = now

    def judge(self, found: Round) -> list[str]:
        """Tell the runs; the paths that need not be kept."""
        unlink = list(found.late)
        for path in found.late:
            _log.info("late, dropped: %s", path)
        for path in found.foreign:
            _log.warning("%s is no entry of this pool; it was moved to %s", path, self._paths.bad)
        unlink += [f"{self._paths.done}/{item.name}" for item in found.published if self._published(item)]
        for report in found.reports:
            unlink.append(f"{self._paths.failed}/{report.file}")
            task = self._known.get(report.file)
            if task is not None:
                self._report(task, report)
        for damaged in found.unreadable:
            task = self._known.get(damaged.name)
            if task is not None:
                self._damaged(task, f"{self._paths.failed}/{damaged.name}: {damaged.why}")
        return unlink

    def _published(self, item: Published) -> bool:
        """True if it is settled."""
        task = self._known.get(item.name)
        if task is None:
            return True
        if item.generation:
            task.began(task.worker or "pool")
            self._over(task)
            task.succeeded(item.generation, item.run_id)
            return True
        now = self._now()
        if task.done_since is None:
            task.done_since = now
        if now - task.done_since < VISIBLE_SECS:
            return False
        text = f"a worker said that its result is published; for {VISIBLE_SECS:g} s it cannot be seen: {item.trouble}"
        self._over(task)
        task.failed(Failure(kind="infrastructure", error_type="FuruStoreError", message=text))
        return True

    def _report(self, task: Task, report: Report) -> None:
        worker = report.worker_id
        if report.outcome == "failed" and 0 < report.generation <= task.origin.node.counted:
            # An earlier controller's attempt, which was counted from its end in the store.
            self._over(task)
            task.taken_back()
            return
        if report.begun:
            task.began(worker)
        if report.outcome == "elsewhere":
            self._over(task)
            task.elsewhere(report.generation, report.detail)
        elif report.outcome == "returned":
            self._over(task)
            if report.begun and task.unwanted:
                task.failed(CANCELLED, report.generation)
            else:
                task.taken_back()
        elif report.detail == UNREADABLE:
            said = report.failure.message if report.failure is not None else UNREADABLE
            self._damaged(task, f"{self._paths.bad}/{report.file}: {said}")
        else:
            assert report.failure is not None
            self._failed(task, report, report.failure)

    def _failed(self, task: Task, report: Report, failure: Failure) -> None:
        if failure.kind == "protocol" and failure.run_wide:
            where = f"worker {report.worker_id or '?'}" + (f" on {report.node}" if report.node else "")
            text = f"{self._paths.failed}/{report.file}: {task.describe()}, {where}: {failure.message}"
            failure = _with_message(failure, text)
        self._over(task)
        task.failed(failure, report.generation)

    def _damaged(self, task: Task, why: str) -> None:
        task.damaged += 1
        if task.damaged == 1:
            _log.warning("%s; it is written again: %s", why, task.describe())
            self._again(task)
            return
        text = (
            f"its entry in the queue, or the report on it, could not be read twice: {why}: {task.describe()}"
        )
        self._over(task)
        task.failed(Failure(kind="protocol", error_type="FuruProtocolError", message=text))


def _with_message(failure: Failure, text: str) -> Failure:
    import msgspec

    return msgspec.structs.replace(failure, message=text)
