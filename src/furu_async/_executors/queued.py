"""Claims of jobs that wait in Slurm's queue: nothing beats there, so Slurm is asked, where it can be."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from furu_async._runtime.blocking import DOOR
from furu_async._store import submissions
from furu_async._store.layout import RunPaths, worker_of_beat
from furu_async._store.records import Claim
from furu_async.errors import FuruError

if TYPE_CHECKING:
    from furu_async._slurm.port import Found

FIRST_SECS = 60.0
"""How long such a claim is looked at before Slurm is asked; and how long until it is asked again."""


def can_ask() -> bool:
    """Slurm's commands are there."""
    return shutil.which("squeue") is not None


async def waits_in_slurm(
    root: str, claim: Claim, find: Callable[[str], Awaitable[Found]] | None = None
) -> bool | None:
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
