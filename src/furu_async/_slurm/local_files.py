"""What the stand-in for a cluster on this machine keeps on disk: jobs, what became of them, what is asked of them.

    <root>/submitit/local/<machine>/jobs/<id>         what was asked for; the lowest free number is the id
                                    states/<task>     what it does, or how it ended; replaced by the daemon
                                    asks/<task>.<verb>   cancel, hold, release; taken away by the daemon when done
                                    daemon/<n>        the n-th process that looks after them; <n>.over when it has left
                                    wake              a pipe: something is new

``<machine>`` stands for one boot of one host, so what is there was never of another one. The environment of a job,
which may hold secrets, is in a temporary file outside of the store that only its owner can read, until it has ended.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping

import msgspec

from furu_async._store import atomic, fs
from furu_async._store.layout import number
from furu_async._store.liveness import known_dead, this_host
from furu_async._store.records import Damaged, Owner, Record, decode

MOST_KEPT = 1000
"""Jobs that are remembered after their end."""

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?\Z")


class LocalJob(Record, frozen=True, kw_only=True):
    """One call of ``submit``.

    Attributes:
        script: lines of shell that run it.
        tasks: names of its tasks: its id, or ``<id>_<index>`` of an array.
        log: path of its output, without placeholders but ``%j`` (of an array: ``%A`` and ``%a``).
        limit: seconds that it may run, or 0.
        notice: seconds before the end at which it gets SIGUSR2, or 0.
        env: path of its environment.
        at_once: how many jobs may run when it starts, itself included; 0: any number.
    """

    name: str
    script: str
    array: int = 0
    cwd: str = "/"
    env: str = ""
    log: str = ""
    limit: float = 0.0
    notice: float = 0.0
    dependency: str = ""
    hold: bool = False
    at_once: int = 0
    submitted: int = 0

    def tasks(self, job_id: str) -> tuple[str, ...]:
        """The ids of its tasks, as ``squeue`` would print them."""
        if not self.array:
            return (job_id,)
        return tuple(f"{job_id}_{index}" for index in range(self.array))


class LocalState(Record, frozen=True, kw_only=True):
    """What a job does, in Slurm's words.

    Attributes:
        pid, start_time: of its first process, which leads a session.
    """

    state: str
    reason: str = ""
    pid: int = 0
    start_time: int = 0
    exit_code: int | None = None
    signal: int | None = None


class LocalDaemon(Record, frozen=True, kw_only=True):
    """Who looks after the jobs."""

    owner: Owner


class LocalPaths:
    """The paths below ``<root>/submitit/local/<machine>``."""

    __slots__ = ("base",)

    def __init__(self, base: str) -> None:
        self.base = base

    @classmethod
    def of(cls, root: str) -> LocalPaths:
        """Those of this machine, for a store."""
        host, boot, namespace = this_host()
        digest = hashlib.blake2b(f"{host} {boot} {namespace}".encode(), digest_size=6).hexdigest()
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", host)[:40] or "host"
        return cls(f"{root}/submitit/local/{name}-{digest}")

    @property
    def jobs(self) -> str:
        return self.base + "/jobs"

    @property
    def states(self) -> str:
        return self.base + "/states"

    @property
    def asks(self) -> str:
        return self.base + "/asks"

    @property
    def daemons(self) -> str:
        return self.base + "/daemon"

    @property
    def wake(self) -> str:
        return self.base + "/wake"

    @property
    def log(self) -> str:
        return self.base + "/log"

    def make(self) -> None:
        """Make the folders and the pipe."""
        for folder in (self.jobs, self.states, self.asks, self.daemons):
            atomic.make_folders(folder)
        try:
            os.mkfifo(self.wake, 0o600)
        except FileExistsError:
            pass


def add_job(paths: LocalPaths, job: LocalJob) -> str:
    """Write a job under the next free number; that."""
    data = msgspec.json.encode(job)
    job_id = max(map(number, _names(paths.jobs)), default=0) + 1
    while not atomic.write_new_linked(f"{paths.jobs}/{job_id}", data):
        job_id += 1
    return str(job_id)


def job_ids(paths: LocalPaths) -> list[int]:
    """All that are there, oldest first."""
    return sorted(filter(None, map(number, _names(paths.jobs))))


def read_job(paths: LocalPaths, job_id: int | str) -> LocalJob | None:
    """A job; None if there is none that can be read."""
    path = f"{paths.jobs}/{job_id}"
    try:
        return decode(LocalJob, atomic.read_bytes(path), path)
    except (FileNotFoundError, Damaged):
        return None


def read_state(paths: LocalPaths, task: str) -> LocalState | None:
    """What a task does; None if nothing was written yet."""
    path = f"{paths.states}/{task}"
    try:
        return decode(LocalState, atomic.read_bytes(path), path)
    except (FileNotFoundError, Damaged):
        return None


def write_state(paths: LocalPaths, task: str, state: LocalState) -> None:
    """Replace what is said of a task."""
    atomic.replace(f"{paths.states}/{task}", msgspec.json.encode(state))


def ask(paths: LocalPaths, task: str, verb: str) -> None:
    """Leave a wish for the daemon."""
    try:
        atomic.write_new(f"{paths.asks}/{task}.{verb}", b"")
    except FileExistsError:
        pass


def wake(paths: LocalPaths) -> bool:
    """Tell the daemon that something is new; False if nobody listens."""
    try:
        fd = os.open(paths.wake, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise
    try:
        os.write(fd, b".")
    except (BlockingIOError, BrokenPipeError):
        pass
    finally:
        os.close(fd)
    return True


def daemon_lives(paths: LocalPaths) -> bool:
    """Whether a process looks after the jobs now."""
    n = newest_daemon(paths)
    if not n or atomic.exists(f"{paths.daemons}/{n}.over"):
        return False
    path = f"{paths.daemons}/{n}"
    try:
        return known_dead(decode(LocalDaemon, atomic.read_bytes(path), path).owner) is not True
    except (FileNotFoundError, Damaged):
        return False


def newest_daemon(paths: LocalPaths) -> int:
    """Number of the last one; 0 if there was none."""
    return max(map(number, _names(paths.daemons)), default=0)


def keep_environment(env: Mapping[str, str]) -> str:
    """Write the environment of a job where only its owner can read it, and not into the store; the file's path."""
    data = b"".join(os.fsencode(f"{key}={value}") + b"\0" for key, value in env.items())
    fd, path = tempfile.mkstemp(prefix="furu-async-env-")
    try:
        with open(fd, "wb") as file:
            file.write(data)
    except OSError:
        atomic.try_unlink(path)
        raise
    return path


