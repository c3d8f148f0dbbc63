"""What Slurm's words mean: every job state, every reason of a waiting job, and what follows from a row.

Slurm prints one word for a job that may carry several flags, cuts it (``CANCELLED+``), adds to it
(``CANCELLED by 0``) or abbreviates it (``CA``). Each word of the versions 22.05 to 25 has a line here; a word that
has none is *no information*, never a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal

from furu_async.report import FailureKind

Phase = Literal["pending", "held", "starting", "running", "suspended", "ending", "requeued"]
How = Literal[
    "completed",
    "failed",
    "cancelled",
    "timeout",
    "oom",
    "preempted",
    "node_fail",
    "boot_fail",
    "deadline",
    "revoked",
    "launch_failed",
    "unknown",
]
ReasonKind = Literal["waiting", "limit", "held", "never", "dependency"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job does not start.

    Attributes:
        kind: ``waiting``: its turn will come; ``limit``: of the site or the account, ends when other jobs do; ``held``:
            until somebody releases it; ``never``: not as it was asked for; ``dependency``: a job it needs has failed.
        text: Slurm's word.
        advice: what to tell a person; empty where the word says it all.
        warn: it needs somebody's attention though it may still start.
    """

    kind: ReasonKind
    text: str
    advice: str = ""
    warn: bool = False


