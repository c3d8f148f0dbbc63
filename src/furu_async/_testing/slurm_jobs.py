"""Jobs of the simulated Slurm: what one is, what runs in it, and how its options are read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from furu_async._slurm.port import JobRequest, JobRow
from furu_async._slurm.states import ENDED

EPOCH = 1_800_000_000
"""Slurm's clock at the beginning of a simulation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSettings:
    """A cluster; times in seconds.

    Attributes:
        nodes: their names.
        slots: jobs that a node runs at once.
        partitions: that exist; the first is the default.
        queue_lag, acct_lag: how old what ``squeue`` and ``sacct`` show is.
        accounting: ``off``: none is kept.
        kill_wait: between SIGTERM and SIGKILL.
        requeue_delay: before a requeued job may start again.
        max_submit: jobs that a user may have at once; 0: any number.
        requeue: jobs are started again after preemption and loss of a node.
    """

    nodes: tuple[str, ...] = ("n1", "n2", "n3")
    slots: int = 4
    partitions: tuple[str, ...] = ("main", "low", "high")
    start_secs: float = 0.5
    queue_lag: float = 0.0
    acct_lag: float = 2.0
    accounting: str = "on"
    min_job_age: float = 300.0
    kill_wait: float = 30.0
    requeue_delay: float = 120.0
    message_timeout: float = 10.0
    max_job_count: int = 10000
    max_submit: int = 0
    max_array_size: int = 1001
    requeue: bool = True


class Copy:
    """One run of a job on a node, as its own program sees it.

    Attributes:
        restart: ``SLURM_RESTART_COUNT``.
        term: set by SIGTERM. SIGKILL is a cancellation.
        warned: set by SIGUSR2, some time before the end of the walltime.
        lost: its node was given up; Slurm does not hear of it any more.
    """

    def __init__(self, job: SimJob, node: str) -> None:
        self.job_id: str = job.id
        self.name: str = job.name
        self.argv: tuple[str, ...] = job.request.argv
        self.restart: int = job.restarts
        self.node: str = node
        self.term: asyncio.Event = asyncio.Event()
        self.warned: asyncio.Event = asyncio.Event()
        self.lost: bool = False
        self.task: asyncio.Task[int] | None = None
        self.killed: bool = False

    def kill(self) -> None:
        """SIGKILL."""
        self.killed = True
        if self.task is not None:
            self.task.cancel()


Program = Callable[[Copy], Awaitable[int]]


@dataclass(slots=True)
class SimJob:
    """What the controller knows of a job, or of one task of an array."""

    base: int
    task: int
    request: JobRequest
    submitted: int
    state: str = "PENDING"
    reason: str = "None"
    restarts: int = 0
    node: str = ""
    exit_code: int | None = None
    signal: int | None = None
    held: bool = False
    begin_at: float = 0.0
    copy: Copy | None = None
    ending: str = ""
    purged: bool = False
    generation: int = 0
    seen: list[tuple[float, JobRow | None]] = field(default_factory=list)
    record: list[tuple[float, JobRow]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """As ``squeue`` prints it."""
        return f"{self.base}_{self.task}" if self.task >= 0 else str(self.base)

    @property
    def name(self) -> str:
        """The job's name."""
        return self.request.name

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED

    def row(self, state: str = "", reason: str | None = None) -> JobRow:
        """What the controller says of it now."""
        return JobRow(
            id=self.id,
            name=self.name,
            state=state or self.state,
            reason=self.reason if reason is None else reason,
            restarts=self.restarts,
            submitted=self.submitted,
            nodes=self.node,
            exit_code=self.exit_code,
            signal=self.signal,
        )


_ARRAY = re.compile(r"(\d+)-(\d+)(?:%\d+)?\Z")
_WALLTIME = re.compile(r"(\d+)(?::(\d+))?\Z")


def tasks_of(request: JobRequest) -> list[int]:
    """The indices of an array, or [-1] of a single job.

    Raises:
        ValueError: it cannot be read.
    """
    text = request.options.get("array")
    if text is None:
        return [-1]
    match = _ARRAY.match(str(text))
    if match is None:
        raise ValueError(text)
    return list(range(int(match.group(1)), int(match.group(2)) + 1))


def walltime(request: JobRequest) -> float:
    """Seconds."""
    match = _WALLTIME.match(str(request.options.get("time", "60")))
    return 3600.0 if match is None else int(match.group(1)) * 60.0 + int(match.group(2) or 0)


def dependencies(request: JobRequest) -> list[tuple[str, list[int]]]:
    """``afterok:1:2,singleton`` -> [("afterok", [1, 2]), ("singleton", [])]."""
    found = []
    for clause in str(request.options.get("dependency", "")).split(","):
        kind, *ids = clause.strip().split(":")
        if kind:
            found.append((kind, [int(each.split("_")[0].split("+")[0]) for each in ids]))
    return found


async def shell(copy: Copy) -> int:
    """The program of a job without another: what ``sh -c "sleep 2; exit 3"`` and the like would do.

    Ends with 143 when it gets SIGTERM, unless it begins with ``trap '' TERM``.
    """
    argv = copy.argv
    script = argv[2] if argv[:1] in (("sh",), ("/bin/sh",)) and len(argv) > 2 else " ".join(argv)
    deaf = script.startswith("trap '' TERM")
    for command in script.removeprefix("trap '' TERM").split(";"):
        words = command.split()
        match words:
            case ["exec", *rest]:
                words = rest
        match words:
            case ["sleep", seconds]:
                try:
                    await asyncio.wait_for(
                        asyncio.Event().wait() if deaf else copy.term.wait(), float(seconds)
                    )
                except TimeoutError:
                    continue
                return 143
            case ["exit", code]:
                return int(code)
            case ["false"]:
                return 1
    return 0
