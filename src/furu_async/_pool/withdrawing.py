"""Cancelling workers' jobs: the intent is on disk before Slurm is asked, so that nobody is blamed for it.

A job that Slurm's queue does not have under its name any more is left alone: its id may be another one's by now.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from furu_async._pool.crew import Worker
from furu_async._slurm.submitter import Submitter, on_disk
from furu_async._slurm.withdrawing import is_there
from furu_async._store import submissions
from furu_async._store.layout import QueuePaths, RunPaths

_log = logging.getLogger("furu_async.pool")


async def withdraw(paths: QueuePaths, submitter: Submitter, workers: Sequence[Worker]) -> None:
    """Cancel some workers. Of an array whose other tasks go on the intent is kept in mind only."""
    run = RunPaths(paths.root, paths.home)
    ids = []
    for worker in workers:
        if worker.index < 0:
            await submitter.withdraw(run.submission(worker.sid), _ids([worker]), worker.intent)
        else:
            ids += _ids([worker])
    if ids:
        await submitter.port.cancel(ids)


async def withdraw_all(paths: QueuePaths, submitter: Submitter, workers: Sequence[Worker]) -> None:
    """Cancel these workers, with whatever else belongs to their submissions, in one batch."""
    if not workers:
        return
    run = RunPaths(paths.root, paths.home)
    for sid in dict.fromkeys(worker.sid for worker in workers):
        try:
            await on_disk(submissions.close, run.submission(sid), "cancel", "its pool was closed")
        except OSError as error:
            _log.warning("cancelling without a record of it: %s", error)
    await submitter.port.cancel(_ids(workers))


def _ids(workers: Sequence[Worker]) -> list[str]:
    return [worker.job_id for worker in workers if is_there(worker.watch) is not False]
