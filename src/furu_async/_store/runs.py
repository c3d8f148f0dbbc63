"""One run on disk: claimed and ended like an artifact, so that the same call goes on when its controller has died.

``claims/<n>`` says which controller holds generation n of the run, ``ends/<n>`` how that ended: in order (whatever
became of the nodes), or `lost`. Only a run whose newest end is `lost`, or whose newest claim is of an owner that is
known to be dead, can be gone on with; n+1 is claimed by link, so of several that want to exactly one does.

``runs/.unfinished/<key>/<run_id>`` is how such a run is found without listing all runs: ``key`` stands for the call.
It is a hint. What decides are claims and ends, and an entry whose run has ended, or is no more, is taken away by
whoever comes across it. Its loss costs that the next call is a new run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from furu_async._store import atomic, fs
from furu_async._store.card import Card
from furu_async._store.layout import RunPaths, WorkerPaths, number, unfinished_folder, worker_of_beat
from furu_async._store.liveness import children_of, end_children, end_left_behind, known_dead
from furu_async._store.records import Claim, Damaged, End, RunRecord, decode, encode
from furu_async.errors import FuruProtocolError
from furu_async.report import Failure, FailureKind

RunVerdict = Literal["missing", "held", "lost", "over"]
Ending = Literal["ok", "failed", "cancelled", "error", "lost"]

_KINDS: dict[Ending, FailureKind] = {
    "failed": "compute",
    "cancelled": "cancelled",
    "error": "infrastructure",
    "lost": "lost",
}
_SECONDS = 5.0
_MOST_LOOKS = 100
_TRIES = 3


@dataclass(frozen=True, slots=True)
class RunLook:
    """What the store says of one run.

    Attributes:
        verdict: ``missing``: it was never claimed, or its folder is gone. ``held``: its newest claim has no end.
            ``lost``: its controller died, and nobody has gone on yet. ``over``: it has ended.
        generation: the newest one.
        claim: the newest claim, where ``held``; None if it cannot be read.
    """

    verdict: RunVerdict
    generation: int = 0
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run that the same call can go on with.

    Attributes:
        generation: its newest one, of a controller that is dead.
        begun_at: seconds since the epoch, for people; None where nothing says so.
        recorded: its ``run.json`` is there.
    """

    run_id: str
    generation: int
    begun_at: float | None = None
    recorded: bool = False


def call_key(kind: str, hashes: Iterable[str]) -> str:
    """What a call is known by: its set of targets (hashes; order and repetition do not matter), its executor's kind.

    The store's root is not part of it: each store has an index of its own.
    """
    # A sum, because sorting many thousands of hashes at once would hold up the caller's loop.
    distinct = set(hashes)
    total = sum(int(digest, 16) for digest in distinct)
    return sha256(f"{kind}:{len(distinct)}:{total:x}".encode()).hexdigest()[:32]


def look_run(paths: RunPaths) -> RunLook:
    """Who has a run, or how it ended.

    An end that cannot be read ended its generation all the same: the run is over, and the next call is a new one.

    Raises:
        OSError: the file system does not answer.
    """
    # Claims before ends: an end that comes in between is then seen, never the other way round.
    claims, ends = _newest(paths.claims), _newest(paths.ends)
    if not claims and not ends:
        return RunLook("missing")
    if ends >= claims:
        return RunLook("lost" if _is_lost(paths, ends) else "over", ends)
    return RunLook("held", claims, _read_claim(paths, claims))


