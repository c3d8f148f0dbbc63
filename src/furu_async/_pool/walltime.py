"""How long a worker may still live, and what fits into that."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from furu_async._runtime import clock
from furu_async._slurm import commands
from furu_async._slurm.parameters import signal_secs
from furu_async.report import FailureKind

MARGIN_SECS = 30.0
"""Before its end a worker takes nothing more, whatever fits; less where the whole of its time is short."""

LAST_SECS = 5.0
"""For writing ends and reports after the last task was ended."""

_EARLIER = 60.0
"""Slurm may signal that much earlier than it was asked to."""

_PROMPT = 0.1
_PROMPT_SECS = 30.0
_LONGER = "give its _spec a longer time_min"
_ASK_SECS = 10.0
_SHORT = 0.05
_END = re.compile(r"\bEndTime=([0-9]+)\b")

Ask = Callable[[str], Awaitable[str]]
Share = Literal["part", "whole"]


@dataclass(frozen=True, slots=True)
class Walltime:
    """The time of one allocation.

    Attributes:
        ends: when it ends, on the loop's clock; None if it has no end.
        total: seconds it had when this was found out; None like ``ends``.
    """

    ends: float | None = None
    total: float | None = None

    def left(self, now: float) -> float | None:
        """Seconds until the end; None if there is none."""
        return None if self.ends is None else self.ends - now

    @property
    def margin(self) -> float:
        """Seconds before the end in which nothing is taken."""
        return min(MARGIN_SECS, _SHORT * (self.total or 0.0))

    def closing(self, now: float, grace: float) -> bool:
        """Whether nothing is to be taken any more."""
        left = self.left(now)
        return left is not None and left < grace + LAST_SECS + self.margin

    def over(self, now: float, grace: float) -> bool:
        """Whether what runs is to be ended now."""
        left = self.left(now)
        return left is not None and left < grace + LAST_SECS

    def is_end(self, signal: str, now: float, grace: float) -> bool:
        """Whether a signal says that the walltime ends, as was known; else somebody wants the node for others."""
        left = self.left(now)
        if left is None or self.total is None:
            return False
        notice = signal_secs(self.total / 60.0) + _EARLIER if signal == "SIGUSR2" else grace + LAST_SECS
        return left <= notice


def is_soon(waited: float, total: float | None) -> bool:
    """Whether a task that began so many seconds after its worker had practically all of the worker's time."""
    return total is None or waited <= max(_PROMPT * total, _PROMPT_SECS)


def share_of(*, wanted: bool, first: bool, waited: float, used: float) -> Share:
    """What of its worker's walltime a task had that met the end of it.

    Args:
        wanted: it was taken to have the whole.
        first: nothing had ended there before it began.
        waited: seconds from the beginning of the allocation until it began.
        used: seconds of the allocation until now.
    """
    return "whole" if wanted or (first and is_soon(waited, used)) else "part"


def ending(share: Share, resumable: bool, total: float | None = None) -> tuple[FailureKind, str]:
    """As what a task fails that met the end of its worker's walltime, and what is said of it."""
    if share == "part":
        return "preempted", "the walltime of its worker ended, of which it had a part"
    had = f"all of its worker's walltime{f' of {total:.0f} s' if total else ''} was not enough for it"
    if resumable:
        return "preempted", f"{had}\nhint: see that it saves to furu_checkpoint_dir often enough; {_LONGER}"
    return "timeout", f"{had}\nhint: {_LONGER}, or set _resumable = True and go on from furu_checkpoint_dir"


def fits(left: float | None, time_limit: float | None, grace: float) -> bool:
    """Whether a task may be taken.

    Args:
        left: seconds left of the allocation; None: it has no end.
        time_limit: of the task; one without a limit always fits.
        grace: seconds between SIGTERM and SIGKILL.
    """
    return left is None or time_limit is None or time_limit + grace <= left


def too_long(limit: float | None, total: float | None) -> str:
    """Why a task can never run in allocations of this length."""
    return f"its _time_limit of {limit:g} s does not fit into an allocation of {total:g} s: {_LONGER}"


async def find(env: Mapping[str, str], ask: Ask | None = None) -> Walltime:
    """What Slurm says of this job: ``SLURM_JOB_END_TIME``, else ``scontrol`` once, else that it has no end.

    Both are times of this node's own clock, and are turned into seconds from now at once.
    """
    job_id = env.get("SLURM_JOB_ID", "")
    end = _number(env.get("SLURM_JOB_END_TIME", ""))
    if not end and job_id:
        found = _END.search(await (ask or _scontrol)(job_id))
        end = float(found[1]) if found else 0.0
    if not end:
        return Walltime()
    left = max(end - clock.wall(), 0.0)
    return Walltime(clock.loop_time() + left, left)


async def _scontrol(job_id: str) -> str:
    env = commands.asking_environment(os.environ)
    done = await commands.run(["scontrol", "-o", "show", "job", job_id], deadline=_ASK_SECS, env=env)
    return done.out if done.code == 0 else ""


def _number(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0
