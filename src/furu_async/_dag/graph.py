"""The nodes of a DAG, who needs whom, and which jobs make them. Pure."""

from __future__ import annotations

from furu_async._dag.units import Item, Unit


class Graph:
    """See the module.

    Attributes:
        items: by hash, parents before children.
    """

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self._children: dict[str, list[str]] = {}
        self._ranks: dict[str, int] = {}

    def add(self, item: Item) -> None:
        """One more node; its parents are there already, unless they have results."""
        self.items[item.hash] = item
        self._ranks.setdefault(item.hash, len(self._ranks))
        for parent in item.parents:
            self._children.setdefault(parent, []).append(item.hash)

    def rank(self, node: str) -> int:
        """Its place in an order of parents before children."""
        return self._ranks[node]

    def below(self, node: str) -> list[Item]:
        """Everything that needs a node, parents before children."""
        seen: set[str] = set()
        stack = [node]
        while stack:
            for child in self._children.get(stack.pop(), ()):
                if child not in seen:
                    seen.add(child)
                    stack.append(child)
        return [self.items[each] for each in sorted(seen, key=self.rank)]

    def open_parents(self, node: str) -> list[str]:
        """Those that it needs and that have no result."""
        parents = self.items[node].parents
        return [p for p in parents if p in self.items and self.items[p].phase != "done"]

    def parents(self, unit: Unit) -> list[str]:
        """Of the nodes of a unit, which all have the same: those without a result."""
        known = next((node for node in unit.nodes if node in self.items), None)
        return self.open_parents(known) if known is not None else []

    def has_children_to_come(self, node: str) -> bool:
        """Some that need it are not in Slurm yet."""
        for child in self._children.get(node, ()):
            item = self.items[child]
            if item.phase == "todo" or (item.phase == "unit" and (item.unit is None or not item.unit.job)):
                return True
        return False

    def job_of(self, node: str) -> str:
        """The job that makes a node now; empty if there is none, or it has its result."""
        item = self.items[node]
        if item.phase == "foreign":
            return item.job
        if item.phase != "unit" or item.unit is None or item.unit.phase not in ("placed", "open"):
            return ""
        return item.unit.job_of(node)

    def lacking(self, unit: Unit) -> str:
        """The last of the parents that have no job yet: the others are likely to have theirs before it."""
        return next((p for p in reversed(self.parents(unit)) if not self.job_of(p)), "")

    def is_released(self, node: str) -> bool:
        """Its job waits for nothing of ours: it may be over at any moment."""
        item = self.items[node]
        return item.phase == "foreign" or (item.unit is not None and item.unit.phase == "open")

    def is_doomed(self, item: Item) -> bool:
        """It is wired to a job that is not the one which makes its parent now."""
        edges = item.unit.edges if item.unit is not None else {}
        return any(self.items[p].phase != "done" and self.job_of(p) != job for p, job in edges.items())
