"""Watches a pool's controller: a worker without one ends.

The controller beats; its newest claim of the home run says where. What counts is how long a change of that beat was
not seen on this worker's own clock (`_plan.leases`), so that a controller which is slow, or a worker that was itself
stopped, ends nothing. Another controller that goes on with the run begins a new observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from furu_async._plan import leases
from furu_async._plan.leases import LeaseRules, Observation
from furu_async._store import runs
from furu_async._store.beat import see_beat
from furu_async._store.layout import RunPaths
from furu_async._store.records import Claim

State = Literal["there", "silent", "over"]

_MOST_SECS = 5.0


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one look at the home run has shown.

    Attributes:
        how: how the run ended, where it is over.
    """

    verdict: runs.RunVerdict
    identity: str = ""
    beat: bytes | None = None
    can_beat: bool = True
    how: str = ""


def look(root: str, home: str) -> Sighting:
    """Look at the home run; blocks.

    Raises:
        OSError: the file system does not answer.
    """
    paths = RunPaths(root, home)
    seen = runs.look_run(paths)
    if seen.verdict == "over":
        return Sighting("over", how=runs.how_ended(paths, seen.generation))
    if seen.verdict != "held":
        return Sighting(seen.verdict)
    claim: Claim | None = seen.claim
    token, beat = ("", "") if claim is None else (claim.token, claim.beat)
    return Sighting("held", f"{seen.generation}.{token}", see_beat(root, beat), bool(beat))


class Guardian:
    """See the module; decides, and touches nothing.

    Attributes:
        state: ``there``; ``silent``: no sign of life for a lease; ``over``: the run has ended.
        how: in what way it has.
    """

    def __init__(self, rules: LeaseRules) -> None:
        self.state: State = "there"
        self.how: str = ""
        self._rules = rules
        self._seen: Observation | None = None
        self._held = False

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return min(self._rules.lease / 8, self._rules.grace / 8, _MOST_SECS)

    def see(self, sighting: Sighting, now: float) -> State:
        """One more look."""
        if sighting.verdict == "over" or (sighting.verdict == "missing" and self._held):
            self.state, self.how = "over", sighting.how
            return self.state
        self._held = self._held or sighting.verdict == "held"
        seen = self._seen
        if seen is None or (sighting.identity and seen.identity != sighting.identity):
            self._seen = leases.begin(sighting.identity, sighting.beat, sighting.can_beat, now)
            self.state = "there"
            return self.state
        verdict = leases.observe(seen, sighting.beat, now, self._rules)
        if verdict == "lost":
            self.state = "silent"
        elif seen.looks == 1:  # it has changed since
            self.state = "there"
        return self.state
