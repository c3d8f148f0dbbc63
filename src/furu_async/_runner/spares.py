"""Processes that a job forks from itself before anything else: its keeper and its first child.

An interpreter's start and the import of what all three have in common are paid once in place of three times. A process
is forked only while this one has a single thread and has seen no user's code. It waits for its orders, which come with
the descriptors that it is to have; until then it has nothing open but its end of a socket, and the end of that socket
is its own end. Whoever finds no spare starts a process as ever.

What a forked child has in common with one that was started: a session of its own, its environment (with its token, also
as the kernel shows it, for which the job's script left room), ``sys.path``, working directory, umask, descriptors.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

import msgspec

from furu_async._runner.processes import ROOM, TOKEN_VARIABLE, carries

_HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_AT_START = ("LD_", "MALLOC_", "GLIBC_", "PYTHON")
"""Variables that a process looks at only when it is started."""

_ORDER_SECS = 10.0
_MOST_FDS = 8
_LENGTH = 8


class Process(Protocol):
    """What is used of `subprocess.Popen`."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""

    def kill(self) -> None:
        """SIGKILL."""


class KeeperOrders(msgspec.Struct, frozen=True, array_like=True):
    """What a spare keeper is told; its descriptor is the socket on which it serves."""

    supervisor: int
    heartbeat: float


class ChildOrders(msgspec.Struct, frozen=True, array_like=True):
    """What a spare child is told; its descriptors are stream, queue, lifeline, stdout, stderr and working directory."""

    env: dict[str, str]
    path: list[str]
    umask: int


class Forked:
    """A fork of this process, with what is used of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid: int = pid
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """See `Process`."""
        with self._lock:
            if self.returncode is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # somebody else has reaped it
                    self.returncode = 0
                else:
                    self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """See `Process`."""
        if self.poll() is None:
            try:
                watch = os.pidfd_open(self.pid)
            except ProcessLookupError:
                pass
            else:
                try:
                    poller = select.poll()
                    poller.register(watch, select.POLLIN)
                    poller.poll(None if timeout is None else max(0.0, timeout) * 1e3)
                finally:
                    os.close(watch)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0.0)
        return code

    def kill(self) -> None:
        """See `Process`."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class _Spare:
    """A forked process that waits for its orders."""

    def __init__(self, pid: int, end: socket.socket) -> None:
        self.process = Forked(pid)
        self.end = end

    def order(self, orders: msgspec.Struct, descriptors: Sequence[int]) -> Forked | None:
        """Send it its orders; None if it is gone."""
        body = msgspec.msgpack.encode(orders)
        self.end.settimeout(_ORDER_SECS)
        try:
            socket.send_fds(self.end, [len(body).to_bytes(_LENGTH, "big")], descriptors)
            self.end.sendall(body)
        except OSError:
            self.process.kill()
            self.process.wait()
            return None
        finally:
            self.end.close()
        return self.process


_spares: dict[str, _Spare] = {}
_environment: dict[str, str] = {}
_handlers: dict[int, Any] = {}


def _close_in_fork() -> None:
    for spare in _spares.values():
        spare.end.close()
    _spares.clear()


os.register_at_fork(after_in_child=_close_in_fork)


def prepare() -> Callable[[], int] | None:
    """Fork what can be forked.

    Call it in the main thread, before any user's code was imported. In a fork it gives what that is to do; its answer
    is the exit code.
    """
    if not _single():
        return None
    _environment.update(os.environ)
    from furu_async._store import keeper_main

    def keep(orders: bytes, fds: list[int]) -> int:
        told = msgspec.msgpack.decode(orders, type=KeeperOrders)
        gc.enable()
        sys.argv[1:] = [str(fds[0]), str(told.supervisor), repr(told.heartbeat)]
        keeper_main.main()
        return 0

    waiting = _fork("keeper", lambda: None, keep)
    if waiting is None and (at := _room()) is not None:
        from furu_async._runner import messages, objects  # noqa: F401  (what this process needs as well)

        waiting = _fork("child", _import_child, lambda orders, fds: _work(orders, fds, at))
    return waiting


def take_keeper(end: socket.socket, heartbeat: float) -> Forked | None:
    """The spare keeper, if there is one; it serves on ``end`` (close it here afterwards). Blocks for moments."""
    spare = _spares.pop("keeper", None)
    if spare is None:
        return None
    return spare.order(KeeperOrders(os.getpid(), heartbeat), [end.fileno()])


