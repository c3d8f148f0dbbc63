"""The supervisor's side of its keeper: protocol steps on the store, in order, in batches, never on the loop.

The keeper is a process of ours without any user code (`_store.keeper`). It makes claims, publishes and beats; what is
asked within one turn of the loop goes out as one frame and comes back as one. If it dies it is started again
and what it had not answered is asked again: every step recognises its own work by its token.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from furu_async._runner import spares
from furu_async._runner.messages import FrameBuffer
from furu_async._runner.spares import Process
from furu_async._runtime.blocking import DOOR
from furu_async._store import keeper
from furu_async.errors import FuruExecutorError

Op = tuple[Any, ...]
Reply = Callable[[Any], None]

_CHUNK = 1 << 18
_MOST_RESTARTS = 5
_STEADY_SECS = 60.0
_RESTART_PAUSE = 0.2
_REAP_SECS = 5.0
_SLICE = 0.001
_TO_DO = {
    errno.EAGAIN: "no more processes are allowed: see `ulimit -u`, and pids.max of the cgroup (`systemctl status`)",
    errno.EMFILE: "this process has too many files open: see `ulimit -n`",
    errno.ENFILE: "this machine has too many files open: see /proc/sys/fs/file-nr",
    errno.ENOMEM: "there is no memory left: see `free -m`",
}
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def _start(end: socket.socket, heartbeat: float) -> Process:
    return spares.take_keeper(end, heartbeat) or keeper.spawn(end, heartbeat)


def _reap(process: Process) -> None:
    """Wait for a keeper that has closed its socket; one that does not go is killed, for its successor takes over."""
    try:
        process.wait(_REAP_SECS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class KeeperClient:
    """Talks to one keeper process; all methods belong to one event loop.

    Args:
        heartbeat: seconds between two beats.

    Attributes:
        broken: why it cannot go on, for good: without a keeper nothing can be claimed, and nothing beats.
        on_broken: called once when that happens.
    """

    def __init__(self, heartbeat: float) -> None:
        self.heartbeat = heartbeat
        self.pid = 0
        self._loop = asyncio.get_running_loop()
        self._process: Process | None = None
        self._socket: socket.socket | None = None
        self._buffer = FrameBuffer()
        self._out: list[Op] = []
        self._answers: deque[Any] = deque()
        self._unanswered: deque[tuple[Op, Reply]] = deque()
        self._opened: list[Op] = []
        self._held: dict[tuple[str, str, str], Op] = {}
        self._unsent = bytearray()
        self._flush_due = False
        self._writing = False
        self._closing = False
        self._restarts = 0
        self._restart: asyncio.Task[None] | None = None
        self._up_since = 0.0
        self.broken: FuruExecutorError | None = None
        self.on_broken: Callable[[FuruExecutorError], None] = lambda _: None

    async def start(self) -> None:
        """Start the process.

        Raises:
            FuruExecutorError: it cannot be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        try:
            self._process = await DOOR.process.run(_start, theirs, self.heartbeat)
        except OSError as error:
            ours.close()
            text = f"it cannot be started: {error.strerror or error}"
            raise FuruExecutorError(text, _TO_DO.get(error.errno or 0, "")) from error
        except BaseException:
            ours.close()  # one that is started all the same hears at once that nobody is there
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._up_since = self._loop.time()
        self._socket = ours
        self._loop.add_reader(ours.fileno(), self._readable)
        if self._out:
            self._flush()

    @property
    def waiting(self) -> int:
        """Operations asked and not yet answered."""
        return len(self._unanswered)

    def request(self, op: Op, reply: Reply) -> None:
        """Ask for one operation; ``reply`` is called on the loop with its result."""
        if self.broken is not None:
            self._loop.call_soon(reply, {"r": "error", "text": str(self.broken), "errno": 0, "path": ""})
            return
        self._remember(op)
        self._unanswered.append((op, reply))
        self._out.append(op)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    async def ask(self, op: Op) -> Any:
        """Ask for one operation and await its result."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        self.request(op, lambda result: None if answer.done() else answer.set_result(result))
        return await answer

    def _flush(self) -> None:
        self._flush_due = False
        if self._socket is None or not self._out:
            return
        ops, self._out = self._out, []
        body = _encode(ops)
        self._unsent += len(body).to_bytes(4, "big") + body
        self._write()

    def _write(self) -> None:
        if self._socket is None:
            return
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                if not self._writing:
                    self._writing = True
                    self._loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError:
                return  # the reader sees the end and restarts the keeper
            del self._unsent[:sent]
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended()
            return
        self._buffer.feed(data)
        for payload in self._buffer.payloads():
            self._answers.extend(_decode(payload))
        self._deliver()

    def _deliver(self) -> None:
        """Hand answers over, a few milliseconds' worth in one turn of the loop."""
        until = self._loop.time() + _SLICE
        while self._answers:
            self._hand_over()
            if self._answers and self._loop.time() > until:
                self._loop.call_soon(self._deliver)
                return

    def _hand_over(self) -> None:
        (op, reply), answer = self._unanswered.popleft(), self._answers.popleft()
        self._learn(op, answer)
        reply(answer)

    def _ended(self) -> None:
        self._drop_socket()
        while self._answers:  # they belong to the oldest questions, which must not be asked again
            self._hand_over()
        if self._closing:
            return
        if self._loop.time() - self._up_since > _STEADY_SECS:
            self._restarts = 0
        self._restarts += 1
        if self._restarts > _MOST_RESTARTS:
            self.fail(f"it died {self._restarts} times; look for the out-of-memory killer in the system log")
            return
        self._buffer = FrameBuffer()
        self._unsent.clear()
        pending = [op for op, _ in self._unanswered]
        again = [op for op in (*self._opened, *self._held.values()) if op not in pending]
        for op in reversed(again):
            self._unanswered.appendleft((op, lambda _: None))
        self._out = [*again, *pending]
        self._restart = self._loop.create_task(self._start_again(), name="furu keeper restart")

    async def _start_again(self) -> None:
        if self._process is not None:
            with suppress(TimeoutError):  # it hangs in the kernel; its successor takes its place all the same
                await DOOR.process.run(_reap, self._process, deadline=_REAP_SECS + 1)
        while not self._closing:
            try:
                await self.start()
                return
            except FuruExecutorError as error:  # no processes, no descriptors, no memory: it may pass
                self._restarts += 1
                if self._restarts > _MOST_RESTARTS:
                    self.fail(error.message, error.hint)
                    return
            await asyncio.sleep(_RESTART_PAUSE * self._restarts)

    def fail(self, why: str, hint: str = "") -> None:
        """It cannot go on: every operation, asked and to come, ends in an error."""
        self.broken = FuruExecutorError(f"there is no keeper process, which writes the store: {why}", hint)
        while self._unanswered:
            _, reply = self._unanswered.popleft()
            reply({"r": "error", "text": str(self.broken), "errno": 0, "path": ""})
        self.on_broken(self.broken)

    def _remember(self, op: Op) -> None:
        """Keep what a keeper that is started again has to be told: runs that are open, children that live."""
        if op[0] in ("open", "join", "child"):
            self._opened.append(op)
        elif op[0] == "child_gone":
            self._opened = [kept for kept in self._opened if kept[0] != "child" or kept[2] != op[1]]

    def _learn(self, op: Op, answer: Any) -> None:
        """The same for claims that are held; and a run is open until its end is written."""
        verb, said = op[0], answer["r"]
        if verb in ("claim", "takeover"):
            if said == "claimed":
                self._held[op[1], op[3], op[4]] = ("hold", *op[1:5], answer["n"])
        elif verb in ("publish", "finish"):
            if said in ("published", "fenced"):
                self._held.pop(op[1:4], None)
        elif verb == "close_run":
            self._opened = [kept for kept in self._opened if kept[0] == "child" or kept[1:3] != op[1:3]]
            self._held = {key: held for key, held in self._held.items() if held[1:3] != op[1:3]}

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            if self._writing:
                self._loop.remove_writer(self._socket.fileno())
                self._writing = False
            self._socket.close()
            self._socket = None

    async def aclose(self, seconds: float = 5.0) -> None:
        """End the keeper: its beats stop and their files go. Kills it if it does not end in ``seconds``."""
        until = self._loop.time() + seconds
        if self._process is not None and self._unanswered:
            # One that dies over this is started again, or what it was about to end and remove would stay.
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds / 2):
                    await self.ask(("child_gone", 0))
        seconds = max(until - self._loop.time(), 0.0)
        self._closing = True
        if self._restart is not None and not self._restart.done():
            await asyncio.wait([self._restart], timeout=seconds)
            self._restart.cancel()
            await asyncio.wait([self._restart], timeout=1.0)
        process = self._process
        if process is None:
            return
        if self._socket is not None and process.poll() is None:
            self.request(("close",), lambda _: None)
            self._flush()
        try:
            await DOOR.process.run(process.wait, seconds, deadline=seconds + 1)
        except (TimeoutError, subprocess.TimeoutExpired):
            process.kill()
            try:
                await DOOR.process.run(process.wait, 1.0, deadline=2.0)
            except (TimeoutError, subprocess.TimeoutExpired):
                pass  # it hangs in the kernel; it holds nothing of ours and init will have it
        self._drop_socket()
        self._process = None
