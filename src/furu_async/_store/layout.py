"""Every path of the store, and the rules for what may become one.

Names, hashes and ids that come from outside (a queue entry, a table, a command line) become parts of paths here and
nowhere else, so this is where ``../../x`` ends: each is checked against a strict pattern before it is used.

    <root>/data/<name as path>/<hash>/.furu/{claims,ends,invalid,jobs}/<n>
                                     /SUCCESS.json, attempts/<n>/, checkpoints/<n>/
    <root>/runs/<run_id>/run.json, claims/, ends/, journal.jsonl, workers/<wid>/{beat,card-<k>,children/<pid>}
    <root>/runs/<run_id>/queue/{todo,running,done,failed,bad,cancel,closed}, objects.jsonl, pool.json
    <root>/runs/.unfinished/<key>/<run_id>
"""

from __future__ import annotations

import os
import re
import stat

from furu_async.errors import FuruProtocolError

_HASH = re.compile(r"[0-9a-f]{32}\Z")
_PART = re.compile(r"[\w-]{1,200}\Z")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}\Z")
_NAME_MAX = 255

_name_paths: dict[str, str] = {}


def name_path(name: str) -> str:
    """The relative folder of a class name: ``pkg.Train`` -> ``pkg/Train``.

    Raises:
        FuruProtocolError: the name has an empty part, a path separator, or a part too long for a file name.
    """
    found = _name_paths.get(name)
    if found is None:
        parts = name.split(".")
        for part in parts:
            if not _PART.match(part) or len(os.fsencode(part)) > _NAME_MAX:
                raise FuruProtocolError(
                    f"{name[:200]!r} cannot be the name of an artifact's folder: {part[:80]!r} is not a plain name",
                    "a name is made of letters, digits, '_' and '-', in parts of at most 200 joined by '.'",
                )
        found = _name_paths[name] = "/".join(parts)
    return found


def check_hash(value: str) -> str:
    """The same string, if it is a ``furu_hash`` (32 lowercase hexadecimal digits)."""
    if not _HASH.match(value):
        raise FuruProtocolError(f"{value[:80]!r} is not a furu_hash: 32 lowercase hexadecimal digits")
    return value


def check_id(value: str, what: str) -> str:
    """The same string, if it may be the name of a run or of a worker."""
    if not _ID.match(value):
        raise FuruProtocolError(
            f"{value[:80]!r} is not a valid {what}",
            "letters, digits, '.', '_' and '-', at most 100, no leading dot",
        )
    return value


def number(name: str) -> int:
    """The generation that a file name stands for, or 0 if it stands for none."""
    return int(name) if _NUMBER.match(name) else 0


class _Generations:
    """What an artifact and a run have in common: they are claimed and ended, generation by generation."""

    __slots__ = ("base", "furu")

    base: str
    furu: str

    @property
    def claims(self) -> str:
        return f"{self.furu}/claims"

    @property
    def ends(self) -> str:
        return f"{self.furu}/ends"

    @property
    def invalid_folder(self) -> str:
        return f"{self.furu}/invalid"

    @property
    def quarantine(self) -> str:
        return f"{self.furu}/quarantine"

    @property
    def jobs(self) -> str:
        return f"{self.furu}/jobs"

    @property
    def marker(self) -> str:
        return f"{self.base}/SUCCESS.json"

    def claim(self, n: int) -> str:
        return f"{self.furu}/claims/{n}"

    def end(self, n: int) -> str:
        return f"{self.furu}/ends/{n}"

    def invalid(self, n: int) -> str:
        return f"{self.furu}/invalid/{n}"


class ArtifactPaths(_Generations):
    """The paths of one artifact, as strings.

    Args:
        root: the store's root (``FURU_PATH``), absolute.
        name: the class name as used in the store.
        hash: its ``furu_hash``.

    Raises:
        FuruProtocolError: name or hash cannot be part of a path.
    """

    __slots__ = ("hash", "name", "root")

    def __init__(self, root: str, name: str, hash: str) -> None:
        self.root = root
        self.name = name
        self.hash = hash if _HASH.match(hash) else check_hash(hash)
        self.base = f"{root}/data/{_name_paths.get(name) or name_path(name)}/{hash}"
        self.furu = self.base + "/.furu"

    @property
    def attempts(self) -> str:
        return self.base + "/attempts"

    @property
    def checkpoints(self) -> str:
        return self.base + "/checkpoints"

    def attempt(self, n: int) -> str:
        return f"{self.base}/attempts/{n}"

    def checkpoint(self, n: int) -> str:
        return f"{self.base}/checkpoints/{n}"


class WorkerPaths:
    """The paths of one supervisor: its beat, its cards, its children."""

    __slots__ = ("base", "root")

    def __init__(self, root: str, run_id: str, wid: str) -> None:
        self.root = root
        self.base = f"{root}/runs/{check_id(run_id, 'run id')}/workers/{check_id(wid, 'worker id')}"

    @property
    def beat(self) -> str:
        return self.base + "/beat"

    @property
    def children(self) -> str:
        return self.base + "/children"

    @property
    def status(self) -> str:
        """Of a pool's worker: what it is at, for the controller and for people."""
        return self.base + "/status.json"

    def card(self, k: int) -> str:
        return f"{self.base}/card-{k}"


