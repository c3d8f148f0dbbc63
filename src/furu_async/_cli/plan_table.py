"""What a dry run shows: for each node whether it is there, and if not, why not. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from furu_async._cli.text import clean, number, shorten

__all__ = ["PlannedLike", "plan_lines"]

SHOWN = 200
_ORDER = ("cached", "create", "failed", "busy", "unknown")
_WORDS = {
    "cached": "there already",
    "create": "to create",
    "failed": "failed before",
    "busy": "being computed elsewhere",
    "unknown": "unknown",
}


class PlannedLike(Protocol):
    """What is needed of a planned node."""

    @property
    def hash(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str: ...


def plan_lines(nodes: Sequence[PlannedLike], *, shown: int | None = SHOWN) -> list[str]:
    """One line per node in the order they would run, then the counts; at most ``shown`` nodes (None: all)."""
    lines = []
    some = list(nodes if shown is None else nodes[:shown])
    labels = [shorten(clean(node.label or node.name), 90) for node in some]
    width = max((len(label) for label in labels), default=0)
    for node, label in zip(some, labels, strict=True):
        reason = shorten(clean(node.reason), 200)
        lines.append(
            f"{node.status:<8} {node.hash[:12]}  {label:<{width if reason else 0}}  {reason}".rstrip()
        )
    if len(nodes) > len(some):
        lines.append(f"… and {len(nodes) - len(some):,} more (-v shows all)")
    counts = Counter(node.status for node in nodes)
    parts = [f"{counts[status]:,} {_WORDS[status]}" for status in _ORDER if counts[status]]
    lines.append(f"{number(len(nodes), 'node')}: {', '.join(parts)}" if parts else "no nodes")
    return lines
