"""One wanted execution of an artifact, shared by all runs that want it, and its steps on the store.

A `Job` goes queued -> claiming -> claimed -> given -> publishing and then away. Its protocol steps are
operations of the keeper; every step ends in exactly one event for each run that asked.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, TypeVar

import msgspec

from furu_async._executors import cuts
from furu_async._executors.base import Request
from furu_async._executors.provenance import described
from furu_async._executors.publishing import LateEnds, Patience
from furu_async._executors.resources import NOTHING, Grant
from furu_async._model.artifact import specs_of
from furu_async._model.resources import SlurmSpec
from furu_async._model.table import Entry
from furu_async._plan.events import Elsewhere, Event, Failed, Succeeded, TakenBack
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runner.messages import TaskResult, TaskSpec
from furu_async._runtime import clock
from furu_async._store.layout import ArtifactPaths
from furu_async._store.liveness import known_dead
from furu_async._store.records import NO_VALUE, Claim, End, Record, decode, encode
from furu_async.report import Failure, FailureKind

R = TypeVar("R", bound=Record)


class Step(IntEnum):
    """Where a job is."""

    QUEUED = 0
    CLAIMING = 1
    CLAIMED = 2
    GIVEN = 3
    PUBLISHING = 4
    OVER = 5


class Job:
    """See the module.

    Attributes:
        origin: the request under whose run it is claimed; fixed once the claim was asked for.
        requests: every run that wants it now.
        after: requests that came while it was being ended; they begin when it is gone.
        begun: a process is at it.
        stopped: kind of failure to report if it ends because we ended it.
        supersede, takeover: generations to set aside, or whose lost owner to replace, before claiming.
    """

    __slots__ = (
        "after",
        "begun",
        "generation",
        "grant",
        "key",
        "origin",
        "paths",
        "priority",
        "requests",
        "seq",
        "since",
        "step",
        "stop_text",
        "stopped",
        "task_id",
        "unwanted",
        "worker",
    )

    def __init__(self, request: Request, seq: int) -> None:
        node, run = request.node, request.run
        self.key = (run.root, node.hash)
        self.paths = ArtifactPaths(run.root, node.name, node.hash)
        self.origin = request
        self.after: list[Request] = []
        self.requests = [request]
        self.priority = request.priority
        self.seq = seq
        self.step = Step.QUEUED
        self.generation = 0
        self.grant: Grant = NOTHING
        self.begun = False
        self.stopped = ""
        self.stop_text = ""
        self.task_id = 0
        self.unwanted = False
        self.worker: Any = None
        self.since = 0.0

    def __lt__(self, other: Job) -> bool:
        return (-self.priority, self.seq) < (-other.priority, other.seq)

    def spec(self) -> SlurmSpec:
        """The resource specification it is to run with."""
        specs = specs_of(self.origin.node.obj)
        return specs[min(self.origin.spec, len(specs) - 1)]

    def task(self, entries: Sequence[Entry] = ()) -> TaskSpec:
        """What the process that runs it is told."""
        node, run = self.origin.node, self.origin.run
        return TaskSpec(
            id=self.task_id,
            hash=node.hash,
            name=node.name,
            generation=self.generation,
            root=run.root,
            directory=self.paths.attempt(self.generation),
            checkpoint=self.paths.checkpoint(self.generation),
            entries=list(entries),
            time_limit=node.info.time_limit,
            power=run.config.durability,
        )

    def tell(self, make: Callable[[Request], Event]) -> None:
        """Post one event to every run that asked."""
        for request in self.requests:
            request.node.generation = self.generation or request.node.generation
            request.run.post(make(request))

    def succeeded(self, created: bool) -> None:
        """The success was read back."""
        credited = self.origin if self.origin in self.requests or not self.requests else self.requests[0]
        for request in self.requests:
            request.node.generation = self.generation or request.node.generation
            request.run.post(Succeeded(request.node.hash, created and request is credited, request.ticket))

    def failed(self, failure: Failure) -> None:
        """It ended without a result."""
        self.tell(lambda r: Failed(r.node.hash, failure, r.run.jitter(), r.ticket))

    def elsewhere(self, detail: str) -> None:
        """A living claim of somebody else was found."""
        self.tell(lambda r: Elsewhere(r.node.hash, detail, r.ticket))

    def as_stopped(self, failure: Failure) -> Failure:
        """The failure of an attempt that we ended ourselves: what counts is why we did."""
        kind: Any = self.stopped
        text = self.stop_text or failure.message
        return msgspec.structs.replace(failure, kind=kind, message=text, retryable=None, error_type="")

    def taken_back(self) -> None:
        """Nothing of it has begun."""
        self.tell(lambda r: TakenBack(r.node.hash, r.ticket))


class Steps:
    """The protocol steps of jobs, as keeper operations.

    Args:
        claimed: called when a job's claim is held.
        over: called with the step it was at when a job is about to tell its end to all runs.
        metadata: what goes into each success's metadata.
    """

    def __init__(
        self, keeper: KeeperClient, claimed: Callable[[Job], None], over: Callable[[Job, Step], None]
    ) -> None:
        self.keeper = keeper
        self.late: LateEnds = LateEnds(keeper)
        self.metadata: dict[str, Any] = {}
        self._claimed = claimed
        self._over = over

    # -- claiming --------------------------------------------------------------------------------------------

    def claim(self, job: Job) -> None:
        """Ask for the claim; ends in ``claimed``, or in an event."""
        job.step = Step.CLAIMING
        request = job.origin
        node, run = request.node, request.run
        if node.supersede:
            why = f"run {run.run_id} computes it again"
            op = ("invalidate", run.root, node.name, node.hash, node.supersede, why, run.run_id)
            self.keeper.request(op, lambda reply: self._superseded(job, reply))
        else:
            self._ask_claim(job)

    def _superseded(self, job: Job, reply: Any) -> None:
        if reply["r"] == "error":
            self._trouble(job, reply)
            return
        job.origin.node.supersede = 0
        self._ask_claim(job)

    def _ask_claim(self, job: Job) -> None:
        run, node = job.origin.run, job.origin.node
        op = ("claim", run.root, run.run_id, node.name, node.hash)
        self.keeper.request(op, lambda reply: self._on_claim(job, reply))

    def _on_claim(self, job: Job, reply: Any) -> None:
        kind = reply["r"]
        if kind == "claimed":
            job.generation = job.origin.node.generation = reply["n"]
            self.late.forget(job.origin.run.root, job.origin.node.name, job.origin.node.hash, job.generation)
            job.origin.node.takeover = 0
            self._claimed(job)
        elif kind == "published":
            job.generation = reply.get("n", 0)
            self._finish(job, lambda: job.succeeded(created=False))
        elif kind == "taken":
            self._on_taken(job, reply)
        else:
            self.late.disclaim(job.origin.run, job.origin.node)
            self._trouble(job, reply)

    def _on_taken(self, job: Job, reply: Any) -> None:
        node, run = job.origin.node, job.origin.run
        claim = _read(Claim, reply.get("claim"))
        generation = reply["n"]
        if claim is not None and claim.token == run.token:
            self._end_own(job, generation)
            return
        dead = claim is not None and known_dead(claim.owner) is True
        if dead or node.takeover == generation:
            why = "its owner is gone" if dead else "its owner gave no sign of life for a lease"
            op = ("takeover", run.root, run.run_id, node.name, node.hash, generation, why)
            silent_at = () if dead else (node.silent_at,)
            self.keeper.request((*op, *silent_at), lambda answer: self._on_taken_over(job, answer))
            return
        from furu_async._executors.planner import describe_claim

        for request in job.requests:
            request.node.held = generation
        self._finish(job, lambda: job.elsewhere(describe_claim(claim)))

    def _on_taken_over(self, job: Job, reply: Any) -> None:
        if reply["r"] == "taken":  # it is back, or somebody else was quicker
            job.origin.node.takeover = 0
        self._on_claim(job, reply)

    def _end_own(self, job: Job, generation: int) -> None:
        """End what an earlier attempt of this run still holds: its end could not be written (a full disk)."""

        def ended(reply: Any) -> None:
            job.generation = 0
            if reply["r"] == "error":
                self._trouble(job, reply)
            else:
                self._ask_claim(job)

        job.generation = generation
        failure = Failure(kind="infrastructure", message="its end could not be recorded when it failed")
        self._ask_end(job, "finish", self._end(job, "failure", failure), ended)

    # -- ending ----------------------------------------------------------------------------------------------

    def release(self, job: Job) -> None:
        """End a claim under which nothing ran and that nobody wants; costs nobody anything."""
        self._unclaim(job, lambda: self._finish(job, job.taken_back))

    def requeue(self, job: Job, add: Callable[[Job], None]) -> None:
        """End a claim under which nothing ran, so that others may take it, and queue the job again."""

        def again() -> None:
            if job.unwanted:
                self._finish(job, job.taken_back)
                return
            job.step = Step.QUEUED
            job.generation = 0
            add(job)

        job.step = Step.PUBLISHING
        self._unclaim(job, again)

    def drop(self, job: Job, failure: Failure) -> None:
        """A job without a claim ends with this failure."""
        self._finish(job, lambda: job.failed(failure))

    def _unclaim(self, job: Job, then: Callable[[], None]) -> None:
        failure = Failure(kind="preempted", message="given back before it began")
        end = self._end(job, "failure", failure)
        self._ask_end(job, "finish", end, lambda reply: then())

    def conclude(self, job: Job, result: TaskResult, log_path: str) -> None:
        """An attempt has ended: publish its result or record its failure, read back, tell the runs."""
        job.step = Step.PUBLISHING
        if result.ok:
            self._publish(job, self._end(job, "success", None, result, log_path), Patience(job.origin.run))
        else:
            failure = result.failure or Failure(kind="killed", message="it ended without saying how")
            cuts.mark(job, failure, lambda marked: self._record(job, marked, result, log_path))

    def _record(self, job: Job, failure: Failure, result: TaskResult | None = None, log: str = "") -> None:
        end = self._end(job, "failure", failure, result, log)
        self._ask_end(job, "finish", end, lambda reply: self._on_failure_recorded(job, reply, failure))

    def _publish(self, job: Job, end: End, patience: Patience) -> None:
        self._ask_end(job, "publish", end, lambda reply: self._on_published(job, reply, end, patience))

    def _on_published(self, job: Job, reply: Any, end: End, patience: Patience) -> None:
        kind = reply["r"]
        if kind == "published":
            self._finish(job, lambda: job.succeeded(created=True))
        elif kind == "fenced":
            self._fenced(job, reply)
        elif kind == "error" and not job.unwanted and (delay := patience.delay(reply)) is not None:
            asyncio.get_running_loop().call_later(delay, self._publish, job, end, patience)
        else:
            self._record(job, _trouble_of(job, reply) if kind == "error" else _broken(reply))

    def _on_failure_recorded(self, job: Job, reply: Any, failure: Failure) -> None:
        if reply["r"] == "fenced":
            self._fenced(job, reply)
            return
        if reply["r"] == "error" and failure.kind != "infrastructure":
            text = f"{failure.message}\n(and its end could not be recorded: {reply.get('text', '')})"
            failure = msgspec.structs.replace(failure, message=text)
        self._finish(job, lambda: job.failed(failure))

    def _fenced(self, job: Job, reply: Any) -> None:
        end = _read(End, reply.get("end"))
        if end is not None and end.status == "success":
            self._finish(job, lambda: job.succeeded(created=False))
            return
        text = "another owner took the claim over while this attempt ran; its result is not used"
        failure = Failure(kind="lost", message=text)
        self._finish(job, lambda: job.failed(failure))

    def _trouble(self, job: Job, reply: Any) -> None:
        self._finish(job, lambda: job.failed(_trouble_of(job, reply)))

    def _finish(self, job: Job, tell: Callable[[], None]) -> None:
        was = job.step
        job.step = Step.OVER
        self._over(job, was)
        tell()

    def _ask_end(self, job: Job, verb: str, end: End, reply: Callable[[Any], None]) -> None:
        run, node = job.origin.run, job.origin.node
        data = encode(end)
        power = run.config.durability == "power" or (
            run.config.durability == "auto" and (end.ended_at or 0.0) - (end.started_at or 0.0) >= 1.0
        )
        if verb == "publish":
            op: tuple[Any, ...] = (verb, run.root, node.name, node.hash, job.generation, data, power)
        else:
            op = (verb, run.root, node.name, node.hash, job.generation, data)
            reply = self.late.watched(op, run, reply)
        self.keeper.request(op, reply)

    def _end(
        self,
        job: Job,
        status: str,
        failure: Failure | None,
        result: TaskResult | None = None,
        log_path: str = "",
    ) -> End:
        request = job.origin
        run = request.run
        now = clock.wall()
        started = result.started_at if result is not None and result.started_at else now
        ok = status == "success"
        return End(
            generation=job.generation,
            token=run.token,
            run_id=run.run_id,
            status="success" if ok else "failure",
            failure=failure,
            manifest=result.manifest if ok and result is not None else [],
            result=result.result if ok and result is not None else "",
            value=msgspec.Raw(result.value) if ok and result is not None and result.value else NO_VALUE,
            metadata={**self.metadata, **described(request.node.obj)} if ok else {},
            log_path=log_path,
            started_at=started,
            ended_at=started + result.duration if result is not None and result.duration else now,
            history=list(request.node.history),
        )


def _trouble_of(job: Job, reply: Any) -> Failure:
    text = f"{reply.get('text', 'the store gave an error')} ({reply.get('path', job.paths.base)})"
    # What needs a person does not pass by waiting, and concerns this node only.
    damaged = reply.get("errno") == errno.EUCLEAN
    kind: FailureKind = "protocol" if damaged else "infrastructure"
    return Failure(kind=kind, error_type="FuruStoreError" if damaged else "OSError", message=text)


def _broken(reply: Any) -> Failure:
    text = "its files were changed before they could be published: " + "; ".join(reply["problems"][:3])
    return Failure(kind="infrastructure", message=text)


def _read(kind: type[R], data: Any) -> R | None:
    if not data:
        return None
    try:
        return decode(kind, data, kind.__name__.lower())
    except Exception:
        return None