def forget_environment(paths: LocalPaths, path: str) -> None:
    """Remove what `keep_environment` wrote; not if a job has it, as after a write that failed when it was made."""
    try:
        there = [read_job(paths, job_id) for job_id in job_ids(paths)]
    except OSError:
        return
    if all(job is not None and job.env != path for job in there):
        atomic.try_unlink(path)


def read_environment(path: str) -> dict[str, str]:
    """What `keep_environment` wrote; this process's own if it is gone."""
    try:
        with open(path, "rb") as file:
            parts = file.read().split(b"\0")
    except OSError:
        return dict(os.environ)
    pairs = (os.fsdecode(part).partition("=") for part in parts if b"=" in part)
    return {key: value for key, _, value in pairs}


def seconds(text: str) -> float:
    """A time limit as ``sbatch`` reads it (``90``, ``1:30``, ``1-00:00:00``), in seconds; 0 for none."""
    match = _TIME.match(text.strip())
    if match is None:
        return 0.0
    days, first, second, third = (int(part) if part is not None else None for part in match.groups())
    if days is not None:
        return days * 86400.0 + (first or 0) * 3600.0 + (second or 0) * 60.0 + (third or 0)
    if third is not None:
        return (first or 0) * 3600.0 + (second or 0) * 60.0 + third
    return (first or 0) * 60.0 + (second or 0)


def _names(folder: str) -> list[str]:
    try:
        return fs.listdir(folder)
    except FileNotFoundError:
        return []