@dataclass(frozen=True, slots=True)
class Alive:
    """Slurm has the job and it has not ended.

    Attributes:
        phase: what it is doing; only ``running`` and ``ending`` have processes for sure.
        state: Slurm's word.
        reason: why it does not start, while it does not.
        restarts: how often Slurm has started it again, or -1 where that was not told.
        node: where it is, or empty.
    """

    phase: Phase
    state: str
    reason: Reason | None = None
    restarts: int = -1
    node: str = ""

    @property
    def idle(self) -> bool:
        """It waits in the queue, for the first time or again: no process is at it."""
        return self.phase in ("pending", "held", "requeued")


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is over. What it computed is another question: only the store answers that.

    Attributes:
        how: ``unknown``: Slurm does not know the job any more, and nobody can say how it ended.
        state: Slurm's word, or empty.
        exit_code, signal: of the job's script; None where not told.
        reason: Slurm's word for why.
    """

    how: How
    state: str = ""
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    restarts: int = -1
    node: str = ""

    @property
    def kind(self) -> FailureKind | None:
        """Which line of the failure taxonomy that is where the store has no result; None: the job's own record says.

        ``cancelled`` means by somebody else: who cancelled a job of ours knows that himself.
        """
        return KINDS[self.how]

    @property
    def by_dependency(self) -> bool:
        """Slurm cancelled it because a job that it needed has failed (``--kill-on-invalid-dep``)."""
        return self.how == "cancelled" and self.reason in ("Dependency", "DependencyNeverSatisfied")


@dataclass(frozen=True, slots=True)
class NoInformation:
    """Nobody can tell: neither ended nor running.

    Attributes:
        why: what was asked and what came back.
        silent: Slurm does not answer at all, so this holds for every job.
    """

    why: str
    silent: bool = False


Verdict = Alive | Ended | NoInformation

KINDS: dict[How, FailureKind | None] = {
    "completed": None,
    "failed": None,
    "cancelled": "cancelled",
    "timeout": "timeout",
    "oom": "oom",
    "preempted": "preempted",
    "node_fail": "lost",
    "boot_fail": "infrastructure",
    "deadline": "infrastructure",
    "revoked": "infrastructure",
    "launch_failed": "infrastructure",
    "unknown": "preempted",
}

ALIVE: dict[str, Phase] = {
    "PENDING": "pending",
    "CONFIGURING": "starting",
    "POWER_UP_NODE": "starting",
    "EXPEDITING": "pending",
    "RUNNING": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "UPDATE_DB": "running",
    "SUSPENDED": "suspended",
    "STOPPED": "suspended",
    "COMPLETING": "ending",
    "STAGE_OUT": "ending",
    "REQUEUED": "requeued",
    "REQUEUE_FED": "requeued",
    "REQUEUE_HOLD": "held",
    "RESV_DEL_HOLD": "held",
    "SPECIAL_EXIT": "held",
}
ENDED: dict[str, How] = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "TIMEOUT": "timeout",
    "OUT_OF_MEMORY": "oom",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node_fail",
    "BOOT_FAIL": "boot_fail",
    "DEADLINE": "deadline",
    "REVOKED": "revoked",
    "LAUNCH_FAILED": "launch_failed",
    "RECONFIG_FAIL": "launch_failed",
}
COMPACT: dict[str, str] = {
    "BF": "BOOT_FAIL",
    "CA": "CANCELLED",
    "CD": "COMPLETED",
    "CF": "CONFIGURING",
    "CG": "COMPLETING",
    "DL": "DEADLINE",
    "F": "FAILED",
    "NF": "NODE_FAIL",
    "OOM": "OUT_OF_MEMORY",
    "PD": "PENDING",
    "PR": "PREEMPTED",
    "R": "RUNNING",
    "RD": "RESV_DEL_HOLD",
    "RF": "REQUEUE_FED",
    "RH": "REQUEUE_HOLD",
    "RQ": "REQUEUED",
    "RS": "RESIZING",
    "RV": "REVOKED",
    "S": "SUSPENDED",
    "SE": "SPECIAL_EXIT",
    "SI": "SIGNALING",
    "SO": "STAGE_OUT",
    "ST": "STOPPED",
    "TO": "TIMEOUT",
}
_WORDS = (*ALIVE, *ENDED)

_HELD = "somebody has to release it: scontrol release <job>"
_NEVER = "it cannot start as it was asked for: change the SlurmSpec"
_DOWN = "it needs an administrator: see `sinfo -R`"

#: Patterns on the reason in lower case, without anything but letters and digits; the first that fits counts.
REASONS: tuple[tuple[str, ReasonKind, str, bool], ...] = (
    ("dependencyneversatisfied", "dependency", "a job that it needs has failed", True),
    ("jobheld*", "held", _HELD, True),
    ("jobholdmaxrequeue", "held", "it was requeued too often, and held", True),
    ("*held*", "held", _HELD, True),
    ("reservationdeleted", "held", "the reservation that it asked for was deleted", True),
    ("badconstraints", "never", _NEVER, True),
    ("invalidaccount", "never", "the account is not valid: see `sacctmgr show associations`", True),
    ("invalidqos", "never", "the QOS is not valid: see `sacctmgr show qos`", True),
    ("qosnotallowed", "never", "the QOS may not be used here", True),
    ("accountnotallowed", "never", "the account may not be used here", True),
    ("partitiontimelimit", "never", "the partition does not allow so much time: lower time_min", True),
    ("associationtimelimit", "never", "the account does not allow so much time: lower time_min", True),
    ("qostimelimit", "never", "the QOS does not allow so much time: lower time_min", True),
    (
        "assocmaxwalldurationperjoblimit",
        "never",
        "the account does not allow so much time: lower time_min",
        True,
    ),
    ("qosmaxwalldurationperjoblimit", "never", "the QOS does not allow so much time: lower time_min", True),
    ("assocmax*perjob*", "never", _NEVER, True),
    ("qosmax*perjob*", "never", _NEVER, True),
    ("assocmax*pernode*", "never", _NEVER, True),
    ("qosmax*pernode*", "never", _NEVER, True),
    ("maxmemperlimit", "never", "it asks for more memory than is allowed: lower mem_gb", True),
    ("qosmin*", "never", "the QOS wants larger jobs than this", True),
    ("deadline", "never", "it cannot end before its deadline", True),
    ("burstbufferoperation", "never", _NEVER, True),
    ("partitiondown*", "waiting", _DOWN, True),
    ("partitioninactive*", "waiting", _DOWN, True),
    ("partitionnodelimit*", "waiting", "the partition has too few nodes for it, or they are down", True),
    ("partitionconfig*", "waiting", "the partition's settings do not allow it at present", True),
    ("nodedown*", "waiting", _DOWN, True),
    ("reqnodenotavail*", "waiting", _DOWN, True),
    ("frontenddown*", "waiting", _DOWN, True),
    ("nodesrequiredforjobaredown*", "waiting", _DOWN, True),
    ("systemfailure", "waiting", _DOWN, True),
    ("joblaunchfailure", "waiting", "it could not be launched; see the end of its log", True),
    ("launchfailed*", "waiting", "it could not be launched; see the end of its log", True),
    ("qos*", "limit", "", False),
    ("assoc*", "limit", "", False),
    ("max*", "limit", "", False),
    ("accountingpolicy", "limit", "", False),
    ("jobarraytasklimit", "limit", "", False),
    ("licenses", "limit", "", False),
    ("reservation*", "waiting", "", False),
)
_ALNUM = re.compile(r"[^a-z0-9]+")
_NO_REASON = ("", "none", "null", "na", "waitingforscheduling", "unknown")


@lru_cache(maxsize=1024)
def state_word(text: str) -> str:
    """The state in a text such as ``CANCELLED by 0``, ``OUT_OF_ME+`` or ``PD``; empty if it is none that is known."""
    word = text.strip().upper().split(" ")[0].split(",")[0]
    if word in ALIVE or word in ENDED:
        return word
    if word in COMPACT:
        return COMPACT[word]
    if word.endswith("+"):
        begin = word.rstrip("+")
        if begin in ALIVE or begin in ENDED:
            return begin
        fits = [each for each in _WORDS if begin and each.startswith(begin)]
        return fits[0] if len(fits) == 1 else ""
    return ""


@lru_cache(maxsize=1024)
def reason_of(text: str) -> Reason | None:
    """What a reason such as ``QOSMaxJobsPerUserLimit`` means; None if Slurm names none yet."""
    plain = _ALNUM.sub("", text.lower())
    if plain in _NO_REASON:
        return None
    for pattern, kind, advice, warn in REASONS:
        if fnmatchcase(plain, pattern):
            return Reason(kind, text.strip(), advice, warn)
    return Reason("waiting", text.strip())


def judge(
    state: str,
    reason: str = "",
    *,
    exit_code: int | None = None,
    signal: int | None = None,
    restarts: int = -1,
    node: str = "",
) -> Verdict:
    """The verdict that one row about a job gives."""
    word = state_word(state)
    phase = ALIVE.get(word)
    if phase is not None:
        why = reason_of(reason) if phase in ("pending", "held", "requeued") else None
        if phase == "held" and (why is None or why.kind != "held"):
            why = Reason("held", reason.strip() or word, _HELD, True)
        if phase == "pending" and why is not None and why.kind == "held":
            phase = "held"
        return Alive(phase, word, why, restarts, node)
    how = ENDED.get(word)
    if how is not None:
        return Ended(how, word, exit_code, signal, reason.strip(), restarts, node)
    return NoInformation(f"Slurm gives the state {state.strip()[:40]!r}, which means nothing to this version")
