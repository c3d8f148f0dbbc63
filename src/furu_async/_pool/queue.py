"""The queue of a pool: tasks as files, which move from folder to folder by one rename.

    queue/todo/<spec key>/<bucket>/<name>   wait; sorted buckets are the order of work, any order within one
    queue/running/<wid>/<name>              taken by that worker
    queue/done/<name>                       ended with a published result
    queue/failed/<name>                     a `Report`: everything else
    queue/cancel/<name>                     the controller wants it no more; its worker looks here with each poll
    queue/cancel/<name>.back                the same, unless a process is at it
    queue/bad/<name>                        what could not be read, with ``<name>.why``
    queue/closed                            workers take nothing more and end

The queue is a hint, the artifact's claim is the truth: the same entry twice is harmless, and so is a listing that is
not up to date. What counts is the rename: exactly one of several that want an entry gets it. A reply that was lost
(the server renamed, and the retransmission says that there is no such file) is recognised by looking at the target.

All functions block: a few operations each, independent of the length of the queue.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Collection
from dataclasses import dataclass, field

from furu_async._pool.entries import QueueEntry, Report, read_entry, read_report
from furu_async._store import atomic, fs
from furu_async._store.layout import QueuePaths, bucket_name, is_bucket, parse_entry_name
from furu_async._store.records import encode

BUCKET_SIZE = 64
_LOST_RACES = 2
_TRIES = 3
_BACK = ".back"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry waits: ``todo/<spec_key>/<bucket>``."""

    spec_key: str
    bucket: str

    def folder(self, paths: QueuePaths) -> str:
        return f"{paths.todo_of(self.spec_key)}/{self.bucket}"


