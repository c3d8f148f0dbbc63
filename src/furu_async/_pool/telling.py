"""How the workers are, in a sentence for people. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from furu_async._pool.crew import Row

MOST_NODES = 6


def sentence(rows: Sequence[Row], why: str = "") -> str:
    """``8 workers: 3 working on n1, n2; 5 pending (Resources)``; of several specs, those first that have most workers.

    Args:
        rows: the workers that are not gone.
        why: why nothing moves, if nothing does.
    """
    if not rows:
        return why
    by_spec: dict[str, list[Row]] = {}
    for row in rows:
        by_spec.setdefault(row.spec_key, []).append(row)
    parts = []
    for spec_key, some in sorted(by_spec.items(), key=lambda item: (-len(item[1]), item[0])):
        told = "; ".join(_states(some))
        parts.append(f"{spec_key}: {told}" if len(by_spec) > 1 else told)
    many = f"{len(rows)} worker{'s' if len(rows) > 1 else ''}"
    return f"{many}: {' | '.join(parts)}"


def _states(rows: Sequence[Row]) -> list[str]:
    """The states in order of how many workers are in each."""
    told = []
    for state, count in Counter(row.state for row in rows).most_common():
        some = [row for row in rows if row.state == state]
        nodes = sorted({row.node for row in some if row.node})
        reasons = Counter(row.reason for row in some if row.reason and row.reason != state)
        where = (
            f" on {', '.join(nodes[:MOST_NODES])}{' …' if len(nodes) > MOST_NODES else ''}" if nodes else ""
        )
        reason = f" ({reasons.most_common(1)[0][0]})" if reasons and not nodes else ""
        told.append(f"{count} {state}{where}{reason}")
    return told
