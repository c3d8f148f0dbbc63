"""Attempts that are ended because their worker's walltime is over: what is recorded of that with their failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from furu_async._runtime.blocking import DOOR
from furu_async._store import saved
from furu_async.report import Failure

if TYPE_CHECKING:
    from furu_async._executors.jobs import Job

_DIGEST_SECS = 2.0
"""There is little time left; a digest that does not come means that the attempt counts."""

_log = logging.getLogger("furu_async")
_under_way: set[asyncio.Task[None]] = set()


def mark(job: Job, failure: Failure, then: Callable[[Failure], None]) -> None:
    """Hand the failure of an attempt on, with what is to be recorded of the walltime that it had.

    Args:
        then: called at once, but for a ``_resumable`` node that had a whole allocation: its checkpoint is looked at.
    """
    share = job.origin.share
    if failure.kind != "preempted" or not share:
        then(failure)
    elif share == "part":
        then(msgspec.structs.replace(failure, planned=True))
    else:
        work = asyncio.get_running_loop().create_task(
            _with_digest(job, failure, then), name="furu checkpoint"
        )
        _under_way.add(work)
        work.add_done_callback(_under_way.discard)


async def _with_digest(job: Job, failure: Failure, then: Callable[[Failure], None]) -> None:
    path = job.paths.checkpoint(job.generation)
    try:
        found = await DOOR.files.run(saved.digest, path, deadline=_DIGEST_SECS)
        failure = msgspec.structs.replace(failure, checkpoint=found)
    except OSError as error:  # a deadline that has passed, too
        _log.warning("whether %s has changed cannot be told: %s", path, error)
    then(failure)
