"""What can be known about a process directly, on the host it runs on: that it lives, that it is dead, that it is ours.

Nothing here goes by time. A process is told by host name, boot id, pid namespace, pid and start time together; where
one of them is missing or differs the answer is *cannot tell*, and the observer goes by the beat instead. Ending what
a dead owner left goes by proof too: the start time that was recorded for the pid, or the random token in the
process's environment. A process that is not proven to be ours is never signalled.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import lru_cache
from typing import Protocol

from furu_async._store import fs
from furu_async._store.atomic import read_bytes
from furu_async._store.layout import WorkerPaths, number, worker_of_beat
from furu_async._store.records import ChildRecord, Claim, Damaged, Owner, decode

#: Environment variable that our children carry, and what they start inherits: proof of where a process comes from.
TOKEN_VARIABLE = "FURU_ASYNC_CHILD"

_LINUX = sys.platform == "linux"
_POLL = 0.002


class System(Protocol):
    """What simulations of several hosts put in the place of the operating system."""

    def this_host(self) -> tuple[str, str, str]:
        """As `this_host`."""

    def this_pid(self) -> int:
        """The process id of whoever asks."""

    def start_time(self, pid: int) -> int | None:
        """As `start_time`, on the host of whoever asks."""

    def end_children(self, children: list[ChildRecord]) -> bool:
        """As `end_children`, on the host of whoever asks."""


stand_in: System | None = None
"""None, but in simulations."""


@lru_cache(maxsize=1)
def _host() -> tuple[str, str, int]:
    """Node name, boot id, and the process they were read in (a fork may enter another namespace)."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        boot = ""
    return os.uname().nodename, boot, os.getpid()


def _pid_namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


def _boot_id_elsewhere() -> str:
    import psutil

    return f"boot-{int(psutil.boot_time())}"


def this_host() -> tuple[str, str, str]:
    """Node name, boot id and pid namespace of this process."""
    if stand_in is not None:
        return stand_in.this_host()
    host, boot, _ = _host()
    if not boot and not _LINUX:
        return host, _boot_id_elsewhere(), "host"
    return host, boot, _pid_namespace()


def this_owner() -> Owner:
    """This process, as it stands in a claim."""
    host, boot, namespace = this_host()
    pid = os.getpid() if stand_in is None else stand_in.this_pid()
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return Owner(
        host=host,
        boot_id=boot,
        pid_ns=namespace,
        pid=pid,
        start_time=start_time(pid) or 0,
        pgid=os.getpgrp(),
        job_id=os.environ.get("SLURM_JOB_ID", ""),
        restart_count=int(restarts) if restarts.isdigit() else 0,
    )


def start_time(pid: int) -> int | None:
    """When a process started: clock ticks since boot on Linux, else microseconds since the epoch.

    0 if it is there and does not say (no ``/proc``); None if it is not there, or a zombie.
    """
    if stand_in is not None:
        return stand_in.start_time(pid)
    found = _stat(pid)
    return None if found is None else found[0]


def _stat(pid: int) -> tuple[int, int, int] | None:
    """(start time, process group, session) of a living process; None if it is dead; zeros for what is unknown."""
    if not _LINUX:
        return _stat_elsewhere(pid)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        # /proc may hide the processes of other users; a signal 0 tells those from dead ones.
        return (0, 0, 0) if _signalable(pid) else None
    except OSError:
        return (0, 0, 0)
    # The name in parentheses may itself contain spaces and parentheses.
    fields = text[text.rindex(b")") + 2 :].split()
    if fields[0] in (b"X", b"x") or (fields[0] == b"Z" and int(fields[17]) <= 1):
        return None
    return int(fields[19]), int(fields[2]), int(fields[3])


def _signalable(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _stat_elsewhere(pid: int) -> tuple[int, int, int] | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(process.create_time() * 1e6), os.getpgid(pid), os.getsid(pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None
    except (psutil.Error, OSError):
        return (0, 0, 0)


def on_this_host(owner: Owner) -> bool:
    """Whether the owner ran in this boot of this host and in this pid namespace; False if that cannot be told."""
    if owner.pid <= 0 or not owner.host or not owner.boot_id or not owner.pid_ns:
        return False
    return (owner.host, owner.boot_id, owner.pid_ns) == this_host()


def known_dead(owner: Owner) -> bool | None:
    """True: the owner is dead, for certain. False: it lives. None: cannot be told from here."""
    if not on_this_host(owner):
        return None
    started = start_time(owner.pid)
    if started is None:
        return True
    if not started or not owner.start_time:
        return None
    return started != owner.start_time


def end_left_behind(root: str, claim: Claim, timeout: float = 10.0) -> bool:
    """End the processes that the owner of a claim left on this host, before its successor starts.

    Returns:
        True if none of them is left: also where the owner was on another host, of which nothing is known here.
        False if some are still there after ``timeout`` seconds (a process in uninterruptible sleep).
    """
    worker = worker_of_beat(root, claim.beat)
    if worker is None or not on_this_host(claim.owner):
        return True
    return end_children(children_of(worker), timeout)


def children_of(worker: WorkerPaths) -> list[ChildRecord]:
    """The process groups that a supervisor registered; records that cannot be read are left out."""
    try:
        names = fs.listdir(worker.children)
    except OSError:
        return []
    found = []
    for name in names:
        path = f"{worker.children}/{name}"
        if number(name):
            try:
                found.append(decode(ChildRecord, read_bytes(path), path))
            except (Damaged, OSError):
                continue
    return found


def end_children(children: list[ChildRecord], timeout: float = 10.0) -> bool:
    """Kill process groups that are proven to be those on record, and wait; True if none of them is left."""
    if stand_in is not None:
        return stand_in.end_children(children)
    deadline = time.monotonic() + timeout
    pause = _POLL
    while children:
        alive = _kill_once(children)
        if not alive:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.2)
    return True


def _kill_once(children: list[ChildRecord]) -> bool:
    """One round of SIGKILL; True if anything of ours was still there."""
    found = False
    for child in children:
        if child.pid > 1 and child.start_time and start_time(child.pid) == child.start_time:
            # The leader lives, so the number of the group cannot have passed to anybody else.
            found = True
            _signal_group(child.pid)
    tokens = {child.token.encode() for child in children if child.token}
    if not tokens or not _LINUX:
        return found
    for pid in _descendants(tokens):
        found = True
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    return found


def _signal_group(pid: int) -> None:
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def _descendants(tokens: set[bytes]) -> list[int]:
    """Living processes that carry one of the tokens, and those in their sessions that dropped it."""
    proven: set[int] = set()
    by_session: dict[int, list[int]] = {}
    sessions: set[int] = set()
    me = os.getpid()
    own = os.getsid(0)
    for name in os.listdir("/proc"):
        pid = number(name)
        if not pid or pid == me:
            continue
        info = _stat(pid)
        if info is None:
            continue
        by_session.setdefault(info[2], []).append(pid)
        if _carries(pid, tokens):
            proven.add(pid)
            # Only a session whose leader was ours is ours altogether; never our own.
            if info[2] and info[2] != own and (info[2] == pid or not os.path.exists(f"/proc/{info[2]}")):
                sessions.add(info[2])
    for session in sessions:
        proven.update(by_session.get(session, ()))
    return sorted(proven)


def _carries(pid: int, tokens: set[bytes]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            content = file.read()
    except OSError:
        return False
    key = TOKEN_VARIABLE.encode() + b"="
    at = content.find(key)
    if at < 0 or (at and content[at - 1]):
        return False
    return content[at + len(key) :].partition(b"\0")[0] in tokens
