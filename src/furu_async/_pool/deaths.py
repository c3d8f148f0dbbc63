"""What the end of a worker says about its spec: is there sense in sending more? Pure; `Breaker` keeps the counts."""

from __future__ import annotations

import logging
from collections.abc import Collection

from furu_async._pool.breaker import MOST_REPLACED, Breaker, Death
from furu_async._pool.crew import Remains, Worker
from furu_async._runtime import exit_codes
from furu_async._slurm.states import Ended

_log = logging.getLogger("furu_async.pool")


def may_replace(breaker: Breaker, workers: Collection[Worker], now: float) -> bool:
    """Whether workers may be submitted for a spec.

    Those that were told to end, and nobody has said yet why, may be ones that somebody has cancelled. What one that
    has just ended says of the next is known in a moment.

    Args:
        workers: of that spec.
    """
    told = sum(_was_told(worker) for worker in workers)
    known = not any(worker.gone for worker in workers)
    due = now >= breaker.not_before
    return breaker.open and due and known and breaker.cancelled + told <= MOST_REPLACED


def _was_told(worker: Worker) -> bool:
    status = worker.status
    ending = status is not None and status.stage in ("draining", "ended") and status.why.startswith("SIG")
    return ending and not worker.intent and not isinstance(worker.verdict, Ended)


def count(
    breaker: Breaker, worker: Worker, ended: Ended | None, remains: Remains, *, now: float, ours: bool
) -> str:
    """Take the end of a worker into account; where it died young or could not work, that in a sentence.

    Args:
        ended: how it ended, as Slurm says; None: it was silent for a lease.
        now: on the loop's clock.
        ours: we have ended it.
    """
    status = worker.status
    finished = status.finished if status is not None else 0
    planned = ended is not None and ended.how == "completed" and status is not None
    if ours or (planned and not remains.entries):
        if finished:
            breaker.worked()
        return ""
    worker.node = (ended.node if ended is not None else "") or worker.node
    worker.node = worker.node or (status.host if status is not None else "")
    text = _epitaph(worker, ended, remains)
    _log.warning("worker %s of spec %s is gone: %s", worker.wid, worker.spec_key, text)
    if ended is not None and ended.how in ("preempted", "timeout"):
        return ""
    if ended is not None and ended.exit_code == exit_codes.VERSION_SKEW and breaker.open:
        breaker.why = f"its workers have other code than this process: {text}"
        return ""
    cancelled = ended is not None and ended.how == "cancelled"
    young, lived = breaker.young, now - (now if worker.began_at is None else worker.began_at)
    unable = ended is not None and ended.exit_code == exit_codes.CANNOT_START
    idle = status is None or not status.taken
    breaker.died(Death(lived, finished, cancelled, text, unable=unable and idle), now)
    if breaker.young <= young and not unable:
        return ""
    return f"a worker{_where(worker)} died {lived:.0f} s after its start: {text}"


def _epitaph(worker: Worker, ended: Ended | None, remains: Remains) -> str:
    how = "it gave no sign of life" if ended is None else f"{ended.state or 'gone'} {ended.reason}".strip()
    if ended is not None and ended.exit_code:
        how += f", exit code {ended.exit_code}"
    status = remains.status
    why = status.why if status is not None and status.stage == "ended" else ""
    said = remains.tail or why or "(empty, or not there: does that node see the store?)"
    return f"job {worker.job_id}{_where(worker)}: {how}; {worker.log or 'no log'}: {said}"


def _where(worker: Worker) -> str:
    return f" on {worker.node}" if worker.node else ""