@dataclass(slots=True)
class Buckets:
    """Gives places to entries, at most `BUCKET_SIZE` to one bucket; those of one priority in order."""

    _given: dict[tuple[str, int], int] = field(default_factory=dict)

    def place(self, entry: QueueEntry) -> Place:
        """Where to put it."""
        key = (entry.spec_key, entry.priority)
        given = self._given.get(key, 0)
        self._given[key] = given + 1
        return Place(entry.spec_key, bucket_name(entry.priority, given // BUCKET_SIZE))


@dataclass(frozen=True, slots=True)
class Taken:
    """An entry that a worker has taken, and where from."""

    name: str
    place: Place


# -- the controller's side -------------------------------------------------------------------------------------


def put(paths: QueuePaths, entry: QueueEntry, place: Place) -> None:
    """Put an entry where it waits; one of the same name there is replaced.

    Raises:
        OSError: it is not known whether it is there; putting it again is harmless.
    """
    temp = atomic.write_temp(paths.base, "entry", encode(entry))
    _into(temp, place.folder(paths), entry.file)


def withdraw(paths: QueuePaths, place: Place, name: str) -> bool:
    """Take an entry back that no worker has taken; False if one has, so that it will be reported.

    Raises:
        OSError: it is not known; calling again finds out.
    """
    private = f"{paths.base}/{atomic.private_name('back')}"
    if not _move(f"{place.folder(paths)}/{name}", private):
        return False
    atomic.try_unlink(private)
    return True


def put_back(paths: QueuePaths, wid: str, name: str, place: Place) -> bool:
    """Let an entry wait again that a worker (a dead one, or this one) has taken; False if it is not there."""
    source = f"{paths.running_of(wid)}/{name}"
    if not atomic.exists(source):
        return False
    return _into(source, place.folder(paths), name)


def forget_running(paths: QueuePaths, wid: str, name: str) -> None:
    """Remove what a worker had taken; best effort."""
    atomic.try_unlink(f"{paths.running_of(wid)}/{name}")


def ask_to_cancel(paths: QueuePaths, name: str, begun: bool = True) -> None:
    """Have the worker that has an entry return it; ``begun``: also if a process is at it, which is ended."""
    atomic.write_new_linked(f"{paths.cancel}/{name}{'' if begun else _BACK}", b"")


def close(paths: QueuePaths) -> None:
    """Have all workers end. Durable when it returns."""
    atomic.write_new_linked(paths.closed, b"", sync=True)


def reopen(paths: QueuePaths) -> None:
    """Take back what `close` said, before workers of a new controller are started."""
    try:
        fs.unlink(paths.closed)
    except FileNotFoundError:
        pass


def load_report(paths: QueuePaths, name: str) -> Report | None:
    """The report of this name in ``failed/``; None if it is gone.

    Raises:
        Damaged: it cannot be read as one.
        OSError: it cannot be read now.
    """
    path = f"{paths.failed}/{name}"
    try:
        return read_report(atomic.read_bytes(path), name, path)
    except FileNotFoundError:
        return None


def waiting(paths: QueuePaths) -> dict[str, dict[str, Place]]:
    """Everything in ``todo/``: by spec key, where each entry is. For who takes a queue over; a listing a bucket."""
    found: dict[str, dict[str, Place]] = {}
    for spec_key in names(paths.todo, ours=True):
        for bucket in filter(is_bucket, names(f"{paths.todo}/{spec_key}")):
            place = Place(spec_key, bucket)
            for name in names(f"{paths.todo}/{spec_key}/{bucket}"):
                if parse_entry_name(name):
                    found.setdefault(spec_key, {})[name] = place
    return found


# -- the worker's side -----------------------------------------------------------------------------------------


class Taker:
    """Takes entries of one spec for one worker.

    Args:
        choice: so that workers do not fight for the same file; of a seed of its own in each.

    Attributes:
        bad: paths that were set aside and not told yet.
        skip: names that this worker does not take: what is left of its walltime is too short for them.
    """

    def __init__(self, paths: QueuePaths, spec_key: str, wid: str, choice: random.Random) -> None:
        self.paths = paths
        self.spec_key = spec_key
        self.folder: str = paths.todo_of(spec_key)
        self.mine: str = paths.running_of(wid)
        self.bad: list[str] = []
        self.skip: set[str] = set()
        self._choice = choice
        self._stuck: set[str] = set()

    def prepare(self) -> None:
        """Make the worker's own folder.

        Raises:
            OSError: it cannot be made.
        """
        atomic.make_folders(self.mine)

    def take(self, most: int = 1) -> list[Taken]:
        """Take up to ``most`` entries out of the first bucket that has some; empty if there are none.

        Costs two listings and a rename for each. Names in `bad` were none of entries and are set aside.

        Raises:
            OSError: the file system does not answer.
        """
        for bucket in sorted(names(self.folder)):
            if not is_bucket(bucket):
                self._set_aside(f"{self.folder}/{bucket}")
                continue
            taken = self._take_of(Place(self.spec_key, bucket), most)
            if taken:
                return taken
        return []

    def _take_of(self, place: Place, most: int) -> list[Taken]:
        folder = place.folder(self.paths)
        try:
            there = fs.listdir(folder)
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            self._set_aside(folder)
            return []
        there = [name for name in there if not name.startswith(".")]
        if not there:
            _try_rmdir(folder)
            return []
        self._choice.shuffle(there)
        taken: list[Taken] = []
        lost = 0
        for name in there:
            if not parse_entry_name(name):
                self._set_aside(f"{folder}/{name}")
                continue
            if name in self.skip:
                continue
            try:
                moved = self._move_here(f"{folder}/{name}", name)
            except OSError:
                if not taken:
                    raise
                break
            if moved:
                taken.append(Taken(name, place))
            else:
                lost += 1
            if len(taken) >= most or lost >= _LOST_RACES:
                break
        return taken

    def _move_here(self, source: str, name: str) -> bool:
        target = f"{self.mine}/{name}"
        if _move(source, target):
            return True
        if not atomic.exists(self.mine):  # somebody removed it: without it no race is ever won
            self.prepare()
            return _move(source, target)
        return False

    def _set_aside(self, path: str) -> None:
        if path in self._stuck:
            return
        if not set_aside(self.paths, path, "its name is not that of an entry"):
            self._stuck.add(path)
        self.bad.append(path)

    def load(self, name: str) -> QueueEntry:
        """What an entry that was taken says.

        Raises:
            Damaged: it cannot be read as one.
            OSError: it cannot be read now; FileNotFoundError: the controller took this worker for dead.
        """
        path = f"{self.mine}/{name}"
        return read_entry(atomic.read_bytes(path), name, path)

    def found(self, known: Collection[str]) -> list[Taken]:
        """Entries that it holds and was never told of: a rename was carried out, and its reply was an error."""
        return [
            Taken(name, Place(self.spec_key, bucket_name(0, 0)))
            for name in names(self.mine)
            if parse_entry_name(name) and name not in known
        ]


def finish(paths: QueuePaths, wid: str, name: str) -> bool:
    """Say that an entry ended with a published result; False if it was not this worker's any more.

    Raises:
        OSError: it is not known; calling again is harmless.
    """
    return _into(f"{paths.running_of(wid)}/{name}", paths.done, name)


def report(paths: QueuePaths, wid: str, name: str, what: Report) -> None:
    """Say how an entry ended otherwise.

    Raises:
        OSError: it is not known; calling again is harmless.
    """
    temp = atomic.write_temp(paths.base, "report", encode(what))
    _into(temp, paths.failed, name)
    try:
        fs.unlink(f"{paths.running_of(wid)}/{name}")
    except FileNotFoundError:
        pass


def wishes(paths: QueuePaths) -> tuple[list[str], list[str]]:
    """Names of the entries that the controller wants no more, and of those that it wants back if nobody is at them."""
    there = names(paths.cancel)
    cut = [name.removesuffix(_BACK) for name in there if name.endswith(_BACK)]
    return list(filter(parse_entry_name, there)), list(filter(parse_entry_name, cut))


def forget_cancel(paths: QueuePaths, name: str) -> None:
    """The wish was fulfilled, or came too late; best effort."""
    atomic.try_unlink(f"{paths.cancel}/{name}")
    atomic.try_unlink(f"{paths.cancel}/{name}{_BACK}")


def is_closed(paths: QueuePaths) -> bool:
    """Whether workers are to end."""
    return atomic.exists(paths.closed)


# -- both ------------------------------------------------------------------------------------------------------


def names(folder: str, ours: bool = False) -> list[str]:
    """What is in a folder but private names; nothing if there is none, or, unless it is ``ours``, something else."""
    try:
        return [name for name in fs.listdir(folder) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        if ours and atomic.exists(folder):
            raise
        return []


def done(paths: QueuePaths) -> list[str]:
    """What is in ``done/``. Raises as `names`."""
    return names(paths.done, ours=True)


def failed(paths: QueuePaths) -> list[str]:
    """What is in ``failed/``."""
    return names(paths.failed, ours=True)


def running(paths: QueuePaths, wid: str) -> list[str]:
    """What a worker has taken and not reported."""
    return [name for name in names(paths.running_of(wid)) if parse_entry_name(name)]


def set_aside(paths: QueuePaths, path: str, why: str) -> bool:
    """Move what cannot be used to ``bad/``, with a note; True if it is not in the way any more.

    Never raises ``OSError``: it must not keep anybody from work.
    """
    name = os.path.basename(path)[:100]
    for target in (name, f"{name}{atomic.private_name('again')}"):
        try:
            if atomic.exists(f"{paths.bad}/{target}"):
                continue
            moved = _into(path, paths.bad, target)
        except OSError:
            return False
        if moved:
            try:
                atomic.replace(f"{paths.bad}/{target}.why", f"{path}: {why}\n".encode("utf-8", "replace"))
            except OSError:
                pass
        return True
    return False


def _into(source: str, folder: str, name: str) -> bool:
    """Rename a file into a folder, which is made if it is missing; False if the file is gone and not there."""
    target = f"{folder}/{name}"
    for _ in range(_TRIES):
        if _move(source, target):
            return True
        if not atomic.exists(source):
            return atomic.exists(target)
        atomic.make_folders(folder)  # an empty bucket is taken away by whoever finds it
    raise OSError(errno.EAGAIN, "it cannot be moved, though it is there", source)


def _move(source: str, target: str) -> bool:
    """Rename; False if one of the two folders, or the file, is not there.

    Raises:
        OSError: anything else; nothing was moved.
    """
    try:
        fs.rename(source, target)
    except OSError as error:
        if atomic.exists(target) and not atomic.exists(source):
            return True  # the reply was lost
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return False
    return True


def _try_rmdir(path: str) -> None:
    try:
        fs.rmdir(path)
    except OSError:
        pass
