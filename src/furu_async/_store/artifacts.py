"""One artifact on disk: look at it, claim it, publish it, end it, invalidate it.

What may live here: the protocol, in synchronous functions that the keeper, worker threads and tests call. Only two
things decide, both made by `link` and never changed afterwards: ``claims/<n>`` says who may try generation n,
``ends/<n>`` says how it ended. n+1 is claimed only once ``ends/<n>`` exists, so whoever wants to take over from an
owner first links a `lost` there, and from then on that owner's own end meets EEXIST: it is fenced, at whatever time
it wakes up. All else (marker, summary) can be rebuilt from these.

What it does not promise: that two ``_create`` never overlap. An owner that was silent and yet alive may still be
computing when its successor starts; only one of them can publish a generation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from furu_async._store import atomic, fs, marker
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths
from furu_async._store.look import Look as Look
from furu_async._store.look import drop_marker, look_at
from furu_async._store.look import look as look
from furu_async._store.manifest import missing_files
from furu_async._store.manifest import verify_manifest as verify_manifest
from furu_async._store.marker import is_marked as is_marked
from furu_async._store.records import Damaged, End, Invalidation, encode
from furu_async._store.sweep import carry_checkpoint, clear_folder
from furu_async.report import Failure


class ClaimReply:
    """Answer to `claim`. ``r``: ``claimed`` (ours), ``published`` or ``taken``, the last two with a fresh ``look``."""

    __slots__ = ("generation", "look", "r")

    def __init__(
        self, r: Literal["claimed", "published", "taken"], generation: int, look: Look | None = None
    ) -> None:
        self.r: Literal["claimed", "published", "taken"] = r
        self.generation = generation
        self.look = look


class PublishReply:
    """Answer to `publish` and `finish`.

    ``published``: the end on disk is the one that was to be written. ``fenced``: another end is there, in ``end``
    (None if it cannot be read). ``broken``: files of the manifest are not there as it says, in ``problems``.
    """

    __slots__ = ("end", "problems", "r")

    def __init__(
        self,
        r: Literal["published", "fenced", "broken"],
        end: End | None = None,
        problems: list[str] | None = None,
    ) -> None:
        self.r: Literal["published", "fenced", "broken"] = r
        self.end = end
        self.problems = problems or []


def claim(paths: ArtifactPaths, generation: int, card: Card) -> ClaimReply:
    """Claim a generation for the owner of ``card``; afterwards there is no ``attempts/<generation>`` yet.

    May be called again after an error: a claim of one's own is recognised by its token.

    Raises:
        OSError: a step failed; if the claim was linked before, the next call finishes it.
        Damaged: a folder of the artifact is none.
    """
    target = paths.claim(generation)
    fresh = False
    if generation > 1:
        if not atomic.exists(paths.end(generation - 1)):
            return _refused(look(paths))
    else:
        fresh = _make_artifact_folders(paths)
    if not fresh:
        _check_folders(paths)
    try:
        linked = card.link(target)
    except FileNotFoundError:
        atomic.make_folders(paths.claims)
        linked = card.link(target)
    if not linked and not card.owns(target):
        return _refused(look_at(paths, generation))
    if fresh:
        try:
            fs.mkdir(paths.ends)
        except FileExistsError:
            # A lost reply, or a contender that came second made it.
            pass
        return ClaimReply("claimed", generation)
    if atomic.exists(paths.end(generation)):
        return _refused(look_at(paths, generation))
    used = _used_before(paths, generation, card)
    if used is not None:
        return _refused(used)
    clear_folder(paths, generation)
    if generation > 1:
        carry_checkpoint(paths, generation)
    return ClaimReply("claimed", generation)


def _used_before(paths: ArtifactPaths, n: int, card: Card) -> Look | None:
    """After a power loss that took claims and ends, what is left of a generation may tell that it has been used.

    Gives what is to be said instead of ``claimed``; None if nothing is in the way.
    """
    if atomic.exists(paths.invalid(n)):
        # A result made now would count as set aside too.
        why = f"the end of generation {n}, which was set aside, has been lost; the next one is used"
        failure = Failure(kind="lost", message=why)
        end = End(generation=n, token=card.token, status="failure", hash=paths.hash, failure=failure)
        finish(paths, n, end)
    elif not atomic.exists(paths.marker):
        return None
    seen = look_at(paths, n)
    return None if seen.verdict == "claimed" else seen


def _refused(seen: Look) -> ClaimReply:
    return ClaimReply("published" if seen.verdict == "published" else "taken", seen.generation, seen)


def _make_artifact_folders(paths: ArtifactPaths) -> bool:
    """Make what a first claim needs; True if all of it is new, so that nothing more need be looked at."""
    fresh = True
    for folder in (paths.base, paths.furu, paths.claims):
        try:
            fs.mkdir(folder)
        except FileExistsError:
            fresh = False
            atomic.check_folders(folder)
        except FileNotFoundError:
            atomic.make_folders(folder)
            fresh = False
    return fresh


def _check_folders(paths: ArtifactPaths) -> None:
    """Raise `Damaged` if a folder of the artifact is none.

    Only names that a listing shows are asked for. A network file system remembers of a name that was asked for in
    vain that it is not there, and the result that another host publishes next would look damaged here.
    """
    atomic.check_folders(paths.base)
    for folder, names in (
        (paths.base, (paths.furu, paths.attempts, paths.checkpoints)),
        (paths.furu, (paths.claims, paths.ends)),
    ):
        try:
            there = fs.listdir(folder)
        except OSError:
            continue
        atomic.check_folders(*(path for path in names if path.rpartition("/")[2] in there))


def publish(paths: ArtifactPaths, generation: int, end: End, power: bool = False) -> PublishReply:
    """Make ``attempts/<generation>`` the result, in one step; with ``power``, durably.

    Raises:
        OSError: it is not known whether that happened; calling again finds out.
    """
    return publish_encoded(paths, generation, end, encode(end), power)


def publish_encoded(
    paths: ArtifactPaths, generation: int, end: End, data: bytes, power: bool = False
) -> PublishReply:
    """`publish` with the end's bytes at hand."""
    problems = missing_files(paths.attempt(generation), end.manifest)
    if len(data) > atomic.MAX_RECORD:
        problems.append(
            f"the list of the result's {len(end.manifest)} files is larger than {atomic.MAX_RECORD} bytes; "
            "put them into an archive"
        )
    if problems:
        if atomic.exists(paths.end(generation)):
            # Replaced long ago, and the successor has cleared its folder.
            return _compare(paths, generation, end)
        return PublishReply("broken", problems=problems)
    return _put_end(paths, generation, end, data, power)


