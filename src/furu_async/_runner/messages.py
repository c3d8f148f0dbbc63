"""What a supervisor and its child tell each other: message types and their framing on the stream socket.

A frame is a 4-byte big-endian length and a msgpack list of messages, so several messages share one system
call. Nothing here is stored: both ends are always the same version of the library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from furu_async._model.table import Entry
from furu_async._store.records import ManifestEntry
from furu_async.report import Failure

ID_BYTES = 8
_HEAD = 4


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=1):
    """One attempt to run.

    Attributes:
        id: names the task between this supervisor and its children; never used twice.
        hash, name: the artifact's ``furu_hash`` and the name of its class in the store.
        generation: of the claim under which it runs.
        root: the store's root.
        directory: the attempt's own folder, made by whoever runs the attempt.
        checkpoint: folder that outlives the attempt, or None.
        entries: what this child does not have yet of the artifact's table, dependencies first (`entries_for`).
        time_limit: seconds, for the record; the dispatcher enforces it.
        power: ``auto`` (sync files of attempts that took a second or longer), ``process`` (never), ``power`` (always).
        action: ``create``; or ``validate`` a published result (``validate-files``: its files too), which answers with
            the verdict as ``value`` and makes nothing.
        fresh: the child is to be replaced afterwards, whatever it left behind.
    """

    id: int
    hash: str
    name: str
    generation: int
    root: str
    directory: str
    checkpoint: str | None = None
    entries: list[Entry] = []
    time_limit: float | None = None
    power: str = "auto"
    fresh: bool = False
    action: str = "create"


class TaskBegun(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The child has taken a task; from now on it cannot be taken back.

    Attributes:
        spool: which pair of spool files receives its output.
    """

    id: int
    spool: int


class TaskResult(msgspec.Struct, kw_only=True, array_like=True, tag=3):
    """How one attempt ended. Nothing is published by it: that is the dispatcher's next step.

    Attributes:
        ok: ``_create`` returned, its result is stored in the attempt's folder and validates.
        result: kind of the stored result, as `results.save` named it; ``load`` where the class has ``_load``.
        value: a small result itself, as JSON, where ``result`` is ``inline``.
        manifest: the folder's files, without the logs.
        failure: set if not ``ok``.
        started_at: wall time, for records.
        duration: seconds on the monotonic clock.
        dirty: something was left behind that only the end of the child's process group removes.
        why_dirty: what it was, for people.
        rss_mb: resident memory of the child after the attempt.
        logged: the folder holds ``log``, ``stdout`` or ``stderr``.
    """

    id: int
    ok: bool
    result: str = ""
    manifest: list[ManifestEntry] = []
    failure: Failure | None = None
    started_at: float = 0.0
    duration: float = 0.0
    dirty: bool = False
    why_dirty: str = ""
    rss_mb: float = 0.0
    logged: bool = False
    value: bytes = b""


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The child has imported what the harness needs and takes tasks."""

    pid: int


class Hello(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=5):
    """First message to a child: what must not stand in its command line.

    Attributes:
        argv: the caller's ``sys.argv``; modules may look at it while they are imported.
        spool_base: spool files are ``<spool_base>.<k>.out`` and ``.err``.
        worker: name in log lines.
        log_level: name of a `logging` level.
    """

    argv: list[str]
    spool_base: str
    worker: str
    log_level: str = "INFO"


class Forget(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """These tasks were taken back: drop their bodies (their table entries stay)."""

    ids: list[int]


ToChild = TaskSpec | Hello | Forget
ToSupervisor = TaskBegun | TaskResult | Ready

_encoder = msgspec.msgpack.Encoder()
to_child_decoder = msgspec.msgpack.Decoder(list[ToChild])
to_supervisor_decoder = msgspec.msgpack.Decoder(list[ToSupervisor])


def frame(messages: Sequence[ToChild | ToSupervisor]) -> bytes:
    """Encode messages as one frame."""
    body = _encoder.encode(messages)
    return len(body).to_bytes(_HEAD, "big") + body


class FrameBuffer:
    """Collects bytes from a stream and gives whole frames back."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        self._data += data

    def payloads(self) -> Iterator[bytes]:
        """Take out the payload of every complete frame, in order."""
        data, at = self._data, 0
        try:
            while len(data) - at >= _HEAD:
                end = at + _HEAD + int.from_bytes(data[at : at + _HEAD], "big")
                if len(data) < end:
                    break
                payload = bytes(data[at + _HEAD : end])
                at = end
                yield payload
        finally:
            del data[:at]
