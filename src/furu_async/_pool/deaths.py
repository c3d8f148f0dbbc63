"""What the end of a worker says about its spec: is there sense in sending more? Pure; `Breaker` keeps the counts."""

from __future__ import annotations

import logging
from collections.abc import Collection

from furu_async._pool.breaker import MOST_REPLACED, Breaker, Death
from furu_async._pool.crew import Remains, Worker
from furu_async._runtime import exit_codes
from furu_async._slurm.states import Ended

_log = logging.getLogger("furu_async.pool")


def may_replace(breaker: Breaker, workers: Collection[Worker]) -> bool:
    """Whether workers may be submitted for a spec.

    Those that were told to end, and nobody has said yet why, may be ones that somebody has cancelled. What one that
    has just ended says of the next is known in a moment.

    Args:
        workers: of that spec.
    """
    told = sum(_was_told(worker) for worker in workers)
    known = not any(worker.gone for worker in workers)
    return breaker.open and known and breaker.cancelled + told <= MOST_REPLACED


def _was_told(worker: Worker) -> bool:
    status = worker.status
    ending = status is not None and status.stage in ("draining", "ended") and status.why.startswith("SIG")
    return ending and not worker.intent and not isinstance(worker.verdict, Ended)


def count(
    breaker: Breaker, worker: Worker, ended: Ended | None, remains: Remains, lived: float, ours: bool
) -> bool:
    """Take the end of a worker into account; True if nothing is to be submitted any more.

    Args:
        ended: how it ended, as Slurm says; None: it was silent for a lease.
        lived: seconds.
        ours: we have ended it.
    """
    status = worker.status
    finished = status.finished if status is not None else 0
    planned = ended is not None and ended.how == "completed" and status is not None
    if ours or (planned and not remains.entries):
        if finished:
            breaker.worked()
        return False
    text = _epitaph(worker, ended, remains)
    _log.warning("worker %s of spec %s is gone: %s", worker.wid, worker.spec_key, text)
    if ended is not None and ended.how in ("preempted", "timeout"):
        return False
    if ended is not None and ended.exit_code == exit_codes.VERSION_SKEW and breaker.open:
        breaker.why = f"its workers have other code than this process: {text}"
        return True
    return breaker.died(Death(lived, finished, ended is not None and ended.how == "cancelled", text))


def _epitaph(worker: Worker, ended: Ended | None, remains: Remains) -> str:
    how = "it gave no sign of life" if ended is None else f"{ended.state or 'gone'} {ended.reason}".strip()
    if ended is not None and ended.exit_code:
        how += f", exit code {ended.exit_code}"
    return f"job {worker.job_id}: {how}; {worker.log or 'no log'}: {remains.tail or '(empty)'}"
