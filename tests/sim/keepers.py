"""Simulated keepers: the library's own client and keeper, with a simulated socket and process between them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
from tests.sim.processes import ClusterLoop, Process, here

from furu_async._runner import keeper_client
from furu_async._store import sweep
from furu_async._store.beat import Beat
from furu_async._store.keeper import Keeper
from furu_async._store.layout import ArtifactPaths
from furu_async._store.sweep import Sweeper

_WIRE = 0.003
_SEEN_DEAD = 0.05


class Endpoint:
    """One end of a simulated stream socket. What is sent arrives later, in order; an end of file, too."""

    def __init__(self, loop: ClusterLoop, process: Process) -> None:
        self.loop = loop
        self.process = process
        self.peer: Endpoint | None = None
        self.number = 1000 + len(loop.endpoints)
        loop.endpoints[self.number] = self
        self.inbox = bytearray()
        self.ended = False
        self.closed = False
        self._arrives = 0.0
        self._reader: tuple[Any, ...] | None = None
        self._waiters: list[Callable[[], Any]] = []
        process.on_death.append(self.close)

    def setblocking(self, flag: bool) -> None:
        """It never blocks, or in `wait` only."""

    def fileno(self) -> int:
        """Its number."""
        return self.number

    def watch(self, callback: Any, *args: Any) -> None:
        """Call this when something can be read; None: no more."""
        self._reader = None if callback is None else (callback, *args)
        if self._reader is not None and (self.inbox or self.ended):
            self.loop.call_soon(self._notify)

    def send(self, data: bytes | bytearray) -> int:
        """As of any socket."""
        peer = self.peer
        if self.closed or peer is None or peer.closed:
            raise BrokenPipeError
        self._deliver(peer, bytes(data), self.loop.rng.random() * _WIRE)
        return len(data)

    def recv(self, size: int) -> bytes:
        """As of any socket that does not block."""
        if not self.inbox:
            if self.ended:
                return b""
            raise BlockingIOError
        data = bytes(self.inbox[:size])
        del self.inbox[:size]
        return data

    def wait(self, size: int) -> bytes:
        """In a blocking call: what comes next; empty at the end of file."""
        while not self.inbox and not self.ended:
            self.loop.wait(self._waiters)
        return self.recv(size)

    def close(self) -> None:
        """The other end hears of it."""
        if not self.closed:
            self.closed = True
            if self.peer is not None:
                self._deliver(self.peer, b"", self.loop.rng.random() * _SEEN_DEAD)

    def _deliver(self, peer: Endpoint, data: bytes, delay: float) -> None:
        self._arrives = max(self._arrives + 1e-6, self.loop.now + delay)
        self.loop.at(peer.process, self._arrives - self.loop.now, peer.arrived, data)

    def arrived(self, data: bytes) -> None:
        """Called as this end's process."""
        self.inbox += data
        self.ended = self.ended or not data
        self._notify()

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()
        if self._reader is not None and (self.inbox or self.ended):
            callback, *args = self._reader
            callback(*args)


class SimPopen:
    """What `subprocess.Popen` is to the client of a keeper."""

    def __init__(self, loop: ClusterLoop, process: Process) -> None:
        self.pid = process.pid
        self._loop = loop
        self._process = process

    def poll(self) -> int | None:
        """None while it lives."""
        return -9 if self._process.dead else None

    def wait(self, timeout: float | None = None) -> int:
        """In a blocking call."""
        until = self._loop.now + (1e9 if timeout is None else timeout)
        while not self._process.dead:
            if self._loop.now >= until:
                raise subprocess.TimeoutExpired("keeper", timeout or 0.0)
            self._loop.block(min(0.1, until - self._loop.now + 1e-6))
        return -9

    def kill(self) -> None:
        """SIGKILL."""
        self._loop.kill(self._process)


class _SimSweeper(Sweeper):
    def __init__(self, loop: ClusterLoop, process: Process) -> None:
        super().__init__()
        self._loop, self._process = loop, process

    def add(self, paths: ArtifactPaths, n: int) -> None:
        """Sweep soon, as if in a thread."""
        self._loop.spawn(self._process, lambda: sweep.sweep(paths, n), self._loop.rng.random())


