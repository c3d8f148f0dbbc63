"""What follows from a failed attempt. Pure: counters in, decision out.

Each number is a budget of *retries*: attempts = 1 + retries. The failure that is being decided is already counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from furu_async._plan.events import Cuts, NodeRules, Policy
from furu_async.report import Failure, FailureKind

# A verdict on the node itself. The other kinds tell of circumstances.
STANDING: frozenset[FailureKind] = frozenset({"compute", "protocol", "timeout", "oom", "killed"})

# What the store tells and `retry_failed=False` lets stay. An owner that went and left a node unfinished is among it:
# who wants no second try wants to look first. A stored `preempted`, `cancelled`, `inputs` or `infrastructure` never
# keeps a node from being computed.
STORED: frozenset[FailureKind] = STANDING | {"lost"}

# Planned ends in a row after which a node counts as too long for its spec. The first is followed by a worker's whole
# walltime, whose end is a `timeout`; this bounds it where no worker says so.
MOST_CUTS = 3

# Part of the usual backoff after which what was killed is tried again.
_KILLED = 0.25

# 2**30 seconds are enough for every backoff, and a float holds it.
_MOST_DOUBLINGS = 30

# A remainder this small (seconds) is rounding: it may be too small to move the clock at all.
_INSTANT = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What happened to a node so far in this run, the present failure included.

    Attributes:
        used: failures by kind.
        spec: index of the resource specification it ran with.
        trouble_secs: seconds since the first infrastructure trouble without success since.
        troubles: how many troubles in this time.
    """

    used: Mapping[FailureKind, int] = field(default_factory=dict)
    spec: int = 0
    trouble_secs: float = 0.0
    troubles: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """Run it again in ``delay`` seconds, with resource specification ``spec``."""

    delay: float
    spec: int


@dataclass(frozen=True, slots=True)
class Replan:
    """An input is missing: ask about all dependencies again, then run it."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The node has failed for good."""


@dataclass(frozen=True, slots=True)
class EndAll:
    """The run cannot go on, because of ``reason``; the node has failed."""

    reason: str


Decision = Again | Replan | GiveUp | EndAll


def backoff(first: float, longest: float, tries: int, jitter: float) -> float:
    """Seconds to wait before try number ``tries`` (from 1): doubling, bounded, and shortened by up to half."""
    return min(longest, first * 2.0 ** min(tries - 1, _MOST_DOUBLINGS)) * (1.0 - jitter / 2.0)


def compute_retries(policy: Policy, rules: NodeRules) -> int:
    """How many compute failures of this node are followed by another attempt."""
    if not policy.retry_failed:
        return 0
    return policy.compute_retries if rules.retries is None else rules.retries


def budget(kind: FailureKind, policy: Policy, rules: NodeRules) -> int | None:
    """How many failures of this kind are followed by another attempt; None: not a matter of counting."""
    match kind:
        case "compute":
            return compute_retries(policy, rules)
        case "inputs":
            return policy.inputs_retries
        case "killed":
            return policy.killed_retries
        case "lost":
            return policy.lost_retries
        case "preempted":
            return policy.preempt_max
        case "timeout" | "oom":
            return rules.specs - 1
        case "protocol" | "cancelled":
            return 0
        case _:  # infrastructure: a matter of time
            return None


def count(used: dict[FailureKind, int], cuts: Cuts, failure: Failure) -> tuple[Failure, Cuts]:
    """Count a failure in ``used``; the failure as it is to be judged, and how the node has fared with ends of walltime.

    A planned end of a worker costs nothing, nor does the end of a whole allocation in which the checkpoint has
    changed. Neither goes on for ever: after `MOST_CUTS` planned ends in a row it is a `timeout`.
    """
    kind = failure.kind
    saved = failure.checkpoint
    if kind == "preempted" and failure.planned:
        if cuts.row < MOST_CUTS:
            return failure, Cuts(cuts.free + 1, cuts.row + 1, cuts.checkpoint)
        text = f"{failure.message}; {cuts.row + 1} workers in a row had too little time left for it"
        failure = msgspec.structs.replace(failure, kind="timeout", message=text, planned=False)
    elif kind == "preempted" and saved and saved != cuts.checkpoint:
        return failure, Cuts(cuts.free + 1, 1, saved)
    used[failure.kind] = used.get(failure.kind, 0) + 1
    row = 0 if failure.kind in ("timeout", "oom") else cuts.row  # the next specification is tried afresh
    return failure, Cuts(cuts.free, row, cuts.checkpoint)


def exhausted(failure: Failure, used: Mapping[FailureKind, int], policy: Policy, rules: NodeRules) -> bool:
    """Whether this failure, which is counted in ``used``, was the node's last."""
    limit = budget(failure.kind, policy, rules)
    if limit is None:
        return False
    if failure.retryable is False:
        return True
    if failure.kind in ("timeout", "oom"):  # both move on in the same list of specifications
        return used.get("timeout", 0) + used.get("oom", 0) > limit
    return used.get(failure.kind, 0) > limit


def decide(
    failure: Failure, counters: Counters, policy: Policy, rules: NodeRules, jitter: float = 0.0
) -> Decision:
    """What to do after ``failure``; ``jitter`` in [0, 1) spreads the delays."""
    kind = failure.kind
    if kind == "protocol" and failure.run_wide:
        return EndAll(failure.line())
    if kind == "infrastructure":
        return after_trouble(failure, counters, policy, jitter)
    if exhausted(failure, counters.used, policy, rules):
        return GiveUp()
    if kind == "inputs":
        return Replan()
    if kind in ("timeout", "oom"):
        return Again(0.0, counters.spec + 1)
    if kind in ("lost", "preempted"):
        return Again(0.0, counters.spec)
    first = policy.backoff_base if rules.backoff is None else rules.backoff
    if kind == "killed" and rules.backoff is None:
        # Mostly it is the process that was hit, not the work: that is to run again within a second.
        first *= _KILLED
    return Again(backoff(first, policy.backoff_max, counters.used.get(kind, 1), jitter), counters.spec)


def after_trouble(failure: Failure, counters: Counters, policy: Policy, jitter: float) -> Again | EndAll:
    """Infrastructure trouble is waited out, with a last try when the time is over."""
    left = policy.infra_secs - counters.trouble_secs
    if left < _INSTANT:
        waited = f"infrastructure trouble for {counters.trouble_secs:.0f} s ({counters.troubles} tries)"
        return EndAll(f"{waited}: {failure.line()}")
    delay = backoff(policy.backoff_base, policy.backoff_max, counters.troubles, jitter)
    return Again(min(delay, left), counters.spec)
