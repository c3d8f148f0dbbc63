"""The live display of a run as rich draws it: a bar, the counts, who runs, who waits and for what.

Imports rich, and is itself imported only when a display is drawn.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from furu_async._cli.tally import Active, Snapshot
from furu_async._cli.text import clean, duration, shorten

__all__ = ["draw"]

_STYLES = {
    "created": "green",
    "cached": "cyan",
    "failed": "bold red",
    "skipped": "yellow",
    "cancelled": "yellow",
}


def draw(snap: Snapshot, elapsed: float, notes: list[str], label: Callable[[Active], str]) -> Group:
    """The display at one moment; ``elapsed`` in seconds; ``label`` names a node."""
    parts: list[Table | Text] = [_head(snap, elapsed), _states(snap)]
    if snap.longest:
        parts.append(_nodes(snap.longest, snap.running, "running", "green", label))
    if snap.waits:
        parts.append(_nodes(snap.waits, snap.waiting, "waiting", "yellow", label))
    parts.extend(Text(f"  {note}", style="red", overflow="ellipsis", no_wrap=True) for note in notes)
    return Group(*parts)


def _head(snap: Snapshot, elapsed: float) -> Table:
    head = Table.grid(padding=(0, 1))
    total = snap.total
    bar = ProgressBar(total=total or None, completed=snap.done, width=30, pulse=total is None)
    left = f", about {duration(snap.remaining)} left" if snap.remaining is not None else ""
    many = f"{snap.done:,}/{total:,}" if total is not None else f"{snap.done:,}, still planning"
    head.add_row(bar, Text(many, style="bold"), Text(f"{duration(elapsed)}{left}"))
    return head


def _states(snap: Snapshot) -> Text:
    text = Text("  ")
    shown = [(name, count, _STYLES.get(name, "")) for name, count in snap.ended.items()]
    shown += [
        ("running", snap.running, "green"),
        ("ready", snap.ready, ""),
        ("waiting", snap.waiting, "yellow"),
    ]
    shown.append(("retries", snap.retries, "magenta"))
    for name, count, style in shown:
        if count:
            text.append(f"{count:,} {name}  ", style=style)
    return text


def _nodes(
    nodes: tuple[Active, ...], count: int, title: str, style: str, label: Callable[[Active], str]
) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=9)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for index, node in enumerate(nodes):
        event = node.event
        attempt = f" (attempt {event.attempt})" if event.attempt > 1 else ""
        reason = f": {shorten(clean(event.message), 160)}" if event.message and title == "waiting" else ""
        first = Text(f"  {title}" if index == 0 else "", style=style)
        table.add_row(first, Text(duration(node.seconds)), Text(f"{label(node)}{attempt}{reason}"))
    if count > len(nodes):
        table.add_row("", "", Text(f"… and {count - len(nodes):,} more", style="dim"))
    return table
