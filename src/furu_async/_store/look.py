"""Looking at an artifact: what claims, ends and invalidations say, and what is put right on the way.

Damage concerns the artifact it is in, never the plan of others. A copy of the damaged file is quarantined, a note
says what was found, and what can be is written again. A claim that cannot be read counts as held by an unknown owner
(its generation is taken, that is all that is certain); an end that cannot be read ends its generation without a
result, unless the marker is an intact copy of it. What a newer version wrote is left alone, and so is its artifact.

A power loss may take claims and ends that nobody had synced, and leave the marker. Then the marker is the truth, for
planners, claimants and readers alike: its end is written again, and generations go on after it.
"""

from __future__ import annotations

from typing import Literal

from furu_async._store import atomic, fs, marker
from furu_async._store.layout import ArtifactPaths, number
from furu_async._store.records import Claim, Damaged, End, decode

Verdict = Literal["published", "free", "claimed", "damaged"]


class Look:
    """What the store says about an artifact at one moment.

    Attributes:
        verdict: ``published``: generation ``generation`` is the result. ``free``: ``next_generation`` may be claimed.
            ``claimed``: the newest generation has no end yet. ``damaged``: nothing can be done here before a person
            has looked (a folder is not a folder, a file is of a newer version); the notes say what.
        generation: the newest one, 0 if there is none.
        claim: the newest generation's claim, where ``claimed``; None if it cannot be read (an unknown owner).
        end: the newest generation's end, where there is one that can be read.
        next_generation: what comes after it.
        notes: what was found damaged or foreign, and what was done about it.
    """

    __slots__ = ("claim", "end", "generation", "next_generation", "notes", "verdict")

    def __init__(
        self,
        verdict: Verdict,
        generation: int = 0,
        claim: Claim | None = None,
        end: End | None = None,
        notes: list[str] | None = None,
    ) -> None:
        self.verdict: Verdict = verdict
        self.generation = generation
        self.claim = claim
        self.end = end
        self.next_generation = generation + 1
        self.notes = notes if notes is not None else []

    def __repr__(self) -> str:
        return f"Look({self.verdict!r}, generation={self.generation}, notes={self.notes!r})"


def look(paths: ArtifactPaths) -> Look:
    """The truth from claims, ends, invalidations and marker; puts right what is missing. Two calls if there is nothing.

    Raises:
        OSError: the file system does not answer; says nothing about the artifact.
    """
    notes: list[str] = []
    try:
        # Claims before ends: an end that comes in between is then seen, never the other way round.
        claims = _newest(paths.claims, notes)
        if claims < 0 and not atomic.exists(paths.base):
            return Look("free", 0, notes=notes)
        ends = _newest(paths.ends, notes)
    except OSError as error:
        if error.errno not in atomic.UNUSABLE:
            raise
        where = error.filename or paths.base
        return Look(
            "damaged",
            0,
            notes=[*notes, f"{where}: it, or what is above it, should be a folder ({error.strerror})"],
        )
    newest = max(claims, ends, 0)
    if newest and ends == newest:
        return _look_ended(paths, newest, notes)
    found = _marked_success(paths, newest, notes)
    if found is not None:
        return found
    if newest == 0:
        return Look("free", 0, notes=notes)
    return Look("claimed", newest, _read_claim(paths, newest, notes), notes=notes)


def look_at(paths: ArtifactPaths, n: int) -> Look:
    """`look`, knowing that generation n is claimed (a link met EEXIST).

    A listing may be a minute old on NFS; the names themselves are asked for, which goes to the server.
    """
    seen = look(paths)
    if seen.generation >= n or seen.verdict == "damaged":
        return seen
    if atomic.exists(paths.end(n)):
        return _look_ended(paths, n, seen.notes)
    try:
        return Look("claimed", n, _read_claim(paths, n, seen.notes), notes=seen.notes)
    except FileNotFoundError:
        # Somebody has removed the folder since.
        return seen


def _newest(folder: str, notes: list[str]) -> int:
    """The greatest generation in a folder of them, 0 if it has none, -1 if there is no such folder."""
    try:
        names = fs.listdir(folder)
    except FileNotFoundError:
        return -1
    newest = 0
    for name in names:
        n = number(name)
        if n > newest:
            newest = n
        elif not n and not name.startswith("."):
            notes.append(f"{folder}/{name[:80]!r} is no generation and is ignored")
    return newest


