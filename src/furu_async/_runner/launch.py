"""Starting the process of a child: sockets, spools, command line. Blocking (some milliseconds): call it off the loop.

The command line holds descriptor numbers and ``sys.path``, nothing else; what could be private goes through
the stream. The process leads a session of its own, so one signal reaches all it starts and the terminal's
Ctrl-C does not.
"""

from __future__ import annotations

import errno
import os
import shlex
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

from furu_async._model import naming
from furu_async._runner import spares, spools
from furu_async._runner.burial import oom_counter
from furu_async._runner.capture import STREAMS, open_spool, spool_path
from furu_async._runner.processes import TOKEN_VARIABLE, end_group, start_time
from furu_async._runner.spares import Process
from furu_async.errors import FuruExecutorError

_BOOT = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from furu_async._runner.child import main; main(*map(int, sys.argv[1:4]))"
)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Launched:
    """A started process and the supervisor's ends of its transport.

    Attributes:
        stream: frames both ways; non-blocking.
        ids: sending end of the queue of task ids; non-blocking.
        ids_back: the child's receiving end of it, to take ids back.
        command: its command line, for people.
        argv: this process's ``sys.argv``, for the child.
        lifeline: closing it (as the kernel does when this process dies) kills the child's process group.
    """

    process: Process
    start_time: int
    token: str
    command: str
    argv: list[str]
    spool_base: str
    stream: socket.socket
    ids: socket.socket
    ids_back: socket.socket
    lifeline: int
    lifeline_open: bool = True

    def close(self) -> None:
        """Close the supervisor's ends."""
        for end in (self.stream, self.ids, self.ids_back):
            end.close()
        self.close_lifeline()

    def close_lifeline(self) -> None:
        """Let the kernel end the child's group, if it still lives."""
        if self.lifeline_open:
            self.lifeline_open = False
            os.close(self.lifeline)


_open: weakref.WeakSet[Launched] = weakref.WeakSet()


def _close_in_fork() -> None:
    """A fork of this process must not keep children alive, or their channels open, after it has died."""
    for launched in list(_open):
        launched.close()


os.register_at_fork(after_in_child=_close_in_fork)


def launch(worker: str, spool_dir: str, token: str, env: Mapping[str, str] | None) -> Launched:
    """Start a child.

    Args:
        worker: name of the child, part of file names.
        spool_dir: where its output goes between attempts; made if missing.
        token: random; inherited by all descendants, so that they can be found.
        env: variables added to this process's environment.

    Raises:
        FuruExecutorError: no process could be started (no descriptors, no processes, no interpreter).
    """
    if not sys.executable:
        raise FuruExecutorError("there is no sys.executable to start a worker process with")
    base = os.path.join(spool_dir, f"{worker}-{token[:8]}")
    oom_counter()
    try:
        os.makedirs(spool_dir, exist_ok=True)
        return _launch(base, token, {**os.environ, **(env or {}), TOKEN_VARIABLE: token})
    except OSError as error:
        raise FuruExecutorError(
            f"worker process {worker} could not be started: {error}",
            "look at `ulimit -n` (open files; a worker needs 10) and `ulimit -u` (processes), or use fewer workers",
            command=sys.executable,
            stderr=str(error),
        ) from error


def command(stream: int, ids: int, lifeline: int) -> list[str]:
    """The child's command line."""
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    return [sys.executable, *flags, "-c", _BOOT, str(stream), str(ids), str(lifeline), *search_path()]


def search_path() -> list[str]:
    """This process's ``sys.path`` as a child needs it: absolute, and with the folder of the script."""
    here = os.getcwd()
    path = [entry or here for entry in sys.path if isinstance(entry, str)]
    script = naming.script_import()
    if script is not None and script[1] and script[1] not in path:
        path.append(script[1])
    return path


def _launch(base: str, token: str, env: dict[str, str]) -> Launched:
    opened: list[int] = []
    sockets: list[socket.socket] = []
    try:
        stream, child_stream = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        sockets += [stream, child_stream]
        ids, child_ids = _queue()
        sockets += [ids, child_ids]
        child_lifeline, lifeline = os.pipe()
        opened += [child_lifeline, lifeline]
        stream.setblocking(False)
        ids.setblocking(False)
        child_ids.setblocking(False)  # a property of the open file: the child's end is the same
        files = [open_spool(spool_path(base, 0, extension)) for _, extension in STREAMS]
        opened += files
        numbers = (child_stream.fileno(), child_ids.fileno(), child_lifeline)
        arguments = command(*numbers)
        process: Process = spares.take_child(env, search_path(), (*numbers, *files)) or subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=files[0],
            stderr=files[1],
            pass_fds=numbers,
            start_new_session=True,
            env=env,
        )
    except BaseException:
        for end in sockets:
            end.close()
        for fd in opened:
            os.close(fd)
        spools.remove(base, 0)
        raise
    for fd in (child_lifeline, *files):
        os.close(fd)
    child_stream.close()
    launched = Launched(
        process=process,
        start_time=start_time(process.pid),
        token=token,
        command=shlex.join(arguments)[:500],
        argv=[str(argument) for argument in sys.argv],
        spool_base=base,
        stream=stream,
        ids=ids,
        ids_back=child_ids,
        lifeline=lifeline,
    )
    _open.add(launched)
    return launched


def abandon(launched: Launched) -> None:
    """End a child that nobody waits for; blocks for moments."""
    end_group(launched.process.pid)
    launched.process.wait()
    launched.close()
    spools.remove(launched.spool_base, 0)


def _queue() -> tuple[socket.socket, socket.socket]:
    """Sender and receiver of datagrams; one that reports the end of the other side where there is such."""
    for kind in (getattr(socket, "SOCK_SEQPACKET", None), socket.SOCK_DGRAM):
        if kind is None:
            continue
        try:
            return socket.socketpair(socket.AF_UNIX, kind)
        except OSError as error:
            if kind == socket.SOCK_DGRAM or error.errno in (errno.EMFILE, errno.ENFILE):
                raise
    raise OSError("no datagram sockets")
