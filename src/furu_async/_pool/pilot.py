"""A worker of a pool at work: looks at the queue, takes as much as it can do, and knows when to end.

Everything happens on one event loop; what blocks is done in rounds (`_pool.round`), one after the other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from furu_async._executors.local import LocalExecutor
from furu_async._plan.leases import LeaseRules
from furu_async._pool.entries import Stage, WorkerStatus
from furu_async._pool.guardian import Guardian
from furu_async._pool.objects_log import Table
from furu_async._pool.queue import Taken, Taker
from furu_async._pool.round import Answer, Ask, Desk, Round
from furu_async._pool.work import PilotPlan, Work
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import FuruConfig
from furu_async._store.layout import QueuePaths, beat_path
from furu_async._store.liveness import this_owner
from furu_async._store.records import encode
from furu_async.errors import FuruError, FuruExecutorError
from furu_async.report import FailureKind

_FIRST_POLL = 0.02
_POLL_GROWTH = 1.5
_MOST_POLL = 1.0
_LOOK_SECS = 0.25
_ROUND_SECS = 2.0
_STATUS_SECS = 0.25
_FRESH_SECS = 5.0
_OPEN_SECS = 60.0
_LAST_SECS = 10.0


class Pilot:
    """See the module.

    Args:
        executor: runs the tasks, in this worker's name; it is closed when `run` returns.
        log: takes lines for people.

    Attributes:
        stage: what it is at.
        work: the entries that it holds.
    """

    def __init__(
        self,
        plan: PilotPlan,
        paths: QueuePaths,
        config: FuruConfig,
        executor: LocalExecutor,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.plan = plan
        self.paths = paths
        self.executor = executor
        self.log = log
        self.stage: Stage = "starting"
        self._loop = asyncio.get_running_loop()
        self._random = random.Random(plan.seed)
        self._wake = asyncio.Event()
        table = Table(paths.objects)
        self._taker = Taker(paths, plan.spec_key, plan.wid, self._random)
        self._desk = Desk(paths, self._taker, plan.wid, table)
        self.work: Work = Work(plan, config, executor, table, log, self._break, self._wake.set)
        self._taker.skip = self.work.skip
        rules = LeaseRules(
            lease=config.lease_secs, grace=config.heartbeat_grace_secs, stale=config.stale_after_secs
        )
        self._guardian = Guardian(rules)
        self._owner = this_owner()
        self._unread: list[Taken] = []
        self._under_way: Round | None = None
        self._error: FuruError | None = None
        self._delay = _FIRST_POLL
        self._due: dict[str, float] = {}
        self._shown: Any = None
        self._shown_at = float("-inf")
        self._trouble = False
        self._infra_secs = config.infra_secs
        self._stuck, self._stuck_since = "", 0.0
        self._main: asyncio.Task[Any] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._given_up = self._finishing = False

    # -- its life --------------------------------------------------------------------------------------------

    async def run(self) -> str:
        """Work until there is a reason to end; that reason.

        Raises:
            FuruError: it cannot work here: the store cannot be written, or its keeper is gone.
        """
        self._main = asyncio.current_task()
        try:
            await DOOR.files.run(self._taker.prepare)
            await self._open_home()
            self.work.idle_since = self.work.ready_at = self._loop.time()
            while not self._over():
                took = await self._round()
                self._decide()
                await self._pause(took)
            if self._is_hopeless() and self.work.ending != "hard":
                self._despair()
        except asyncio.CancelledError:
            if not self._given_up or self._main is None or self._main.uncancel():
                raise
        finally:
            await self._finish()
        if self._error is not None:
            raise self._error
        return self.work.why

    def signal(self, name: str) -> None:
        """Take nothing more, give back what has not begun, and end what runs; but for the early warning SIGUSR1."""
        planned = self.plan.walltime.is_end(name, self._loop.time(), self.plan.grace)
        self.drain(name, hard=name != "SIGUSR1", kind="timeout" if planned else "preempted")

    def drain(self, why: str, hard: bool = True, kind: FailureKind = "preempted") -> None:
        """Take nothing more, give back what has not begun; ``hard``: end what runs, a second time without patience."""
        self.log(f"draining: {why}")
        if hard and self.work.ending == "hard":
            self.executor.hurry()
        else:
            self.work.end("hard" if hard else "soft", why, kind)
            self._ends_hard()

    def _ends_hard(self) -> None:
        """Whoever sent the signal does not wait for a store that gives no answer."""
        if self._patience is None and self.work.ending == "hard":
            self._patience = self._loop.call_later(self.plan.grace + _LAST_SECS, self._give_up)

    def _give_up(self) -> None:
        if self._main is not None and not self._finishing:
            self._given_up = True
            self._main.cancel()

    def _over(self) -> bool:
        work = self.work
        return self._error is not None or (bool(work.ending) and not work.tasks and not self._unread)

    def _decide(self) -> None:
        """Whether it is time to end."""
        now, plan, guardian, work = self._loop.time(), self.plan, self._guardian, self.work
        state = "there" if plan.detached else guardian.state
        if plan.walltime.over(now, plan.grace):
            work.end("hard", "the walltime of its allocation ends", "timeout")
        elif state == "over" and guardian.how in ("cancelled", "error"):
            work.end("hard", f"its run has ended: {guardian.how}", "cancelled")
        elif self._is_hopeless():
            self._despair()
        elif work.ending:
            return
        elif plan.walltime.closing(now, plan.grace):
            work.end("soft", "the walltime of its allocation is nearly over")
        elif state == "over":
            work.end("soft", "its run has ended")
        elif state == "silent":
            work.end("soft", "its controller gave no sign of life for a lease")
        elif not work.tasks and not self._stuck and not work.ask.writes:
            idle = now - work.idle_since
            if idle >= plan.idle:
                work.end("soft", f"nothing to do for {plan.idle:g} s")
            elif work.skip and idle >= min(plan.idle, _MOST_POLL):
                work.end("soft", "what is left of its walltime is too short for what waits")

    def _is_hopeless(self) -> bool:
        return bool(self._stuck) and self._loop.time() - self._stuck_since > self._infra_secs

    def _despair(self) -> None:
        """It does not end as one with nothing to do: another would take its place on the same node, for ever."""
        text = f"its queue cannot be used for {self._infra_secs:g} s: {self._stuck}"
        self.work.end("soft", text)
        if not self.work.tasks:
            self._break(FuruExecutorError(text))

    async def _open_home(self) -> None:
        """The beat is there before anything is taken."""
        opened: asyncio.Future[None] = self._loop.create_future()

        def settle(error: FuruError | None = None) -> None:
            if error is not None:
                self._break(error)
            if not opened.done():
                opened.set_result(None)

        run = self.work.run_of(self.paths.home, lambda _: None, settle, settle)
        until = self._loop.time() + _OPEN_SECS
        while not opened.done() and not self.work.ending:
            self.executor.join(run)
            await asyncio.wait([opened], timeout=_MOST_POLL)
            if not opened.done() and self._loop.time() > until:
                raise FuruExecutorError(f"{self.paths.root} could not be written for {_OPEN_SECS:g} s")

    def _break(self, error: FuruError) -> None:
        self._error = self._error or error
        self.work.why = self.work.why or str(error)
        self._wake.set()

    async def _finish(self) -> None:
        """Nothing is left behind: children and keeper end, what ended is written, what has not begun waits again."""
        self.stage, self._finishing = "draining", True
        if self._patience is not None:
            self._patience.cancel()
        if self._under_way is not None:
            await self._round()  # what it has taken is given back
        self.work.abandon()
        self.work.ask.back += [(taken.name, taken.place) for taken in self._unread]
        self._unread = []
        try:
            async with asyncio.timeout(self.plan.grace + _LAST_SECS):
                await self.executor.aclose()
                self.stage = "ended"
                until = self._loop.time() + _LAST_SECS / 2
                await self._round(last=True)
                while (self.work.ask.writes or self._under_way) and self._loop.time() < until:
                    await asyncio.sleep(_LOOK_SECS)
                    await self._round(last=True)
        except TimeoutError:
            self.log("something does not end, or the store does not answer: it is left")
        if self._under_way is not None:
            self._under_way.leave()

    # -- rounds ----------------------------------------------------------------------------------------------

    async def _round(self, last: bool = False) -> bool:
        """One look at the queue; True if something came of it."""
        if self._under_way is None:
            ask = self._ask(last)
            if ask.is_empty:
                return False
            self._under_way = Round(self._desk, ask)
        this = self._under_way
        if not await this.has_ended(_ROUND_SECS):
            self._note_stuck(f"{self.paths.root} gives no answer")
            return False
        self._under_way = None
        answer = this.answer()
        self._hear(answer)
        return (this.ask.writes and not answer.trouble) or bool(answer.entries)

    def _ask(self, last: bool) -> Ask:
        now, work = self._loop.time(), self.work
        if not last and not work.ending:
            work.give_back_ahead()
        ask, work.ask = work.ask, Ask()
        ask.status = self._status(now, last)
        ask.look = False
        if last:
            return ask
        ask.want = 0 if work.ending else max(0, work.depth() - len(work.tasks) - len(self._unread))
        ask.look = self._is_due("look", now, _LOOK_SECS)
        ask.watch = self._is_due("watch", now, self._guardian.interval * self._spread())
        ask.unread = self._unread
        ask.lookup = [task.entry.hash for task in work.waiting()]
        if self._trouble:
            unwritten = (*ask.done, *(name for name, _ in (*ask.reports, *ask.back)))
            ask.known = {*work.tasks, *(taken.name for taken in self._unread), *unwritten}
        return ask

    def _is_due(self, what: str, now: float, period: float) -> bool:
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + period
        return True

    def _spread(self) -> float:
        return 0.6 + 0.4 * self._random.random()

    def _hear(self, answer: Answer) -> None:
        work = self.work
        work.ask.done += answer.done
        work.ask.reports += answer.reports
        work.ask.back += answer.back
        self._unread = answer.unread
        if answer.trouble and not self._trouble:
            self.log(f"the store gives trouble: {answer.trouble}")
        self._trouble = bool(answer.trouble)
        self._note_stuck(answer.stuck)
        for path in answer.bad:
            self.log(f"not an entry, set aside: {path}")
        if answer.sighting is not None:
            self._guardian.see(answer.sighting, self._loop.time())
        for name in answer.cancelled or ():
            work.cancel(name)
        if answer.closed:  # what is cancelled is not to wait again
            work.end("soft", "the pool is closed")
        if answer.recalled is not None:
            work.recall(answer.recalled)
        for taken, entry in answer.entries:
            work.accept(taken, entry)
        work.build(answer.there)

    def _note_stuck(self, stuck: str | None) -> None:
        """Nobody knows whether there is work where the queue cannot be used: that is no idleness."""
        now, work = self._loop.time(), self.work
        if stuck and not self._stuck:
            self._stuck_since = now
        elif self._stuck and stuck == "":
            work.idle_since += now - max(work.idle_since, self._stuck_since)
        self._stuck = self._stuck if stuck is None else stuck

    async def _pause(self, took: bool) -> None:
        work = self.work
        self._delay = _FIRST_POLL if took else min(self._delay * _POLL_GROWTH, _MOST_POLL)
        delay = self._delay * self._spread()
        if work.tasks and len(work.tasks) >= work.depth():
            delay = (
                _LOOK_SECS if work.waiting() else _MOST_POLL * self._spread()
            )  # the end of a task wakes it
        if self._picture() != self._shown:
            delay = min(delay, _STATUS_SECS)
        if self._over():
            return
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    # -- status ----------------------------------------------------------------------------------------------

    def _picture(self) -> Any:
        """What others should know soon."""
        work = self.work
        if self.stage not in ("draining", "ended"):
            self.stage = "draining" if work.ending else "working" if work.tasks else "idle"
        began = sorted((task.began, task.name) for task in work.tasks.values() if task.began is not None)
        # A slot is at one task at a time: of more than that the earlier ones have ended, and are being published.
        return self.stage, work.why, [name for _, name in began[-self.plan.slots :]]

    def _status(self, now: float, last: bool) -> bytes:
        """What to write, if there is something new, and the last time was long enough ago."""
        picture = self._picture()
        ago = now - self._shown_at
        if not last and ago < (_STATUS_SECS if picture != self._shown else _FRESH_SECS):
            return b""
        self._shown, self._shown_at = picture, now
        plan, work = self.plan, self.work
        return encode(
            WorkerStatus(
                wid=plan.wid,
                spec_key=plan.spec_key,
                job_id=plan.job_id,
                restart_count=plan.restart_count,
                host=self._owner.host,
                pid=self._owner.pid,
                slots=plan.slots,
                began=picture[2],
                taken=work.taken,
                finished=work.finished,
                idle_secs=0.0 if work.tasks else now - work.idle_since,
                stage=self.stage,
                why=work.why,
                ends_at=plan.walltime.left(now),
                beat=beat_path(self.paths.home, plan.wid),
            )
        )