def claim_run(paths: RunPaths, after: int, card: Card) -> int:
    """Claim a run for the owner of ``card``: a new one, or one whose generation ``after`` is a dead controller's.

    That generation is ended as lost, and what its owner left on this host is ended. May be called again after an
    error: a claim of one's own is recognised by its token.

    Returns:
        The generation; 0 if somebody else has it, or the run has ended in order.

    Raises:
        OSError: a step failed.
    """
    if after:
        try:
            atomic.check_folders(paths.base, paths.claims, paths.ends)
        except Damaged:
            return 0
        left = _read_claim(paths, after) if atomic.exists(paths.claim(after)) else None
        if left is None or not _end_lost(paths, after, card):
            return 0
        end_left_behind(paths.root, left, _SECONDS)
    target = paths.claim(after + 1)
    try:
        linked = card.link(target)
    except FileNotFoundError:
        atomic.make_folders(paths.claims)
        linked = card.link(target)
    return after + 1 if linked or card.owns(target) else 0


def _end_lost(paths: RunPaths, n: int, card: Card) -> bool:
    """Link `lost` to ``ends/<n>``; True if that is what is there now, whoever wrote it."""
    if atomic.exists(paths.end(n)):
        return _is_lost(paths, n)
    return end_run(paths, n, card.token, "lost", text="its controller is dead") or _is_lost(paths, n)


def end_run(
    paths: RunPaths,
    n: int,
    token: str,
    how: Ending,
    counts: Mapping[str, int] | None = None,
    at: float | None = None,
    text: str = "",
) -> bool:
    """Say how generation n of a run ended; False if another end is there already.

    Args:
        counts: nodes by how they ended.
        at: seconds since the epoch, for people.

    Raises:
        OSError: it is not known whether it was written; calling again finds out.
    """
    kind = _KINDS.get(how)
    end = End(
        generation=n,
        token=token,
        status="success" if kind is None else "failure",
        run_id=paths.run_id,
        failure=None if kind is None else Failure(kind=kind, message=text or f"the run ended: {how}"),
        metadata={"how": how, "counts": dict(counts or {})},
        ended_at=at,
    )
    if atomic.write_new_linked(paths.end(n), encode(end)):
        return True
    there = _read_end(paths, n)
    return there is not None and there.token == token and there.metadata.get("how") == how


def how_ended(paths: RunPaths, n: int) -> str:
    """How generation n of a run ended, an `Ending`; empty if nothing says so.

    Raises:
        OSError: the file system does not answer.
    """
    end = _read_end(paths, n)
    return "" if end is None else str(end.metadata.get("how", ""))


def _newest(folder: str) -> int:
    try:
        return max(map(number, fs.listdir(folder)), default=0)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _read_claim(paths: RunPaths, n: int) -> Claim | None:
    path = paths.claim(n)
    try:
        return decode(Claim, atomic.read_bytes(path), path)
    except (Damaged, FileNotFoundError):
        return None


def _read_end(paths: RunPaths, n: int) -> End | None:
    path = paths.end(n)
    try:
        return decode(End, atomic.read_bytes(path), path)
    except (Damaged, FileNotFoundError):
        return None


def _is_lost(paths: RunPaths, n: int) -> bool:
    end = _read_end(paths, n)
    return end is not None and end.failure is not None and end.failure.kind == "lost"


# -- the index -----------------------------------------------------------------------------------------------


def enter(paths: RunPaths, key: str, card: Card) -> None:
    """Make a claimed run findable by its key; best effort, and never raises ``OSError``: without it nothing breaks."""
    path = paths.unfinished(key)
    folder = os.path.dirname(path)
    for _ in range(_TRIES):
        try:
            atomic.check_folders(os.path.dirname(folder), folder)
            card.link(path)
        except FileNotFoundError:
            # Whoever ends another run of this key may take the folder away between the two.
            try:
                atomic.make_folders(folder)
            except OSError:
                return
        except (OSError, Damaged):
            return
        else:
            return


def leave(paths: RunPaths, key: str) -> None:
    """Take the entry of a run away that has ended; best effort."""
    path = paths.unfinished(key)
    folder = os.path.dirname(path)
    try:
        atomic.check_folders(os.path.dirname(folder), folder)
    except Damaged:
        return
    atomic.try_unlink(path)
    _try_rmdir(folder)


