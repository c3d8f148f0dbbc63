"""How many workers there are to be: a pure function from what is known to what is to be submitted or cancelled.

A spec needs as many workers as its tasks fill, up to its limit, and all specs together up to the pool's. Workers that
are on their way count as workers; those that end do not, but until Slurm says that they are gone they take their
place in the total. A worker that has nothing to do ends by itself after a while; it is cancelled earlier only where
another spec's tasks want its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

WorkerPhase = Literal["pending", "starting", "idle", "working", "ending"]


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker, as far as sizing goes.

    Attributes:
        phase: ``pending``: no process yet; ``ending``: takes nothing more, and Slurm still has it.
    """

    wid: str
    spec_key: str
    phase: WorkerPhase


@dataclass(frozen=True, slots=True)
class SpecView:
    """One spec that tasks wait for.

    Attributes:
        key: of the spec.
        queued: tasks that no worker has taken.
        running: tasks that a worker has.
        limit: workers that it may have.
        open: False: nothing is submitted for it (stopped by the breaker, rejected, a submission that waits).
    """

    key: str
    queued: int
    running: int
    limit: int
    open: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """What is known.

    Attributes:
        slots: tasks that a worker runs at the same time.
        total: workers that there may be; None: any number.
    """

    specs: Sequence[SpecView]
    workers: Sequence[WorkerView]
    slots: int = 1
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit so many workers for a spec."""

    spec_key: str
    count: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel these workers: their places are wanted for other specs."""

    wids: tuple[str, ...]


Step = Submit | Cancel


def needed(spec: SpecView, slots: int) -> int:
    """How many workers the tasks of a spec fill, within its limit."""
    return min(spec.limit, -(-(spec.queued + spec.running) // slots))


def decide(view: View) -> list[Step]:
    """What to do now. Submissions of one spec are one step; cancellations, if any, come last."""
    alive: dict[str, list[WorkerView]] = {}
    for worker in view.workers:
        if worker.phase != "ending":
            alive.setdefault(worker.spec_key, []).append(worker)
    lacking = {
        spec.key: missing
        for spec in view.specs
        if spec.open
        and spec.queued
        and (missing := needed(spec, view.slots) - len(alive.get(spec.key, ()))) > 0
    }
    room = sum(lacking.values()) if view.total is None else max(0, view.total - len(view.workers))
    given = _share(lacking, room)
    steps: list[Step] = [Submit(key, count) for key, count in given.items() if count]
    short = sum(lacking.values()) - sum(given.values())
    # What is about to end makes room by itself.
    short -= sum(worker.phase == "ending" for worker in view.workers)
    if short > 0:
        spare = _spare(view, alive)[:short]
        if spare:
            steps.append(Cancel(tuple(spare)))
    return steps


def _share(lacking: dict[str, int], room: int) -> dict[str, int]:
    """Places for specs, one each in turn, so that none waits for all of another."""
    given = dict.fromkeys(lacking, 0)
    left = dict(lacking)
    while room > 0 and any(left.values()):
        for key, missing in left.items():
            if missing and room > 0:
                given[key] += 1
                left[key] -= 1
                room -= 1
    return given


def _spare(view: View, alive: dict[str, list[WorkerView]]) -> list[str]:
    """Workers that the tasks of their spec do not need, those without a process first."""
    specs = {spec.key: spec for spec in view.specs}
    found: list[WorkerView] = []
    for key, workers in alive.items():
        spec = specs.get(key)
        surplus = len(workers) - (needed(spec, view.slots) if spec is not None else 0)
        unused = [worker for worker in workers if worker.phase in ("pending", "idle")]
        unused.sort(key=lambda worker: worker.phase != "pending")
        found += unused[: max(0, surplus)]
    found.sort(key=lambda worker: worker.phase != "pending")
    return [worker.wid for worker in found]
