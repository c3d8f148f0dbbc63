"""Questions about the whole graph of a run, each linear and asked once: priorities, and cycles."""

from __future__ import annotations

from furu_async._plan.state import Node, State
from furu_async._plan.states import Phase
from furu_async.errors import FuruInternalError


def set_levels(state: State) -> bool:
    """Give each node the length of the longest path of dependents above it; O(nodes + edges).

    False if there is a cycle: then nodes on it, and below it, keep a smaller number.
    """
    above = dict.fromkeys(state.nodes.values(), 0)
    for node in above:
        node.level = 0
        for dep in node.deps or ():
            above[dep] += 1
    free = [node for node, dependents in above.items() if not dependents]
    placed = 0
    while free:
        node = free.pop()
        placed += 1
        level = node.level + 1
        for dep in node.deps or ():
            if dep.level < level:
                dep.level = level
            above[dep] -= 1
            if not above[dep]:
                free.append(dep)
    return placed == len(above)


def find_cycle(state: State) -> list[Node]:
    """A cycle of the run's graph: each node depends on the next, the last on the first; O(nodes + edges).

    Raises:
        FuruInternalError: there is none.
    """
    below = {node: len(node.deps or ()) for node in state.nodes.values()}
    over: dict[Node, list[Node]] = {}
    for node in below:
        for dep in node.deps or ():
            over.setdefault(dep, []).append(node)
    free = [node for node, count in below.items() if not count]
    while free:
        for node in over.get(free.pop(), ()):
            below[node] -= 1
            if not below[node]:
                free.append(node)
    start = next((node for node, count in below.items() if count), None)
    if start is None:
        stuck = next((node for node in below if node.phase is Phase.WAITING), None)
        raise FuruInternalError(
            f"a node waits for nothing; its story: {stuck.tell() if stuck else 'none waits'}"
        )
    place: dict[Node, int] = {}
    path: list[Node] = []
    node = start
    while node not in place:
        place[node] = len(path)
        path.append(node)
        node = next(dep for dep in node.deps or () if below[dep])  # what is left depends on what is left
    return path[place[node] :]
