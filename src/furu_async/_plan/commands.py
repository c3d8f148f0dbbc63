"""What the core may ask the shell to do. Frozen data; the shell obeys and decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from furu_async._plan.events import NodeId
from furu_async.report import Failure, NodeStatus


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the store about this node; answer `Probed`."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Start:
    """Run this node, when there is room; answer Started and then Succeeded | Failed, or Elsewhere, or TakenBack.

    Attributes:
        attempt: which attempt of this run it will be, from 1.
        priority: greater first: how many nodes stand above it on the longest path to a target.
        spec: index into the node's list of resource specifications.
    """

    node: NodeId
    attempt: int
    priority: int
    spec: int = 0


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Return this node if its attempt has not begun (answer TakenBack); if it has, do nothing."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Kill:
    """End this node's attempt (it is queued or running); answer TakenBack, or its end, whatever that is."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Watch:
    """Somebody else holds the claim: watch it; answer `WatchEnded`."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Unwatch:
    """Stop watching."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Retrying:
    """For events and journal: the node will run again at ``at`` (monotonic seconds), because of ``failure``."""

    node: NodeId
    failure: Failure
    attempt: int
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """For report, events and journal: the node is final."""

    node: NodeId
    status: NodeStatus
    failure: Failure | None = None
    because: Literal["", "dependency", "drain", "cancel"] = ""
    root: NodeId = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """For progress: no probe is outstanding; the run's nodes are known (once)."""


@dataclass(frozen=True, slots=True)
class EndRun:
    """Every node is final. ``why`` is empty unless the run was stopped."""

    ok: bool
    why: Literal["", "cancel", "timeout", "error"] = ""
    detail: str = ""


Command = Probe | Start | TakeBack | Kill | Watch | Unwatch | Retrying | Ended | Planned | EndRun
