"""Cancelling by id only what is still ours: Slurm gives ids again, after a purge or where its state was lost.

A job is known by its name, which carries its token. Of one that is followed the poller's last answer tells whether the
queue has it under that name, if it is not old; where it does not tell, the queue is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from furu_async._slurm.poller import Poller, Watch
from furu_async._slurm.port import Rows, Silence
from furu_async._slurm.states import Ended

RECENT_SECS = 2.0
"""How old an answer of the queue may be that is relied on; a poller that has nothing to hurry for asks less often."""

FRESH_SECS = 60.0
"""For so long after ``sbatch`` has given an id ``squeue`` need not show it yet."""

_AGAIN_SECS = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """A job that is to be cancelled.

    Attributes:
        id: as ``squeue`` prints it.
        name: the job's, with its token.
        watch: of one that is followed.
        fresh: this process has heard its id from ``sbatch`` a moment ago; ``squeue`` may not show it yet.
    """

    id: str
    name: str
    watch: Watch | None = None
    fresh: bool = False


def is_fresh(placed_at: float | None) -> bool:
    """Whether ``sbatch`` has given this process a job's id a moment ago, at that loop time; None: it has not."""
    return placed_at is not None and asyncio.get_running_loop().time() - placed_at < FRESH_SECS


def is_there(watch: Watch | None) -> bool | None:
    """Whether the queue has a job under its name, as of its last answer; None if nothing was heard."""
    if watch is None:
        return None
    if isinstance(watch.verdict, Ended) or watch.job.missing_since is not None:
        return False
    return True if watch.job.seen else None


async def still_ours(poller: Poller, targets: Sequence[Target], until: float) -> list[str]:
    """Ids of those that may be cancelled.

    Args:
        until: loop time; before that the queue is asked, again where it does not answer. If it has not answered by
            then, what it had when it last did, or is fresh, may be cancelled, and the rest is left alone.
    """
    recent = asyncio.get_running_loop().time() - poller.answered_at <= RECENT_SECS
    sure: list[str] = []
    asked: list[Target] = []
    for target in targets:
        there = is_there(target.watch)
        over = target.watch is not None and isinstance(target.watch.verdict, Ended)
        if there and recent:
            sure.append(target.id)
        elif there is not False or (target.fresh and not over):
            asked.append(target)
    if not asked:
        return sure
    answer = poller.latest if recent and all(target.fresh for target in asked) else None
    if not isinstance(answer, Rows):
        answer = await _ask(poller, until)
    if answer is None:
        return sure + [target.id for target in asked if target.fresh or is_there(target.watch)]
    names: dict[str, set[str]] = {}
    for row in answer.rows:
        names.setdefault(row.id, set()).add(row.name)
        names.setdefault(row.base_id, set()).add(row.name)
    return sure + [target.id for target in asked if target.name in names.get(target.id, _unseen(target))]


def _unseen(target: Target) -> tuple[str, ...]:
    """The names to go by of a job whose id the queue does not show."""
    return (target.name,) if target.fresh else ()


async def _ask(poller: Poller, until: float) -> Rows | None:
    try:
        async with asyncio.timeout_at(until):
            while True:
                answer = await poller.snapshot()
                if not isinstance(answer, Silence):
                    return answer
                await asyncio.sleep(_AGAIN_SECS)
    except TimeoutError:
        return None
