"""Asks the store about nodes, in batches off the loop, and turns what it finds into `Probed` events.

One batch is one hop to a thread. A cached node costs one ``stat``; a node never seen one failed listing more.
Only what the core asks about is looked at, so nothing below a valid node is touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from furu_async._executors.base import Node
from furu_async._executors.continuing import NOTHING, Earlier, Spent, spent
from furu_async._model.artifact import Furu
from furu_async._model.dag import dependencies
from furu_async._plan.events import NodeRules, Probed
from furu_async._runner.validity import Validation
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._runtime.config import FuruConfig
from furu_async._store.artifacts import Look, look
from furu_async._store.layout import ArtifactPaths
from furu_async._store.liveness import known_dead
from furu_async._store.marker import is_marked
from furu_async._store.records import Claim, Owner
from furu_async.errors import FuruError
from furu_async.report import Failure

BATCH = 512
_PARALLEL = 3
_SLICE = 0.001

Verdict = Literal["valid", "absent", "failed", "busy", "unknown"]


@dataclass(slots=True)
class Found:
    """What the store says of one artifact.

    Attributes:
        generation: the newest one; 0 where none exists or the marker alone was looked at.
        detail: who holds it, or what went wrong.
        run_id: of a published one: whose result it is, where that was looked at.
        spent: what an earlier controller of the run counted.
    """

    verdict: Verdict
    generation: int = 0
    failure: Failure | None = None
    detail: str = ""
    claim: Claim | None = None
    notes: tuple[str, ...] = ()
    run_id: str = ""
    spent: Spent = NOTHING


def probe_many(
    root: str, items: Sequence[tuple[str, str]], exact: bool = False, earlier: Earlier | None = None
) -> list[Found]:
    """Look at artifacts given as (name, hash); blocking, never raises for one of them.

    Args:
        exact: find the generation of published ones too (a marker alone does not tell).
        earlier: what the dead controller of this very run left, where there was one.
    """
    found = []
    for name, digest in items:
        try:
            found.append(_probe_one(ArtifactPaths(root, name, digest), exact, earlier))
        except OSError as error:
            found.append(Found("unknown", detail=f"{error.strerror or error}: {error.filename or name}"))
        except Exception as error:
            found.append(Found("unknown", detail=f"{type(error).__name__}: {error}"))
    return found


def _probe_one(paths: ArtifactPaths, exact: bool, earlier: Earlier | None) -> Found:
    if not exact and is_marked(paths):
        return Found("valid")
    seen = look(paths)
    notes = tuple(seen.notes)
    if seen.verdict == "published":
        return Found("valid", seen.generation, notes=notes, run_id=seen.end.run_id if seen.end else "")
    if earlier is None or seen.verdict == "damaged":
        return _judge_unpublished(seen)
    if seen.verdict == "claimed" and _is_of(seen.claim, earlier):
        # Its job in Slurm goes on without a controller: whoever continues the run joins it.
        return Found(
            "absent", seen.generation, claim=seen.claim, notes=notes, spent=spent(paths, seen, earlier)
        )
    counted = spent(paths, seen, earlier)
    # What became of an attempt of this very run is told by the counts.
    found = Found("absent", seen.generation, notes=notes) if counted.newest else _judge_unpublished(seen)
    found.spent = counted
    return found


def _is_of(claim: Claim | None, earlier: Earlier) -> bool:
    return claim is not None and claim.backend in ("dag", "pool") and claim.run_id == earlier.run_id


def _judge_unpublished(seen: Look) -> Found:
    notes = tuple(seen.notes)
    if seen.verdict == "claimed":
        claim = seen.claim
        if claim is not None and known_dead(claim.owner) is True:
            left = Failure(
                kind="lost", message=f"its owner is dead and left it unfinished: {describe_claim(claim)}"
            )
            return Found("failed", seen.generation, failure=left, claim=claim, notes=notes)
        return Found("busy", seen.generation, detail=describe_claim(claim), claim=claim, notes=notes)
    end = seen.end
    if (
        end is not None
        and end.status == "failure"
        and end.failure is not None
        and end.failure.kind not in _PASSING
    ):
        return Found("failed", seen.generation, failure=end.failure, notes=notes)
    return Found("absent", seen.generation, notes=notes)


_PASSING = ("preempted", "cancelled", "infrastructure", "inputs")
"""Kinds of an attempt's end that are no failure of the artifact: it is begun again whatever ``retry_failed`` says.

Not `lost`: whether anybody has recorded that an owner is gone makes no difference to the one who finds it.
"""


def describe_claim(claim: Claim | None, job: str = "") -> str:
    """Who holds a claim, in words.

    Args:
        job: of a claim whose job waits in Slurm: its id, if that is known.
    """
    if claim is None:
        return "claimed by an owner whose record cannot be read"
    if claim.phase == "queued":
        as_job = f" as job {job}" if job else ""
        return f"{claim.backend} run {claim.run_id} holds the claim, queued in Slurm{as_job}"
    owner: Owner = claim.owner
    where = f"pid {owner.pid} on {owner.host}"
    if owner.job_id:
        where += f", Slurm job {owner.job_id}"
    return f"{claim.backend} run {claim.run_id} ({where}) holds the claim, {claim.phase}"


def rules_of(node: Node, specs: int) -> NodeRules:
    """What the core has to know of a node's class."""
    retry = node.info.retry
    if retry is None:
        return NodeRules(specs=specs)
    return NodeRules(retries=retry.retries, backoff=retry.backoff, specs=specs)


