"""The two times there are: monotonic for every decision, wall for what people read.

Nothing in furu_async compares wall times of two hosts; `wall` goes into records and is shown, that is all.
"""

from __future__ import annotations

import asyncio
import time


def monotonic() -> float:
    """Seconds on this process's monotonic clock, for code that runs outside an event loop."""
    return time.monotonic()


def loop_time() -> float:
    """Seconds on the running loop's clock (virtual in simulations)."""
    return asyncio.get_running_loop().time()


def wall() -> float:
    """Seconds since the epoch; for records and for people, never for a decision."""
    return time.time()  # noqa: TID251  (this is the one place)


def utc(at: float) -> str:
    """A wall time in full, for people who may be anywhere."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def of_day(at: float) -> str:
    """A wall time as the local time of day, for people; with the date where that is not today's."""
    then, today = time.localtime(at), time.localtime(wall())
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", then)
