"""What can happen to a run, as the core is told. Frozen data.

``now`` is an argument of `advance`; a random number, where one is needed, arrives in an event. Events are msgspec
structs: seven times cheaper to make than frozen dataclasses, and a run's events can be written and read as JSON lines.

``ticket`` says which `Start` an event answers. An event with an old ticket comes from a superseded attempt and changes
nothing, but for a success. 0 means: the present one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from furu_async.report import Failure, FailureKind

NodeId = str

OnFailure = Literal["continue", "drain", "cancel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a run treats failures; times in seconds. The source of each number is the failure taxonomy in the docs.

    Attributes:
        hold_starts: start nothing before the plan is complete, because planning may still find a mistake in the DAG.
    """

    on_failure: OnFailure = "continue"
    max_failures: int | None = None
    retry_failed: bool = True
    compute_retries: int = 3
    inputs_retries: int = 3
    killed_retries: int = 3
    lost_retries: int = 3
    preempt_max: int = 5
    infra_secs: float = 900.0
    backoff_base: float = 1.0
    backoff_max: float = 60.0
    hold_starts: bool = False

    @property
    def plan_may_refuse(self) -> bool:
        """The plan has to be complete before anything starts."""
        return self.hold_starts or not self.retry_failed


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRules:
    """What a node's class says about itself, as far as the core needs it.

    Attributes:
        retries: the class's own number of compute retries, or None for the run's.
        backoff: the class's first delay in seconds, or None for the run's.
        specs: how many resource specifications it lists, in order of preference (at least 1).
    """

    retries: int | None = None
    backoff: float | None = None
    specs: int = 1


DEFAULT_RULES = NodeRules()


class Cuts(msgspec.Struct, frozen=True):
    """How a node fared with the ends of its workers' walltime.

    Attributes:
        free: attempts that were cut short and cost nothing of a budget.
        row: how often in a row, without a checkpoint that changed in between; then it wants a whole allocation.
        checkpoint: digest of what it had saved when it last met the end of a whole one.
    """

    free: int = 0
    row: int = 0
    checkpoint: str = ""


NO_CUTS = Cuts()


class Wanted(msgspec.Struct, frozen=True, tag=True):
    """These are targets of the run. Comes first; a long list comes in parts, all but the last saying ``more``."""

    nodes: tuple[NodeId, ...]
    more: bool = False


class Probed(msgspec.Struct, frozen=True, tag=True):
    """The store was asked about a node.

    ``valid``: published and usable. ``absent``: to be created. ``failed``: the newest end is a failure (kept in
    ``failure``; tried again or not by policy). ``busy``: a claim without an end, of somebody else. ``unknown``:
    infrastructure trouble; ``jitter`` in [0, 1) spreads the backoff then.
    ``deps`` and ``rules`` are given for every verdict but ``valid`` and ``unknown``: only then the core looks below.
    ``spent``: failures by kind that an earlier controller of this very run counted, ``last``, the last of them, and
    ``cuts``. They are heard once, when the core first looks below.
    """

    node: NodeId
    verdict: Literal["valid", "absent", "failed", "busy", "unknown"]
    deps: tuple[NodeId, ...] = ()
    rules: NodeRules = DEFAULT_RULES
    failure: Failure | None = None
    detail: str = ""
    jitter: float = 0.0
    spent: dict[FailureKind, int] = {}
    last: Failure | None = None
    cuts: Cuts = NO_CUTS


class Started(msgspec.Struct, frozen=True, tag=True):
    """An executor began the attempt that `Start` asked for (a process runs it now)."""

    node: NodeId
    ticket: int = 0


class Succeeded(msgspec.Struct, frozen=True, tag=True):
    """The success was *read back* from the store. ``created`` is False if somebody else published it."""

    node: NodeId
    created: bool = True
    ticket: int = 0


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The attempt ended without a result. ``jitter`` in [0, 1) spreads the backoff.

    It counts as an attempt, with or without a `Started` before it. ``failure.retryable`` False makes any kind but
    ``infrastructure`` final.
    """

    node: NodeId
    failure: Failure
    jitter: float = 0.0
    ticket: int = 0


class Elsewhere(msgspec.Struct, frozen=True, tag=True):
    """Instead of starting, the executor found a living claim of somebody else."""

    node: NodeId
    detail: str = ""
    ticket: int = 0


class WatchEnded(msgspec.Struct, frozen=True, tag=True):
    """The watcher of somebody else's claim has news.

    ``published``: their result is there. ``ended``: their attempt ended without one (``failure``). ``lost``: their
    owner is gone, the node can be claimed; with a ``failure`` if it left it unfinished. ``timeout``:
    FURU_MAX_WAIT_SECS is over, or, with a ``failure`` of kind ``infrastructure``, the store gave no information.
    """

    node: NodeId
    how: Literal["published", "ended", "lost", "timeout"]
    failure: Failure | None = None
    detail: str = ""


class TakenBack(msgspec.Struct, frozen=True, tag=True):
    """An attempt that had been asked for was returned before it began (drain, cancel, pool scale-down).

    Costs nothing: the node is started again, unless the run drains or stops. A worker that vanishes returns so what
    it had not begun; what ran on it is `Failed` with kind ``lost`` or ``preempted``.
    """

    node: NodeId
    ticket: int = 0


class Tick(msgspec.Struct, frozen=True, tag=True):
    """Time has passed; sent at or after `State.next_wakeup()`."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """The run is to end: by cancellation, by its timeout, or because of an error that concerns all of it."""

    why: Literal["cancel", "timeout", "error"] = "cancel"
    detail: str = ""


Event = Wanted | Probed | Started | Succeeded | Failed | Elsewhere | WatchEnded | TakenBack | Tick | Stop
