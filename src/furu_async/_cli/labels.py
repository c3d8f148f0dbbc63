"""What to call a node on a display. Events carry the class name; here its fields are found as well.

Making a repr for every event of a large run would cost more than the events, so the DAG is walked only as far as the
nodes that are shown, a bounded number of steps at a time, and each label is made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from furu_async.report import RunEvent

if TYPE_CHECKING:
    from furu_async._model.artifact import Furu

__all__ = ["Labels"]

_STEPS = 5000  # of the walk, per label asked for: some ten milliseconds at most


class Labels:
    """Labels of the nodes of the DAG under ``targets``."""

    def __init__(self, targets: Iterable[Furu[Any]] = ()) -> None:
        self._found: dict[str, Furu[Any]] = {}
        self._made: dict[str, str] = {}
        self._walk = self._nodes(tuple(targets))

    def of(self, event: RunEvent) -> str:
        """The event's own label, else the repr of its node, else the class name."""
        if event.label:
            return event.label
        made = self._made.get(event.hash)
        if made is None:
            obj = self._find(event.hash)
            if obj is None:
                return event.name
            made = self._made[event.hash] = repr(obj)
        return made

    def _find(self, wanted: str) -> Furu[Any] | None:
        if wanted not in self._found:
            for _step, obj in zip(range(_STEPS), self._walk, strict=False):
                self._found[obj.furu_hash] = obj
                if obj.furu_hash == wanted:
                    break
        return self._found.get(wanted)

    def _nodes(self, targets: tuple[Furu[Any], ...]) -> Iterator[Furu[Any]]:
        """Every node once, from the targets downwards."""
        from furu_async._model.dag import dependencies

        seen: set[str] = set()
        stack = [iter(targets)]
        while stack:
            obj = next(stack[-1], None)
            if obj is None:
                stack.pop()
            elif obj.furu_hash not in seen:
                seen.add(obj.furu_hash)
                yield obj
                try:
                    stack.append(iter(dependencies(obj)))
                except Exception:  # told by the run itself; the display shows the class name
                    continue
