"""What the core knows of a run: its nodes, counters and timers, and the questions one may ask about them.

What may live here: data and questions. What changes it: `steps` and `machine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from typing import Literal

from furu_async._plan.events import DEFAULT_RULES, NO_CUTS, Cuts, NodeId, NodeRules, Policy
from furu_async._plan.states import ALLOWED, FIRST_FINAL, Phase
from furu_async.errors import FuruInternalError
from furu_async.report import Failure, FailureKind

# A story is the last 15 phases, four bits each, in one integer: 32 bytes a node instead of a list.
_STORY_MASK = (1 << 60) - 1
_MOST_LINES = 10

Mode = Literal["run", "drain", "stop"]
Why = Literal["", "cancel", "timeout", "error"]


class Trouble:
    """What only a node has that did not go smoothly; made when first needed.

    Attributes:
        used: failures of this run by kind, those that an earlier controller counted included.
        failure: the last failure of an attempt of this run.
        lines: short lines of what went wrong, oldest first, bounded.
        since: monotonic seconds of the first infrastructure trouble without success since, or None.
        troubles: how many troubles since then.
        wake: when the timer of a node in backoff is due, monotonic seconds.
        then: what it does then: `PROBING` or `READY`.
        was: the final phase of a node whose result is being looked for again, or None.
        detail: who has its claim.
        spent: what of ``used`` an earlier controller counted.
        cuts: how it fared with the ends of its workers' walltime.
    """

    __slots__ = (
        "cuts",
        "detail",
        "failure",
        "lines",
        "since",
        "spent",
        "then",
        "troubles",
        "used",
        "wake",
        "was",
    )

    def __init__(self) -> None:
        self.used: dict[FailureKind, int] = {}
        self.failure: Failure | None = None
        self.lines: list[str] = []
        self.since: float | None = None
        self.troubles: int = 0
        self.wake: float = 0.0
        self.then: Phase = Phase.READY
        self.was: Phase | None = None
        self.detail: str = ""
        self.spent: Mapping[FailureKind, int] = {}
        self.cuts: Cuts = NO_CUTS

    def note(self, line: str) -> None:
        """Remember a line of the node's story; the oldest but one goes first, since the first tells most."""
        if len(self.lines) >= _MOST_LINES:
            del self.lines[1]
        self.lines.append(line)


class Node:
    """One node of a run.

    Attributes:
        below: ids of its dependencies while they are not part of the run, else empty.
        deps: its dependencies, once they are part of the run.
        waiters: nodes that wait for this one now (and some that no longer do).
        waiting: how many dependencies it still waits for, in phase `WAITING`.
        level: length of the longest path of dependents up to a target.
        attempts: how many attempts of this run began.
        tickets: how many `Start` commands were given.
        spec: index of the resource specification to use.
        known: the store has told about it once.
        root: for a skipped node, the failed node it depends on.
    """

    __slots__ = (
        "attempts",
        "below",
        "deps",
        "id",
        "known",
        "level",
        "phase",
        "root",
        "rules",
        "spec",
        "story",
        "tickets",
        "trouble",
        "waiters",
        "waiting",
    )

    def __init__(self, node_id: NodeId, level: int) -> None:
        self.id: NodeId = node_id
        self.phase: Phase = Phase.UNKNOWN
        self.story: int = 0
        self.level: int = level
        self.below: tuple[NodeId, ...] = ()
        self.deps: tuple[Node, ...] | None = None
        self.waiters: list[Node] | None = None
        self.waiting: int = 0
        self.attempts: int = 0
        self.tickets: int = 0
        self.spec: int = 0
        self.rules: NodeRules = DEFAULT_RULES
        self.trouble: Trouble | None = None
        self.known: bool = False
        self.root: NodeId = ""

    def troubled(self) -> Trouble:
        """Its `Trouble`, made if there is none."""
        if self.trouble is None:
            self.trouble = Trouble()
        return self.trouble

    def tell(self) -> str:
        """Its story: the phases it went through, and what went wrong."""
        phases: list[str] = []
        story = self.story
        while story:
            phases.append(Phase(story & 15).name.lower())
            story >>= 4
        text = " -> ".join(reversed(phases)) or "unknown"
        facts = f"attempts begun: {self.attempts}, starts asked: {self.tickets}, waits for {self.waiting}"
        lines = "".join(f"\n  {line}" for line in (self.trouble.lines if self.trouble else ()))
        return f"{self.id}: {text} ({facts}){lines}"