class SimKeeper(Keeper):
    """The real one; its threads are simulated.

    Args:
        beaten: told of each beat, by the path of its file.
    """

    def __init__(
        self, loop: ClusterLoop, process: Process, heartbeat: float, beaten: Callable[[str], None]
    ) -> None:
        super().__init__(heartbeat)
        self._loop, self._process, self._beaten = loop, process, beaten
        self._sweeper = _SimSweeper(loop, process)

    def _start_beat(self, beat: Beat) -> None:
        self._beaten(beat.path)
        self._loop.spawn(self._process, lambda: self._beat(beat))

    def _beat(self, beat: Beat) -> None:
        wait = beat.interval
        while True:
            self._loop.block(wait / (1 + self._process.host.drift))
            if beat._stopped.is_set():
                return
            try:
                beat.once()
                self._beaten(beat.path)
                wait = beat.interval
            except OSError:
                wait = beat.interval / 8


def serve(
    loop: ClusterLoop,
    process: Process,
    keeper: Keeper,
    end: Endpoint,
    bereaved: Callable[[Process], None],
) -> None:
    """The keeper's main, after `furu_async._store.keeper_main`; a blocking call of its process."""
    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
    buffer = bytearray()
    try:
        while not keeper.closing:
            data = end.wait(1 << 18)
            if not data:
                break
            buffer += data
            while len(buffer) >= 4 and len(buffer) >= 4 + (size := int.from_bytes(buffer[:4], "big")):
                operations = decode(bytes(buffer[4 : 4 + size]))
                del buffer[: 4 + size]
                body = encode([keeper.handle(operation) for operation in operations])
                try:
                    end.send(len(body).to_bytes(4, "big") + body)
                except OSError:
                    break
        if not keeper.closing:
            keeper.supervisor_died()
            bereaved(process)
    finally:
        if not process.dead:
            loop.at(None, 0.0, loop.kill, process)


class Keepers:
    """Starts keepers where the library would.

    Args:
        started: told of each new one: its supervisor, and itself.
        beaten: told of each beat, by the path of its file.
        bereaved: told of each keeper that has done what is to be done when its supervisor died.
    """

    def __init__(
        self,
        loop: ClusterLoop,
        started: Callable[[Process, Process], None],
        beaten: Callable[[str], None],
        bereaved: Callable[[Process], None],
    ) -> None:
        self.bereaved = bereaved
        self.loop = loop
        self.started = started
        self.beaten = beaten
        self._fields = (keeper_client.socket, keeper_client.keeper)

    def install(self) -> None:
        """From now on the client of keepers gets simulated sockets and processes."""
        sockets: Any = SimpleNamespace(socketpair=self._pair, AF_UNIX=0, SOCK_STREAM=0)
        processes: Any = SimpleNamespace(spawn=self._spawn)
        keeper_client.socket, keeper_client.keeper = sockets, processes

    def restore(self) -> None:
        """Undo `install`."""
        keeper_client.socket, keeper_client.keeper = self._fields

    def _pair(self, *_: Any) -> tuple[Endpoint, Endpoint]:
        process = here.get()
        assert process is not None
        one, other = Endpoint(self.loop, process), Endpoint(self.loop, process)
        one.peer, other.peer = other, one
        return one, other

    def _spawn(self, theirs: Endpoint, heartbeat: float) -> SimPopen:
        supervisor = here.get()
        assert supervisor is not None
        process = self.loop.start_process(supervisor.host, "keeper", supervisor.number)
        process.supervisor = supervisor
        end = Endpoint(
            self.loop, process
        )  # it inherits the socket; the supervisor's copy is closed without effect
        end.peer, ours = theirs.peer, theirs.peer
        assert ours is not None
        ours.peer, theirs.peer = end, None
        keeper = SimKeeper(self.loop, process, heartbeat, self.beaten)
        delay = 0.02 + self.loop.rng.random() * 0.05
        self.loop.spawn(process, lambda: serve(self.loop, process, keeper, end, self.bereaved), delay)
        self.started(supervisor, process)
        return SimPopen(self.loop, process)
