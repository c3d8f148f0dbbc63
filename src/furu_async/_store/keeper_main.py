"""The keeper's process: reads frames, answers frames, notices its supervisor's death."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

import msgspec

from furu_async._store.keeper import MAX_FRAME, Keeper

_CHUNK = 1 << 18


def main() -> None:
    """Serve on the descriptor in ``argv[1]`` for the process ``argv[2]``, beating every ``argv[3]`` seconds."""
    descriptor, supervisor, heartbeat = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
        # It ends when its supervisor does, and last.
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.chdir("/")
    keeper = Keeper(heartbeat)
    try:
        serve(keeper, socket.socket(fileno=descriptor), supervisor)
    finally:
        if not keeper.closing:
            keeper.supervisor_died()
        # Daemon threads may hang in a dead mount; they must not keep the process.
        os._exit(0)


def serve(keeper: Keeper, end: socket.socket, supervisor: int) -> None:
    """Answer frames until the supervisor is gone or says ``close``."""
    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
    poller = select.poll()
    poller.register(end, select.POLLIN)
    watch = _watch(supervisor)
    if watch is not None:
        poller.register(watch, select.POLLIN)
    elif os.getppid() != supervisor:
        return
    buffer = bytearray()
    while not keeper.closing:
        # The socket alone would do, if a fork of the supervisor could not hold it open after its death. Where
        # there is no descriptor for a process, its death shows in who our parent is.
        ready = dict(poller.poll(1000 if watch is None else None))
        if end.fileno() not in ready:
            if watch is not None or os.getppid() != supervisor:
                return
            continue
        try:
            data = end.recv(_CHUNK)
        except OSError:
            return
        if not data:
            return
        buffer += data
        while len(buffer) >= 4:
            size = int.from_bytes(buffer[:4], "big")
            if size > MAX_FRAME:
                return
            if len(buffer) < 4 + size:
                break
            with memoryview(buffer) as view:
                operations = decode(view[4 : 4 + size])
            del buffer[: 4 + size]
            body = encode([keeper.handle(operation) for operation in operations])
            try:
                end.sendall(len(body).to_bytes(4, "big") + body)
            except OSError:
                return


def _watch(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where there is no such thing."""
    try:
        watch = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
    if os.getppid() != pid:
        os.close(watch)
        return None
    return watch
