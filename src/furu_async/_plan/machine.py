"""What to do next: `advance(state, event, now) -> commands`.

No await, no clock, no path, no randomness. Work per event is bounded by the edges of the node it is about; only the
end of planning and the end of a run look at all nodes, once.

An event that can't be about the present (late, repeated, about a node that is final or unknown) changes nothing.
Only a success is always taken, while its node is not final: it was read back from the store, so it is true whatever
else is said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from furu_async._plan.commands import Command, EndRun, Kill, Planned, Probe, Retrying, Unwatch, Watch
from furu_async._plan.events import (
    Elsewhere,
    Event,
    Failed,
    Probed,
    Started,
    Stop,
    Succeeded,
    TakenBack,
    Tick,
    Wanted,
    WatchEnded,
)
from furu_async._plan.levels import find_cycle, set_levels
from furu_async._plan.retry import (
    STANDING,
    STORED,
    Again,
    Counters,
    EndAll,
    GiveUp,
    Replan,
    after_trouble,
    count,
    decide,
)
from furu_async._plan.state import Node, State
from furu_async._plan.states import FIRST_FINAL, Phase
from furu_async._plan.steps import (
    Commands,
    admit,
    again,
    begin,
    end_all,
    fail,
    is_gone_too_often,
    launch,
    put_aside,
    recall,
    refuse,
    replan,
    restore_final,
    stop,
    succeed,
    wake_waiters,
)
from furu_async.report import Failure

__all__ = ["State", "advance"]

_PROBING = Phase.PROBING
_WAITING = Phase.WAITING
_READY = Phase.READY
_RUNNING = Phase.RUNNING
_ELSEWHERE = Phase.ELSEWHERE


def advance(state: State, event: Event, now: float) -> list[Command]:
    """Take in what happened at ``now`` (monotonic seconds) and say what to do.

    After `EndRun` every event is answered with an empty list.

    Raises:
        FuruInternalError: a bug of ours; the error has the node's story.
    """
    out: Commands = []
    if state.finished:
        return out
    _HANDLERS[type(event)](state, event, now, out)
    if not state.unplanned and not state.planned:
        _planning_is_over(state, out)
    if not state.live:
        _finish(state, out)
    elif state.by_phase[_WAITING] == state.live and state.targets is not None:
        _nothing_moves(state, out)
    return out


# -- planning --------------------------------------------------------------------------------------


def _wanted(state: State, event: Wanted, now: float, out: Commands) -> None:
    if state.targets is not None:
        return
    for node_id in event.nodes:  # one may be known already, as a dependency of an earlier part
        state.wanted.append(state.nodes.get(node_id) or admit(state, node_id, 0, out))
    state.expecting = event.more
    if not event.more:
        state.targets = tuple(dict.fromkeys(state.wanted))
        state.wanted.clear()


def _probed(state: State, event: Probed, now: float, out: Commands) -> None:
    node = state.nodes.get(event.node)
    if node is None or node.phase is not _PROBING:
        return
    verdict = event.verdict
    if verdict == "unknown":
        _no_answer(state, node, event, now, out)
        return
    if not node.known:
        node.known = True
        state.unplanned -= 1
    was = None
    trouble = node.trouble
    if trouble is not None:
        was, trouble.was = trouble.was, None
        trouble.since = None
        trouble.troubles = 0
    if verdict == "valid":
        if was is None:
            succeed(state, node, Phase.CACHED, out)
        else:
            restore_final(state, node, was)
            wake_waiters(state, node, out)
        return
    if node.deps is None:
        node.below = event.deps
        node.rules = event.rules
        if (event.spent or event.cuts.free) and recall(state, node, event, out):
            return
    if was is not None and is_gone_too_often(state, node, out):
        return
    if verdict == "absent":
        begin(state, node, out)
    elif verdict == "busy":
        state.move(node, _ELSEWHERE)
        if event.detail:
            node.troubled().detail = event.detail
        out.append(Watch(node.id))
    else:
        _stored_failure(state, node, event, out)


def _no_answer(state: State, node: Node, event: Probed, now: float, out: Commands) -> None:
    """The store gave no answer about a node: ask again later, or end the run."""
    detail = event.detail or "the store gave no answer"
    failure = event.failure or Failure(kind="infrastructure", message=detail)
    node.troubled().note(failure.line())
    decision = after_trouble(failure, _counters(node, failure, now), state.policy, event.jitter)
    if isinstance(decision, EndAll):
        end_all(state, node, failure, decision.reason, out)
        return
    at = now + decision.delay
    out.append(Retrying(node.id, failure, node.attempts + 1, at))
    state.set_timer(node, at, _PROBING)


def _stored_failure(state: State, node: Node, event: Probed, out: Commands) -> None:
    """The store says that the newest attempt failed: to be done, unless the policy says that this stays."""
    failure = event.failure or Failure(kind="compute", message=event.detail)
    node.troubled().note(f"stored: {failure.line()}")
    stays = failure.kind in STORED and not state.policy.retry_failed
    if stays and not state.planned:
        refuse(state, node, failure, out)
    elif stays:
        fail(state, node, failure, out)
    else:
        begin(state, node, out)


def _planning_is_over(state: State, out: Commands) -> None:
    """The store has told about every node: priorities become exact, and what was held back starts."""
    if state.targets is None or state.mode != "run":
        return
    state.planned = True
    acyclic = set_levels(state)
    out.append(Planned())
    if not acyclic:
        _refuse_cycle(state, out)
    if state.refused:
        lines = [
            f"{node.id}: {node.trouble.lines[-1] if node.trouble else 'failed'}" for node in state.refused
        ]
        stop(state, "error", "stored failures stay, as the run was told:\n" + "\n".join(lines), out)
    held, state.held = state.held, []
    for node in held:
        if node.phase is _WAITING:
            launch(state, node, out)


# -- attempts --------------------------------------------------------------------------------------


def _begun(state: State, node_id: str, ticket: int) -> Node | None:
    """The node that an answer to a `Start` is about, if it is about the present one."""
    node = state.nodes.get(node_id)
    if node is None or (node.phase is not _READY and node.phase is not _RUNNING):
        return None
    return node if not ticket or ticket == node.tickets else None


def _started(state: State, event: Started, now: float, out: Commands) -> None:
    node = _begun(state, event.node, event.ticket)
    if node is not None and node.phase is _READY:
        state.move(node, _RUNNING)
        node.attempts += 1


def _succeeded(state: State, event: Succeeded, now: float, out: Commands) -> None:
    node = state.nodes.get(event.node)
    if node is None or node.phase >= FIRST_FINAL:
        return
    if node.phase is _ELSEWHERE:
        out.append(Unwatch(node.id))
    elif node.phase is _READY or node.phase is _RUNNING:
        if event.ticket and event.ticket != node.tickets:
            out.append(Kill(node.id))  # an earlier attempt made it after all; the present one is for nothing
        elif node.phase is _READY and event.created:
            node.attempts += 1  # its `Started` was lost
    succeed(state, node, Phase.CREATED if event.created else Phase.CACHED, out)


def _failed(state: State, event: Failed, now: float, out: Commands) -> None:
    node = _begun(state, event.node, event.ticket)
    if node is None:
        return
    failure = event.failure
    if node.phase is _READY:
        node.attempts += 1  # its `Started` was lost, or it failed before it could be sent
    trouble = node.troubled()
    failure, trouble.cuts = count(trouble.used, trouble.cuts, failure)
    trouble.failure = failure
    trouble.note(failure.line())
    if state.mode == "stop":
        put_aside(state, node, out)
        return
    decision = decide(failure, _counters(node, failure, now), state.policy, node.rules, event.jitter)
    match decision:
        case GiveUp():
            fail(state, node, failure, out)
        case EndAll(reason):
            end_all(state, node, failure, reason, out)
        case _ if state.mode == "drain":
            put_aside(state, node, out)
        case Again():
            again(state, node, failure, decision, now, out)
        case _:
            assert isinstance(decision, Replan)
            replan(state, node, failure, now, out)


def _counters(node: Node, failure: Failure, now: float) -> Counters:
    """What happened to a node so far; infrastructure trouble lasts until something else happens."""
    trouble = node.troubled()
    if failure.kind != "infrastructure":
        trouble.since = None
        trouble.troubles = 0
        return Counters(used=trouble.used, spec=node.spec)
    if trouble.since is None:
        trouble.since = now
    trouble.troubles += 1
    return Counters(
        used=trouble.used, spec=node.spec, trouble_secs=now - trouble.since, troubles=trouble.troubles
    )


def _taken_back(state: State, event: TakenBack, now: float, out: Commands) -> None:
    node = _begun(state, event.node, event.ticket)
    if node is None:
        return
    if node.phase is _RUNNING:
        node.attempts -= 1  # the executor knows better than its earlier word: it had not begun
    if state.mode == "run":
        launch(state, node, out)
    else:
        put_aside(state, node, out)


# -- other people's work ---------------------------------------------------------------------------


def _elsewhere(state: State, event: Elsewhere, now: float, out: Commands) -> None:
    node = _begun(state, event.node, event.ticket)
    if node is None:
        return
    if node.phase is _RUNNING:
        node.attempts -= 1
    if state.mode != "run":
        put_aside(state, node, out)
        return
    state.move(node, _ELSEWHERE)
    node.troubled().detail = event.detail
    out.append(Watch(node.id))


def _watch_ended(state: State, event: WatchEnded, now: float, out: Commands) -> None:
    node = state.nodes.get(event.node)
    if node is None or node.phase is not _ELSEWHERE:
        return
    trouble = node.troubled()
    match event.how:
        case "published":
            succeed(state, node, Phase.CACHED, out)
        case "lost":
            trouble.note(f"elsewhere: its owner is gone {event.detail}".rstrip())
            if event.failure is not None:
                if not state.policy.retry_failed:
                    return fail(state, node, event.failure, out)
                out.append(Retrying(node.id, event.failure, node.attempts + 1, now))
            begin(state, node, out)
        case "ended":
            failure = event.failure or Failure(kind="compute", message=event.detail)
            trouble.note(f"elsewhere: {failure.line()}")
            stays = failure.retryable is False or not state.policy.retry_failed
            if (stays and failure.kind in STANDING) or (failure.kind == "protocol" and not failure.run_wide):
                fail(state, node, failure, out)
                return
            # Their failure costs nothing of our budgets: ours is the first attempt of this run.
            out.append(Retrying(node.id, failure, node.attempts + 1, now))
            begin(state, node, out)
        case _:  # timeout: FURU_MAX_WAIT_SECS is over
            message = event.detail or "it was computed elsewhere for longer than FURU_MAX_WAIT_SECS"
            failure = event.failure or Failure(kind="timeout", error_type="FuruWaitTimeout", message=message)
            trouble.note(failure.line())
            if failure.kind == "infrastructure":
                end_all(state, node, failure, failure.message, out)
            else:
                fail(state, node, failure, out)


# -- time and the end ------------------------------------------------------------------------------


def _tick(state: State, event: Tick, now: float, out: Commands) -> None:
    for node in state.take_due(now):
        assert node.trouble is not None
        if node.trouble.then is _PROBING:
            state.move(node, _PROBING)
            out.append(Probe(node.id, careful=node.trouble.was is not None))
        else:
            launch(state, node, out)


def _stop(state: State, event: Stop, now: float, out: Commands) -> None:
    stop(state, event.why, event.detail, out)


def _nothing_moves(state: State, out: Commands) -> None:
    """Every unfinished node waits for another one."""
    _refuse_cycle(state, out)
    _finish(state, out)


def _refuse_cycle(state: State, out: Commands) -> None:
    cycle = find_cycle(state)
    state.cycle = tuple(node.id for node in cycle)
    names = " -> ".join(node.id for node in [*cycle[:20], cycle[0]])
    stop(state, "error", f"dependencies form a cycle of {len(cycle)} nodes: {names}", out)


def _finish(state: State, out: Commands) -> None:
    """Every node is final."""
    if state.targets is None and (state.mode == "run" or state.expecting):
        return  # nothing is wanted yet, or not all of it is known
    state.finished = True
    ok = state.targets is not None and all(
        node.phase is Phase.CREATED or node.phase is Phase.CACHED for node in state.targets
    )
    out.append(EndRun(ok, state.why_stopped, state.detail, state.cycle))


_HANDLERS: dict[type[Any], Callable[[State, Any, float, Commands], None]] = {
    Wanted: _wanted,
    Probed: _probed,
    Started: _started,
    Succeeded: _succeeded,
    Failed: _failed,
    TakenBack: _taken_back,
    Elsewhere: _elsewhere,
    WatchEnded: _watch_ended,
    Tick: _tick,
    Stop: _stop,
}
