"""How the jobs of a DAG are, in a sentence for people, and why some do not start, once for each reason."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from furu_async._dag.tracks import Core, Track
from furu_async._slurm.tracking import reason_to_wait

MOST_NODES = 6
MOST_REASONS = 3

TOGETHER_SECS = 0.1
"""After a change, before it is told."""

_ORDER = ("running", "ending", "suspended", "starting", "requeued", "pending", "held", "submitted")


class Telling:
    """Tells a run about its jobs, after each look at Slurm that has changed something.

    Args:
        note: takes what a person should read.
    """

    def __init__(self, core: Core, note: Callable[[str], None]) -> None:
        self._core = core
        self._note = note
        self._told: set[str] = set()
        self._due: asyncio.Handle | None = None

    def soon(self) -> None:
        """Something has changed; what changes with it, in the same look, is told together.

        A look at Slurm is gone through in parts, and each telling goes through all jobs.
        """
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(TOGETHER_SECS, self._tell)

    def close(self) -> None:
        """Tell nothing more."""
        if self._due is not None:
            self._due.cancel()

    def _tell(self) -> None:
        self._due = None
        jobs = [track for track in self._core.tracks.values() if _has_job(track)]
        self._core.run.workers(Counter(_state(track) for track in jobs), sentence(jobs))
        warnings, self._told = warn(jobs, self._told)
        for text in warnings:
            self._note(text)


def sentence(jobs: Sequence[Track]) -> str:
    """``66 jobs: 12 running on n1, n2; 40 pending (Dependency); 3 held``; empty without jobs."""
    by_state: dict[str, list[Track]] = {}
    for track in jobs:
        by_state.setdefault(_state(track), []).append(track)
    parts = []
    for state in _ORDER:
        some = by_state.get(state, [])
        if not some:
            continue
        reasons = Counter(_reason(track) for track in some).most_common()
        if state == "pending":
            parts += [_part(number, state, reason) for reason, number in reasons[:MOST_REASONS]]
            if rest := sum(number for _, number in reasons[MOST_REASONS:]):
                parts.append(f"{rest} pending for other reasons")
            continue
        nodes = sorted({track.alive.node for track in some if track.alive is not None and track.alive.node})
        more = " …" if len(nodes) > MOST_NODES else ""
        where = f" on {', '.join(nodes[:MOST_NODES])}{more}" if nodes and state != "held" else ""
        parts.append(f"{len(some)} {state}{where}")
    return f"{_jobs(len(jobs))}: {'; '.join(parts)}" if parts else ""


def warn(jobs: Iterable[Track], told: set[str]) -> tuple[list[str], set[str]]:
    """Notes about jobs that need somebody's attention, one for each reason that was not told yet.

    Returns:
        The notes, and the reasons that are known now; one that has passed is told again when it comes back.
    """
    by_reason: dict[str, list[Track]] = {}
    for track in jobs:
        if track.alive is not None and track.alive.reason is not None and track.alive.reason.warn:
            by_reason.setdefault(track.alive.reason.text, []).append(track)
    notes = []
    for reason, some in by_reason.items():
        if reason in told:
            continue
        one = some[0]
        why, which = reason_to_wait(one.alive), f"job {one.job_id} of {one.node.name}"
        notes.append(
            f"{_jobs(len(some))} cannot start: {why}; for example {which}"
            if len(some) > 1
            else f"{which}: {why}"
        )
    return notes, set(by_reason)


def _has_job(track: Track) -> bool:
    return bool(track.uid and track.job_id) and not track.over and track.ended is None


def _state(track: Track) -> str:
    return track.alive.phase if track.alive is not None else "submitted"


def _reason(track: Track) -> str:
    return track.alive.reason.text if track.alive is not None and track.alive.reason is not None else ""


def _part(number: int, state: str, reason: str) -> str:
    return f"{number} {state} ({reason})" if reason else f"{number} {state}"


def _jobs(number: int) -> str:
    return f"{number:,} job{'s' if number > 1 else ''}"
