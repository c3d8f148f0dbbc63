"""The supervisor's side of a child's spool files: showing them while an attempt runs, collecting them after a crash.

Blocking functions over plain paths. `capture` has the child's side and says how the two go together.
"""

from __future__ import annotations

import os

from furu_async._runner.capture import (
    LONG_SECS,
    STREAMS,
    drop_empty,
    drop_link,
    join_tails,
    place,
    read_tail,
    spool_path,
)

EXPOSE_SECS = LONG_SECS + 0.05
"""How long a task must have run, as its supervisor sees it, before its spools may be shown."""


def expose(base: str, number: int, directory: str) -> bool:
    """Link a pair of spools into the folder of the attempt that writes to them; says whether both are there now."""
    if _over(base, number):
        return False
    shown = True
    made = not os.path.isdir(directory)
    os.makedirs(directory, exist_ok=True)
    for name, extension in STREAMS:
        try:
            os.link(spool_path(base, number, extension), os.path.join(directory, name))
        except FileExistsError:
            pass
        except OSError:
            shown = False  # the attempt has just ended, or the spool is on another file system
    if made and not shown and _over(base, number):
        drop_empty(directory)  # nobody puts anything into it any more: the output is the last that is moved
    return shown


def _over(base: str, number: int) -> bool:
    """Whether the attempt that had this pair has ended and moved it away."""
    return not any(os.path.exists(spool_path(base, number, extension)) for _, extension in STREAMS)


def collect(base: str, number: int, directory: str) -> tuple[str, bool]:
    """Move the spools of a child that is gone into the folder of what it ran; last lines, and whether there are any."""
    tails = {}
    logged = False
    for name, extension in STREAMS:
        source = spool_path(base, number, extension)
        tails[name] = read_tail(source)
        try:
            found = os.stat(source)
            if found.st_size:
                os.makedirs(directory, exist_ok=True)  # it may have died before it made its folder
                place(source, directory, name)
                logged = True
            else:
                os.unlink(source)
                drop_link(directory, name, found)
        except FileNotFoundError:
            tails[name] = read_tail(os.path.join(directory, name))
            logged = logged or bool(tails[name])
    log = os.path.join(directory, "log")
    if not logged:
        drop_empty(directory)
    logged = logged or os.path.exists(log)
    return join_tails(tails["stdout"], read_tail(log), tails["stderr"]), logged


def read(base: str, number: int) -> str:
    """Last lines of a pair of spools that no attempt owns."""
    return join_tails(*(read_tail(spool_path(base, number, extension)) for _, extension in STREAMS))


def remove(base: str, number: int) -> None:
    """Delete a pair of spools, if it is there."""
    for _, extension in STREAMS:
        try:
            os.unlink(spool_path(base, number, extension))
        except OSError:
            pass
