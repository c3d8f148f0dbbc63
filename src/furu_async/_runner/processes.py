"""Finding and ending processes through /proc. Blocking: call it off the loop.

A process group is ended by one call, but a daemon that started its own session has left the group. Such a one
is found as a descendant (the child is a subreaper while it lives) or by the token that every descendant
inherits in its environment.
"""

from __future__ import annotations

import ctypes
import os
import signal

TOKEN_VARIABLE = "FURU_ASYNC_CHILD"

ROOM = "0" * 32
"""What a job has in that variable from its start: room for the token of a child that is forked from it."""

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> bool:
    """Let orphaned descendants become children of this process; says whether the system can do that."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def stat_of(pid: int) -> tuple[int, int, str] | None:
    """Parent, start time in clock ticks since boot, and state letter of a process; None if it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    rest = data.rpartition(b")")[2].split()  # the name before it may hold spaces and parentheses
    if len(rest) < 20:
        return None
    return int(rest[1]), int(rest[19]), rest[0].decode()


def start_time(pid: int) -> int:
    """Clock ticks since boot at which a process started; 0 if it is gone or /proc is missing."""
    found = stat_of(pid)
    return found[1] if found else 0


def processes() -> dict[int, tuple[int, int]]:
    """Parent and start time of every living process that can be seen, by pid; zombies left out."""
    found = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return {}
    for name in names:
        if name.isdigit():
            stat = stat_of(int(name))
            if stat is not None and stat[2] not in "ZX":
                found[int(name)] = stat[:2]
    return found


def children_of(pid: int) -> list[int]:
    """Direct children of a process that still run."""
    return [child for child, (parent, _) in processes().items() if parent == pid]


def descendants_of(pid: int, seen: dict[int, tuple[int, int]]) -> dict[int, int]:
    """Every process below ``pid`` with its start time."""
    below: dict[int, list[int]] = {}
    for child, (parent, _) in seen.items():
        below.setdefault(parent, []).append(child)
    found: dict[int, int] = {}
    stack = [pid]
    while stack:
        for child in below.get(stack.pop(), ()):
            if child not in found:
                found[child] = seen[child][1]
                stack.append(child)
    return found


def carries(pid: int, token: str) -> bool:
    """Whether a process has inherited ``token`` from a child of ours."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{TOKEN_VARIABLE}={token}".encode() in file.read().split(b"\0")
    except OSError:
        return False


def end_group(leader: int) -> None:
    """SIGKILL a process group; its leader must not have been reaped yet, or the number may be somebody else's."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def below(leader: int) -> dict[int, int]:
    """Every living descendant of a process with its start time."""
    return descendants_of(leader, processes())


def end_each(found: dict[int, int]) -> list[int]:
    """SIGKILL processes given with their start times; returns those that were still there."""
    return [pid for pid, start in found.items() if start_time(pid) == start and _kill(pid)]


def sweep(leader: int, token: str, born: int, *, rounds: int = 3) -> list[int]:
    """SIGKILL the group of an unreaped ``leader`` that has exited, and what escaped from it; returns those pids.

    Args:
        born: the leader's start time: nothing older can be its descendant, and need not be looked into.
        rounds: a process that forks while it is looked for is found in the next round.
    """
    escaped: list[int] = []
    done = {leader, os.getpid()}
    for _ in range(rounds):
        end_group(leader)
        found = {
            pid: start
            for pid, (_, start) in processes().items()
            if start >= born and pid not in done and carries(pid, token)
        }
        if not found:
            break
        done |= found.keys()
        outside = {pid for pid in found if _group(pid) != leader}
        escaped += [pid for pid in end_each(found) if pid in outside]
    return escaped


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1
