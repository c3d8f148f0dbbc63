"""The steps that a run is made of: ask, wait, start, succeed, fail, skip, put aside. `machine` says when.

Each takes the state, a node and the list of commands to add to. None recurses: what spreads over the graph has a
stack of its own. None looks at more than a node's own edges, but for those that end a run, which look at all nodes
once.
"""

from __future__ import annotations

from furu_async._plan.commands import Command, Ended, Kill, Probe, Retrying, Start, TakeBack, Unwatch
from furu_async._plan.events import NodeId, Probed
from furu_async._plan.retry import STANDING, Again, exhausted
from furu_async._plan.state import Node, State, Why
from furu_async._plan.states import FIRST_BLOCKING, FIRST_FINAL, Phase
from furu_async.report import Failure

Commands = list[Command]

_PROBING = Phase.PROBING
_WAITING = Phase.WAITING
_READY = Phase.READY
_CREATED = Phase.CREATED
_CACHED = Phase.CACHED


def admit(state: State, node_id: NodeId, level: int, out: Commands) -> Node:
    """Take a node into the run and ask the store about it."""
    node = state.nodes[node_id] = Node(node_id, level)
    state.by_phase[Phase.UNKNOWN] += 1
    state.live += 1
    state.unplanned += 1
    state.move(node, _PROBING)
    if state.mode == "run":
        out.append(Probe(node_id))
    else:
        put_aside(state, node, out)  # a late part of the targets of a run that is ending already
    return node


def begin(state: State, node: Node, out: Commands) -> None:
    """A node has to be computed: take its dependencies into the run; start it when they are there."""
    if node.deps is None:
        nodes = state.nodes
        level = node.level + 1
        deps = []
        for dep_id in node.below:
            dep = nodes.get(dep_id)
            if dep is None:
                dep = admit(state, dep_id, level, out)
            elif dep.level < level:
                dep.level = level
            deps.append(dep)
        node.deps = tuple(deps)
        node.below = ()
        if node.trouble is not None:  # of a run that an earlier controller began
            used = node.trouble.used
            node.spec = min(used.get("timeout", 0) + used.get("oom", 0), node.rules.specs - 1)
    if await_deps(state, node, out):
        launch(state, node, out)


def recall(state: State, node: Node, event: Probed, out: Commands) -> bool:
    """Go on with what an earlier controller of this run counted; True if the node had failed for good there."""
    trouble = node.troubled()
    if trouble.spent or trouble.cuts.free:
        return False
    trouble.spent = event.spent
    for kind, times in event.spent.items():
        trouble.used[kind] = trouble.used.get(kind, 0) + times
        node.attempts += times
    trouble.cuts = event.cuts
    node.attempts += event.cuts.free
    last = event.last
    if last is None:
        return False
    trouble.failure = last
    trouble.note(f"before: {last.line()}")
    if not exhausted(last, trouble.used, state.policy, node.rules):
        return False
    fail(state, node, last, out)
    return True


def is_gone_too_often(state: State, node: Node, out: Commands) -> bool:
    """Count that the result of a node was gone when a dependent wanted it; the budget is that of missing inputs."""
    trouble = node.troubled()
    times = trouble.used["inputs"] = trouble.used.get("inputs", 0) + 1
    failure = Failure(kind="inputs", message=f"its result was gone {times} times when a dependent wanted it")
    trouble.note(failure.line())
    if not exhausted(failure, trouble.used, state.policy, node.rules):
        return False
    fail(state, node, failure, out)
    return True


def await_deps(state: State, node: Node, out: Commands) -> bool:
    """Whether all dependencies are there; if not, the node waits for them, or is skipped where one is blocking.

    A waiter that moves on leaves its entries in ``waiters`` behind. They do no harm: a node can come back to waiting
    only after something was reopened, and from then on its dependencies are looked at again before each start.
    """
    missing = 0
    for dep in node.deps or ():
        phase = dep.phase
        if phase is _CREATED or phase is _CACHED:
            continue
        if phase >= FIRST_BLOCKING:
            skip(state, node, dep.root or dep.id, out)
            return False
        if dep.waiters is None:
            dep.waiters = [node]
        else:
            dep.waiters.append(node)
        missing += 1
    if not missing:
        return True
    node.waiting = missing
    if node.phase is not _WAITING:
        state.move(node, _WAITING)
    return False


def launch(state: State, node: Node, out: Commands) -> None:
    """Ask the executor for the next attempt of a node whose dependencies are there."""
    if state.reopened and not await_deps(state, node, out):
        return
    if not state.planned and state.policy.plan_may_refuse:
        node.waiting = 0
        state.held.append(node)
        if node.phase is not _WAITING:
            state.move(node, _WAITING)
        return
    state.move(node, _READY)
    node.tickets += 1
    whole = node.trouble is not None and node.trouble.cuts.row > 0
    out.append(Start(node.id, node.attempts + 1, node.level, node.spec, node.tickets, whole))


def succeed(state: State, node: Node, phase: Phase, out: Commands) -> None:
    """The node has a result; start what waited for it only."""
    state.close(node, phase)
    if node.trouble is not None:
        node.trouble.was = None
    out.append(Ended(node.id, "created" if phase is _CREATED else "cached"))
    wake_waiters(state, node, out)


def wake_waiters(state: State, node: Node, out: Commands) -> None:
    """Tell the nodes that wait for this one that it is there."""
    waiters = node.waiters
    if waiters is None:
        return
    node.waiters = None
    for waiter in waiters:
        if waiter.phase is _WAITING:
            waiter.waiting -= 1
            if waiter.waiting <= 0:
                launch(state, waiter, out)


