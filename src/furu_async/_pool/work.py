"""The entries that a worker holds: each is built, given to its `LocalExecutor`, and reported when it is over."""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from furu_async._executors.base import Node, Request
from furu_async._executors.local import GRACE_SECS, LocalExecutor
from furu_async._plan.events import Elsewhere, Event, Failed, Started, Succeeded
from furu_async._pool import walltime
from furu_async._pool.entries import UNREADABLE, Outcome, QueueEntry
from furu_async._pool.objects_log import Table
from furu_async._pool.queue import Taken
from furu_async._pool.round import Ask
from furu_async._pool.taken import Task, TaskRun, nodes_of, report_of, unreadable
from furu_async._pool.walltime import Walltime
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._runtime.config import FuruConfig, use_config
from furu_async._store.liveness import this_owner
from furu_async._store.records import Damaged
from furu_async.errors import FuruError
from furu_async.report import Failure, FailureKind

End = Literal["", "soft", "hard"]

SHORT_SECS = 0.2
"""Below this a task is one for which the next is taken ahead."""

TABLE_SECS = 60.0
"""How long an artifact's table entry is waited for that the file system does not show yet."""

_TINY_SECS, _AHEAD_SECS = 0.01, 1.0
_MOST_AHEAD = 32
_SUSPECT_SECS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotPlan:
    """What a worker is started with.

    Attributes:
        slots: tasks at the same time.
        idle: seconds without work after which it ends.
        detached: it goes on without a controller, and when the run has ended, until the queue is closed or empty.
        job_id, restart_count: of its Slurm job.
        grace: seconds between SIGTERM and SIGKILL of a task.
        seed: of what it draws at random.
    """

    wid: str
    spec_key: str
    slots: int = 1
    idle: float = 60.0
    detached: bool = False
    job_id: str = ""
    restart_count: int = 0
    grace: float = GRACE_SECS
    walltime: Walltime = field(default_factory=Walltime)
    seed: int | None = None