class Planner:
    """Carries out `Probe` commands for one run.

    Args:
        register: makes nodes known to the run, gives their hashes (may raise FuruDefinitionError).
        post: takes the `Probed` events.
        note: takes what a person should read (a raising ``_validate``, a quarantined file).
        wants_rerun: is this node to be computed again in this run?
        validate: asks the class's own ``_validate``; the flag says whether files are to be compared too.
        specs: how many of a node's specifications are tried one after the other.
    """

    def __init__(
        self,
        root: str,
        config: FuruConfig,
        nodes: dict[str, Node],
        register: Callable[[Sequence[Furu[Any]]], tuple[str, ...]],
        post: Callable[[Probed], None],
        note: Callable[[str], None],
        wants_rerun: Callable[[Node], bool],
        validate: Callable[[Node, bool], Awaitable[Validation]],
        fail: Callable[[FuruError], None],
        jitter: Callable[[], float],
        specs: Callable[[Node], int] = lambda _: 1,
    ) -> None:
        self.root = root
        self.config = config
        self.nodes = nodes
        self.register = register
        self.post = post
        self.note = note
        self.wants_rerun = wants_rerun
        self.validate = validate
        self.fail = fail
        self.jitter = jitter
        self.specs = specs
        self.wanted: list[str] = []
        self.done: set[str] = set()
        self.reran: set[str] = set()
        self.earlier: Earlier | None = None
        self._careful: set[str] = set()
        self._slots = asyncio.Semaphore(_PARALLEL)

    def ask(self, node: str, careful: bool = False) -> None:
        """Put a node on the list; `flush` sends the list off.

        Args:
            careful: somebody could not load its result: a marker is not enough, look at its files.
        """
        self.wanted.append(node)
        if careful:
            self._careful.add(node)

    def flush(self, group: anyio.abc.TaskGroup) -> None:
        """Start a batch for what was asked since the last time."""
        wanted = self.wanted
        if not wanted:
            return
        self.wanted = []
        for start in range(0, len(wanted), BATCH):
            group.start_soon(self._batch, wanted[start : start + BATCH], name="furu planner")

    async def _batch(self, hashes: list[str]) -> None:
        async with self._slots:
            plain: list[Node] = []
            exact: list[Node] = []
            for digest in hashes:
                node = self.nodes[digest]
                again = digest not in self.reran and self.wants_rerun(node)
                closely = node.info.has_validate or again or digest in self._careful
                (exact if closely else plain).append(node)
            for nodes, exactly in ((plain, False), (exact, True)):
                if nodes:
                    await self._look(nodes, exactly)

    async def _look(self, nodes: list[Node], exact: bool) -> None:
        items = [(node.name, node.hash) for node in nodes]
        deadline = self.config.infra_secs
        try:
            found = await DOOR.probe.run(
                probe_many, self.root, items, exact, self.earlier, deadline=min(60.0, deadline)
            )
        except BlockingTimeout as error:
            found = [Found("unknown", detail=f"{error} ({self.root} does not answer)")] * len(nodes)
        loop = asyncio.get_running_loop()
        until = loop.time() + _SLICE
        for node, answer in zip(nodes, found, strict=True):
            if exact and answer.verdict == "valid":
                answer = await self._judge(node, answer)
            self._answer(node, answer)
            if loop.time() > until:
                await asyncio.sleep(0)
                until = loop.time() + _SLICE

    def _answer(self, node: Node, answer: Found) -> None:
        for text in answer.notes:
            self.note(text)
        if answer.verdict == "valid":
            node.generation = answer.generation
            self.post(Probed(node.hash, "valid"))
            return
        try:
            children = self.register(dependencies(node.obj))
        except FuruError as error:
            self.fail(error)  # a mistake in the definition concerns the whole run
            return
        before = answer.spent
        node.counted, node.spent = before.upto, before.counts
        if before.last is not None and not node.attempts:
            node.attempts = sum(before.counts.values()) + before.cuts.free
            node.history = before.lines
        self.post(
            Probed(
                node.hash,
                answer.verdict,
                deps=children,
                rules=rules_of(node, self.specs(node)),
                failure=answer.failure,
                detail=answer.detail,
                jitter=self.jitter() if answer.verdict == "unknown" else 0.0,
                spent=before.counts,
                last=before.last,
                cuts=before.cuts,
            )
        )

    async def _judge(self, node: Node, answer: Found) -> Found:
        """A published artifact that is to be computed again, or whose class checks its results itself."""
        if node.hash not in self.reran and self.wants_rerun(node):
            self.reran.add(node.hash)
            if self.earlier is None or answer.run_id != self.earlier.run_id:
                node.supersede = answer.generation
                return Found("absent", answer.generation)
            # Once per run, and the earlier controller of this one has done it.
        careful = node.hash in self._careful
        self._careful.discard(node.hash)
        if not node.info.has_validate and not careful:
            return answer
        verdict = await self.validate(node, careful)
        if verdict.verdict == "valid":
            return answer
        if verdict.verdict == "unknown":
            return Found("unknown", answer.generation, detail=verdict.detail)
        if verdict.raised or careful:
            self.note(f"{node.obj!r} is computed again: {verdict.detail}")
        node.supersede = answer.generation
        return Found("absent", answer.generation, detail=verdict.detail)
