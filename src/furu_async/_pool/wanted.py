"""What the controller of a pool knows of one wanted execution, shared by all runs that want it."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from furu_async._executors.base import Request
from furu_async._plan.events import Elsewhere, Event, Failed, Started, Succeeded, TakenBack
from furu_async._pool.queue import Place
from furu_async._store.layout import ArtifactPaths
from furu_async.report import Failure

CANCELLED = Failure(kind="cancelled", message="cancelled with its run")


class Stage(IntEnum):
    """Where a task is.

    ``NEW``: its run, or the queue, is not open yet. ``OUT``: its entry is in the queue, or on the way there; whether
    a worker has it is known only from what workers say.
    """

    NEW = 0
    OUT = 1
    OVER = 2


class Task:
    """See the module.

    Attributes:
        origin: the request whose run its entry names.
        requests: every run that wants it now.
        after: requests that came while it was being ended.
        number: ticket of its present entry: counted here, because several runs may want it, and because a
            controller before this one may have left entries. A report of another number is late.
        begun: a worker's process is at it.
        written: its entry is in the queue, or was.
        unwanted: it is being taken back or ended.
        recalled: its worker was asked to return it, unless a process is at it.
        damaged: how often its entry, or the report on it, could not be read.
        mute: how often a worker that had it never showed a beat.
        suspected: how often it was one of those at which a worker may have been that died.
    """

    __slots__ = (
        "after",
        "begun",
        "damaged",
        "done_since",
        "key",
        "mute",
        "number",
        "origin",
        "paths",
        "place",
        "recalled",
        "requests",
        "spec_key",
        "stage",
        "suspected",
        "taken",
        "unwanted",
        "worker",
        "written",
    )

    def __init__(self, request: Request) -> None:
        node, run = request.node, request.run
        self.key: tuple[str, str] = (run.root, node.hash)
        self.paths: ArtifactPaths = ArtifactPaths(run.root, node.name, node.hash)
        self.origin: Request = request
        self.requests: list[Request] = [request]
        self.after: list[Request] = []
        self.number: int = 0
        self.place: Place | None = None
        self.spec_key: str = ""
        self.stage: Stage = Stage.NEW
        self.begun: bool = False
        self.taken: bool = False
        self.written: bool = False
        self.unwanted: bool = False
        self.recalled: bool = False
        self.worker: str = ""
        self.damaged: int = 0
        self.mute: int = 0
        self.suspected: int = 0
        self.done_since: float | None = None

    @property
    def hash(self) -> str:
        """The artifact's."""
        return self.key[1]

    @property
    def file(self) -> str:
        """Name of its entry."""
        return f"{self.key[1]}.{self.number}"

    def describe(self) -> str:
        """For people."""
        return f"{self.origin.node.name}/{self.hash} (attempt {self.origin.attempt}, spec {self.spec_key})"

    def began(self, worker: str) -> None:
        """A worker's process is at it now; told once."""
        self.taken = True
        if self.begun:
            return
        self.begun, self.worker = True, worker
        for request in self.requests:
            request.run.begun(request.node, request.attempt, worker)
            request.run.post(Started(request.node.hash, request.ticket))

    # -- ends ------------------------------------------------------------------------------------------------

    def succeeded(self, generation: int, run_id: str) -> None:
        """Its result was read back; it counts as created for the run that made it."""
        for request in self.requests:
            request.node.generation = generation or request.node.generation
            created = bool(run_id) and request is self.origin and request.run.run_id == run_id
            request.run.post(Succeeded(request.node.hash, created, request.ticket))

    def failed(self, failure: Failure, generation: int = 0) -> None:
        """It ended without a result."""
        for request in self.requests:
            request.node.generation = generation or request.node.generation
            request.node.supersede = 0
        self._tell(lambda r: Failed(r.node.hash, failure, r.run.jitter(), r.ticket))

    def elsewhere(self, generation: int, detail: str) -> None:
        """Somebody else is at the artifact."""
        for request in self.requests:
            request.node.held = generation
        self._tell(lambda r: Elsewhere(r.node.hash, detail, r.ticket))

    def taken_back(self) -> None:
        """Nothing of it has begun, or nothing of it counts."""
        self._tell(lambda r: TakenBack(r.node.hash, r.ticket))

    def _tell(self, make: Callable[[Request], Event]) -> None:
        for request in self.requests:
            request.run.post(make(request))