class State:
    """One run. Changed by `advance` only."""

    __slots__ = (
        "by_phase",
        "cycle",
        "detail",
        "expecting",
        "failures",
        "finished",
        "held",
        "live",
        "mode",
        "nodes",
        "planned",
        "policy",
        "refused",
        "reopened",
        "targets",
        "timers",
        "unplanned",
        "wanted",
        "why_stopped",
    )

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy: Policy = policy or Policy()
        self.nodes: dict[NodeId, Node] = {}
        self.wanted: list[Node] = []  # targets so far
        self.expecting: bool = False  # more of them are to come
        self.targets: tuple[Node, ...] | None = None
        self.by_phase: list[int] = [0] * len(Phase)
        self.live: int = 0  # nodes that are not final
        self.unplanned: int = 0  # nodes of which the store has not told yet
        self.planned: bool = False
        self.reopened: bool = (
            False  # a final node was looked at again: dependencies are checked before each start
        )
        self.cycle: tuple[NodeId, ...] = ()
        self.held: list[Node] = []  # could start, but the plan may still refuse the run
        self.refused: list[Node] = []  # stored as failed, and the policy says that this stays
        self.failures: int = 0
        self.mode: Mode = "run"
        self.why_stopped: Why = ""
        self.detail: str = ""
        self.timers: list[tuple[float, NodeId]] = []
        self.finished: bool = False

    # -- questions ---------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Number of nodes by phase (name in lower case); adds up to the nodes of the run."""
        return {phase.name.lower(): self.by_phase[phase] for phase in Phase if phase is not Phase.UNKNOWN}

    def phase(self, node_id: NodeId) -> Phase:
        """Phase of a node; `UNKNOWN` also for what is not in the run."""
        node = self.nodes.get(node_id)
        return Phase.UNKNOWN if node is None else node.phase

    def attempts(self, node_id: NodeId) -> int:
        """How many attempts of this run began on a node."""
        node = self.nodes.get(node_id)
        return 0 if node is None else node.attempts

    def history(self, node_id: NodeId) -> tuple[str, ...]:
        """One short line per thing that went wrong with a node, oldest first, bounded."""
        node = self.nodes.get(node_id)
        return () if node is None or node.trouble is None else tuple(node.trouble.lines)

    def story(self, node_id: NodeId) -> str:
        """The last phases of a node and what went wrong, for an error message."""
        node = self.nodes.get(node_id)
        return f"{node_id}: not part of the run" if node is None else node.tell()

    def why(self, node_id: NodeId, now: float | None = None) -> str:
        """What a node waits for, in one line; with ``now`` also for how long."""
        node = self.nodes.get(node_id)
        if node is None:
            return "not part of the run"
        trouble = node.trouble
        match node.phase:
            case Phase.PROBING:
                return "waits for the store to tell about its result"
            case Phase.WAITING:
                return self._why_waiting(node)
            case Phase.READY:
                return "waits for a free worker"
            case Phase.RUNNING:
                return f"runs (attempt {node.attempts})"
            case Phase.ELSEWHERE:
                owner = f": {trouble.detail}" if trouble and trouble.detail else ""
                return f"is computed elsewhere{owner}"
            case Phase.BACKOFF:
                assert trouble is not None
                left = "later" if now is None else f"in {max(0.0, trouble.wake - now):.0f} s"
                return f"goes on {left}, after {trouble.lines[-1]}"
            case _:
                return f"is final: {node.phase.name.lower()}"

    def _why_waiting(self, node: Node) -> str:
        missing = [dep for dep in node.deps or () if dep.phase not in (Phase.CREATED, Phase.CACHED)]
        if not missing:
            return "waits for the plan to be complete: it may still refuse the run"
        first = ", ".join(f"{dep.id[:12]} ({dep.phase.name.lower()})" for dep in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return f"waits for {len(missing)} of {len(node.deps or ())} dependencies: {first}{more}"

    def next_wakeup(self) -> float | None:
        """When the next `Tick` is due (monotonic seconds), or None."""
        if self.finished:
            return None
        while self.timers:
            at, node_id = self.timers[0]
            if self.is_due(at, self.nodes[node_id]):
                return at
            heappop(self.timers)  # its node is no longer in backoff, or is again and has another time
        return None

    # -- bookkeeping for `steps` and `machine` -----------------------------------------------------

    @staticmethod
    def is_due(at: float, node: Node) -> bool:
        """Whether a timer still means something."""
        return node.phase is Phase.BACKOFF and node.trouble is not None and node.trouble.wake == at

    def move(self, node: Node, phase: Phase) -> None:
        """Change a node's phase.

        Raises:
            FuruInternalError: the table has no such transition; nothing is changed then.
        """
        old = node.phase
        if not ALLOWED[old] >> phase & 1:
            step = f"{old.name.lower()} -> {phase.name.lower()}"
            raise FuruInternalError(
                f"illegal transition {step}; the node's story: {node.tell()}",
                "this is a bug in furu_async; please report it with this text",
            )
        counts = self.by_phase
        counts[old] -= 1
        counts[phase] += 1
        node.phase = phase
        node.story = (node.story << 4 | phase) & _STORY_MASK

    def close(self, node: Node, phase: Phase) -> None:
        """Change a node's phase to a final one."""
        self.move(node, phase)
        self.live -= 1
        if not node.known:
            node.known = True
            self.unplanned -= 1

    def set_timer(self, node: Node, at: float, then: Phase) -> None:
        """Put a node into backoff until ``at``."""
        self.move(node, Phase.BACKOFF)
        trouble = node.troubled()
        trouble.wake = at
        trouble.then = then
        heappush(self.timers, (at, node.id))

    def take_due(self, now: float) -> Iterable[Node]:
        """Nodes whose timers are due, each once; the caller moves each before it asks for the next."""
        while self.timers and self.timers[0][0] <= now:
            at, node_id = heappop(self.timers)
            node = self.nodes[node_id]
            if self.is_due(at, node):
                yield node

    def unfinished(self) -> list[Node]:
        """All nodes that are not final; O(nodes), for the rare moments when a run stops."""
        return [node for node in self.nodes.values() if node.phase < FIRST_FINAL]
