"""The controller's steps on artifacts: claiming nodes for jobs that are about to be submitted, and ending such claims.

All functions block and go over many nodes in one call. A claim made here has no owner and its beat is that of the job
to come: it is held by whichever job comes with its token, and nobody can find it silent before that has begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from furu_async._dag.counting import left_by
from furu_async._dag.orders import (
    IN_ITS_JOB,
    OrderNode,
    Outcome,
    is_given_up,
    outcome_path,
    read_outcome,
    restarts_of,
    sid_of,
    wid_of_claim,
)
from furu_async._executors.base import Node
from furu_async._executors.planner import describe_claim
from furu_async._runtime import clock
from furu_async._store import artifacts
from furu_async._store.beat import is_back, read_beat
from furu_async._store.card import PlainCard
from furu_async._store.layout import ArtifactPaths, RunPaths, beat_path
from furu_async._store.liveness import known_dead
from furu_async._store.look import Look, look
from furu_async._store.records import Claim, Damaged, End
from furu_async._store.submissions import note_job, read_note
from furu_async.report import Failure

_TRIES = 8

What = Literal["ours", "done", "adopt", "foreign", "trouble"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A node to be claimed.

    Attributes:
        wid: token of the claim.
        supersede: generation whose result is to be set aside first, or 0.
        takeover, silent_at: generation whose owner was found lost, or 0, and its beat then.
        done_with: submissions of this run whose jobs are gone: their claims are ended and not joined.
    """

    name: str
    hash: str
    wid: str
    supersede: int = 0
    takeover: int = 0
    silent_at: bytes | None = None
    done_with: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of it.

    Attributes:
        what: ``ours``: claimed. ``done``: it has a result. ``adopt``: an earlier controller of this run had claimed it,
            for the job of ``wid``, which has it or is about to try again. ``foreign``: somebody else's, see ``claim``.
            ``trouble``: see ``text``.
        job: of a foreign one, the id of its job, where that is known.
        damaged: the trouble does not pass by waiting.
    """

    what: What
    generation: int = 0
    wid: str = ""
    claim: Claim | None = None
    job: str = ""
    text: str = ""
    damaged: bool = False
    notes: tuple[str, ...] = field(default=())


def claim_all(root: str, run_id: str, wanted: Sequence[Wanted]) -> list[Answer]:
    """Claim nodes for the jobs of a run; never raises for one of them."""
    answers = []
    for one in wanted:
        try:
            answers.append(_claim(root, run_id, one))
        except OSError as error:
            text = f"{error.strerror or error}: {error.filename or one.name}"
            answers.append(Answer(what="trouble", text=text))
        except Damaged as error:
            answers.append(Answer(what="trouble", text=str(error), damaged=True))
    return answers


def _claim(root: str, run_id: str, one: Wanted) -> Answer:
    paths = ArtifactPaths(root, one.name, one.hash)
    card = _card(root, run_id, one.wid)
    if one.supersede:
        artifacts.invalidate(paths, one.supersede, f"run {run_id} computes it again", run_id)
    for _ in range(_TRIES):
        seen = look(paths)
        if seen.verdict == "free":
            wid = _between_attempts(root, run_id, seen.end, one)
            if wid:
                return Answer(what="adopt", generation=seen.generation, wid=wid)
            reply = artifacts.claim(paths, seen.next_generation, card)
        elif seen.verdict == "published":
            return Answer(what="done", generation=seen.generation)
        elif seen.verdict == "damaged":
            return Answer(what="trouble", text="; ".join(seen.notes), damaged=True)
        elif seen.claim is not None and seen.claim.token == card.token:
            reply = artifacts.claim(paths, seen.generation, card)
        else:
            answer = _taken(root, run_id, paths, seen, one)
            if answer is not None:
                return answer
            why = "its owner is gone, or its job was never to come"
            # Its job may live on another host, whatever becomes of the power of this one.
            reply = artifacts.takeover(paths, seen.generation, card, why, run_id, power=True)
        if reply.r == "claimed":
            return Answer(what="ours", generation=reply.generation, notes=tuple(seen.notes))
    return Answer(what="trouble", text=f"{paths.base} changes hands all the time")


def _between_attempts(root: str, run_id: str, end: End | None, one: Wanted) -> str:
    """The job of this run that has ended the newest generation and is about to try again by itself; else empty."""
    if end is None or end.run_id != run_id or end.failure is None or end.failure.kind not in IN_ITS_JOB:
        return ""
    sid = sid_of(end.token)
    if not sid or sid in one.done_with or _is_given_up(root, run_id, end.token):
        return ""
    path = outcome_path(RunPaths(root, run_id).submission(sid), end.token)
    return end.token if read_outcome(path) is None else ""


def _taken(root: str, run_id: str, paths: ArtifactPaths, seen: Look, one: Wanted) -> Answer | None:
    """Somebody has it: who; None if the claim may be ended."""
    claim, n = seen.claim, seen.generation
    if claim is None:
        return Answer(what="foreign", generation=n, text=describe_claim(None))
    wid = wid_of_claim(claim)
    if wid and claim.run_id == run_id:
        closed = sid_of(wid) in one.done_with or _is_given_up(root, run_id, wid)
        return None if closed else Answer(what="adopt", generation=n, wid=wid, claim=claim)
    if known_dead(claim.owner) is True:
        return None
    if one.takeover == n and not is_back(root, claim.beat, one.silent_at):
        return None
    if wid and _is_given_up(root, claim.run_id, wid):
        return None
    note = read_note(f"{paths.jobs}/{n}")
    return Answer(
        what="foreign",
        generation=n,
        wid=wid,
        claim=claim,
        job=note.job_id if note is not None else "",
        text=describe_claim(claim),
    )


def _is_given_up(root: str, run_id: str, wid: str) -> bool:
    """Nobody wants its job any more."""
    return is_given_up(RunPaths(root, run_id).submission(sid_of(wid)), wid)


def _card(root: str, run_id: str, wid: str) -> PlainCard:
    record = Claim(backend="dag", phase="queued", run_id=run_id, token=wid, beat=beat_path(run_id, wid))
    return PlainCard(RunPaths(root, run_id).worker(wid), record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A claim that is to be ended, if its token is still the one."""

    name: str
    hash: str
    wid: str
    failure: Failure