class Work:
    """See the module. On the loop; what is to be written is left in ``ask`` for the next round.

    Args:
        executor: runs the tasks, in this worker's name.
        broken: told when it cannot go on.
        wake: called when there is something to write, or room.

    Attributes:
        tasks: by the name of the entry.
        skip: names of entries that do not fit into what is left of the walltime.
        ending: ``soft``: what has not begun waits again; ``hard``: what runs is ended, too.
        seconds: moving average of what a task takes, None before the first.
        taken, finished: how many so far.
        idle_since: end of the last task, on the loop's clock.
        ready_at: since when it can take tasks.
    """

    def __init__(
        self,
        plan: PilotPlan,
        config: FuruConfig,
        executor: LocalExecutor,
        table: Table,
        log: Callable[[str], None],
        broken: Callable[[FuruError], None],
        wake: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.ask: Ask = Ask()
        self.tasks: dict[str, Task] = {}
        self.skip: set[str] = set()
        self.ending: End = ""
        self.why: str = ""
        self.seconds: float | None = None
        self.taken: int = 0
        self.finished: int = 0
        self._loop = asyncio.get_running_loop()
        self.idle_since: float = self._loop.time()
        self.ready_at: float = self.idle_since
        self._config = config
        self._executor = executor
        self._table = table
        self._log = log
        self._broken = broken
        self._wake = wake
        self._kind: FailureKind = "preempted"
        self._host = this_owner().host
        self._tokens: dict[str, str] = {}
        self._recalled: set[str] = set()
        self._building: set[asyncio.Task[None]] = set()
        with use_config(config):
            self._context = contextvars.copy_context()

    # -- in --------------------------------------------------------------------------------------------------

    def depth(self) -> int:
        """How many entries to hold: the slots, and a few ahead where tasks are so short that a child would wait."""
        slots, seconds = self.plan.slots, self.seconds
        if seconds is None or max(seconds, self._busy()) >= SHORT_SECS:
            return slots
        if seconds >= _TINY_SECS:
            return slots + 1
        return slots * min(_MOST_AHEAD, 2 + int(_TINY_SECS / max(seconds, 1e-5)))

    def _busy(self) -> float:
        """For how many seconds no slot has become free; 0.0 if one is."""
        now = self._loop.time()
        running = [now - task.began for task in self.tasks.values() if task.began is not None]
        return min(running) if len(running) >= self.plan.slots else 0.0

    def give_back_ahead(self) -> None:
        """What was taken ahead of tasks that turn out to be long is for other workers."""
        if self._busy() >= _AHEAD_SECS:
            for task in list(self.tasks.values()):
                if task.began is None and task.request is not None:
                    self._executor.take_back(task.request.run, task.entry.hash)

    def accept(self, taken: Taken, entry: QueueEntry | Damaged) -> None:
        """An entry was taken."""
        if taken.name in self.tasks:
            return  # the same once more: the queue is a hint
        self.taken += 1
        if isinstance(entry, Damaged):
            known, failure = unreadable(taken.name, entry.reason, spec_key=self.plan.spec_key)
            self._log(failure.message)
            self._report(known, "failed", False, failure=failure, detail=UNREADABLE)
            return
        task = self.tasks[taken.name] = Task(taken, entry, self._loop.time())
        refusal = task.refusal(self.plan.spec_key)
        if refusal is not None:
            self._failed(task, refusal)
        elif self.ending or taken.name in self._recalled:
            task.recalled = taken.name in self._recalled
            self._give_back(task, task.wish)

    def waiting(self) -> list[Task]:
        """Tasks whose artifact is still to be built."""
        return [task for task in self.tasks.values() if task.request is None and not task.building]

    def build(self, there: set[str]) -> None:
        """Go on with tasks whose table entries have come; one that waited too long fails."""
        ready = [task for task in self.waiting() if task.entry.hash in there]
        for task in ready:
            task.building = True
        if ready:
            work = self._loop.create_task(self._build(ready), name="furu pool build")
            self._building.add(work)
            work.add_done_callback(self._building.discard)
        for task in self.waiting():
            if self._loop.time() - task.since > TABLE_SECS:
                text = f"{self._table.reader.path} has no entry for {task.entry.hash} after {TABLE_SECS:g} s"
                self._failed(task, Failure(kind="infrastructure", message=text))

    async def _build(self, tasks: list[Task]) -> None:
        # In a thread: modules of the user's are imported, and that may take its time.
        made: list[Node | Failure] = []
        try:
            made = await DOOR.user.run(nodes_of, self._table, [task.entry for task in tasks])
        except BlockingTimeout as error:  # no thread can be had: the next round asks again
            self._log(str(error))
        for task in tasks:
            task.building = False
        for task, node in zip(tasks, made, strict=bool(made)):
            if self.tasks.get(task.name) is not task:
                continue
            if isinstance(node, Failure):
                self._failed(task, node)
            elif self.ending or task.wish:
                self._give_back(task, task.wish)
            elif self._fits(task, node.info.time_limit):
                self._start(task, node)

    def _fits(self, task: Task, limit: float | None) -> bool:
        ends, grace = self.plan.walltime, self.plan.grace
        left = ends.left(self._loop.time())
        fresh = walltime.is_soon(task.since - self.ready_at, ends.total)
        able = walltime.fits(ends.total, limit, grace)
        # No other worker would have more time left than one that has just begun: its start took the rest.
        used = (ends.total or 0.0) - (left or 0.0)
        first = self.taken <= self.plan.slots and walltime.is_soon(used, ends.total)
        if (able and first) or (walltime.fits(left, limit, grace) and (fresh or not task.entry.whole)):
            return True
        if able:
            self.skip.add(task.name)
            self._give_back(task, "")
        else:
            self._failed(task, Failure(kind="timeout", message=walltime.too_long(limit, ends.total)))
        return False

    def _start(self, task: Task, node: Node) -> None:
        entry = task.entry
        run = self.run_of(entry.run_id, partial(self._on_event, task), partial(self._on_fail, task))
        spec = entry.executor_keys.index(entry.spec_key) if entry.spec_key in entry.executor_keys else 0
        task.request = Request(run, node, entry.attempt, entry.priority, spec, entry.ticket)
        self._executor.start(task.request)

    def run_of(
        self,
        run_id: str,
        post: Callable[[Event], None],
        failed: Callable[[FuruError], None],
        opened: Callable[[], None] = lambda: None,
    ) -> TaskRun:
        """What an entry tells the executor that it is part of; of one run all claim with one token."""
        token = self._tokens.setdefault(run_id, uuid.uuid4().hex)
        return TaskRun(run_id, token, self._config, self._context, post, failed, self._log, opened)

    # -- ending ----------------------------------------------------------------------------------------------

    def end(self, how: End, why: str, kind: FailureKind = "preempted") -> None:
        """Take nothing more; ``hard`` after ``soft`` counts, and nothing after that.

        Args:
            kind: as what tasks fail that are ended; ``timeout``: those that had the whole allocation, and only they.
        """
        if self.ending in ("hard", how):
            return
        self.ending, self.why, self._kind = how, why, kind
        for task in list(self.tasks.values()):
            if task.request is None:
                if not task.building:
                    self._give_back(task, task.wish)
            elif how == "hard":
                self._kill(task)
            elif task.began is None:
                self._executor.take_back(task.request.run, task.entry.hash)
        self._wake()

    def cancel(self, name: str) -> None:
        """The controller wants an entry no more."""
        task = self.tasks.get(name)
        if task is None or task.cancelled:
            return
        task.cancelled = True
        self._log(f"{name}: cancelled by the controller")
        if task.request is not None:
            self._kill(task)
        elif not task.building:
            self._give_back(task, "cancelled")

    def recall(self, names: list[str]) -> None:
        """The controller wants these entries back, as far as no process is at them."""
        self._recalled = set(names)
        for task in [task for task in self.tasks.values() if task.name in self._recalled]:
            if task.began is None and not task.wish:
                task.recalled = True
                if task.request is not None:
                    self._executor.take_back(task.request.run, task.entry.hash)
                elif not task.building:
                    self._give_back(task, task.wish)

    def abandon(self) -> None:
        """It cannot go on: everything that it still holds ends here."""
        for building in self._building:
            building.cancel()
        for task in list(self.tasks.values()):
            if task.began is None:
                self._give_back(task, "")
            else:
                text = f"its worker could not go on: {self.why or 'an error of its own'}"
                self._failed(task, Failure(kind="lost", message=text))

    def _kill(self, task: Task) -> None:
        """Also one that has not begun: it comes back as that."""
        if task.request is not None:
            kind, text = self._verdict(task)
            self._executor.kill(task.request.run, task.entry.hash, kind, text)

    def _text(self) -> str:
        return f"its worker was ended: {self.why}" if self.why else "cancelled with its run"

    def _verdict(self, task: Task) -> tuple[FailureKind, str]:
        """As what a task fails that is ended here, and in which words; its request is told what time it had."""
        if task.cancelled:
            return "cancelled", self._text()
        now, ends = self._loop.time(), self.plan.walltime
        left = ends.left(now)
        if self._kind != "timeout" or task.request is None or left is None or ends.total is None:
            return self._kind if self._kind != "timeout" else "preempted", self._text()
        used = ends.total - left
        waited = used - (now - (now if task.began is None else task.began))
        share = walltime.share_of(wanted=task.entry.whole, first=task.first, waited=waited, used=used)
        task.request.share = share
        return walltime.ending(share, task.request.node.info.resumable, ends.total)

    # -- what becomes of them --------------------------------------------------------------------------------

    def _on_fail(self, task: Task, error: FuruError) -> None:
        task.error = str(error)
        if self._executor.keeper.broken is not None:
            self._broken(error)

    def _on_event(self, task: Task, event: Event) -> None:
        if self.tasks.get(task.name) is not task:
            return
        if isinstance(event, Started):
            if task.began is None:
                task.began, task.first = self._loop.time(), not self.finished
                self._wake()
        elif isinstance(event, Succeeded):
            self.ask.done.append(task.name)
            self._gone(task)
        elif isinstance(event, Failed):
            self._on_failed(task, event.failure)
        elif isinstance(event, Elsewhere):
            held = task.request.node.held if task.request is not None else 0
            self._report(
                task.entry, "elsewhere", task.began is not None, generation=held, detail=event.detail
            )
            self._gone(task)
        elif task.error:
            failure = Failure(kind="infrastructure", error_type="FuruStoreError", message=task.error)
            self._failed(task, failure)
        else:
            self._give_back(task, task.wish)

    def _on_failed(self, task: Task, failure: Failure) -> None:
        if failure.kind in ("cancelled", "killed") and not self.ending and not task.cancelled:
            # Slurm signals the children too, and what became of them may be heard before our own signal.
            self._loop.call_later(_SUSPECT_SECS, self._settle, task, failure)
        else:
            self._settle(task, failure)

    def _settle(self, task: Task, failure: Failure) -> None:
        if self.tasks.get(task.name) is not task:
            return
        if task.cancelled and failure.kind == "cancelled":
            self._report(task.entry, "returned", task.began is not None, detail="cancelled")
            self._gone(task)
            return
        if self.ending == "hard" and failure.kind in ("cancelled", "killed"):
            kind, text = self._verdict(task)
            planned = task.request is not None and task.request.share == "part"
            where, tail = failure.log_path, failure.log_tail
            failure = Failure(kind=kind, message=text, planned=planned, log_path=where, log_tail=tail)
        self._failed(task, failure)

    def _failed(self, task: Task, failure: Failure) -> None:
        generation = task.request.node.generation if task.request is not None else 0
        self._log(f"{task.name}: {failure.line()}")
        self._report(task.entry, "failed", task.began is not None, generation=generation, failure=failure)
        self._gone(task)

    def _give_back(self, task: Task, detail: str) -> None:
        """Nothing of it has begun: it waits again, or, where that is not wanted, the controller is told."""
        idle_since = self.idle_since
        if detail:
            self._report(task.entry, "returned", False, detail=detail)
        else:
            self.ask.back.append((task.name, task.taken.place))
        self._gone(task)
        self.idle_since = idle_since

    def _gone(self, task: Task) -> None:
        self.tasks.pop(task.name, None)
        now = self._loop.time()
        if task.wish:
            self.ask.fulfilled.append(task.name)
        if task.began is not None:
            took = now - task.began
            self.seconds = took if self.seconds is None else 0.8 * self.seconds + 0.2 * took
            self.finished += 1
        self.idle_since = now
        self._wake()

    def _report(self, entry: QueueEntry, outcome: Outcome, begun: bool, **said: Any) -> None:
        """Further arguments are those of `report_of`."""
        plan = self.plan
        made = report_of(
            entry, outcome, worker_id=plan.wid, node=self._host, job_id=plan.job_id, begun=begun, **said
        )
        self.ask.reports.append((entry.file, made))
