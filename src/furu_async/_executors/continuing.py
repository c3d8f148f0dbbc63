"""Going on with a run whose controller died: which one it is, and what had been counted there.

What is counted is on disk: the ends of a node's generations, of which each is the attempt of the run whose claim it
was. Of an attempt that ended as `lost` (its controller died, or gave no sign of life) only the journal tells whether
the node had begun there; it may lack the last tenth of a second, and then the attempt counts nothing. All functions
but the coroutines block.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from furu_async._executors.publishing import NEEDS_A_PERSON, what_to_do
from furu_async._model.artifact import Furu
from furu_async._plan.events import NO_CUTS, Cuts
from furu_async._plan.retry import count
from furu_async._runner.loading import look_through
from furu_async._runtime import clock
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._store import atomic, runs
from furu_async._store.layout import ArtifactPaths, RunPaths
from furu_async._store.liveness import known_dead
from furu_async._store.look import Look
from furu_async._store.marker import read_end
from furu_async._store.records import Claim, Damaged, decode
from furu_async._store.runs import Unfinished
from furu_async.errors import FuruStoreError
from furu_async.report import Failure, FailureKind

FIND_SECS = 5.0
"""How long the store is asked for an unfinished run; without an answer it is a new run."""
_READ_SECS = 30.0
_SLICE = 0.001
_MOST_GENERATIONS = 100
_MOST_LINES = 20
_LONGEST_LINE = 1 << 16
_UNSURE = ("lost", "preempted")
"""Kinds of ends that are also written where nothing had begun."""

logger = logging.getLogger("furu_async")


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What the dead controller of a run left.

    Attributes:
        recorded: its ``run.json`` is there.
        started: (hash, generation) of attempts that had begun, as the journal says.
        torn: the last line of the journal is not whole.
    """

    run_id: str
    begun_at: float | None = None
    recorded: bool = False
    started: frozenset[tuple[str, int]] = frozenset()
    torn: bool = False

    def text(self) -> str:
        """What a person is told."""
        begun = "" if self.begun_at is None else f" begun at {clock.utc(self.begun_at)}"
        return f"continues the run{begun}, whose controller is gone"


@dataclass(frozen=True, slots=True)
class Spent:
    """What an earlier controller counted of one node.

    Attributes:
        counts: failures by kind.
        last: the last of them.
        lines: one short line for each, oldest first, bounded.
        newest: the artifact's newest generation was an attempt of the run, too.
        upto: ends up to this generation were looked at.
        cuts: how it fared with the ends of its workers' walltime.
    """

    counts: dict[FailureKind, int] = field(default_factory=dict)
    last: Failure | None = None
    lines: tuple[str, ...] = ()
    newest: bool = False
    upto: int = 0
    cuts: Cuts = NO_CUTS


NOTHING = Spent()


async def key_of(targets: Sequence[Furu[Any]], kind: str) -> str:
    """What the call is known by; lets others have the loop between many targets.

    Raises:
        FuruError: a target is wrong.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _SLICE
    hashes = set()
    for obj in targets:
        hashes.add(obj.furu_hash)
        if loop.time() > until:
            await asyncio.sleep(0)
            until = loop.time() + _SLICE
    return runs.call_key(kind, hashes)


async def unusable(root: str) -> FuruStoreError | None:
    """What a person has to put right before any run can use this store; None if there is nothing, or no answer."""
    try:
        await DOOR.probe.run(look_through, root, deadline=FIND_SECS)
    except OSError as error:
        number, path = error.errno or 0, str(error.filename or root)
        if number not in NEEDS_A_PERSON:
            return None
        text = error.strerror or str(error)
        words = f"the store {root} cannot be used: {text} ({path})"
        return FuruStoreError(words, what_to_do(number), path, text)
    except BlockingTimeout:
        pass
    return None


async def find(root: str, key: str) -> Unfinished | None:
    """The run that the same call began and did not end, if its controller is dead; None also if the store is silent."""
    try:
        return await DOOR.probe.run(runs.find_unfinished, root, key, deadline=FIND_SECS)
    except (OSError, BlockingTimeout) as error:
        logger.info("no unfinished run was looked for: %s", error)
        return None


async def adopted(root: str, found: Unfinished) -> Earlier:
    """What is to be known of a run that is ours now."""
    path = RunPaths(root, found.run_id).journal
    try:
        started, torn = await DOOR.probe.run(_read_journal, path, deadline=_READ_SECS)
    except (OSError, BlockingTimeout) as error:
        logger.info("the journal %s could not be read: %s", path, error)
        started, torn = frozenset(), False
    return Earlier(
        run_id=found.run_id,
        begun_at=found.begun_at,
        recorded=found.recorded,
        started=started,
        torn=torn,
    )


class _Line(msgspec.Struct):
    kind: str = ""
    hash: str = ""
    generation: int = 0


_decode_line = msgspec.json.Decoder(_Line).decode


def _read_journal(path: str) -> tuple[frozenset[tuple[str, int]], bool]:
    started = set()
    torn = False
    try:
        with os.fdopen(atomic.open_file(path), "rb") as file:
            while line := file.readline(_LONGEST_LINE):
                torn = not line.endswith(b"\n")
                if b"node_started" not in line:
                    continue
                try:
                    said = _decode_line(line)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    continue
                if said.kind == "node_started" and said.generation:
                    started.add((said.hash, said.generation))
    except FileNotFoundError:
        pass
    return frozenset(started), torn


def spent(paths: ArtifactPaths, seen: Look, earlier: Earlier) -> Spent:
    """What the run counted of an artifact that has no result.

    Raises:
        OSError: the file system does not answer.
    """
    counts: dict[FailureKind, int] = {}
    failures: list[Failure] = []
    newest, upto = False, seen.generation
    for n in range(seen.generation, max(0, seen.generation - _MOST_GENERATIONS), -1):
        run_id, failure = _attempt(paths, n)
        if run_id != earlier.run_id:
            continue
        if n == seen.generation:
            if failure is None and seen.verdict == "claimed":
                failure = _left_open(seen.claim)
                if failure is None:
                    upto = n - 1
                    continue
            newest = True
        if failure is None or failure.kind == "cancelled":
            continue
        sure = failure.planned or failure.checkpoint or failure.kind not in _UNSURE
        if not sure and (paths.hash, n) not in earlier.started:
            continue
        failures.append(failure)
    cuts = NO_CUTS
    judged = []
    for failure in reversed(failures):
        failure, cuts = count(counts, cuts, failure)
        judged.append(failure)
    lines = tuple(failure.line() for failure in judged[-_MOST_LINES:])
    return Spent(counts, judged[-1] if judged else None, lines, newest, upto, cuts)


def _attempt(paths: ArtifactPaths, n: int) -> tuple[str, Failure | None]:
    """Whose attempt a generation was, and how it failed; None if it did not, or has no end that can be read."""
    try:
        end = read_end(paths, paths.end(n), n)
    except (Damaged, FileNotFoundError):
        end = None
    path = paths.claim(n)
    try:
        run_id = decode(Claim, atomic.read_bytes(path), path).run_id
    except (Damaged, FileNotFoundError):
        run_id = end.run_id if end is not None else ""
    return run_id, end.failure if end is not None and end.status == "failure" else None


def _left_open(claim: Claim | None) -> Failure | None:
    """The failure of an attempt whose owner is dead and that nobody has ended yet."""
    if claim is None or known_dead(claim.owner) is not True:
        return None
    return Failure(kind="lost", message="its controller died")
