"""What the wiring of a DAG is made of: nodes, submissions of them, and what it asks the shell to do. Data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ItemPhase = Literal["todo", "unit", "done", "failed", "foreign", "forgotten"]
UnitPhase = Literal[
    "new", "claiming", "claimed", "checking", "submitting", "limited", "placed", "open", "over"
]


PART = 200
"""Nodes that one event puts into units, about; the rest is left to `Wiring.go_on`."""


@dataclass(slots=True, eq=False)
class Item:
    """One node.

    Attributes:
        parents: nodes that it needs and that had no result when the run was planned.
        spec, key: index of its specification, and that specification's key.
        phase: ``todo``: it needs a unit. ``unit``: it has one, or is about to be put into one. ``failed``: it waits for
            `Wiring.again` or `Wiring.forget`. ``foreign``: another run is at it.
        job: of a foreign one, its job in Slurm, if that is known.
    """

    hash: str
    parents: tuple[str, ...]
    spec: int
    key: str
    phase: ItemPhase = "todo"
    unit: Unit | None = None
    job: str = ""


@dataclass(slots=True, eq=False)
class Unit:
    """One submission.

    Attributes:
        nodes: in the order of the array's indices, once it is claimed.
        edges: parents that it was wired to, with their jobs.
        job: id that Slurm gave (of an array: of the whole).
        hold: it was submitted held.
        live: nodes whose job may still be in Slurm, or get there.
    """

    uid: int
    nodes: list[str]
    spec: int
    key: str
    phase: UnitPhase = "new"
    edges: dict[str, str] = field(default_factory=dict)
    job: str = ""
    hold: bool = False
    checked: bool = False
    live: set[str] = field(default_factory=set)

    def job_of(self, node: str) -> str:
        """The id of one node's job."""
        return f"{self.job}_{self.nodes.index(node)}" if self.job and len(self.nodes) > 1 else self.job


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim the nodes of these units; answer each with `Wiring.claimed`."""

    uids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """Are these parents, released long ago and given with their jobs, known to Slurm? Answer `Wiring.checked`."""

    uid: int
    parents: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit a unit; answer `Wiring.placed`, `Wiring.limited` (and later the other) or `Wiring.refused`.

    Its edges are those of the unit when ``sbatch`` is called: see `Wiring.edges`.
    """

    uid: int
    hold: bool


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take back a unit that Slurm does not take, because it is an array and too large; answer `Wiring.withdrawn`."""

    uid: int


@dataclass(frozen=True, slots=True)
class Verify:
    """See whether Slurm has all jobs of a wave, and release those that are held; answer `Wiring.verified`."""

    uids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """The job of a node is not wanted any more: end its claim, cancel it if it is in Slurm or gets there."""

    uid: int
    node: str


@dataclass(frozen=True, slots=True)
class Resolve:
    """The job of a node that another run was at has ended without a result, it seems: find out; `Wiring.foreign`."""

    node: str


@dataclass(frozen=True, slots=True)
class GoOn:
    """There is more to do than one event should: call `Wiring.go_on` when the loop has had its turn."""


Command = Claim | Check | Submit | Withdraw | Verify | Drop | Resolve | GoOn


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a cluster, or its user, allows.

    Attributes:
        jobs: that may be in Slurm at the same time.
        array: tasks of one array.
    """

    jobs: int = 10_000
    array: int = 100
