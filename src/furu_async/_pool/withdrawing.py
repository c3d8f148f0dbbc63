"""Cancelling workers' jobs: the intent is on disk before Slurm is asked, so that nobody is blamed for it.

A job that Slurm's queue does not have under its name any more is left alone: its id may be another one's by now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from furu_async._pool.crew import Worker
from furu_async._slurm.poller import Poller
from furu_async._slurm.submitter import Submitter, on_disk
from furu_async._slurm.withdrawing import Target, is_fresh, still_ours
from furu_async._store import submissions
from furu_async._store.layout import QueuePaths, RunPaths

_ASK_SECS = 20.0
"""How long Slurm may give no answer before a job is left alone of which it cannot be told that it is ours."""

_log = logging.getLogger("furu_async.pool")


async def withdraw(
    paths: QueuePaths, submitter: Submitter, poller: Poller, workers: Sequence[Worker]
) -> None:
    """Cancel some workers. Of an array whose other tasks go on the intent is kept in mind only."""
    for worker in workers:
        if worker.job_id and worker.index < 0:
            await _intend(paths, worker.sid, worker.intent)
    await _cancel(submitter, poller, workers, asyncio.get_running_loop().time() + _ASK_SECS)
    poller.poke()


async def withdraw_all(
    paths: QueuePaths, submitter: Submitter, poller: Poller, workers: Sequence[Worker], until: float
) -> None:
    """Cancel these workers, with whatever else belongs to their submissions, in one batch.

    Args:
        until: loop time until which Slurm is asked which of them it has.
    """
    for sid in dict.fromkeys(worker.sid for worker in workers):
        await _intend(paths, sid, "its pool was closed")
    await _cancel(submitter, poller, workers, until)


async def _intend(paths: QueuePaths, sid: str, why: str) -> None:
    submission = RunPaths(paths.root, paths.home).submission(sid)
    try:
        await on_disk(submissions.close, submission, "cancel", why)
    except OSError as error:
        _log.warning("cancelling without a record of it: %s", error)


async def _cancel(submitter: Submitter, poller: Poller, workers: Sequence[Worker], until: float) -> None:
    targets = [
        Target(worker.job_id, worker.name, worker.watch, is_fresh(worker.placed_at))
        for worker in workers
        if worker.job_id
    ]
    ids = await still_ours(poller, targets, until)
    if ids:
        await submitter.port.cancel(ids)
