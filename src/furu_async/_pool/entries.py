"""What controller and workers of a pool write to each other: entries, reports, a worker's status, settings."""

from __future__ import annotations

import platform
from typing import Any, Literal

import msgspec

import furu_async
from furu_async._runtime.config import FuruConfig
from furu_async._store.layout import check_hash, check_id, entry_name, name_path, parse_entry_name
from furu_async._store.records import Damaged, Record, decode
from furu_async.errors import FuruError
from furu_async.report import Failure

Outcome = Literal["failed", "elsewhere", "returned"]
Stage = Literal["starting", "working", "idle", "draining", "ended"]

UNREADABLE = "unreadable"
"""``detail`` of a report that says no more than that an entry could not be read; its ``name`` may be empty."""


class QueueEntry(Record, frozen=True, kw_only=True):
    """One task: an artifact that a run wants executed on one spec. The table of `objects_log` has the artifact.

    Attributes:
        hash, name: the artifact's, and that of its class in the store.
        spec_key: the spec that it waits for; empty in a damaged one, which no worker accepts.
        executor_keys: the keys of all its specs, in order of preference.
        attempt: of the run, from 1.
        ticket: of the core's command; a report of another ticket is late.
        supersede: generation whose result is to be set aside first; 0 for none.
        takeover: generation whose owner was found lost; 0 for none.
        silent_at: that owner's beat when it was judged.
        whole: only a worker that has all of its walltime before it is to take it.
        history: one short line per earlier attempt.
        failure_kind, error: of the last attempt; empty if there was none.
        worker_id: empty but in reports.
        python, library: versions of the controller's.
    """

    hash: str
    name: str
    spec_key: str = ""
    executor_keys: list[str] = []
    attempt: int = 1
    ticket: int = 1
    run_id: str = ""
    priority: int = 0
    supersede: int = 0
    takeover: int = 0
    silent_at: bytes | None = None
    whole: bool = False
    history: list[str] = []
    failure_kind: str = ""
    error: str = ""
    worker_id: str = ""
    python: str = msgspec.field(default_factory=platform.python_version)
    library: str = msgspec.field(default_factory=lambda: furu_async.__version__)

    @property
    def file(self) -> str:
        """The name of its file in the queue."""
        return entry_name(self.hash, self.ticket)


class Report(QueueEntry, frozen=True, kw_only=True):
    """A task that ended otherwise than with a published result.

    Attributes:
        outcome: ``failed``: with ``failure``; ``elsewhere``: somebody else is at the artifact; ``returned``: nothing is
            the matter with it, it is to be given out again.
        begun: a process was at it.
        generation: that it was claimed under, or that is in the way; 0 for none.
        detail: for people: who is at it elsewhere, why it was returned.
        node, job_id: where it ran.
    """

    outcome: Outcome
    begun: bool = False
    generation: int = 0
    failure: Failure | None = None
    detail: str = ""
    node: str = ""
    job_id: str = ""


class WorkerStatus(Record, frozen=True, kw_only=True):
    """What a worker is at. Its life is told by its beat, not by this.

    Attributes:
        host, pid: where it is.
        slots: how many tasks it runs at the same time.
        began: names of the entries that a process is at.
        taken, finished: how many entries so far.
        idle_secs: since the end of its last task, when this was written.
        why: for people: why it ends, what it waits for.
        ends_at: seconds that are left of its walltime, when this was written; None if there is no such limit.
        beat: path of its beat relative to the store's root.
    """

    wid: str
    spec_key: str
    job_id: str = ""
    restart_count: int = 0
    host: str = ""
    pid: int = 0
    slots: int = 1
    began: list[str] = []
    taken: int = 0
    finished: int = 0
    idle_secs: float = 0.0
    stage: Stage = "starting"
    why: str = ""
    ends_at: float | None = None
    beat: str = ""


class PoolSettings(Record, frozen=True, kw_only=True):
    """``pool.json``: what a worker is to know of its controller before it starts. No environment, no secrets.

    Attributes:
        config: the fields of the controller's `FuruConfig`, as plain data.
        path: its ``sys.path``, absolute, with the folder of its script.
        cwd: its working directory.
        argv: its ``sys.argv``; modules may look at it while they are imported.
        python, library: versions of the controller's.
    """

    config: dict[str, Any] = {}
    path: list[str] = []
    cwd: str = ""
    argv: list[str] = []
    python: str = msgspec.field(default_factory=platform.python_version)
    library: str = msgspec.field(default_factory=lambda: furu_async.__version__)

    def furu_config(self) -> FuruConfig:
        """The settings that its tasks run with.

        Raises:
            FuruConfigError: this version does not know them.
        """
        known = {key: value for key, value in self.config.items() if key in FuruConfig.__dataclass_fields__}
        return FuruConfig(**known)


def worker_id(token: str, task: int = -1, restarts: int = 0) -> str:
    """The name of a worker.

    Args:
        token: of the try that its job was submitted by.
        task: its index in a job array, or -1.
        restarts: how often Slurm has started the job again: each time it is another worker.
    """
    return token[:12] + (f"-a{task}" if task >= 0 else "") + (f"-r{restarts}" if restarts > 0 else "")


def plain_config(config: FuruConfig) -> dict[str, Any]:
    """A `FuruConfig` as `PoolSettings` has it."""
    made: dict[str, Any] = msgspec.to_builtins(config, enc_hook=str)
    return made


def read_entry(data: bytes, name: str, path: str) -> QueueEntry:
    """The entry in a file called ``name``.

    Raises:
        Damaged: it is none, another one than the name says, or names what cannot be part of a path.
    """
    entry = decode(QueueEntry, data, path)
    if not entry.name or not entry.run_id:
        raise Damaged(path, "it does not say which artifact of which run it is about")
    _check(entry, name, path)
    return entry


def read_report(data: bytes, name: str, path: str) -> Report:
    """The report in a file called ``name``.

    Raises:
        Damaged: as for `read_entry`; or it says *failed* and not how.
    """
    report = decode(Report, data, path)
    _check(report, name, path)
    if report.outcome == "failed" and report.failure is None:
        raise Damaged(path, "it says that the task failed, and not how")
    return report


def _check(entry: QueueEntry, name: str, path: str) -> None:
    if parse_entry_name(name) != (entry.hash, entry.ticket):
        raise Damaged(
            path, f"it says that it is {entry.hash[:40]}.{entry.ticket}, and its name is {name[:60]}"
        )
    keys = (entry.spec_key, *entry.executor_keys)
    try:
        check_hash(entry.hash)
        if entry.name:
            name_path(entry.name)
        for what, value in (("run id", entry.run_id), *(("spec key", key) for key in keys)):
            if value:
                check_id(value, what)
    except FuruError as error:
        raise Damaged(path, str(error)) from None
