"""Now and then: is every task where it should be?

A worker may live on where Slurm has given its node up, take more, and die with nobody watching it; somebody may remove
a file. So the whole queue is looked at a few times in a lease: what workers that are not followed hold, whose beat is
silent, and tasks whose entry is nowhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from furu_async._plan import leases
from furu_async._plan.leases import LeaseRules, Observation
from furu_async._pool import queue
from furu_async._pool.wanted import Stage, Task
from furu_async._store.beat import see_beat
from furu_async._store.layout import QueuePaths, beat_path


@dataclass(slots=True)
class Sight:
    """What is in the queue.

    Attributes:
        names: of all entries, wherever they are.
        strangers: workers that hold entries and are not followed, with their beats.
    """

    names: set[str] = field(default_factory=set)
    strangers: dict[str, bytes | None] = field(default_factory=dict)


def look(paths: QueuePaths, followed: Collection[str]) -> Sight:
    """Look at the whole queue, in the direction in which entries move; blocks.

    Raises:
        OSError: the file system does not answer.
    """
    sight = Sight()
    for places in queue.waiting(paths).values():
        sight.names.update(places)
    for wid in queue.names(paths.running, ours=True):
        held = queue.running(paths, wid)
        sight.names.update(held)
        if held and wid not in followed:
            sight.strangers[wid] = see_beat(paths.root, beat_path(paths.home, wid))
    sight.names.update(queue.done(paths))
    sight.names.update(queue.failed(paths))
    return sight


class Auditor:
    """What follows from several looks; decides, and touches nothing."""

    def __init__(self, rules: LeaseRules) -> None:
        self._rules = rules
        self._seen: dict[str, Observation] = {}
        self._missing: set[str] = set()

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return min(self._rules.lease, self._rules.grace) / 8

    def judge(self, sight: Sight, tasks: Mapping[str, Task], now: float) -> tuple[list[Task], list[str]]:
        """Tasks whose entry is nowhere, for the second time; and strangers who were silent for a lease."""
        gone = {
            name
            for name, task in tasks.items()
            if name not in sight.names and task.written and task.stage is Stage.OUT
        }
        lost = [tasks[name] for name in gone & self._missing]
        self._missing = gone - self._missing
        silent = []
        for wid, beat in sight.strangers.items():
            seen = self._seen.get(wid)
            if seen is None:
                self._seen[wid] = leases.begin(wid, beat, True, now)
            elif leases.observe(seen, beat, now, self._rules) == "lost":
                silent.append(wid)
                del self._seen[wid]
        self._seen = {wid: seen for wid, seen in self._seen.items() if wid in sight.strangers}
        return lost, silent
