"""Text for terminals: escaping what users and their programs wrote, durations, column widths. Pure."""

from __future__ import annotations

import time

__all__ = ["clean", "clock_time", "duration", "number", "shorten"]


def clean(text: str) -> str:
    """``text`` on one line with every character that could move the cursor or hide text written as an escape.

    Labels, messages and logs come from user code; a carriage return, an escape sequence or a right-to-left mark in
    them must not be able to change what a terminal shows.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    if char == "\t":
        return "    "
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def shorten(text: str, width: int) -> str:
    """The first ``width`` characters of ``text``, with an ellipsis as the last one where something was cut."""
    if len(text) <= width:
        return text
    return text[: max(0, width - 1)] + "…"


def duration(seconds: float) -> str:
    """A length of time for people: ``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 05 min``, ``3 d 04 h``."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def number(count: int, noun: str) -> str:
    """``1 node``, ``1,797 nodes``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def clock_time(at: float | None) -> str:
    """A wall-clock time (seconds since the epoch) as local date and time, or a dash."""
    if at is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
