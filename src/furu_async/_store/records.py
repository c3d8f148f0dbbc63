"""Bytes <-> records: what the files of the store say.

Written strictly (`encode`), read tolerantly (`decode`): fields that this version does not know are ignored, missing
ones have defaults. Claims, ends and invalidations are never rewritten, only linked, so what a newer version put into
them stays there. Each carries ``v``; a record of a greater version is not guessed at.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from furu_async.errors import FuruStoreError
from furu_async.report import Failure

VERSION = 1

T = TypeVar("T", bound="Record")

NO_VALUE = msgspec.Raw()
"""In an `End` without a small result. This very object: only as a default it is left out, and empty it is no JSON."""


class Damaged(FuruStoreError):
    """A file of the store is torn, empty, foreign or of another kind than it should be.

    Attributes:
        newer: it was written by a newer version of the library, so it is not damaged at all but cannot be judged.
    """

    def __init__(self, path: str, reason: str, newer: bool = False) -> None:
        super().__init__(f"{path}: {reason}", "", path, reason)
        self.args = (path, reason, newer)
        self.newer = newer


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of everything in a file of its own."""

    v: int = VERSION


class Owner(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The process that stands behind a claim.

    Attributes:
        host: its node name.
        boot_id: the kernel's id of this boot, or empty.
        pid_ns: identity of its pid namespace, or empty.
        pid: its process id in that namespace.
        start_time: when it started, in clock ticks since boot (Linux), else microseconds since the epoch; 0 unknown.
        pgid: its process group.
        job_id: its Slurm job, or empty.
        restart_count: how often Slurm had restarted that job.
    """

    host: str = ""
    boot_id: str = ""
    pid_ns: str = ""
    pid: int = 0
    start_time: int = 0
    pgid: int = 0
    job_id: str = ""
    restart_count: int = 0


class Claim(Record, frozen=True, kw_only=True):
    """Who holds a generation. Many generations share one file: each claim is a link to its supervisor's card.

    Attributes:
        token: random, of the supervisor; who knows it owns the claim.
        backend: always written, so that no other record passes for a claim.
        beat: path of the owner's beat relative to the root; empty if it has none (a job queued in Slurm).
        claimed_by: for people.
    """

    token: str
    backend: Literal["local", "pool", "dag"]
    phase: Literal["running", "queued"] = "running"
    run_id: str = ""
    owner: Owner = Owner()
    beat: str = ""
    claimed_by: str = ""


class ManifestEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a result.

    Attributes:
        path: relative to ``attempts/<n>``, with ``/``.
        size: bytes.
        checksum: blake2b-128 in hexadecimal, or empty.
    """

    path: str
    size: int
    checksum: str = ""


class End(Record, frozen=True, kw_only=True):
    """How a generation ended.

    Attributes:
        generation: which; a link or copy elsewhere can be told by it.
        token: of whoever wrote it: the owner, or the taker that ended it as lost.
        hash: the artifact's hash; empty in the end of a run.
        manifest: the files of a success.
        result: how the value is stored, a kind of `results.save`; ``load`` if the class has ``_load``.
        value: the result itself, where ``result`` is ``inline``: a small one needs no file and no folder.
        metadata: provenance and whatever else people want to know.
        log_path: folder of the attempt's log, relative to the artifact's folder, or empty.
        started_at, ended_at: seconds since the epoch, for people.
        history: one short line per earlier attempt.
    """

    generation: int
    token: str
    status: Literal["success", "failure"]
    run_id: str = ""
    hash: str = ""
    failure: Failure | None = None
    manifest: list[ManifestEntry] = []
    result: str = ""
    value: msgspec.Raw = NO_VALUE
    metadata: dict[str, Any] = {}
    log_path: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    history: list[str] = []


class Invalidation(Record, frozen=True, kw_only=True):
    """Generation ``generation``'s result is not to be used any more."""

    generation: int
    run_id: str = ""
    why: str = ""
    at: float | None = None


class RunRecord(Record, frozen=True, kw_only=True):
    """``run.json``: what a run was asked to do.

    Attributes:
        key: identity of the call (targets, root, kind of executor): the same call continues an unfinished run.
        targets: hashes.
        state: whatever a controller that takes over needs to go on counting.
    """

    run_id: str
    key: str = ""
    executor: str = ""
    targets: list[str] = []
    names: list[str] = []
    created_at: float | None = None
    library: str = ""
    metadata: dict[str, Any] = {}


class ChildRecord(Record, frozen=True, kw_only=True):
    """``children/<pid>``: a process group that a supervisor started; enough to end it and nothing else."""

    pid: int
    start_time: int
    token: str = ""


_encoder = msgspec.json.Encoder()
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind, strict=False)
    for kind in (Claim, End, Invalidation, RunRecord, ChildRecord)
}


def encode(record: Record) -> bytes:
    """The record as one line of JSON."""
    return _encoder.encode(record)


def decode(cls: type[T], data: bytes, path: str) -> T:
    """The record in ``data``; ``path`` is for the message.

    Raises:
        Damaged: it is none, or of a version that this one does not know.
    """
    try:
        decoder = _decoders.get(cls)
        if decoder is None:
            decoder = _decoders[cls] = msgspec.json.Decoder(cls, strict=False)
        record: T = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(path, _reason(cls, data, error), _version(data) > VERSION) from None
    if record.v > VERSION:
        raise Damaged(path, _newer(record.v), True)
    return record


def _newer(version: int) -> str:
    return f"written in format {version} by a newer furu_async (this one reads up to {VERSION})"


def _reason(cls: type[Any], data: bytes, error: Exception) -> str:
    if not data:
        return "it is empty (a write was cut short, as by a power loss)"
    version = _version(data)
    if version > VERSION:
        return _newer(version)
    return f"not a record of kind {cls.__name__} ({error})"


def _version(data: bytes) -> int:
    class Versioned(msgspec.Struct):
        v: int = 0

    try:
        return msgspec.json.decode(data, type=Versioned).v
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0