def end_all(root: str, run_id: str, endings: Sequence[Ending]) -> list[str]:
    """End claims, and those that their jobs have made since; what could not be done, in words."""
    troubles = []
    for one in endings:
        try:
            end_claim(root, run_id, one)
        except (OSError, Damaged) as error:
            troubles.append(f"{one.name}/{one.hash}: {error}")
    return troubles


def end_claim(root: str, run_id: str, one: Ending, but: str = "", power: bool = False) -> None:
    """See `end_all`; a claim with the token ``but`` is left alone. With ``power`` the end is synced.

    Raises:
        OSError: it is not known whether it was ended.
    """
    paths = ArtifactPaths(root, one.name, one.hash)
    for _ in range(_TRIES):
        seen = look(paths)
        claim = seen.claim
        if seen.verdict != "claimed" or claim is None or claim.run_id != run_id:
            return
        if claim.token == but or sid_of(wid_of_claim(claim)) != sid_of(one.wid):
            return
        end = End(
            generation=seen.generation,
            token=claim.token,
            run_id=run_id,
            status="failure",
            hash=one.hash,
            failure=one.failure,
            ended_at=clock.wall(),
        )
        if artifacts.finish(paths, seen.generation, end, power).r == "published":
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A node whose job is followed; failures up to the generation ``counted`` are."""

    name: str
    hash: str
    sid: str
    wid: str
    counted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the store says of it.

    Attributes:
        generation: of its result; 0 if there is none.
        created: a job of this run made it.
        restarts: which start of that job, from 0.
        history: what went wrong before, one short line per attempt.
        beating: its job has begun.
        outcome: what its job says of its end.
        left: failures that its job repeated by itself and that are not counted; read when it has ended.
        failure: how its newest generation ended, which is ``failed``, unless that is counted.
    """

    generation: int = 0
    created: bool = False
    restarts: int = 0
    history: tuple[str, ...] = ()
    beating: bool = False
    outcome: Outcome | None = None
    left: tuple[tuple[int, Failure], ...] = ()
    failure: Failure | None = None
    failed: int = 0
    open: bool = False
    error: str = ""


