"""What is true of every run after every event. For tests and for hunting bugs: O(nodes + edges) a call.

Each check has a sentence, and a violation is a `FuruInternalError` with that sentence and the node's story.
"""

from __future__ import annotations

from furu_async._plan.retry import budget
from furu_async._plan.state import Node, State
from furu_async._plan.states import FIRST_BLOCKING, FIRST_FINAL, Phase
from furu_async.errors import FuruInternalError

_DONE = (Phase.CREATED, Phase.CACHED)
_EXECUTED = (Phase.READY, Phase.RUNNING)


def check_invariants(state: State) -> None:
    """Check a run between two events.

    Raises:
        FuruInternalError: something that is always true is not.
    """
    nodes = list(state.nodes.values())
    by_phase = [0] * len(Phase)
    for node in nodes:
        by_phase[node.phase] += 1
    _demand(by_phase == state.by_phase, "the counters add up to the nodes")
    _demand(by_phase[Phase.UNKNOWN] == 0, "every node of the run has been asked about")
    _demand(state.live == sum(by_phase[:FIRST_FINAL]), "the unfinished nodes are counted")
    _demand(state.unplanned == sum(not node.known for node in nodes), "the nodes still unknown are counted")
    over = state.targets is not None or (state.mode == "stop" and not state.expecting)
    _demand(state.finished == (over and state.live == 0), "a run is finished when every node is final")
    timers = set(state.timers)
    held = set(state.held)
    for node in nodes:
        _check_counters(state, node)
        if node.phase < FIRST_FINAL:
            _check_unfinished(state, node, timers, held)
        else:
            _check_final(state, node)


def _demand(truth: bool, sentence: str, node: Node | None = None) -> None:
    if not truth:
        story = f"; the node's story: {node.tell()}" if node is not None else ""
        raise FuruInternalError(f"broken invariant: {sentence}{story}")


def _check_counters(state: State, node: Node) -> None:
    _demand(node.story & 15 == node.phase, "a story ends with the present phase", node)
    _demand(node.spec < node.rules.specs, "a node has the specification it is to run with", node)
    used = node.trouble.used if node.trouble is not None else {}
    free = node.trouble.cuts.free if node.trouble is not None else 0
    _demand(
        node.attempts <= 1 + sum(used.values()) + free, "attempts are one more than failures at most", node
    )
    spent = node.trouble.spent if node.trouble is not None else {}
    for kind, failures in used.items():
        limit = budget(kind, state.policy, node.rules)
        if limit is not None:
            # What an earlier controller counted is what it is; after it at most one more than the budget leaves.
            most = max(limit, spent.get(kind, 0)) + 1
            _demand(failures <= most, f"no more attempts than the budget of {kind}", node)


def _check_unfinished(state: State, node: Node, timers: set[tuple[float, str]], held: set[Node]) -> None:
    """Every unfinished node has a reason to become finished."""
    phase, trouble, deps = node.phase, node.trouble, node.deps or ()
    if state.mode != "run":
        _demand(phase in _EXECUTED, "a run that drains or stops waits for its own work only", node)
    if not node.known:
        _demand(phase in (Phase.PROBING, Phase.BACKOFF), "nothing is done with an unknown node", node)
    if phase is Phase.BACKOFF:
        on = trouble is not None and (trouble.wake, node.id) in timers
        _demand(on, "a node in backoff has a timer", node)
    missing = [dep for dep in deps if dep.phase not in _DONE]
    if phase is Phase.WAITING:
        waits = any(node in (dep.waiters or ()) for dep in missing)
        _demand(waits or node in held, "a waiting node waits for somebody who will tell it", node)
    if phase in _EXECUTED:
        _demand(node.deps is not None, "what is started has been looked below", node)
        _demand(
            state.planned or not state.policy.plan_may_refuse, "nothing starts that the plan may refuse", node
        )
    if state.reopened:
        return  # then dependencies are checked before each start, and not kept true in between
    _demand(
        all(dep.phase < FIRST_BLOCKING for dep in missing),
        "no unfinished node has a blocking dependency",
        node,
    )
    if phase is Phase.WAITING:
        _demand(node.waiting == len(missing), "a node waits for what is missing, and nothing else", node)
    if phase in _EXECUTED:
        _demand(not missing, "a node starts only when all its dependencies are done", node)


def _check_final(state: State, node: Node) -> None:
    phase = node.phase
    if phase is Phase.SKIPPED and node.root:
        root = state.nodes.get(node.root)
        _demand(
            root is not None and root.phase is Phase.FAILED, "a node is skipped because of a failed one", node
        )
    elif phase in (Phase.SKIPPED, Phase.CANCELLED):
        _demand(state.mode != "run", "nothing is put aside while the run goes on", node)