def take_child(env: Mapping[str, str], path: list[str], descriptors: Sequence[int]) -> Forked | None:
    """The spare child, if there is one and it can be what is wanted. Blocks for moments.

    Args:
        env: all of its environment.
        path: its ``sys.path``.
        descriptors: stream, queue, lifeline, stdout, stderr; close them here afterwards.
    """
    if any(
        env.get(name) != _environment.get(name)
        for name in {*env, *_environment}
        if name.startswith(_AT_START)
    ):
        return None
    spare = _spares.pop("child", None)
    if spare is None:
        return None
    umask = os.umask(0o077)
    os.umask(umask)
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return spare.order(ChildOrders(dict(env), path, umask), [*descriptors, here])
    finally:
        os.close(here)


# -- in the fork -------------------------------------------------------------------------------------------


def _fork(
    name: str, first: Callable[[], object], then: Callable[[bytes, list[int]], int]
) -> Callable[[], int] | None:
    """Fork one process, which does ``first`` while it waits for the orders that ``then`` follows."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    gc.freeze()  # or the collector would copy every page that is shared
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        return None
    if pid:
        theirs.close()
        _spares[name] = _Spare(pid, ours)
        return None
    ours.close()
    _stand_alone(theirs.fileno())

    def wait() -> int:
        first()
        orders, fds = _receive(theirs)
        theirs.close()
        return then(orders, fds)

    return wait


def _stand_alone(keep: int) -> None:
    """A session of its own, no descriptors but one, deaf to what is meant for the job."""
    for held in _HELD:
        _handlers[held] = signal.signal(held, signal.SIG_IGN)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in range(3):
        os.dup2(null, number)
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2 and int(entry) != keep:
            try:
                os.close(int(entry))
            except OSError:
                pass  # the one that the folder was read with


def _receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """Orders and descriptors; ends this process if whoever was to give them is gone."""
    head, fds, _, _ = socket.recv_fds(end, _LENGTH, _MOST_FDS)
    body = bytearray()
    while len(head) == _LENGTH and len(body) < int.from_bytes(head, "big"):
        data = end.recv(1 << 18)
        if not data:
            break
        body += data
    if len(head) < _LENGTH or len(body) < int.from_bytes(head, "big"):
        os._exit(0)
    for fd in fds:
        os.set_inheritable(fd, False)
    return bytes(body), fds


def _import_child() -> None:
    from furu_async._runner import child  # noqa: F401


def _work(orders: bytes, fds: list[int], at: int) -> int:
    """Be a child, as if started by `launch`."""
    from furu_async._runner import child

    told = msgspec.msgpack.decode(orders, type=ChildOrders)
    stream, queue, lifeline, out, err, here = fds
    token = told.env[TOKEN_VARIABLE]
    ctypes.memmove(at, token.encode(), len(ROOM))
    if not carries(os.getpid(), token):
        return 1
    for held, handler in _handlers.items():
        signal.signal(held, handler)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.fchdir(here)
    for fd in (out, err, here):
        os.close(fd)
    os.umask(told.umask)
    for name in os.environ.keys() - told.env.keys():
        del os.environ[name]
    for name, value in told.env.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    sys.path[:] = told.path
    sys.modules["__main__"] = ModuleType("__main__")
    gc.enable()
    child.main(stream, queue, lifeline)
    return 0


# -- whether it can be done --------------------------------------------------------------------------------


def _single() -> bool:
    """This process can be forked: it has one thread, also in libraries, and its forks can be waited for."""
    try:
        return len(os.listdir("/proc/self/task")) == 1 and hasattr(os, "pidfd_open")
    except OSError:
        return False


def _room() -> int | None:
    """Where in this process's memory a child's token can be written so that the kernel shows it in ``environ``."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    at: int | None = libc.getenv(TOKEN_VARIABLE.encode())
    if not at or os.environ.get(TOKEN_VARIABLE) != ROOM or not carries(os.getpid(), ROOM):
        return None
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        begin, end = int(fields[47]), int(fields[48])
    except (OSError, ValueError, IndexError):
        return None
    return at if begin <= at and at + len(ROOM) < end else None