def see_all(root: str, run_id: str, items: Sequence[Watched], closely: bool = False) -> list[Sight]:
    """Look at nodes whose jobs are followed; never raises for one of them."""
    run = RunPaths(root, run_id)
    sights = []
    for item in items:
        try:
            sights.append(_see(root, run, item, closely))
        except (OSError, Damaged) as error:
            sights.append(Sight(error=str(error)))
    return sights


def _see(root: str, run: RunPaths, item: Watched, closely: bool) -> Sight:
    paths = ArtifactPaths(root, item.name, item.hash)
    found = artifacts.read_success(paths) if closely or artifacts.is_marked(paths) else None
    if found is not None:
        return _published(run, *found)
    said = read_outcome(outcome_path(run.submission(item.sid), item.wid)) if item.sid else None
    beating = bool(item.sid) and read_beat(root, beat_path(run.run_id, item.wid)) is not None
    if not closely and said is None:
        return Sight(beating=beating)
    left = tuple(left_by(paths, item.sid, item.counted)) if item.sid else ()
    if not closely:
        return Sight(beating=beating, outcome=said, left=left)
    seen = look(paths)
    if seen.verdict == "published" and seen.end is not None:
        return _published(run, seen.generation, seen.end)
    fresh = seen.verdict == "free" and seen.end is not None and seen.generation > item.counted
    return Sight(
        beating=beating,
        outcome=said,
        left=left,
        failure=seen.end.failure if fresh and seen.end is not None else None,
        failed=seen.generation if fresh else 0,
        open=seen.verdict == "claimed",
    )


def _published(run: RunPaths, generation: int, end: End) -> Sight:
    created = end.run_id == run.run_id
    return Sight(
        generation=generation,
        created=created,
        restarts=restarts_of(end.token) if created else 0,
        history=tuple(end.history) if created else (),
    )


def has_result(root: str, node: Node) -> bool:
    """Whether a node has a result.

    Raises:
        OSError: it cannot be told now.
    """
    return artifacts.read_success(ArtifactPaths(root, node.name, node.hash)) is not None


def note_jobs(root: str, notes: Sequence[tuple[str, str, int, str, str, str]]) -> None:
    """Write job ids, given as (name, hash, generation, token, id, cluster), where they are missing or different."""
    for name, digest, generation, token, job_id, cluster in notes:
        paths = ArtifactPaths(root, name, digest)
        try:
            note_job(f"{paths.jobs}/{generation}", token, job_id, cluster)
        except (OSError, Damaged):
            continue


def reclaim(root: str, run_id: str, node: OrderNode, wid: str) -> str:
    """For the job of a node that Slurm has started again: end what its earlier start holds, and claim anew as ``wid``.

    The earlier start may still run, on a node that Slurm has lost sight of: from now on it cannot publish. Gives the
    token to work under; if somebody else has the claim, or there is a result, that is found by whoever works then.

    Raises:
        OSError: it is not known what was done.
    """
    failure = Failure(kind="preempted", message="Slurm has started its job again")
    ending = Ending(name=node.name, hash=node.hash, wid=wid, failure=failure)
    end_claim(root, run_id, ending, wid, power=True)
    _claim(root, run_id, Wanted(name=node.name, hash=node.hash, wid=wid))
    return wid