def reopen(state: State, node: Node, out: Commands) -> None:
    """A dependent did not find the result of a node that is final: ask the store again."""
    state.reopened = True
    node.troubled().was = node.phase
    state.move(node, _PROBING)
    state.live += 1
    out.append(Probe(node.id, careful=True))


def restore_final(state: State, node: Node, was: Phase) -> None:
    """A reopened node is final again, as it was; that has been reported before."""
    node.troubled().was = None
    state.close(node, was)


def fail(state: State, node: Node, failure: Failure, out: Commands) -> None:
    """The node has failed for good: block its dependents, and do with the run as the policy says."""
    state.close(node, Phase.FAILED)
    out.append(Ended(node.id, "failed", failure))
    block_waiters(state, node, node.id, out)
    state.failures += 1
    if state.mode != "run":
        return
    policy = state.policy
    if policy.on_failure == "cancel":
        stop(state, "", "", out)
    elif policy.on_failure == "drain" or (
        policy.max_failures is not None and state.failures >= policy.max_failures
    ):
        drain(state, out)


def refuse(state: State, node: Node, failure: Failure, out: Commands) -> None:
    """A stored failure stays, so the run will not begin; but first every such node is found.

    The node is failed and its dependents are skipped at once; the policy for failures does not apply. The run is
    stopped when planning is over.
    """
    state.close(node, Phase.FAILED)
    out.append(Ended(node.id, "failed", failure))
    block_waiters(state, node, node.id, out)
    state.refused.append(node)


def end_all(state: State, node: Node, failure: Failure, reason: str, out: Commands) -> None:
    """The node failed for a reason that concerns the whole run: stop it."""
    state.close(node, Phase.FAILED)
    out.append(Ended(node.id, "failed", failure))
    block_waiters(state, node, node.id, out)
    stop(state, "error", f"{node.id}: {reason}", out)


def skip(state: State, node: Node, root: NodeId, out: Commands) -> None:
    """The node can't be computed since ``root`` failed; neither can what waits for it."""
    node.root = root
    state.close(node, Phase.SKIPPED)
    out.append(Ended(node.id, "skipped", because="dependency", root=root))
    block_waiters(state, node, root, out)


def block_waiters(state: State, node: Node, root: NodeId, out: Commands) -> None:
    """Skip all that waits for a node, and what waits for that."""
    stack = [node]
    while stack:
        blocking = stack.pop()
        waiters, blocking.waiters = blocking.waiters, None
        for waiter in waiters or ():
            if waiter.phase is _WAITING:
                waiter.root = root
                state.close(waiter, Phase.SKIPPED)
                out.append(Ended(waiter.id, "skipped", because="dependency", root=root))
                stack.append(waiter)


def again(state: State, node: Node, failure: Failure, plan: Again, now: float, out: Commands) -> None:
    """Run a node again, now or later."""
    node.spec = plan.spec
    out.append(Retrying(node.id, failure, node.attempts + 1, now + plan.delay))
    if plan.delay > 0:
        state.set_timer(node, now + plan.delay, _READY)
    else:
        launch(state, node, out)


def replan(state: State, node: Node, failure: Failure, now: float, out: Commands) -> None:
    """An input was not there: ask about all dependencies again, and start when they are there."""
    out.append(Retrying(node.id, failure, node.attempts + 1, now))
    for dep in node.deps or ():
        if dep.phase is _CREATED or dep.phase is _CACHED:
            reopen(state, dep, out)
    if await_deps(state, node, out):
        launch(state, node, out)


def put_aside(state: State, node: Node, out: Commands) -> None:
    """End a node that will not be begun (again), since the run drains or stops."""
    trouble = node.trouble
    if trouble is not None and trouble.was is not None:
        restore_final(state, node, trouble.was)
        return
    if node.phase is Phase.ELSEWHERE:
        out.append(Unwatch(node.id))
    failure = trouble.failure if trouble is not None else None
    if state.mode == "drain":
        if failure is not None and failure.kind in STANDING:
            # It failed, and only the drain keeps it from another try: the failure is what people have to see.
            fail(state, node, failure, out)
            return
        state.close(node, Phase.SKIPPED)
        out.append(Ended(node.id, "skipped", because="drain"))
    elif node.attempts:
        state.close(node, Phase.CANCELLED)
        out.append(Ended(node.id, "cancelled", failure))
    else:
        state.close(node, Phase.SKIPPED)
        out.append(Ended(node.id, "skipped", because="cancel"))


def drain(state: State, out: Commands) -> None:
    """Begin nothing more: take back what is queued, let run what runs, put the rest aside."""
    state.mode = "drain"
    for node in state.unfinished():
        if node.phase is _READY:
            out.append(TakeBack(node.id))
        elif node.phase < FIRST_FINAL and node.phase is not Phase.RUNNING:
            put_aside(state, node, out)


def stop(state: State, why: Why, detail: str, out: Commands) -> None:
    """End the run: kill what is queued or runs, put the rest aside. The first reason stays."""
    if not state.why_stopped:
        state.why_stopped = why
        state.detail = detail
    if state.mode == "stop":
        return
    state.mode = "stop"
    for node in state.unfinished():
        if node.phase is _READY or node.phase is Phase.RUNNING:
            out.append(Kill(node.id))
        else:
            put_aside(state, node, out)
