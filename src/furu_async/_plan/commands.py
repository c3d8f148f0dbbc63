"""What the core may ask the shell to do. Frozen data; the shell obeys and decides nothing."""

from __future__ import annotations

from typing import Literal

import msgspec

from furu_async._plan.events import NodeId
from furu_async.report import Failure, NodeStatus


class Probe(msgspec.Struct, frozen=True, tag=True):
    """Ask the store about this node; answer `Probed`.

    ``careful``: a dependent did not find the result, so a marker proves nothing: look at the files themselves.
    """

    node: NodeId
    careful: bool = False


class Start(msgspec.Struct, frozen=True, tag=True):
    """Run this node, when there is room; answer Started and then Succeeded | Failed, or Elsewhere, or TakenBack.

    Attributes:
        attempt: which attempt of this run it will be, from 1.
        priority: greater first: how many nodes stand above it on the longest path to a target.
        spec: index into the node's list of resource specifications.
        ticket: number of this `Start` among all of the node, from 1; its answers repeat it, so that a late answer to
            an earlier one is known.
        whole: it is to have a worker's whole walltime: what was left of one before was too short for it.

    Priorities are exact once the run is planned. What was asked for earlier keeps the number it was given: it may
    then be too small, which costs order, not correctness.
    """

    node: NodeId
    attempt: int
    priority: int
    spec: int = 0
    ticket: int = 0
    whole: bool = False


class TakeBack(msgspec.Struct, frozen=True, tag=True):
    """Return this node if its attempt has not begun (answer TakenBack); if it has, do nothing."""

    node: NodeId


class Kill(msgspec.Struct, frozen=True, tag=True):
    """End this node's attempt (it is queued or running); answer TakenBack, or its end, whatever that is.

    Where a `Start` of the same node follows, the new attempt begins when the killed one is gone.
    """

    node: NodeId


class Watch(msgspec.Struct, frozen=True, tag=True):
    """Somebody else holds the claim: watch it; answer `WatchEnded`."""

    node: NodeId


class Unwatch(msgspec.Struct, frozen=True, tag=True):
    """Stop watching."""

    node: NodeId


class Retrying(msgspec.Struct, frozen=True, tag=True):
    """For events and journal: the node goes on at ``at`` (monotonic seconds), because of ``failure``.

    ``attempt`` is the number its next attempt will have. Also sent when it is the store that gave trouble (kind
    ``infrastructure``) and when somebody else's attempt failed.
    """

    node: NodeId
    failure: Failure
    attempt: int
    at: float


class Ended(msgspec.Struct, frozen=True, tag=True):
    """For report, events and journal: the node is final.

    Comes again for a node whose result turned out to be gone when a dependent wanted it, and that was made anew: the
    last one counts.
    """

    node: NodeId
    status: NodeStatus
    failure: Failure | None = None
    because: Literal["", "dependency", "drain", "cancel"] = ""
    root: NodeId = ""


class Planned(msgspec.Struct, frozen=True, tag=True):
    """For progress: no probe is outstanding; the run's nodes are known (once)."""


class EndRun(msgspec.Struct, frozen=True, tag=True):
    """Every node is final; the last command of a run, once.

    Attributes:
        ok: every target is created or cached.
        why: empty unless the run was stopped: by a `Stop`, or (``error``) by what concerns all of it.
        detail: for people; for a refused run one line per node whose stored state is failed.
        cycle: nodes that depend on each other in a circle, if that is why.
    """

    ok: bool
    why: Literal["", "cancel", "timeout", "error"] = ""
    detail: str = ""
    cycle: tuple[NodeId, ...] = ()


Command = Probe | Start | TakeBack | Kill | Watch | Unwatch | Retrying | Ended | Planned | EndRun