def finish(paths: ArtifactPaths, generation: int, end: End, power: bool = False) -> PublishReply:
    """Record that a generation ended without a result (failure, lost, cancelled)."""
    return _put_end(paths, generation, end, encode(end), power)


def _put_end(paths: ArtifactPaths, n: int, end: End, data: bytes, power: bool) -> PublishReply:
    target = paths.end(n)
    success = end.status == "success"
    new = atomic.NewFile(paths.ends, f"tmp-{n}", data, power)
    try:
        if power:
            _sync_above(paths, n if success else 0)
        if not new.link(target):
            reply = _compare(paths, n, end)
            if reply.r == "fenced":
                return reply
        if power:
            atomic.sync_folder(paths.ends)
        if success:
            # The result is published; from here on nothing that fails may say otherwise. A missing marker is
            # put back by the next look.
            try:
                marker.put(paths, n, target)
                if power:
                    atomic.sync_folder(paths.base)
            except OSError:
                pass
    finally:
        new.close()
    return PublishReply("published", end)


def _compare(paths: ArtifactPaths, n: int, end: End) -> PublishReply:
    """What an end that exists means to whoever wanted to write ``end``: its own, by token, or another's."""
    try:
        there = marker.read_end(paths, paths.end(n), n)
    except Damaged:
        return PublishReply("fenced")
    mine = there.token == end.token and there.status == end.status
    return PublishReply("published" if mine else "fenced", there)


