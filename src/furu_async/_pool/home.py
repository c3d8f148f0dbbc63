"""The folder of a pool: made ready for workers, and what an earlier controller left there."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field

from furu_async._pool import queue
from furu_async._pool.entries import PoolSettings, plain_config
from furu_async._pool.objects_log import ObjectsLog
from furu_async._pool.queue import Place
from furu_async._runner.launch import search_path
from furu_async._runtime.config import FuruConfig
from furu_async._store import atomic
from furu_async._store.layout import QueuePaths, RunPaths, parse_entry_name
from furu_async._store.records import Damaged, encode


@dataclass(frozen=True, slots=True)
class LeftEntry:
    """An entry that an earlier controller put into the queue.

    Attributes:
        place: where it waits; None: a worker has it, or is done with it.
    """

    number: int
    place: Place | None = None


@dataclass(slots=True)
class Survey:
    """What an earlier controller left; all empty for a new pool.

    Attributes:
        entries: by the hash of the artifact.
        numbers: the greatest ticket that was seen of each artifact.
        sids: submissions.
    """

    entries: dict[str, LeftEntry] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    sids: list[str] = field(default_factory=list)

    def add(self, name: str, place: Place | None = None, keep: bool = True) -> None:
        """An entry of this name was seen."""
        parsed = parse_entry_name(name)
        if parsed is None:
            return
        digest, number = parsed
        self.numbers[digest] = max(number, self.numbers.get(digest, 0))
        known = self.entries.get(digest)
        if keep and (known is None or known.number < number):
            self.entries[digest] = LeftEntry(number, place)


def settings_of(config: FuruConfig) -> PoolSettings:
    """What workers are to know of this process."""
    return PoolSettings(
        config=plain_config(config),
        path=search_path(),
        cwd=os.getcwd(),
        argv=list(sys.argv),
    )


def prepare(paths: QueuePaths, settings: PoolSettings, objects: ObjectsLog) -> Survey:
    """Make the folder ready, and look at what is there; blocks.

    Raises:
        OSError: the store cannot be written, or not be read. Calling again is harmless, and finds the same.
    """
    run = RunPaths(paths.root, paths.home)
    there = atomic.exists(paths.base)
    for folder in (paths.todo, paths.done, paths.failed, paths.running, paths.cancel, f"{run.base}/logs"):
        atomic.make_folders(folder)
    atomic.replace(paths.settings, encode(settings))
    survey = Survey()
    if not there:
        return survey
    queue.reopen(paths)
    objects.load()
    for places in queue.waiting(paths).values():
        for name, place in places.items():
            survey.add(name, place)
    for wid in queue.names(paths.running):
        for name in queue.running(paths, wid):
            survey.add(name)
    for name in queue.done(paths):
        survey.add(name)
    dropped: list[str] = []
    for name in queue.failed(paths):
        # The end of an attempt may be newer than what was counted from the store; of others nothing need be known.
        attempt = _is_attempt(paths, name)
        survey.add(name, keep=attempt)
        if not attempt:
            dropped.append(f"{paths.failed}/{name}")
    survey.sids = sorted(queue.names(run.submissions))
    for (
        path
    ) in dropped:  # after everything that may raise: the tickets in their names are not to be given again
        atomic.try_unlink(path)
    return survey


def _is_attempt(paths: QueuePaths, name: str) -> bool:
    try:
        report = queue.load_report(paths, name)
    except Damaged:
        return False
    return report is not None and report.outcome == "failed" and report.generation > 0
