"""What has become of the jobs we know of, from what Slurm says. Pure: answers and `now` in, changes out.

The queue is asked first, and believed. Accounting is asked only about jobs that the queue does not have any more, and
believed only if it speaks of the same start of the same job: its rows come seconds late, and those of earlier
starts stay.
A job that neither knows has ended, nobody can say how; a Slurm that does not answer says nothing about any job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from furu_async._slurm.parse import UNNAMED
from furu_async._slurm.port import JobRow, Rows, Silence
from furu_async._slurm.states import Alive, Ended, NoInformation, Verdict

_PART = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRules:
    """Times in seconds.

    Attributes:
        gone_secs: how long accounting may know nothing of a job that has left the queue.
        lag_secs: how long it may say that such a job is still there, or not answer at all.
        looks: how often the queue must have answered without a job before it counts as gone.
    """

    gone_secs: float = 30.0
    lag_secs: float = 180.0
    looks: int = 2
    account_first: float = 1.0
    account_most: float = 60.0


@dataclass(slots=True)
class Job:
    """One job that somebody wants to know about.

    Attributes:
        name: it must have; another job under the same id is not it. Empty: any.
        restarts: how often Slurm has started it again, as far as known.
        submitted: the latest time of submission that the queue gave it; a requeue changes it.
        seen: the queue has had it.
        missing_since: since when the queue answers without it.
    """

    id: str
    name: str
    since: float
    verdict: Verdict | None = None
    restarts: int = 0
    submitted: int = 0
    seen: bool = False
    missing_since: float | None = None
    missing_looks: int = 0
    account_at: float = 0.0
    account_pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """Something new about a job.

    Attributes:
        restarted: Slurm has started the job again (or will): the same id, another run of it. The run before may still
            live where its node was lost.
    """

    job: Job
    verdict: Verdict
    restarted: bool = False


class Tracker:
    """The jobs of this process.

    Attributes:
        jobs: by identity: an id may be given to another job while somebody still asks about the one before.
        silent_since: since when the queue does not answer; None while it does.
    """

    def __init__(self, rules: TrackRules | None = None) -> None:
        self.rules: TrackRules = rules or TrackRules()
        self.jobs: dict[int, Job] = {}
        self.silent_since: float | None = None
        self.silence: str = ""
        self.accounting_off: bool = False

    def add(self, job_id: str, name: str, now: float) -> Job:
        """Begin to follow a job."""
        job = Job(job_id, name, now)
        self.jobs[id(job)] = job
        return job

    def remove(self, job: Job) -> None:
        """Forget it."""
        self.jobs.pop(id(job), None)

    def queue(self, answer: Rows | Silence, asked_at: float, now: float) -> list[Change]:
        """The queue has answered, or not.

        Args:
            asked_at: when the question was asked; a job that was added later is not in the answer.
        """
        return [change for part in self.queue_in_parts(answer, asked_at, now) for change in part]

    def queue_in_parts(self, answer: Rows | Silence, asked_at: float, now: float) -> Iterator[list[Change]]:
        """As `queue`, for so many jobs at a time that an event loop can go on in between."""
        if isinstance(answer, Silence):
            if self.silent_since is None:
                self.silent_since = asked_at
            self.silence = answer.words
            verdict = answer.verdict()
            for part in self._parts():
                yield [change for job in part for change in self._report(job, verdict)]
            return
        self.silent_since, self.silence = None, ""
        by_id = _by_id(answer.rows)
        for part in self._parts():
            yield [
                change for job in part for change in self._in_queue(job, by_id.get(job.id, ()), asked_at, now)
            ]

    def to_account(self, now: float) -> list[Job]:
        """The jobs that accounting is to be asked about now."""
        if self.accounting_off or self.silent_since is not None:
            return []
        return [job for job in self._open() if job.missing_since is not None and now >= job.account_at]

    def accounting(self, jobs: Collection[Job], answer: Rows | Silence, now: float) -> list[Change]:
        """Accounting has answered about these jobs, or not."""
        changes: list[Change] = []
        if isinstance(answer, Silence):
            self.accounting_off = self.accounting_off or answer.off
            wait = self.rules.gone_secs if answer.off else self.rules.lag_secs
            for job in jobs:
                self._again(job, now)
                changes += self._perhaps_gone(job, now, wait, answer.words, at_once=answer.off)
            return changes
        by_id = _by_id(answer.rows)
        for job in jobs:
            changes += self._accounted(job, by_id.get(job.id, ()), now)
        return changes

    # -- one job ---------------------------------------------------------------------------------------------

    def _in_queue(self, job: Job, rows: Iterable[JobRow], asked_at: float, now: float) -> list[Change]:
        row = _row_of(job, rows)
        if row is not None:
            return self._seen(job, row)
        if job.since >= asked_at:
            return []
        job.missing_looks += 1
        if job.missing_since is None:
            job.missing_since, job.account_at, job.account_pause = now, now, 0.0
        if self.accounting_off:
            return self._perhaps_gone(job, now, self.rules.gone_secs, "accounting is off", at_once=True)
        return []

    def _parts(self) -> Iterator[list[Job]]:
        jobs = self._open()
        return (jobs[start : start + _PART] for start in range(0, len(jobs), _PART))

    def _open(self) -> list[Job]:
        return [job for job in self.jobs.values() if not isinstance(job.verdict, Ended)]

    def _seen(self, job: Job, row: JobRow) -> list[Change]:
        job.seen, job.missing_since, job.missing_looks = True, None, 0
        job.submitted = max(job.submitted, row.submitted)
        restarted = row.restarts > job.restarts
        if restarted:
            job.restarts = row.restarts
        return self._report(job, row.verdict(), restarted)

    def _accounted(self, job: Job, rows: Iterable[JobRow], now: float) -> list[Change]:
        mine = sorted((row for row in rows if _is(job, row)), key=lambda row: row.submitted)
        self._again(job, now)
        if not mine:
            return self._perhaps_gone(job, now, self.rules.gone_secs, "accounting does not know it")
        last = mine[-1]
        late = last.submitted < job.submitted or len(mine) <= job.restarts
        verdict = last.verdict()
        if late or not isinstance(verdict, Ended):
            said = f"accounting still says {last.state}"
            if late and isinstance(verdict, Ended):
                said += " of an earlier start"
            return self._perhaps_gone(job, now, self.rules.lag_secs, said)
        restarted = len(mine) - 1 > job.restarts
        job.restarts = max(job.restarts, len(mine) - 1)
        ended = Ended(
            verdict.how,
            verdict.state,
            verdict.exit_code,
            verdict.signal,
            verdict.reason,
            job.restarts,
            verdict.node,
        )
        return self._report(job, ended, restarted)

    def _again(self, job: Job, now: float) -> None:
        rules = self.rules
        job.account_pause = min(max(rules.account_first, job.account_pause * 2), rules.account_most)
        job.account_at = now + job.account_pause

    def _perhaps_gone(
        self, job: Job, now: float, wait: float, why: str, at_once: bool = False
    ) -> list[Change]:
        """The queue does not have it and nobody can say how it ended: that is an end too, after a while."""
        since = now if job.missing_since is None else job.missing_since
        waited = now - since >= wait or at_once
        if waited and job.missing_looks >= self.rules.looks:
            return self._report(job, Ended("unknown", reason=why, restarts=job.restarts))
        return self._report(job, NoInformation(f"the queue does not have it any more; {why}"))

    def _report(self, job: Job, verdict: Verdict, restarted: bool = False) -> list[Change]:
        before, job.verdict = job.verdict, verdict
        if verdict == before and not restarted:
            return []
        return [Change(job, verdict, restarted)]


def _by_id(rows: Iterable[JobRow]) -> dict[str, list[JobRow]]:
    found: dict[str, list[JobRow]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
        if row.id.endswith("+0"):  # the leader of a heterogeneous job, which was submitted as a whole
            found.setdefault(row.base_id, []).append(row)
    return found


def _row_of(job: Job, rows: Iterable[JobRow]) -> JobRow | None:
    mine = [row for row in rows if _is(job, row)]
    return max(mine, key=lambda row: (row.restarts, row.submitted)) if mine else None


def _is(job: Job, row: JobRow) -> bool:
    if row.name == UNNAMED and job.name != UNNAMED:
        return row.submitted != 0 and row.submitted == job.submitted
    return not job.name or job.name == row.name


def reason_to_wait(verdict: Verdict | None) -> str:
    """One line for people: why a job is not running, or what it does."""
    if isinstance(verdict, Alive):
        if verdict.reason is not None:
            advice = f" ({verdict.reason.advice})" if verdict.reason.advice else ""
            return f"{verdict.state}, {verdict.reason.text}{advice}"
        return verdict.state
    if isinstance(verdict, Ended):
        return verdict.state or "gone from Slurm, nobody can say how it ended"
    if isinstance(verdict, NoInformation):
        return verdict.why
    return "not seen in Slurm yet"
