"""Who waits for what: the pending tasks of a loop, for the message of a deadlock."""

from __future__ import annotations

import asyncio
import os
from typing import Any

_MOST_TASKS = 40
_MOST_FRAMES = 4


def describe_tasks(loop: asyncio.AbstractEventLoop) -> str:
    """One line or more per pending task: its name, where it waits (innermost last), and for what."""
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    if not tasks:
        return "no task is pending"
    lines = [f"{len(tasks)} pending:"]
    for task in tasks[:_MOST_TASKS]:
        places = _where(task)
        shown = places if len(places) <= _MOST_FRAMES else [places[0], "…", *places[1 - _MOST_FRAMES :]]
        lines.append(f"- {task.get_name()}: {' > '.join(shown) or 'not begun'}{_what(task)}")
    if len(tasks) > _MOST_TASKS:
        lines.append(f"… and {len(tasks) - _MOST_TASKS} more")
    return "\n".join(lines)


def _where(task: asyncio.Task[Any]) -> list[str]:
    """The chain of coroutines from the task's own to the innermost, each with the line it is at."""
    places: list[str] = []
    inner: Any = task.get_coro()
    while inner is not None:
        frame = _first(inner, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            break
        code = frame.f_code
        places.append(f"{code.co_qualname} ({os.path.basename(code.co_filename)}:{frame.f_lineno})")
        inner = _first(inner, "cr_await", "gi_yieldfrom", "ag_await")
    return places


def _first(thing: Any, *names: str) -> Any:
    for name in names:
        value = getattr(thing, name, None)
        if value is not None:
            return value
    return None


def _what(task: asyncio.Task[Any]) -> str:
    """The other task that it awaits, if it is one; a bare future says nothing that the place does not."""
    awaited = getattr(task, "_fut_waiter", None)
    return f", for {awaited.get_name()}" if isinstance(awaited, asyncio.Task) else ""
