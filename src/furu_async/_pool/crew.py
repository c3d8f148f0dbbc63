"""One worker of a pool as the controller sees it, and what can be read of it on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from furu_async._plan import leases
from furu_async._plan.leases import LeaseRules, Observation
from furu_async._pool import queue
from furu_async._pool.entries import WorkerStatus
from furu_async._pool.sizing import WorkerPhase, WorkerView
from furu_async._pool.wanted import Task
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._slurm.poller import Watch
from furu_async._slurm.states import Alive, Ended, Verdict
from furu_async._slurm.tracking import reason_to_wait
from furu_async._store import atomic
from furu_async._store.beat import see_beat
from furu_async._store.layout import QueuePaths, RunPaths, beat_path
from furu_async._store.look import look
from furu_async._store.records import Claim, Damaged, decode
from furu_async.report import FailureKind

_TAIL = 2000
_EXAMINE_SECS = 60.0
_NEVER_SECS = 3.0


@dataclass(slots=True, eq=False)
class Worker:
    """One job, or one task of an array; times on the loop's clock.

    Attributes:
        sid: the submission that it belongs to.
        wid: its name; made of the token, so known once it is submitted.
        name: of its job.
        placed_at: when ``sbatch`` gave its job's id to this process; None: to an earlier controller.
        began_at: when it was first seen running.
        status: what it says of itself.
        seen: its beat, as it was observed.
        never_since: since when Slurm says that it will never start.
        intent: why we end it; empty: we do not.
        earlier: an earlier controller's, and not seen alive by this one; whoever ended it, it says nothing now.
        ending: takes nothing more.
        gone: it has ended, and what it left was put in order.
        node: where Slurm has started it.
    """

    sid: str
    spec_key: str
    index: int = -1
    wid: str = ""
    name: str = ""
    job_id: str = ""
    log: str = ""
    watch: Watch | None = None
    placed_at: float | None = None
    began_at: float | None = None
    restarts: int = 0
    status: WorkerStatus | None = None
    seen: Observation | None = None
    never_since: float | None = None
    waiting: str = ""
    intent: str = ""
    earlier: bool = False
    ending: bool = False
    gone: bool = False
    node: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """What Slurm says of it."""
        return self.watch.verdict if self.watch is not None else None

    @property
    def phase(self) -> WorkerPhase:
        """As sizing wants it."""
        if self.ending or self.intent:
            return "ending"
        status = self.status
        if status is None:
            verdict = self.verdict
            slurms = verdict.phase if isinstance(verdict, Alive) else ""
            if slurms == "ending":  # it dies, or the run of its job before does, which Slurm will start again
                return "ending"
            return "starting" if slurms in ("running", "starting") else "pending"
        if status.stage in ("draining", "ended"):
            return "ending"
        return "idle" if status.stage == "idle" else "working"

    def see(self, verdict: Alive, now: float) -> None:
        """Slurm has it; ``now`` on the loop's clock."""
        self.earlier = False
        self.node = verdict.node or self.node
        if verdict.phase == "running" and self.began_at is None:
            self.began_at = now

    @property
    def works(self) -> bool:
        """It has a process that takes tasks."""
        return not self.gone and self.status is not None and self.phase in ("idle", "working")

    def view(self) -> WorkerView:
        """As sizing wants it."""
        return WorkerView(self.wid or f"{self.sid}.{self.index}", self.spec_key, self.phase)

    def reason(self) -> str:
        """For people: what it waits for, or does."""
        return self.waiting or self.intent or reason_to_wait(self.verdict)


def workers_of(sid: str, spec_key: str, count: int) -> list[Worker]:
    """The workers of one submission: an array of them, or a single job."""
    return [Worker(sid, spec_key, index) for index in (range(count) if count > 1 else (-1,))]


@dataclass(frozen=True, slots=True)
class Row:
    """One worker, for people."""

    wid: str
    spec_key: str
    job_id: str
    state: str
    reason: str
    node: str


def row_of(worker: Worker) -> Row:
    """What is shown of a worker."""
    verdict = worker.verdict
    node = worker.status.host if worker.status is not None else ""
    if not node and isinstance(verdict, Alive | Ended):
        node = verdict.node
    return Row(worker.wid, worker.spec_key, worker.job_id, worker.phase, worker.reason(), node)


@dataclass(frozen=True, slots=True)
class Glance:
    """What one look at a worker's folder has shown.

    Attributes:
        trouble: why the beat could not be read, which says nothing of the worker; empty if it could.
    """

    status: WorkerStatus | None
    beat: bytes | None
    trouble: str = ""


def glance(paths: QueuePaths, wid: str) -> Glance:
    """Status and beat of a worker; blocks, never raises for what is not there or cannot be read."""
    path = RunPaths(paths.root, paths.home).worker(wid).status
    try:
        status: WorkerStatus | None = decode(WorkerStatus, atomic.read_bytes(path), path)
    except (OSError, Damaged):
        status = None
    beat = beat_path(paths.home, wid)
    try:
        return Glance(status, see_beat(paths.root, beat))
    except OSError as error:
        return Glance(status, None, f"{error.strerror or error} ({error.filename or beat})")


def tell_begun(status: WorkerStatus, tasks: Mapping[str, Task]) -> None:
    """Tell tasks, by the names of their entries, that a worker's processes are at them."""
    for name in status.began:
        task = tasks.get(name)
        if task is not None:
            task.began(status.wid)