def _look_ended(paths: ArtifactPaths, n: int, notes: list[str]) -> Look:
    path = paths.end(n)
    end: End | None
    try:
        end = marker.read_end(paths, path, n)
    except Damaged as error:
        if error.newer:
            return Look("damaged", n, notes=[*notes, str(error)])
        end = _rebuild_end(paths, n, error, notes)
    if end is not None and end.status == "success" and not atomic.exists(paths.invalid(n)):
        later = _heal_marker(paths, n, end)
        if later is None:
            return Look("published", n, end=end, notes=notes)
        return _published_by_marker(paths, later, notes)
    found = _marked_success(paths, n, notes)
    return found or Look("free", n, end=end, notes=notes)


def _rebuild_end(paths: ArtifactPaths, n: int, error: Damaged, notes: list[str]) -> End | None:
    """An unreadable end ended its generation all the same. If the marker is an intact copy, it takes its place."""
    copy = atomic.quarantine(error.path, paths.quarantine)
    kept = f"; a copy is in {copy}" if copy else ""
    try:
        marked = marker.read_marker(paths)
    except Damaged:
        marked = None
    if marked is None or marked.generation != n:
        notes.append(f"{error}{kept}. Generation {n} counts as ended without a usable result")
        return None
    notes.append(f"{error}{kept}. Written again from {paths.marker}")
    try:
        atomic.replace(error.path, atomic.read_bytes(paths.marker))
    except OSError as why:
        notes.append(f"{error.path} could not be written again: {why}")
    return marked


def _heal_marker(paths: ArtifactPaths, n: int, end: End) -> End | None:
    """Make sure that the marker is the one of published generation n; a store that is read-only keeps what it has.

    Gives the end of a later generation if the marker is of one and valid: claims and ends since were lost.
    """
    try:
        try:
            marked = marker.read_marker(paths)
        except Damaged:
            marked = None
        if marked is not None and marked.generation > n:
            if not atomic.exists(paths.invalid(marked.generation)):
                return marked
            marker.remove(paths, marked.generation)
            marked = None
        if marked != end:
            marker.put(paths, n, paths.end(n))
    except OSError:
        pass
    return None


def _published_by_marker(paths: ArtifactPaths, marked: End, notes: list[str]) -> Look:
    n = marked.generation
    try:
        if marker.restore_end(paths, n):
            notes.append(f"{paths.end(n)} was lost. Written again from {paths.marker}")
    except (OSError, Damaged) as error:
        notes.append(f"{paths.end(n)} is lost and could not be written again: {error}")
    return Look("published", n, end=marked, notes=notes)


def _marked_success(paths: ArtifactPaths, newest: int, notes: list[str]) -> Look | None:
    """Where the newest generation is no result, a marker is left over: take it away, unless it can still be trusted.

    By the protocol no generation follows a success that was not invalidated, and none ends without one that had it.
    Should that be so all the same (files copied by hand, a power loss), the success is not demoted.
    """
    path = paths.marker
    if not atomic.exists(path):
        return None
    try:
        marked = marker.read_marker(paths)
    except Damaged as error:
        if error.newer:
            return Look("damaged", newest, notes=[*notes, str(error)])
        copy = atomic.quarantine(path, paths.quarantine)
        notes.append(f"{error}" + (f"; a copy is in {copy}" if copy else ""))
        drop_marker(paths, 0, notes)
        return None
    if marked is None:
        return None
    n = marked.generation
    if atomic.exists(paths.invalid(n)):
        drop_marker(paths, n, notes)
        return None
    if n < newest:
        return Look("published", n, end=marked, notes=notes)
    return _published_by_marker(paths, marked, notes)


def drop_marker(paths: ArtifactPaths, n: int, notes: list[str]) -> None:
    try:
        marker.remove(paths, n)
    except OSError as error:
        notes.append(f"{paths.marker} could not be removed: {error}")


def _read_claim(paths: ArtifactPaths, n: int, notes: list[str]) -> Claim | None:
    path = paths.claim(n)
    try:
        return decode(Claim, atomic.read_bytes(path), path)
    except Damaged as error:
        copy = "" if error.newer else atomic.quarantine(path, paths.quarantine)
        notes.append(f"{error}{'; a copy is in ' + copy if copy else ''}. Counts as held by an unknown owner")
        return None
