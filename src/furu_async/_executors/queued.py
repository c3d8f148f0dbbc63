"""Claims of jobs that wait in Slurm's queue: nothing beats there, so Slurm is asked, where it can be."""

from __future__ import annotations

import asyncio
import logging
import shutil

from furu_async._executors.base import Find
from furu_async._runtime.blocking import DOOR
from furu_async._store import submissions
from furu_async._store.layout import RunPaths, worker_of_beat
from furu_async._store.records import Claim
from furu_async.errors import FuruError

FIRST_SECS = 60.0
"""How long such a claim is looked at before Slurm is asked; and how long until it is asked again."""

logger = logging.getLogger("furu_async")


class Asking:
    """Whether the job of one claim waits in Slurm, asked about from time to time beside what else is done.

    Args:
        find: looks for a job by its name; None: the commands of this host do, if there are any.

    Attributes:
        waits: what was said last; None: nothing.
    """

    def __init__(self, root: str, find: Find | None) -> None:
        self.waits: bool | None = None
        self._root = root
        self._find = find
        self._due: float | None = None
        self._task: asyncio.Task[bool | None] | None = None

    def look(self, claim: Claim, now: float) -> bool | None:
        """What was said last, which is asked again when it is time for that; never blocks."""
        task = self._task
        if task is not None and task.done():
            self._task, self._due, self.waits = None, now + FIRST_SECS, None
            error = task.exception()
            if error is None:
                self.waits = task.result()
            else:
                logger.error("asking Slurm for %s failed: %r", claim.beat, error)
        elif self._due is None:
            self._due = now + FIRST_SECS
        elif task is None and now >= self._due:
            self._due = now + FIRST_SECS
            if self._find is not None or _can_ask():
                asking = waits_in_slurm(self._root, claim, self._find)
                self._task = asyncio.get_running_loop().create_task(asking, name="furu ask Slurm")
        return self.waits

    def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()


def _can_ask() -> bool:
    """Slurm's commands are there."""
    return shutil.which("squeue") is not None


async def waits_in_slurm(root: str, claim: Claim, find: Find | None = None) -> bool | None:
    """Whether Slurm has the job for which a claim was made; None if it does not say.

    Args:
        find: looks for a job by its name; default: by this host's commands.
    """
    try:
        names = await DOOR.probe.run(_names, root, claim, deadline=30.0)
    except (OSError, TimeoutError, FuruError):
        return None
    # Most runs never ask: they do not wait for these imports.
    from furu_async._slurm.real import RealSlurm
    from furu_async._slurm.states import Alive

    find = find or RealSlurm().find
    for name in names:
        found = await find(name)
        if not found.answered:
            return None
        if any(isinstance(row.verdict(), Alive) for row in found.rows):
            return True
    return False if names else None


def _names(root: str, claim: Claim) -> list[str]:
    worker = worker_of_beat(root, claim.beat)
    if worker is None:
        return []
    sid = worker.base.rpartition("/")[2].partition("-")[0]
    there = submissions.read(RunPaths(root, claim.run_id).submission(sid))
    return [each.name for each in there.tries if each.name]
