"""Nodes that need a unit, and those of them that go into one together: no event goes through all of them. Pure.

A node can be put into a unit when each of its parents has its result, or a job, or will have one. One that has a parent
of which that cannot be said is not looked at again before something new is said of that parent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from furu_async._dag.graph import Graph
from furu_async._dag.units import Item

Kind = tuple[str, int, frozenset[str]]


class Forming:
    """See the module.

    Args:
        will_have_job: whether a node without a result has a job, or is on its way to one.

    Attributes:
        todo: nodes that need a unit.
    """

    def __init__(self, graph: Graph, will_have_job: Callable[[str], bool]) -> None:
        self.todo: dict[str, None] = {}
        self._graph = graph
        self._will_have_job = will_have_job
        self._look: set[str] = set()
        self._in_order: list[tuple[int, str]] = []
        self._stuck: dict[str, list[str]] = {}
        self._groups: dict[Kind, list[str]] = {}

    @property
    def pending(self) -> bool:
        """There is something for `gather` or `take` to do."""
        return bool(self._look or self._groups)

    def add(self, item: Item) -> None:
        """It needs a unit."""
        item.phase, item.unit = "todo", None
        self.todo[item.hash] = None
        self._look_at(item.hash)

    def _look_at(self, node: str) -> None:
        if node not in self._look:
            self._look.add(node)
            heappush(self._in_order, (self._graph.rank(node), node))

    def gone(self, node: str) -> None:
        """It needs none any more."""
        self.todo.pop(node, None)
        self._look.discard(node)

    def wake(self, node: str) -> None:
        """It has its result, or will have a job: look again at what waits for that."""
        for child in self._stuck.pop(node, ()):
            if child in self.todo and self._graph.items[child].phase == "todo":
                self._look_at(child)

    def gather(self, most: int) -> None:
        """Sort nodes into groups, parents before children; so many of them."""
        graph = self._graph
        while self._in_order and most > 0:
            _, node = heappop(self._in_order)
            if node not in self._look:
                continue
            most -= 1
            self._look.discard(node)
            item = graph.items[node]
            parents = graph.open_parents(node)
            stuck = next((parent for parent in parents if not self._will_have_job(parent)), None)
            if stuck is not None:
                self._stuck.setdefault(stuck, []).append(node)
                continue
            self._groups.setdefault((item.key, item.spec, frozenset(parents)), []).append(node)
            item.phase = "unit"
            self.wake(node)

    def take(self, size: int, most: int) -> Iterable[tuple[str, int, list[str]]]:
        """Units to be made: key, specification and nodes; once all nodes are in groups.

        Args:
            size: of a unit, at most.
            most: nodes in all of them, about.
        """
        if self._look:
            return
        while self._groups and most > 0:
            kind = next(iter(self._groups))
            key, spec, _ = kind
            names = self._groups[kind]
            some, rest = names[: max(size, most)], names[max(size, most) :]
            if rest:
                self._groups[kind] = rest
            else:
                del self._groups[kind]
            # One that was taken out of its group and came back is there twice.
            nodes = [node for node in dict.fromkeys(some) if self._belongs(node, key, spec)]
            most -= len(some)
            for start in range(0, len(nodes), size):
                part = nodes[start : start + size]
                for node in part:
                    del self.todo[node]
                yield key, spec, part

    def _belongs(self, node: str, key: str, spec: int) -> bool:
        """What has become of it since it was put into its group has not changed that it belongs there."""
        item = self._graph.items[node]
        waits = node in self.todo and item.phase == "unit" and item.unit is None
        return waits and (item.key, item.spec) == (key, spec)