def _sync_above(paths: ArtifactPaths, n: int) -> None:
    """Make durable the names that lead to an end, before it is linked: once it is seen, all it needs is there."""
    folders = [paths.claims]
    if n:
        folders += [paths.attempt(n), paths.attempts]
    folders += [paths.furu, paths.base]
    above = paths.base
    while above != paths.root:
        above = above[: above.rindex("/")]
        folders.append(above)
    for folder in folders:
        try:
            atomic.sync_folder(folder)
        except FileNotFoundError:
            if folder == paths.base:
                raise


def takeover(
    paths: ArtifactPaths,
    generation: int,
    card: Card,
    reason: str,
    run_id: str = "",
    end_owner: Callable[[], object] | None = None,
    power: bool = False,
) -> ClaimReply:
    """End a generation as lost, which fences its owner, and claim the next one.

    The caller has judged the owner dead or silent; ``end_owner`` ends what it left on this host, between the two.
    With ``power`` the fence outlasts the power of this host: an owner that was only silent may be alive elsewhere.
    """
    _check_folders(paths)
    failure = Failure(kind="lost", message=reason)
    reply = finish(
        paths,
        generation,
        End(
            generation=generation,
            token=card.token,
            status="failure",
            run_id=run_id,
            hash=paths.hash,
            failure=failure,
        ),
        power,
    )
    if reply.r != "published" and (reply.end is None or reply.end.status == "success"):
        seen = look(paths)
        if seen.verdict != "free" or seen.generation != generation:
            return _refused(seen)
    elif end_owner is not None:
        end_owner()
    return claim(paths, generation + 1, card)


def invalidate(
    paths: ArtifactPaths, generation: int, why: str, run_id: str = "", at: float | None = None
) -> bool:
    """Say that a published generation is not to be used any more; True if it was this call that did.

    False: it was invalid already, or has no success to be invalidated.
    """
    end = _end_or_marker(paths, generation)
    if end is None or end.status != "success":
        return False
    atomic.check_folders(paths.base, paths.furu, paths.invalid_folder)
    record = Invalidation(generation=generation, why=why, run_id=run_id, at=at)
    mine = atomic.write_new_linked(paths.invalid(generation), encode(record))
    marker.remove(paths, generation)
    return mine


def _end_or_marker(paths: ArtifactPaths, n: int) -> End | None:
    """The end of a generation, or its marker where that alone tells of a success; then there is an end afterwards."""
    end, lost = None, False
    try:
        end = marker.read_end(paths, paths.end(n), n)
    except Damaged:
        pass
    except FileNotFoundError:
        lost = True
    if end is not None and end.status == "success":
        return end
    try:
        marked = marker.read_marker(paths)
        if marked is None or marked.generation != n:
            return end
        if lost:
            # Without an end no generation could follow.
            marker.restore_end(paths, n)
    except Damaged:
        return end
    return marked


def read_success(paths: ArtifactPaths) -> tuple[int, End] | None:
    """The published generation and its end, checked against ``invalid/``; None if there is no result.

    Raises:
        OSError: the file system does not answer.
    """
    try:
        end = marker.read_marker(paths)
        damage = None
    except Damaged as error:
        end, damage = None, error
    if end is not None and not atomic.exists(paths.invalid(end.generation)):
        return end.generation, end
    seen = look(paths)
    if seen.verdict == "published" and seen.end is not None:
        return seen.generation, seen.end
    if damage is not None and seen.verdict == "free":
        drop_marker(paths, 0, seen.notes)
    return None
