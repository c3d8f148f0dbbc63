"""The marker `SUCCESS.json`: a further link to the winning end, so that *done* costs one stat.

The truth is in claims, ends and invalidations, none of which is ever changed or removed once it is there. The marker
can be made from them at any time, so losing it costs one look; and where a power loss took the end and left the marker,
the end is made from that (`restore_end`). The rules below see to it that a wrong one cannot stay:

- It is *made* by link alone, so it never takes another's place. An owner that slept between linking its end and
  making its marker finds a later generation's marker there (EEXIST) and leaves it.
- It is *removed* by renaming it to a private name, looking at what was caught, and linking that back if it is of
  another generation than the one meant. A marker caught by mistake is away for a moment, never lost: a reader that
  misses it looks at the truth and finds (and heals) the result.
- Publisher and invalidator each write first and look afterwards. The publisher links the marker, then looks for
  ``invalid/<n>``; the invalidator links ``invalid/<n>``, then looks for the marker. Whatever the order, the later of
  the two sees what the other wrote, so the marker of an invalid generation goes away. If that one dies at just this
  point, the marker stays, and `read_success`, which whoever loads goes through, checks it against ``invalid/``.
"""

from __future__ import annotations

import stat

from furu_async._store import atomic, fs
from furu_async._store.layout import ArtifactPaths
from furu_async._store.records import Damaged, End, decode


def is_marked(paths: ArtifactPaths) -> bool:
    """Whether there is a marker: one stat. An empty one (a power loss) does not count, nor does what is no file.

    Raises:
        OSError: the file system does not say.
    """
    try:
        found = fs.lstat(paths.base + "/SUCCESS.json")
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in atomic.UNUSABLE:
            raise
        return False
    return found.st_size > 0 and stat.S_ISREG(found.st_mode)


def read_end(paths: ArtifactPaths, path: str, generation: int = 0) -> End:
    """The end in a file, which must be of this artifact (and of this generation, if one is given).

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is unreadable or another's.
    """
    return _checked(paths, path, atomic.read_bytes(path), generation)


def _checked(paths: ArtifactPaths, path: str, data: bytes, generation: int) -> End:
    end = decode(End, data, path)
    if end.hash and end.hash != paths.hash:
        raise Damaged(path, f"it belongs to another artifact ({end.hash})")
    if end.generation < 1 or (generation and end.generation != generation):
        raise Damaged(path, f"it says that it is of generation {end.generation}")
    return end


def read_marker(paths: ArtifactPaths) -> End | None:
    """The end that the marker is a link to; None if there is no marker.

    Raises:
        Damaged: it is not the record of a success of this artifact.
    """
    path = paths.marker
    try:
        end = read_end(paths, path)
    except FileNotFoundError:
        return None
    if end.status != "success":
        raise Damaged(path, "it is not the record of a success")
    return end


def put(paths: ArtifactPaths, generation: int, source: str) -> None:
    """Make the marker of a published generation from a link to its end; see the module's rules."""
    for _ in range(4):
        if atomic.link_new(source, paths.marker):
            break
        try:
            there = read_marker(paths)
        except Damaged as error:
            _take_away(paths, 0, error)
            continue
        if there is None:
            continue
        if there.generation > generation or (there.generation == generation and _tells(paths, source, there)):
            break
        # An older generation's, left over: it was invalidated, or ours could not have been claimed. Or one of this
        # generation whose claim and end were lost with the disk, so that it was made again.
        remove(paths, there.generation)
    if atomic.exists(paths.invalid(generation)):
        remove(paths, generation)


def _tells(paths: ArtifactPaths, source: str, there: End) -> bool:
    """Whether a marker says the same as the end in ``source``, of which it is a copy."""
    try:
        return read_end(paths, source, there.generation) == there
    except Damaged:
        return True


def restore_end(paths: ArtifactPaths, generation: int) -> bool:
    """Write the end of the marker's generation again if it is not there; True if it was this call that did.

    Raises:
        OSError: it cannot be written, or it is not known whether it was.
        Damaged: the marker is not of this generation, or no longer; or a link is in place of the end's folder.
    """
    target = paths.end(generation)
    if atomic.exists(target):
        return False
    atomic.check_folders(paths.furu, paths.ends)
    try:
        data = atomic.read_bytes(paths.marker)
    except FileNotFoundError:
        raise Damaged(paths.marker, "it is gone") from None
    # A copy of what was read and checked: by the time of a link the name may be another generation's.
    _checked(paths, paths.marker, data, generation)
    return atomic.write_new_linked(target, data)


def remove(paths: ArtifactPaths, generation: int) -> None:
    """Remove the marker if it is this generation's, or damaged."""
    try:
        there = read_marker(paths)
    except Damaged as error:
        _take_away(paths, generation, error)
        return
    if there is not None and there.generation == generation:
        _take_away(paths, generation, None)


def _take_away(paths: ArtifactPaths, generation: int, damage: Damaged | None) -> None:
    if damage is not None:
        if damage.newer:
            return
        atomic.quarantine(paths.marker, paths.quarantine)
    private = f"{paths.base}/{atomic.private_name('marker')}"
    try:
        fs.rename(paths.marker, private)
    except FileNotFoundError:
        if not atomic.exists(private):
            return
        # The reply was lost: it has moved.
    try:
        caught = read_end(paths, private)
    except FileNotFoundError:
        return
    except Damaged:
        caught = None
    if caught is not None and caught.status == "success" and caught.generation != generation:
        atomic.link_new(private, paths.marker)
    _discard(private)


def _discard(private: str) -> None:
    try:
        fs.unlink(private)
    except (IsADirectoryError, PermissionError):
        # Somebody made a folder of that name; the private name keeps it out of the way.
        pass
    except FileNotFoundError:
        pass
