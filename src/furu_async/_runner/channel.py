"""The child's end of the transport: task ids from a queue socket, bodies from a stream socket, results into the stream.

Taking an id is one receive; the supervisor holds the same receiving end and takes back what was not begun by
receiving it itself, so exactly one of the two gets each id, without any message. Both ends of the queue are
non-blocking. Only `os` and `select` are used: importing `socket` would cost a child's start several
milliseconds.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Sequence

from furu_async._runner import messages
from furu_async._runner.messages import Forget, Hello, TaskSpec

_CHUNK = 256 * 1024
_LOOK_MS = 1000


class ChannelLost(Exception):
    """The channel cannot be used any more.

    Attributes:
        closed_here: a descriptor is no longer ours: user code has closed it. Otherwise the supervisor is gone.
    """

    def __init__(self, reason: str, closed_here: bool = False) -> None:
        super().__init__(reason, closed_here)
        self.closed_here = closed_here


def _lost(error: OSError) -> ChannelLost:
    return ChannelLost(str(error), error.errno not in (errno.EPIPE, errno.ECONNRESET))


class Channel:
    """Frames both ways, and the queue of ids.

    Args:
        stream: descriptor of the stream socket, blocking.
        queue: descriptor of the queue's receiving end, non-blocking.
    """

    def __init__(self, stream: int, queue: int) -> None:
        self._stream = stream
        self._queue = queue
        self._buffer = messages.FrameBuffer()
        self._bodies: dict[int, TaskSpec] = {}
        self._hello: Hello | None = None
        self._arrived: list[TaskSpec] = []
        self._idle = select.poll()
        self._idle.register(queue, select.POLLIN)
        self._idle.register(stream, 0)  # only its hang-up

    def hello(self) -> Hello:
        """Wait for the supervisor's first message."""
        while self._hello is None:
            self._read()
        return self._hello

    def poll_id(self) -> int | None:
        """The next task's id if one is waiting; it is ours from now on.

        Raises:
            ChannelLost: the supervisor is gone.
        """
        try:
            data = os.read(self._queue, messages.ID_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _lost(error) from None
        if len(data) != messages.ID_BYTES:
            raise ChannelLost("end of queue")
        return int.from_bytes(data, "big")

    def wait(self) -> bool:
        """Sleep until an id may be waiting, at most a second.

        Raises:
            ChannelLost: the supervisor is gone.
        """
        for fd, event in self._idle.poll(_LOOK_MS):
            if event & select.POLLNVAL:
                raise ChannelLost("descriptor closed", closed_here=True)
            if fd == self._stream:
                raise ChannelLost("hang-up")
            return True
        return False

    def await_end(self) -> None:
        """Sleep until the supervisor hangs up; take nothing."""
        idle = select.poll()
        idle.register(self._stream, 0)
        while not idle.poll(_LOOK_MS):
            pass

    def body(self, task_id: int) -> TaskSpec:
        """The task of this id, waiting for it if need be.

        Raises:
            ChannelLost: the supervisor is gone.
        """
        while task_id not in self._bodies:
            self._read()
        return self._bodies.pop(task_id)

    def arrived(self) -> list[TaskSpec]:
        """Tasks whose bodies have come since the last call; taken back or not, they bring table entries."""
        new, self._arrived = self._arrived, []
        return new

    def send(self, what: Sequence[messages.ToSupervisor]) -> None:
        """Send messages as one frame.

        Raises:
            ChannelLost: the supervisor is gone, or the descriptor was closed.
        """
        data = memoryview(messages.frame(what))
        try:
            while data:
                data = data[os.write(self._stream, data) :]
        except OSError as error:
            raise _lost(error) from None

    def _read(self) -> None:
        try:
            data = os.read(self._stream, _CHUNK)
        except OSError as error:
            raise _lost(error) from None
        if not data:
            raise ChannelLost("end of stream")
        self._buffer.feed(data)
        for payload in self._buffer.payloads():
            for message in messages.to_child_decoder.decode(payload):
                if isinstance(message, TaskSpec):
                    self._bodies[message.id] = message
                    self._arrived.append(message)
                elif isinstance(message, Forget):
                    for task_id in message.ids:
                        self._bodies.pop(task_id, None)
                else:
                    self._hello = message
