"""What a DAG's jobs and their controller tell each other on disk: orders, outcomes, and the settings of the run.

    runs/<run_id>/dag.json                          how a job finds the user's code, and the controller's settings
                  objects.jsonl                     the artifacts, see `_pool.objects_log`
                  submissions/<sid>/order           what a job, or each task of an array, has to compute
                                    outcome-<wid>   how that ended, as the job sees it, where it ended without a result
                                    cancel-<wid>    of an array: this job of it is to be cancelled, while others go on
                  workers/<wid>/...                 a job's beat, card and spools while it runs

``wid`` is ``<sid>-<k>`` for the first start of a node's job, and has ``-r<n>`` at its end for the n-th restart of it by
Slurm. It is the token of the job's claim, too. What decides are claims and ends of artifacts; a lost order costs that
its job ends without having done anything, and that another one is submitted.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from furu_async._plan.events import NodeRules, Policy
from furu_async._runtime import clock
from furu_async._store import atomic, submissions
from furu_async._store.layout import RunPaths, SubmissionPaths, check_id
from furu_async._store.records import Claim, Damaged, Record, decode, encode
from furu_async._store.submissions import Closed
from furu_async.report import Failure, FailureKind

IN_ITS_JOB: tuple[FailureKind, ...] = ("compute", "killed", "infrastructure")
"""Failures after which a job tries again by itself."""

_WID = re.compile(r"(?P<sid>[0-9a-f]{16})-(?P<k>[0-9]{1,9})(-r(?P<restart>[0-9]{1,9}))?\Z")


class OrderNode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node of an order.

    Attributes:
        wid: token of its claim, and name of its job's folder.
        generation: that was claimed for it.
        spec: index of its specification.
        attempt: number of the first attempt that the job makes, from 1.
        used: failures of this run by kind, before this job.
        history: one short line for each of them.
        inputs: names and hashes of what has to be there when it starts.
    """

    hash: str
    name: str
    wid: str
    generation: int
    spec: int = 0
    attempt: int = 1
    used: dict[FailureKind, int] = {}
    history: list[str] = []
    inputs: list[tuple[str, str]] = []


class Order(Record, frozen=True, kw_only=True):
    """``order``: the k-th task of an array has the k-th node."""

    run_id: str
    spec: int = 0
    spec_key: str = ""
    nodes: list[OrderNode] = []


class Outcome(Record, frozen=True, kw_only=True):
    """``outcome-<wid>``: the job has ended without a result.

    Attributes:
        failures: of its attempts, oldest first; the last one says why it ended.
        generations: of each of them the one that it had claimed; 0: none, or one that an earlier attempt had.
        final: the last one is not to be followed by another try, as far as the job can say.
        interrupted: it was told to end (SIGTERM): Slurm knows why.
    """

    hash: str
    generation: int
    failures: list[Failure] = []
    generations: list[int] = []
    final: bool = False
    interrupted: bool = False
    job_id: str = ""


class JobSettings(Record, frozen=True, kw_only=True):
    """``dag.json``.

    Attributes:
        config: fields of the controller's `FuruConfig`.
        path: its ``sys.path``.
        argv: its ``sys.argv``; modules may look at it while they are imported.
        policy: what the core goes by.
    """

    config: dict[str, Any]
    path: list[str]
    cwd: str
    argv: list[str]
    library: str
    policy: dict[str, Any] = {}


def settings_path(paths: RunPaths) -> str:
    """Of ``dag.json``."""
    return f"{paths.base}/dag.json"


def objects_path(paths: RunPaths) -> str:
    """Of ``objects.jsonl``."""
    return f"{paths.base}/objects.jsonl"


def order_path(paths: SubmissionPaths) -> str:
    """Of ``order``."""
    return f"{paths.base}/order"


def outcome_path(paths: SubmissionPaths, wid: str) -> str:
    """Of the outcome of one node's job."""
    return f"{paths.base}/outcome-{check_id(wid, 'worker id')}"


def cancel_path(paths: SubmissionPaths, wid: str) -> str:
    """Of the intent to cancel one node's job, by the name of its first start."""
    return f"{paths.base}/cancel-{check_id(wid, 'worker id')}"


def wid_of(sid: str, k: int, restarts: int = 0) -> str:
    """Name of the k-th node's job of a submission, and token of its claim."""
    return f"{sid}-{k}" + (f"-r{restarts}" if restarts else "")


def sid_of(wid: str) -> str:
    """The submission that a name belongs to, or empty."""
    match = _WID.match(wid)
    return match["sid"] if match else ""


def restarts_of(wid: str) -> int:
    """Which start of its job a name stands for, from 0."""
    match = _WID.match(wid)
    return int(match["restart"] or 0) if match else 0


def wid_of_claim(claim: Claim) -> str:
    """Which job a claim was made for, or by; empty if it is none of a DAG's."""
    return claim.token if claim.backend == "dag" and sid_of(claim.token) else ""


def first_wid(wid: str) -> str:
    """Name of the first start of the same job."""
    return wid.partition("-r")[0]


def give_up(paths: SubmissionPaths, wid: str, why: str) -> None:
    """Say that one job of an array is about to be cancelled, before it is.

    Raises:
        OSError: it is not known whether that was written.
    """
    record = Closed(intent="cancel", why=why, at=clock.wall())
    atomic.write_new_linked(cancel_path(paths, first_wid(wid)), encode(record), sync=True)


def is_given_up(paths: SubmissionPaths, wid: str) -> bool:
    """Whether nobody wants this job any more: it, or its whole submission.

    Raises:
        OSError: it cannot be told now.
    """
    return atomic.exists(cancel_path(paths, first_wid(wid))) or submissions.read(paths).closed is not None


def write_order(paths: SubmissionPaths, order: Order) -> None:
    """Write it before anything is submitted for it.

    Raises:
        OSError: it is not known whether it was written.
    """
    atomic.make_folders(paths.base)
    atomic.replace(order_path(paths), encode(order), sync=True)


def read_order(paths: SubmissionPaths) -> Order | None:
    """The order, or None if there is none that can be read.

    Raises:
        OSError: it cannot be read now.
    """
    path = order_path(paths)
    try:
        return decode(Order, atomic.read_bytes(path), path)
    except (Damaged, FileNotFoundError, NotADirectoryError):
        return None


def read_outcome(path: str) -> Outcome | None:
    """How a job says that it ended; None if it does not.

    Raises:
        OSError: it cannot be read now.
    """
    try:
        return decode(Outcome, atomic.read_bytes(path), path)
    except (Damaged, FileNotFoundError, NotADirectoryError):
        return None


def read_settings(paths: RunPaths) -> JobSettings | None:
    """The run's settings for its jobs; None if they cannot be read.

    Raises:
        OSError: not now.
    """
    path = settings_path(paths)
    try:
        return decode(JobSettings, atomic.read_bytes(path), path)
    except (Damaged, FileNotFoundError):
        return None


def policy_of(settings: JobSettings) -> Policy:
    """What the controller's core goes by."""
    return msgspec.convert(settings.policy, Policy)


def rules(retries: int | None, backoff: float | None) -> NodeRules:
    """What a job's own retries go by: another specification needs another job."""
    return NodeRules(retries=retries, backoff=backoff, specs=1)
