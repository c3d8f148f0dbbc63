"""What the shell of a DAG's run knows of one node, of one submission, and what its parts share. Data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from furu_async._dag.claims import Answer
from furu_async._dag.dag import SlurmDag
from furu_async._dag.units import Command
from furu_async._dag.wiring import Wiring
from furu_async._executors.base import Node, Request, RunPort
from furu_async._executors.held_runs import HeldRuns
from furu_async._plan.events import Policy
from furu_async._runtime.config import FuruConfig
from furu_async._slurm.poller import Poller, Watch
from furu_async._slurm.port import SlurmPort
from furu_async._slurm.states import Alive, Ended
from furu_async._slurm.submitter import Pending, Submitter
from furu_async._slurm.tracking import Change
from furu_async._store.layout import RunPaths
from furu_async.report import Failure, FailureKind


@dataclass(slots=True, eq=False)
class Track:
    """One node of a run.

    Attributes:
        request: the core's, while it is unanswered.
        spec: index of the specification of its present job.
        uid, sid, wid: of its present job; no uid: it has none.
        generation: that was claimed for it.
        log: where the job's output goes.
        restarts: how often Slurm has started the job again; restarts_told: of how many of these the core was told.
        started: the core knows that the job runs.
        over: it has its result; created: by a job of this run.
        failure: its job has ended without one, and nobody has asked for it since.
        foreign: somebody else is at it, as was found when it was to be claimed: who.
        stopping: its job is being cancelled for the core, which waits for an answer.
        done_with: submissions whose claims are not to be joined again.
        used: failures of this run by kind.
        by_itself: attempts of its earlier jobs of which the core knows nothing.
        since: loop time since when its job has been gone without an end.
    """

    node: Node
    request: Request | None = None
    spec: int = 0
    uid: int = 0
    sid: str = ""
    wid: str = ""
    generation: int = 0
    job_id: str = ""
    log: str = ""
    restarts: int = 0
    restarts_told: int = 0
    alive: Alive | None = None
    ended: Ended | None = None
    started: bool = False
    over: bool = False
    created: bool = False
    failure: Failure | None = None
    foreign: str = ""
    stopping: bool = False
    done_with: set[str] = field(default_factory=set)
    used: dict[FailureKind, int] = field(default_factory=dict)
    by_itself: int = 0
    since: float | None = None

    @property
    def attempt(self) -> int:
        """Number of the attempt that the core has asked for."""
        return (self.request.attempt if self.request is not None else 1) + self.by_itself

    @property
    def running_wid(self) -> str:
        """Token of the claim of the job's present start."""
        return self.wid + (f"-r{self.restarts}" if self.restarts else "")

    @property
    def runs(self) -> bool:
        """As far as is known, a process is at it."""
        return self.started or (
            self.ended is None and self.alive is not None and self.alive.phase in ("running", "ending")
        )


@dataclass(slots=True, eq=False)
class Sub:
    """One submission.

    Attributes:
        size: tasks of the array; 1 for a single job.
        name: of the job that counts.
        watches: of its jobs, by node.
        adopted: an earlier controller of the run has submitted it.
        withdrawn: it is being taken back, to be submitted in smaller parts.
        dropped: nodes whose jobs are not wanted any more.
        placed_at: loop time at which ``sbatch`` gave its id to this process.
        pending: while it is on its way to Slurm, and if it did not get there.
        tries: calls of ``sbatch`` that it took, once it is there.
    """

    uid: int
    sid: str
    size: int
    job_id: str = ""
    cluster: str = ""
    name: str = ""
    pending: Pending | None = None
    adopted: bool = False
    withdrawn: bool = False
    watches: dict[str, Watch] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    placed_at: float | None = None
    tries: int = 0


@dataclass(slots=True, eq=False)
class Shared:
    """What all runs of an executor have in common."""

    dag: SlurmDag
    config: FuruConfig
    port: SlurmPort
    poller: Poller
    submitter: Submitter
    held: HeldRuns


class Core(Protocol):
    """What the parts of a run's shell may ask of the whole.

    Attributes:
        stopping: the run ends; what is cancelled now is so by its own wish.
    """

    run: RunPort
    shared: Shared
    paths: RunPaths
    policy: Policy
    wiring: Wiring
    tracks: dict[str, Track]
    subs: dict[int, Sub]
    stopping: bool

    def do(self, commands: list[Command]) -> None:
        """Carry commands out, in the background."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something in the background; what it raises ends the run."""

    def wake(self) -> None:
        """Look at the store soon."""

    async def patiently(self, fn: Callable[..., Any], *args: Any) -> Any:
        """A step on the store, tried again while that gives trouble."""


class Told(Protocol):
    """What becomes of nodes, for whoever follows them."""

    def foreign(self, track: Track, answer: Answer) -> None:
        """Somebody else has its claim."""

    def published(self, track: Track, generation: int) -> None:
        """Its result was there when it was to be claimed."""

    def lost(self, track: Track, failure: Failure) -> None:
        """It has failed, without a job."""

    def changed(self, track: Track, sub: Sub, change: Change) -> None:
        """Slurm says something new of its job."""

    def dropped(self, track: Track, uid: int) -> None:
        """Its job was cancelled by our own wish."""
