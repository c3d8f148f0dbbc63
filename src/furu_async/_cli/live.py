"""The live display of a run as rich draws it: a bar, the counts, who runs, who waits and for what.

Imports rich, and is itself imported only when a display is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    if snap.workers:
        parts.append(Text(f"  {clean(snap.workers)}", style="blue", overflow="ellipsis", no_wrap=True))
    parts.extend(_nodes(snap.longest, snap.running, "running", "green", label))
    parts.extend(_nodes(snap.waits, snap.waiting, "waiting", "yellow", label))
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
        ("waiting", snap.waiting, "yellow"),
    ]
    shown.append(("retry" if snap.retries == 1 else "retries", snap.retries, "magenta"))
    for name, count, style in shown:
        if count:
            text.append(f"{count:,} {name}  ", style=style)
    return text


def _nodes(
    nodes: tuple[Active, ...], count: int, title: str, style: str, label: Callable[[Active], str]
) -> Iterator[Text]:
    """A line per node, cut at the terminal's width: lines that wrap would push the rest out of sight."""
    for index, node in enumerate(nodes):
        event = node.event
        line = Text(f"  {title if index == 0 else '':<8}", style=style, no_wrap=True, overflow="ellipsis")
        attempt = f" (attempt {event.attempt})" if event.attempt > 1 else ""
        reason = f": {shorten(clean(event.message), 160)}" if event.message and title == "waiting" else ""
        line.append(f"{duration(node.seconds):>12}  {label(node)}{attempt}{reason}", style="default")
        yield line
    if count > len(nodes):
        yield Text(f"{'':22}  … and {count - len(nodes):,} more", style="dim")
