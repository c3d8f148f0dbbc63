"""How a child ends when its supervisor is gone, however that died.

The supervisor holds the writing end of a pipe and never writes. When it dies the kernel closes that end, and,
asked by ``F_SETSIG``, sends SIGKILL to the child's process group: no thread of ours is needed, so it works
while user code holds the GIL, and user code that forks is not warned of threads. (``PR_SET_PDEATHSIG`` would
fire when the forking *thread* ends.)
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading

_F_SETSIG = getattr(fcntl, "F_SETSIG", 10)
_CHECK_MS = 2000


def bind(lifeline: int) -> str:
    """Tie this process group to the lifeline; returns how: ``kernel`` or ``thread``."""
    try:
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        how = "kernel"
    except (OSError, AttributeError):
        threading.Thread(target=_watch, args=(lifeline,), name="furu-lifeline", daemon=True).start()  # noqa: TID251
        how = "thread"
    if _ended(lifeline, 0):  # it died before we got here
        end_group()
    return how


def end_group() -> None:
    """SIGKILL this process's own group."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _ended(lifeline: int, timeout_ms: int) -> bool:
    poll = select.poll()
    poll.register(lifeline, 0)  # only the hang-up
    return bool(poll.poll(timeout_ms))


def _watch(lifeline: int) -> None:
    while not _ended(lifeline, _CHECK_MS):
        pass
    end_group()
