"""The supervisor's end of the transport, on the event loop: plain callbacks, never blocking, buffered both ways."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from furu_async._runner import messages
from furu_async._runner.messages import ToChild, ToSupervisor

_CHUNK = 256 * 1024


class Link:
    """Frames over a stream socket, task ids over a datagram socket.

    Args:
        stream: frames both ways; non-blocking.
        ids: sending end of the queue; non-blocking.
        ids_back: its receiving end, shared with the child; non-blocking.
        on_messages: called with what one reading brought.
        on_end: called once, when the child's end of the stream is closed.
    """

    def __init__(
        self,
        stream: socket.socket,
        ids: socket.socket,
        ids_back: socket.socket,
        on_messages: Callable[[list[ToSupervisor]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream, self._ids, self._ids_back = stream, ids, ids_back
        self._on_messages, self._on_end = on_messages, on_end
        self._frames = messages.FrameBuffer()
        self._unsent = bytearray()
        self._writing = False
        self._held: list[ToChild] | None = None
        self._waiting: deque[int] = deque()
        self._open = True
        self._ended = False
        self._loop.add_reader(stream.fileno(), self.read)

    # -- frames --------------------------------------------------------------------------------------

    def send(self, what: Sequence[ToChild]) -> None:
        """Send messages, now or when there is room.

        What follows in the same turn of the loop is held and leaves as one frame: a burst of tasks costs one system
        call, and a single one does not wait.
        """
        if self._held is not None:
            self._held += what
            return
        self._send_frame(what)
        self._held = []
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held:
            self._send_frame(held)
        if self._waiting and self._open:
            self._send_ids()

    def _send_frame(self, what: Sequence[ToChild]) -> None:
        if not self._open:
            return
        data = messages.frame(what)
        if not self._unsent:
            sent = self._write(data)
            if sent == len(data):
                return
            data = data[sent:]
        self._unsent += data
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._stream.fileno(), self._on_writable)

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return self._stream.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # the child is gone; its end is noticed by reading

    def _on_writable(self) -> None:
        del self._unsent[: self._write(self._unsent)]
        if not self._unsent:
            self._writing = False
            self._loop.remove_writer(self._stream.fileno())

    def read(self) -> None:
        """Read what has come; called by the loop, and once more when the child has exited."""
        if not self._open or self._ended:
            return
        try:
            data = self._stream.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended = True
            self._loop.remove_reader(self._stream.fileno())
            self._on_end()
            return
        self._frames.feed(data)
        found: list[ToSupervisor] = []
        for payload in self._frames.payloads():
            found += messages.to_supervisor_decoder.decode(payload)
        if self._waiting:
            self._send_ids()
        if found:
            self._on_messages(found)

    def drain(self) -> None:
        """Read everything that a child has sent before it exited."""
        while self._open and not self._ended and self._readable():
            self.read()

    def _readable(self) -> bool:
        try:
            self._stream.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False  # a descendant still holds the other end
        except OSError:
            pass
        return True

    # -- ids -----------------------------------------------------------------------------------------

    def put_ids(self, ids: Iterable[int]) -> None:
        """Queue tasks behind what is queued already; those whose bodies are held go with them."""
        self._waiting.extend(ids)
        if not self._held:
            self._send_ids()

    def _send_ids(self) -> None:
        """Send ids while the socket takes them; the rest goes when the child has taken some."""
        waiting = self._waiting
        try:
            while waiting:
                self._ids.send(waiting[0].to_bytes(messages.ID_BYTES, "big"))
                waiting.popleft()
        except OSError:
            return  # full, or the child is gone and its tasks come back by its end

    def take_ids(self, most: int) -> list[int]:
        """Take up to ``most`` ids back that the child has not taken, newest first."""
        waiting = []
        try:
            while data := self._ids_back.recv(messages.ID_BYTES):
                waiting.append(int.from_bytes(data, "big"))
        except OSError:
            pass  # empty
        waiting += self._waiting
        keep = max(0, len(waiting) - most)
        self._waiting = deque(waiting[:keep])
        self._send_ids()
        return waiting[keep:][::-1]

    # -- end -----------------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """Tell an idle child to end."""
        self._ids.close()

    def close(self) -> None:
        """Close all sockets."""
        if not self._open:
            return
        self._open = False
        if not self._ended:
            self._loop.remove_reader(self._stream.fileno())
        if self._writing:
            self._loop.remove_writer(self._stream.fileno())
        for end in (self._stream, self._ids, self._ids_back):
            end.close()