def observe(worker: Worker, glance: Glance, now: float, rules: LeaseRules) -> leases.Liveness:
    """One more look at a worker's beat; its job runs, as Slurm says."""
    beat = glance.beat
    if glance.trouble:
        worker.seen = None  # its silence counts from when it can be heard again
        return "waiting"
    if worker.seen is None or worker.seen.identity != worker.wid:
        worker.seen = leases.begin(worker.wid, beat, True, now)
        return "waiting"
    return leases.observe(worker.seen, beat, now, rules)


@dataclass(frozen=True, slots=True)
class Left:
    """An entry that a dead worker had taken and not reported.

    Attributes:
        generation: that the worker had claimed the artifact under; 0 if it had not.
        open: nobody has ended that claim.
        begun: as far as can be told, a process was at it.
        suspect: a process was at one of several, and it cannot be told which; this is one of them.
    """

    name: str
    generation: int = 0
    open: bool = False
    begun: bool = False
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Remains:
    """What a dead worker left.

    Attributes:
        beat: the last that was seen.
        tail: the end of its log.
        trouble: why it could not be told; empty if it could.
    """

    status: WorkerStatus | None = None
    entries: Sequence[Left] = ()
    beat: bytes | None = None
    tail: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker is no more.

    Attributes:
        ended: how, as Slurm says; None: it was silent for a lease, or never beat, and Slurm says nothing.
        mute: its job ran, and no beat was ever seen.
        young: for people, where it died soon after its start, or said that it could not work.
    """

    worker: Worker
    ended: Ended | None
    remains: Remains
    mute: bool = False
    young: str = ""


def examine(paths: QueuePaths, wid: str, log: str, tasks: dict[str, Task]) -> Remains:
    """Look at what a dead worker left; blocks.

    Args:
        tasks: by the names of their entries; read only.
    """
    seen = glance(paths, wid)
    status = seen.status
    left: list[Left] = []
    try:
        for name in queue.running(paths, wid):
            task = tasks.get(name)
            if atomic.exists(f"{paths.failed}/{name}"):  # it has reported, and died before it tidied up
                queue.forget_running(paths, wid, name)
            elif task is None:
                left.append(Left(name))
            else:
                left.append(_left(task, name, beat_path(paths.home, wid)))
    except OSError as error:
        return Remains(status, trouble=f"{error.filename or paths.running}: {error.strerror or error}")
    began = set(status.began) if status is not None else set()
    claimed = sum(entry.generation > 0 for entry in left)
    slots = status.slots if status is not None else 1
    # A status may be a second old; what was claimed, and not ahead, has most likely begun.
    free = sum(entry.name in began for entry in left) < slots
    known = []
    for each in left:
        sure = each.name in began or (each.generation > 0 and claimed <= slots)
        known.append(
            Left(each.name, each.generation, each.open, sure, not sure and free and each.generation > 0)
        )
    return Remains(status, known, seen.beat, tail_of(log))


async def examined(paths: QueuePaths, worker: Worker, tasks: dict[str, Task]) -> Remains:
    """`examine`, off the loop."""
    try:
        return await DOOR.probe.run(examine, paths, worker.wid, worker.log, tasks, deadline=_EXAMINE_SECS)
    except BlockingTimeout as error:
        return Remains(trouble=str(error))


def _left(task: Task, name: str, beat: str) -> Left:
    seen = look(task.paths)
    n, claim = seen.generation, seen.claim
    if claim is None and n:
        path = task.paths.claim(n)
        try:
            claim = decode(Claim, atomic.read_bytes(path), path)
        except (FileNotFoundError, Damaged):
            claim = None
    if claim is None or claim.beat != beat:
        return Left(name)
    return Left(name, n, seen.verdict == "claimed")


def tail_of(path: str) -> str:
    """The end of a log, for people; empty if there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, _TAIL, max(0, size - _TAIL))
    except OSError:
        return ""
    finally:
        os.close(fd)
    return data.decode("utf-8", "replace").strip()


def is_back_in_queue(worker: Worker) -> bool:
    """Whether it waits there, for minutes as Slurm has it for jobs that it starts again; a new one starts sooner."""
    verdict = worker.verdict
    return isinstance(verdict, Alive) and verdict.idle and worker.status is None and not worker.intent


def never_starts(worker: Worker, now: float) -> bool:
    """Whether Slurm says that it will not start its job as it was asked for, and has not said otherwise for a while."""
    verdict = worker.verdict
    reason = verdict.reason if isinstance(verdict, Alive) and not worker.intent else None
    if reason is None or reason.kind != "never":
        worker.never_since = None
        return False
    if worker.never_since is None:
        worker.never_since = now
    return now - worker.never_since >= _NEVER_SECS


STARTED_AGAIN = Ended("revoked", "REQUEUED", reason="Slurm has started its job again")
"""Of the run of a job that was; it is no proof of that run's end."""


def kind_of(ended: Ended) -> FailureKind:
    """Which line of the failure taxonomy the death of a worker is for a task that a process was at."""
    if ended is STARTED_AGAIN:
        return "preempted"
    match ended.how:
        case "oom" | "preempted" | "timeout":
            return ended.how
        case _:
            return "lost"


def is_proof(ended: Ended) -> bool:
    """Whether a node that lives has told that the job's processes are gone."""
    return ended.how in ("completed", "failed", "cancelled", "timeout", "oom", "preempted")
