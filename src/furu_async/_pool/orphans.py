"""The tasks of workers that are gone: told to their runs where a process was at them, and given out again else."""

from __future__ import annotations

from collections.abc import Callable

from furu_async._pool.control import Control
from furu_async._pool.crew import Gone, Left, is_proof, kind_of
from furu_async._pool.walltime import Share, ending
from furu_async._pool.wanted import CANCELLED, Task
from furu_async.report import Failure

_TAIL_LINES = 20


def care_for(
    gone: Gone, control: Control, again: Callable[[Task], None], over: Callable[[Task], None]
) -> None:
    """See to everything that a worker had taken and not reported.

    Args:
        again: writes the entry of a task again.
        over: a task is about to tell its end to its runs.
    """
    for left in gone.remains.entries:
        task = control.tasks.get(left.name)
        if task is None:
            control.feeder.forget_running(gone.worker.wid, left.name)
        else:
            _care_for_one(task, left, gone, control, again, over)
    control.poke()


def _care_for_one(
    task: Task,
    left: Left,
    gone: Gone,
    control: Control,
    again: Callable[[Task], None],
    over: Callable[[Task], None],
) -> None:
    worker, ended, feeder = gone.worker, gone.ended, control.feeder
    if left.open and (ended is None or is_proof(ended)):
        for request in task.requests:
            request.node.takeover, request.node.silent_at = left.generation, gone.remains.beat
    task.mute += gone.mute
    task.suspected += left.suspect
    begun = left.begun or task.suspected > 1
    unharmed = worker.intent == "" and ended is not None and ended.how == "cancelled"
    if begun:
        task.began(worker.wid)
    if task.unwanted or (begun and unharmed):
        feeder.forget_running(worker.wid, left.name)
        over(task)
        task.failed(CANCELLED, left.generation) if begun and task.unwanted else task.taken_back()
    elif begun or task.mute > 1:
        feeder.forget_running(worker.wid, left.name)
        over(task)
        task.failed(_failure_of(task, gone), left.generation)
    elif left.generation or task.place is None or not control.fleet.serves(task.spec_key):
        feeder.forget_running(worker.wid, left.name)
        again(task)
    else:
        task.begun = task.taken = False
        feeder.put_back(worker.wid, left.name, task.place)


def _failure_of(task: Task, gone: Gone) -> Failure:
    worker, ended = gone.worker, gone.ended
    status = worker.status
    where = f"worker {worker.wid} (job {worker.job_id or '?'}" + (f" on {status.host})" if status else ")")
    if gone.mute:
        text = f"{where} never showed a beat"
        return Failure(kind="lost", message=text, retryable=False if task.mute > 1 else None)
    if ended is None:
        return Failure(kind="lost", message=f"{where} gave no sign of life for a lease")
    finished = status.finished if status is not None else 0
    if ended.how == "timeout":
        share: Share = "whole" if task.origin.whole or not finished else "part"
        kind, why = ending(share, task.origin.node.info.resumable)
        return Failure(kind=kind, planned=share == "part", message=f"{where} was ended by Slurm: {why}")
    words = " ".join(part for part in (ended.state or "gone from Slurm", ended.reason) if part)
    tail = gone.remains.tail.splitlines()[-_TAIL_LINES:]
    return Failure(
        kind=kind_of(ended),
        message=f"{where} ended while it was at it: {words}",
        log_tail="\n".join(tail),
    )