def find_unfinished(root: str, key: str) -> Unfinished | None:
    """The newest run of this call whose controller is dead; None if there is none. Costs one failed listing then.

    A run whose controller lives, or of which that cannot be told from here, is none: waiting for it to be silent for
    a lease would cost more than it gives.

    Raises:
        OSError: the file system does not answer.
    """
    folder = unfinished_folder(root, key)
    try:
        names = fs.listdir(folder)
        atomic.check_folders(os.path.dirname(folder), folder)
    except (FileNotFoundError, NotADirectoryError, Damaged):
        return None
    # Names begin with the time, so the newest run is the last one.
    for name in sorted(names, reverse=True)[:_MOST_LOOKS]:
        try:
            paths = RunPaths(root, name)
        except FuruProtocolError:
            continue
        seen = look_run(paths)
        if seen.verdict in ("missing", "over"):
            leave(paths, key)
            continue
        dead = seen.verdict == "lost" or (seen.claim is not None and known_dead(seen.claim.owner) is True)
        if not dead:
            continue
        record = _read_record(paths)
        if record is None:
            return Unfinished(name, seen.generation)
        if record.key == key:
            return Unfinished(name, seen.generation, record.created_at, True)
    return None


def _read_record(paths: RunPaths) -> RunRecord | None:
    try:
        return decode(RunRecord, atomic.read_bytes(paths.record), paths.record)
    except (Damaged, FileNotFoundError):
        return None


# -- what is left ---------------------------------------------------------------------------------------------


def sweep_workers(paths: RunPaths, ours: str) -> None:
    """Remove what dead controllers of a run left in ``workers/``; best effort, never raises ``OSError``.

    A folder goes only when its owner is known to be dead (or, where that cannot be told, has ended), and when none of
    its children is left.
    """
    try:
        names = fs.listdir(paths.workers)
        ended = _ended_workers(paths)
    except OSError:
        return
    for name in names:
        if name == ours:
            continue
        try:
            worker = paths.worker(name)
            # One that is empty has no owner yet, or lost it before it wrote its card; who lives makes it anew.
            _try_rmdir(worker.base)
            if _is_dead(worker, ended) and end_children(children_of(worker), _SECONDS):
                _remove(worker.base)
        except (OSError, FuruProtocolError):
            continue


def _ended_workers(paths: RunPaths) -> set[str]:
    found = set()
    for n in map(number, fs.listdir(paths.claims)):
        claim = _read_claim(paths, n) if n and atomic.exists(paths.end(n)) else None
        worker = worker_of_beat(paths.root, claim.beat) if claim is not None else None
        if worker is not None:
            found.add(worker.base)
    return found


def _is_dead(worker: WorkerPaths, ended: set[str]) -> bool:
    for name in sorted(fs.listdir(worker.base)):
        if name.startswith("card-"):
            path = f"{worker.base}/{name}"
            try:
                dead = known_dead(decode(Claim, atomic.read_bytes(path), path).owner)
            except (Damaged, FileNotFoundError):
                continue
            return dead is True or (dead is None and worker.base in ended)
    return worker.base in ended


def _remove(folder: str) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def remove_run(paths: RunPaths) -> None:
    """Remove the folder of a run that has ended and that nobody will ask for; best effort.

    Claims go before ends: what is left at any moment is a run that is over, or none.
    """
    for folder in (paths.claims, paths.ends):
        _remove(folder)
    for path in (paths.record, paths.journal):
        atomic.try_unlink(path)
    _try_rmdir(paths.base)


def remove_spool(folder: str) -> None:
    """Remove the folder of a supervisor's spool files, and those of worker, workers and run if that was all."""
    _remove(folder)
    for _ in range(3):
        folder = os.path.dirname(folder)
        _try_rmdir(folder)


def _try_rmdir(path: str) -> None:
    try:
        fs.rmdir(path)
    except OSError:
        pass
