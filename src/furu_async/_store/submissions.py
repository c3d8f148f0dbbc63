"""Submissions to Slurm on disk: what is about to be submitted under which token, and which job may act for it.

    runs/<run_id>/submissions/<sid>/try-<k>     before each ``sbatch``: the token that its job's name carries
                                    ruling-<k>  whether try k counts: *taken* by the first job of that token that
                                                starts, or *dropped* by the controller; whoever links it first is right
                                    job-<k>     the id that Slurm gave, for people and for a controller that takes over
                                    closed      nobody wants it any more; written before ``scancel``

Try k+1 is begun only when try k was dropped. So a job that turns up late, after its ``sbatch`` reported an error and
another was submitted in its place, finds the ruling and ends itself; and one that began first is found there by the
controller. What the loss of a file costs: of a try or a ruling, that a late job ends instead of working; of a job
note, a look into Slurm's queue.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal

from furu_async._runtime import clock
from furu_async._store import atomic
from furu_async._store.layout import SubmissionPaths
from furu_async._store.records import Damaged, Record, T, decode, encode

MOST_TRIES = 10_000
"""Where reading a submission stops; each took half a minute at least."""


class Try(Record, frozen=True, kw_only=True):
    """``try-<k>``: somebody is about to call ``sbatch`` with this token.

    Attributes:
        name: of the job.
        wanted: what for, for people.
        at: wall time, for people.
    """

    token: str
    name: str
    wanted: str = ""
    at: float | None = None


class Ruling(Record, frozen=True, kw_only=True):
    """``ruling-<k>``: whether the job of a try may act.

    Attributes:
        job_id: of a taken one, the first job that came with its token; of an array, of the whole.
        why: of a dropped one.
    """

    decision: Literal["taken", "dropped"]
    job_id: str = ""
    why: str = ""
    at: float | None = None


class JobNote(Record, frozen=True, kw_only=True):
    """``job-<k>``, and ``.furu/jobs/<n>`` of an artifact: the id that Slurm gave to the job of a token."""

    token: str
    job_id: str
    cluster: str = ""
    at: float | None = None


class Closed(Record, frozen=True, kw_only=True):
    """``closed``: no job may act for this submission any more.

    Attributes:
        intent: ``cancel``: what runs is to be cancelled, and that is by our own wish; ``over``: it has ended.
    """

    intent: Literal["cancel", "over"]
    why: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TryState:
    """What is on disk about one try."""

    number: int
    token: str
    name: str
    ruling: Ruling | None = None
    job: JobNote | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """What is on disk about one submission.

    Attributes:
        tries: in order; all but the last were dropped.
    """

    tries: tuple[TryState, ...] = ()
    closed: Closed | None = None

    @property
    def last(self) -> TryState | None:
        """The try that counts, unless it was dropped too."""
        return self.tries[-1] if self.tries else None


def read(paths: SubmissionPaths) -> Submission:
    """What is there; a damaged file counts as missing, a damaged try as one whose job nobody knows.

    Raises:
        OSError: it cannot be read now.
    """
    tries: list[TryState] = []
    try:
        atomic.check_folders(paths.base)
    except Damaged:  # each try would look like a damaged one
        return Submission()
    while len(tries) < MOST_TRIES:
        k = len(tries) + 1
        try:
            begun = _load(Try, paths.attempt(k))
        except Damaged:
            begun = Try(token="", name="")
        if begun is None:
            break
        tries.append(
            TryState(
                number=k,
                token=begun.token,
                name=begun.name,
                ruling=_tolerant(Ruling, paths.ruling(k)),
                job=_tolerant(JobNote, paths.job(k)),
            )
        )
    return Submission(tuple(tries), _tolerant(Closed, paths.closed))


def begin(paths: SubmissionPaths, k: int, token: str, name: str, wanted: str = "") -> bool:
    """Write down that try ``k`` is about to be submitted; False if somebody else has written it.

    Durable when it returns: a job whose try is not on disk is never admitted.
    """
    data = encode(Try(token=token, name=name, wanted=wanted, at=clock.wall()))
    if atomic.write_new_linked(paths.attempt(k), data, sync=True):
        return True
    there = _tolerant(Try, paths.attempt(k))
    return there is not None and there.token == token


def take(paths: SubmissionPaths, k: int, token: str, job_id: str) -> tuple[bool, str]:
    """The job's side: whether the job that came with this token may act, and if not, why not.

    The first job of a token is the only one: Slurm's own restarts of it come with the same id.

    Args:
        job_id: of an array, of the whole.

    Raises:
        OSError: it cannot be told now; to be tried again, not to be taken for a yes.
    """
    try:
        closed = _load(Closed, paths.closed)
        begun = _load(Try, paths.attempt(k))
    except Damaged as error:
        return False, str(error)
    if closed is not None:
        return False, f"it is not wanted any more: {closed.why or closed.intent}"
    if begun is None:
        return False, f"try {k} of this submission is not on disk"
    if begun.token != token:
        return False, f"try {k} of this submission belongs to another token"
    ruling = _rule(paths, k, Ruling(decision="taken", job_id=job_id, at=clock.wall()))
    if ruling.decision == "dropped":
        return False, f"another job was submitted in its place: {ruling.why}"
    if ruling.job_id != job_id:
        return False, f"job {ruling.job_id} came first with the same token"
    return True, ""


def drop(paths: SubmissionPaths, k: int, why: str) -> Ruling:
    """The controller's side: give try ``k`` up, unless a job has taken it; the ruling that is there now."""
    return _rule(paths, k, Ruling(decision="dropped", why=why, at=clock.wall()))


def close(paths: SubmissionPaths, intent: Literal["cancel", "over"], why: str = "") -> Closed:
    """Say that no job is to act any more. The first one to say so is the one that is kept."""
    mine = Closed(intent=intent, why=why, at=clock.wall())
    atomic.write_new_linked(paths.closed, encode(mine), sync=True)
    return _tolerant(Closed, paths.closed) or mine


def note_job(path: str, token: str, job_id: str, cluster: str = "") -> bool:
    """Write a job's id where it is missing or another one is; True if something was written.

    Args:
        path: ``SubmissionPaths.job(k)``, or ``ArtifactPaths.jobs + "/<n>"``. Of an attempt that is over as well: its
            id is what people find its log by.
    """
    there = _tolerant(JobNote, path)
    if there is not None and (there.token, there.job_id, there.cluster) == (token, job_id, cluster):
        return False
    atomic.replace(path, encode(JobNote(token=token, job_id=job_id, cluster=cluster, at=clock.wall())))
    return True


def read_note(path: str) -> JobNote | None:
    """The job's id, or None if there is none that can be read."""
    return _tolerant(JobNote, path)


def _rule(paths: SubmissionPaths, k: int, mine: Ruling) -> Ruling:
    path = paths.ruling(k)
    if atomic.write_new_linked(path, encode(mine), sync=True):
        return mine
    try:
        there = _load(Ruling, path)
    except Damaged:
        return Ruling(decision="dropped", why=f"{path} is damaged")
    if there is None:
        # Neither side may guess: it is there, and cannot be seen from here yet.
        raise FileNotFoundError(errno.ENOENT, "it exists and cannot be read", path)
    return there


def _load(cls: type[T], path: str) -> T | None:
    try:
        return decode(cls, atomic.read_bytes(path), path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _tolerant(cls: type[T], path: str) -> T | None:
    try:
        return _load(cls, path)
    except Damaged:
        return None
