"""The port behind which Slurm stands, the real one and the simulated one: seven verbs, plain data in and out.

No method raises because of what Slurm does or fails to do: every answer is data. All of them have their own deadlines.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from furu_async._slurm.states import Alive, NoInformation, Verdict, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One call of ``sbatch``.

    Attributes:
        name: the job's name, which carries the token of this try; also what it is found by.
        argv: what the job runs; data, never read by a shell.
        options: long options of ``sbatch`` without the dashes; True for one without a value.
        setup, teardown: lines of shell that the user wants before and after.
    """

    name: str
    argv: tuple[str, ...]
    options: Mapping[str, str | bool] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    teardown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Submitted:
    """``sbatch`` has given an id (of an array: that of the whole)."""

    job_id: str
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """``sbatch`` has said no, and there is certainly no job.

    Attributes:
        kind: ``limit``: later perhaps; ``rejected``: not as it was asked for.
        words: Slurm's own.
    """

    kind: Literal["limit", "rejected"]
    words: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """``sbatch`` gave no answer that can be relied on: the job may be in the queue, now or in a moment.

    Attributes:
        limit: what could be heard was that Slurm takes no more jobs at present.
    """

    words: str
    limit: bool = False


SubmitAnswer = Submitted | Refused | Unclear


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """What Slurm says of one job (of an array: of one task).

    Attributes:
        id: ``12``, ``12_3`` or ``12+1``.
        state, reason: as printed.
        restarts: how often it was started again; -1 where not told.
        submitted: when, in seconds since the epoch on Slurm's clock, 0 if not told; a requeue changes it.
        nodes: list of nodes as printed, or empty.
        exit_code, signal: of an ended one, where told.
    """

    id: str
    name: str
    state: str
    reason: str = ""
    restarts: int = -1
    submitted: int = 0
    nodes: str = ""
    exit_code: int | None = None
    signal: int | None = None
    cluster: str = ""

    @property
    def base_id(self) -> str:
        """Of an array or a heterogeneous job: the id of the whole."""
        return base_id(self.id)

    def verdict(self) -> Verdict:
        """What this row says by itself."""
        return judge(
            self.state,
            self.reason,
            exit_code=self.exit_code,
            signal=self.signal,
            restarts=self.restarts,
            node=self.nodes,
        )

    @property
    def held(self) -> bool:
        """It waits until somebody releases it."""
        verdict = self.verdict()
        return isinstance(verdict, Alive) and verdict.phase == "held"

    @property
    def idle(self) -> bool:
        """It waits in the queue: no process is at it."""
        verdict = self.verdict()
        return isinstance(verdict, Alive) and verdict.idle


def base_id(job_id: str) -> str:
    """``12`` of ``12``, ``12_3``, ``12_[4-7]``, ``12+1``."""
    return job_id.split("_", 1)[0].split("+", 1)[0]


@dataclass(frozen=True, slots=True)
class Rows:
    """Slurm has answered.

    Attributes:
        rows: in the order they were printed; of accounting possibly several of one job, one per start.
        unparsed: lines that could not be read, bounded.
    """

    rows: tuple[JobRow, ...] = ()
    unparsed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer.

    Attributes:
        words: what the command said, or that it did not end in time.
        off: there is nobody to ask: accounting is not kept on this cluster.
    """

    words: str
    off: bool = False

    def verdict(self) -> NoInformation:
        """What that says of every job."""
        return NoInformation(self.words, silent=True)


@dataclass(frozen=True, slots=True)
class Found:
    """What is there under a name.

    Attributes:
        rows: jobs of that name, of the queue or, if it has none, of accounting.
        answered: the queue was asked and answered; only then an empty list means anything.
        words: why not.
    """

    rows: tuple[JobRow, ...] = ()
    answered: bool = True
    words: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a command that changes jobs. One that is gone already is no error."""

    ok: bool = True
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Settings of the cluster that submissions have to respect; Slurm's defaults where it does not answer.

    Attributes:
        max_array_size: greatest index of an array task, plus one.
        max_job_count: jobs that the controller holds at once.
        min_job_age: seconds for which the queue remembers an ended job.
        message_timeout: seconds after which Slurm's own commands give up.
    """

    max_array_size: int = 1001
    max_job_count: int = 10000
    min_job_age: float = 300.0
    message_timeout: float = 10.0
    known: bool = False


class SlurmPort(Protocol):
    """A cluster."""

    async def submit(self, request: JobRequest) -> SubmitAnswer:
        """Call ``sbatch`` once. Must not be cancelled: the caller shields it."""

    async def query(self) -> Rows | Silence:
        """All jobs of this user that the controller knows, ended ones included."""

    async def account(
        self, ids: Collection[str], names: Collection[str] = (), back_secs: float = 86400.0
    ) -> Rows | Silence:
        """What accounting says of these jobs (by id, or else by name), every start of each, oldest first.

        Args:
            back_secs: how far back to look.
        """

    async def find(self, name: str) -> Found:
        """Jobs of exactly this name."""

    async def cancel(self, ids: Collection[str]) -> Done:
        """``scancel``."""

    async def hold(self, ids: Collection[str]) -> Done:
        """``scontrol hold``."""

    async def release(self, ids: Collection[str]) -> Done:
        """``scontrol release``."""

    async def limits(self) -> Limits:
        """Ask for the cluster's limits."""
