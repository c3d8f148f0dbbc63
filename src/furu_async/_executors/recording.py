"""Writing ``run.json``, off the loop, once; its loss is no failure of the run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import furu_async
from furu_async._model.artifact import Furu, class_info
from furu_async._runtime.blocking import DOOR
from furu_async._store import atomic
from furu_async._store.records import RunRecord, encode

logger = logging.getLogger("furu_async")


_MOST_TARGETS = 1000


def record_of(
    run_id: str, key: str, executor: str, targets: Sequence[Furu[Any]], created_at: float
) -> RunRecord:
    """What ``run.json`` says of a run: what was asked for, when (wall time) and of what."""
    return RunRecord(
        run_id=run_id,
        key=key,
        executor=executor,
        targets=[obj.furu_hash for obj in targets[:_MOST_TARGETS]],
        names=sorted({class_info(type(obj)).name for obj in targets}),
        created_at=created_at,
        library=furu_async.__version__,
    )


class Recording:
    """See the module."""

    def __init__(self) -> None:
        self._writing: Future[None] | None = None

    def write(self, path: str, record: RunRecord) -> None:
        """Begin to write; returns at once."""
        self._writing = DOOR.files.submit(atomic.replace, path, encode(record))
        self._writing.add_done_callback(_log_trouble)

    async def wait(self, seconds: float) -> None:
        """Until it is written, for a while."""
        writing = self._writing
        if writing is not None and not writing.done():
            await asyncio.wait([asyncio.wrap_future(writing)], timeout=seconds)


def _log_trouble(writing: Future[None]) -> None:
    if not writing.cancelled() and writing.exception() is not None:
        logger.warning("run.json could not be written: %s", writing.exception())
