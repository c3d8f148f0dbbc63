"""Is this claim's owner alive, silent, or lost? Pure: what was seen and `now` in, a verdict out.

The observer never compares clocks of two hosts. It looks at a counter that the owner's keeper raises, and
measures on its own monotonic clock how long it has not seen that counter change. A first sighting starts the
clock, so nothing is stale at first sight. If the observer itself did not look for long (it slept, was stopped,
or its loop was blocked), what it did not see proves nothing, and it starts again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Liveness = Literal["waiting", "lost"]

_LOOKS = 3
"""A silence counts only if it was seen in at least this many looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRules:
    """Times in seconds, from the settings of the same names."""

    lease: float = 120.0
    grace: float = 90.0
    stale: float = 1800.0


@dataclass(slots=True)
class Observation:
    """What one observer has seen of one claim.

    Attributes:
        identity: which claim it is (generation and token); another one starts the observation again.
        counter: the beat as last seen; None if it was never seen.
        can_beat: the claim says where its beat is.
    """

    identity: str
    since: float
    last_look: float
    looks: int = 1
    counter: bytes | None = None
    can_beat: bool = True

    def restart(self, now: float) -> None:
        """Forget the silence measured so far."""
        self.since = now
        self.looks = 1
        self.last_look = now


def begin(identity: str, counter: bytes | None, can_beat: bool, now: float) -> Observation:
    """The first sight of a claim."""
    return Observation(identity, now, now, counter=counter, can_beat=can_beat)


def observe(seen: Observation, counter: bytes | None, now: float, rules: LeaseRules) -> Liveness:
    """One more look at the same claim.

    Args:
        counter: content of the beat file; None if it could not be read or is not there.
    """
    gap = now - seen.last_look
    if gap > limit(seen, rules) / 2:
        seen.restart(now)
        if counter is not None:
            seen.counter = counter
        return "waiting"
    seen.last_look = now
    if counter is not None and counter != seen.counter:
        seen.counter = counter
        seen.restart(now)
        return "waiting"
    seen.looks += 1
    silent = now - seen.since
    if silent >= limit(seen, rules) and seen.looks >= _LOOKS:
        return "lost"
    return "waiting"


def limit(seen: Observation, rules: LeaseRules) -> float:
    """How long this claim's owner may be silent, in seconds."""
    if not seen.can_beat:
        return rules.stale
    return rules.grace if seen.counter is None else rules.lease


def next_decision(seen: Observation, rules: LeaseRules) -> float:
    """When, on the observer's clock, the silence will be long enough if nothing changes."""
    return seen.since + limit(seen, rules)