class SubmissionPaths:
    """The paths of one submission to Slurm: of one pilot, one node's job, or one array of them."""

    __slots__ = ("base", "root")

    def __init__(self, root: str, run_id: str, sid: str) -> None:
        self.root = root
        self.base = f"{root}/runs/{check_id(run_id, 'run id')}/submissions/{check_id(sid, 'submission id')}"

    @property
    def closed(self) -> str:
        return self.base + "/closed"

    def attempt(self, k: int) -> str:
        return f"{self.base}/try-{k}"

    def ruling(self, k: int) -> str:
        return f"{self.base}/ruling-{k}"

    def job(self, k: int) -> str:
        return f"{self.base}/job-{k}"


_ENTRY = re.compile(r"([0-9a-f]{32})\.([1-9][0-9]{0,17})\Z")
_BUCKET = re.compile(r"[0-9]{6}-[0-9]{6}\Z")
_LAST = 999_999


def entry_name(hash: str, ticket: int) -> str:
    """The name of a queue entry: an artifact, and the ticket of the command that wants it executed."""
    if not 1 <= ticket < 10**18:
        raise FuruProtocolError(f"{ticket} is not the number of a ticket")
    return f"{check_hash(hash)}.{ticket}"


def parse_entry_name(name: str) -> tuple[str, int] | None:
    """Hash and ticket of a queue entry, or None if this is not the name of one."""
    found = _ENTRY.match(name)
    return (found[1], int(found[2])) if found else None


def bucket_name(priority: int, k: int) -> str:
    """The ``k``-th bucket of entries of one priority; their sorted order is the order of work."""
    return f"{_LAST - min(max(priority, 0), _LAST):06d}-{min(k, _LAST):06d}"


def is_bucket(name: str) -> bool:
    """Whether this is the name of a bucket."""
    return _BUCKET.match(name) is not None


class QueuePaths:
    """The paths of a pool's queue, in the folder of its home run. See `furu_async._pool.queue`."""

    __slots__ = ("base", "home", "root")

    def __init__(self, root: str, home: str) -> None:
        self.root = root
        self.home = check_id(home, "run id")
        self.base = f"{root}/runs/{home}/queue"

    @property
    def objects(self) -> str:
        """The table of the artifacts that entries name."""
        return f"{self.root}/runs/{self.home}/objects.jsonl"

    @property
    def settings(self) -> str:
        """What workers are to know of the controller."""
        return f"{self.root}/runs/{self.home}/pool.json"

    @property
    def closed(self) -> str:
        return self.base + "/closed"

    @property
    def done(self) -> str:
        return self.base + "/done"

    @property
    def failed(self) -> str:
        return self.base + "/failed"

    @property
    def bad(self) -> str:
        return self.base + "/bad"

    @property
    def cancel(self) -> str:
        return self.base + "/cancel"

    @property
    def todo(self) -> str:
        return self.base + "/todo"

    def todo_of(self, spec_key: str) -> str:
        return f"{self.base}/todo/{check_id(spec_key, 'spec key')}"

    @property
    def running(self) -> str:
        return self.base + "/running"

    def running_of(self, wid: str) -> str:
        return f"{self.base}/running/{check_id(wid, 'worker id')}"


class RunPaths(_Generations):
    """The paths of one run; its claims and ends lie directly in its folder."""

    __slots__ = ("root", "run_id")

    def __init__(self, root: str, run_id: str) -> None:
        self.root = root
        self.run_id = check_id(run_id, "run id")
        self.base = self.furu = f"{root}/runs/{run_id}"

    @property
    def record(self) -> str:
        return self.base + "/run.json"

    @property
    def journal(self) -> str:
        return self.base + "/journal.jsonl"

    @property
    def workers(self) -> str:
        return self.base + "/workers"

    def worker(self, wid: str) -> WorkerPaths:
        return WorkerPaths(self.root, self.run_id, wid)

    @property
    def submissions(self) -> str:
        return self.base + "/submissions"

    def submission(self, sid: str) -> SubmissionPaths:
        return SubmissionPaths(self.root, self.run_id, sid)

    def unfinished(self, key: str) -> str:
        """Its entry in the index of unfinished runs, under the key of the call."""
        return f"{unfinished_folder(self.root, key)}/{self.run_id}"


def data_folder(root: str) -> str:
    """The folder of all artifacts."""
    return f"{root}/data"


def unfinished_folder(root: str, key: str) -> str:
    """The runs of one call that have not ended: a name for each."""
    return f"{root}/runs/.unfinished/{check_hash(key)}"


def beat_path(run_id: str, wid: str) -> str:
    """Where the beat of a worker is, relative to the root: what a `Claim` says in ``beat``."""
    return f"runs/{check_id(run_id, 'run id')}/workers/{check_id(wid, 'worker id')}/beat"


def worker_of_beat(root: str, beat: str) -> WorkerPaths | None:
    """The worker whose beat a claim names, or None if the text is not such a path (it came from a file)."""
    parts = beat.split("/")
    if len(parts) != 5 or (parts[0], parts[2], parts[4]) != ("runs", "workers", "beat"):
        return None
    if not (_ID.match(parts[1]) and _ID.match(parts[3])):
        return None
    return WorkerPaths(root, parts[1], parts[3])


def root_warning(root: str) -> str | None:
    """A sentence if anybody on this machine may write into the store (whoever can, can run code), else None."""
    try:
        mode = os.stat(root).st_mode
    except OSError:
        return None
    if mode & stat.S_IWOTH:
        return (
            f"{root} can be written by every user of this machine, and whoever can write to the store can run code "
            f"as you when it is read; take the permission away with: chmod o-w {root}"
        )
    return None
