"""Questions about the whole graph of a run, each linear and asked once: priorities, and cycles."""

from __future__ import annotations

from furu_async._plan.state import Node, State
from furu_async._plan.states import FIRST_FINAL, Phase
from furu_async.errors import FuruInternalError


def set_levels(state: State) -> None:
    """Give each node the length of the longest path of dependents above it; O(nodes + edges).

    Nodes on a cycle, and below one, keep a smaller number: a cycle never starts anyway.
    """
    above = dict.fromkeys(state.nodes.values(), 0)
    for node in above:
        node.level = 0
        for dep in node.deps or ():
            above[dep] += 1
    free = [node for node, dependents in above.items() if not dependents]
    while free:
        node = free.pop()
        level = node.level + 1
        for dep in node.deps or ():
            if dep.level < level:
                dep.level = level
            above[dep] -= 1
            if not above[dep]:
                free.append(dep)


def find_cycle(state: State) -> list[Node]:
    """The cycle that a run is stuck in: each node depends on the next, the last on the first.

    Raises:
        FuruInternalError: nodes wait, but not for each other.
    """
    node = next(node for node in state.nodes.values() if node.phase is Phase.WAITING)
    place: dict[Node, int] = {}
    path: list[Node] = []
    while node not in place:
        place[node] = len(path)
        path.append(node)
        below = next((dep for dep in node.deps or () if dep.phase < FIRST_FINAL), None)
        if below is None:
            raise FuruInternalError(f"a node waits for nothing; its story: {node.tell()}")
        node = below
    return path[place[node] :]
