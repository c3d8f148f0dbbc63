"""One poller per process and cluster, shared by all runs: one query for all jobs, and everybody is told what is new.

At least a second apart, fast after something was submitted, then slower up to the setting; jittered, so that many
controllers do not ask together; backing off while Slurm does not answer. Without jobs to follow it is silent.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from furu_async._slurm.port import Found, JobRow, Rows, Silence, SlurmPort
from furu_async._slurm.states import Ended, Verdict
from furu_async._slurm.tracking import Change, Job, Tracker, TrackRules

FASTEST_SECS = 1.0
STEADY_SECS = 5.0
SLOWEST_SECS = 60.0

LAST_LOOKS = 4
"""How often in half a minute it may be asked out of turn."""

_GROWTH = 1.5
_HURRY_EVERY = 30.0
_LAST_SECS = 30.0
_LAST_APART = 0.1
_ACCOUNT_BACK_SECS = 30 * 86400.0

_log = logging.getLogger("furu_async.slurm")

OnChange = Callable[[Change], None]


class Watch:
    """One job that is followed.

    Attributes:
        job: what is known of it.
    """

    def __init__(self, poller: Poller, job: Job, on_change: OnChange) -> None:
        self._poller = poller
        self.job: Job = job
        self.on_change: OnChange = on_change
        self.ended: asyncio.Event = asyncio.Event()

    @property
    def verdict(self) -> Verdict | None:
        """The latest; None before the first answer."""
        return self.job.verdict

    async def wait_ended(self) -> Ended:
        """Wait until the job has ended, for as long as that takes."""
        await self.ended.wait()
        verdict = self.job.verdict
        assert isinstance(verdict, Ended)
        return verdict

    def close(self) -> None:
        """Do not follow it any more."""
        self._poller.forget(self)


class Poller:
    """See the module. All methods belong to one event loop.

    Args:
        port: the cluster.
        interval: seconds between queries when nothing is new: ``FURU_POLL_INTERVAL_SECS``, but at least 5.
        draw: a number in [0, 1), for the jitter.

    Attributes:
        queries: how often the queue was asked.
        latest: its last answer.
        answered_at: loop time at which the queue was asked that has answered last; before all time if none has.
    """

    def __init__(
        self,
        port: SlurmPort,
        interval: float = 10.0,
        *,
        rules: TrackRules | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.port: SlurmPort = port
        self.tracker: Tracker = Tracker(rules)
        self.queries: int = 0
        self.latest: Rows | Silence | None = None
        self.answered_at: float = float("-inf")
        self._steady = max(STEADY_SECS, interval)
        self._draw = draw
        self._loop = asyncio.get_running_loop()
        self._watches: dict[int, Watch] = {}
        self._askers: list[tuple[int, asyncio.Future[Rows | Silence]]] = []
        self._wake = asyncio.Event()
        self._pause = FASTEST_SECS
        self._hurried_at = float("-inf")
        self._last_looks: list[float] = []
        self._asked_for = FASTEST_SECS
        self._asked_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    # -- for others ------------------------------------------------------------------------------------------

    def track(self, job_id: str, name: str, on_change: OnChange = lambda _: None) -> Watch:
        """Follow a job until it has ended.

        Args:
            name: the job's, with its token.
            on_change: called on the loop with whatever is new; an exception in it is logged and goes no further.
        """
        job = self.tracker.add(job_id, name, self._loop.time())
        watch = self._watches[id(job)] = Watch(self, job, on_change)
        self._hurry()
        return watch

    def forget(self, watch: Watch) -> None:
        """Do not follow a job any more."""
        self._watches.pop(id(watch.job), None)
        self.tracker.remove(watch.job)

    def poke(self, waited_for: bool = False) -> None:
        """Something is likely to be new (a job was cancelled, a worker fell silent): ask soon, if not just done so.

        Args:
            waited_for: somebody has nothing else to do but to wait for the answer, as at the end of a run.
        """
        self._hurry(force=waited_for)

    async def snapshot(self) -> Rows | Silence:
        """All jobs of this user, from a query that begins after this call."""
        answer: asyncio.Future[Rows | Silence] = self._loop.create_future()
        self._askers.append((self.queries, answer))
        self._hurry(force=True)
        return await answer

    async def last_look(self) -> Rows | Silence | None:
        """As `snapshot`, at once: for the end of a run, whose caller waits. None if that was asked too often."""
        now = self._loop.time()
        self._last_looks = [at for at in self._last_looks if now - at < _LAST_SECS]
        if len(self._last_looks) >= LAST_LOOKS:
            return None
        self._last_looks.append(now)
        answer: asyncio.Future[Rows | Silence] = self._loop.create_future()
        self._askers.append((self.queries, answer))
        self._hurry(force=True, pause=_LAST_APART)
        return await answer

    async def find(self, name: str) -> Found:
        """As the port's, but all who search at the same time share one query of the queue."""
        queue = await self.snapshot()
        if isinstance(queue, Silence):
            return Found((), False, queue.words)
        rows = tuple(row for row in queue.rows if row.name == name)
        return Found(rows or await self._accounted(name))

    async def _accounted(self, name: str) -> tuple[JobRow, ...]:
        if self.tracker.accounting_off:
            return ()
        answer = await self.port.account((), [name], _ACCOUNT_BACK_SECS)
        if isinstance(answer, Silence):
            return ()
        return tuple(row for row in answer.rows if row.name == name)

    async def aclose(self) -> None:
        """Ask no more. Who waits for an answer gets none."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        for _, answer in self._askers:
            if not answer.done():
                answer.set_result(Silence("the poller was closed"))
        self._askers.clear()
        self._watches.clear()

    # -- the loop --------------------------------------------------------------------------------------------

    def _hurry(self, force: bool = False, pause: float = FASTEST_SECS) -> None:
        now = self._loop.time()
        if force or (now - self._hurried_at >= _HURRY_EVERY and self.tracker.silent_since is None):
            self._hurried_at = now if not force else self._hurried_at
            self._pause = self._asked_for = min(pause, self._asked_for)
            self._wake.set()
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run(), name="furu slurm poller")

    async def _run(self) -> None:
        while self._askers or any(not watch.ended.is_set() for watch in self._watches.values()):
            await self._sleep()
            try:
                await self._round()
            except Exception:
                _log.exception("asking Slurm failed; it is tried again")
                self._pause = SLOWEST_SECS

    async def _sleep(self) -> None:
        """Until the pause since the last query is over, or shorter if somebody is in a hurry."""
        while True:
            self._wake.clear()
            pause = self._pause * (0.9 + 0.2 * self._draw()) if self._pause > FASTEST_SECS else self._pause
            left = self._asked_at + pause - self._loop.time()
            if left <= 0:
                return
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except TimeoutError:
                return

    async def _round(self) -> None:
        asked_at = self._asked_at = self._loop.time()
        self._asked_for = FASTEST_SECS
        self.queries += 1
        answer = self.latest = await self.port.query()
        now = self._loop.time()
        silent = isinstance(answer, Silence)
        self.answered_at = self.answered_at if silent else asked_at
        steady = min(max(STEADY_SECS, self._pause * 2), SLOWEST_SECS) if silent else self._steady
        self._pause = steady if silent else min(max(FASTEST_SECS, self._pause) * _GROWTH, steady)
        self._hand_out(answer)
        if self._askers:
            self._pause = self._asked_for
        for changes in self.tracker.queue_in_parts(answer, asked_at, now):
            self._tell(changes)
            await asyncio.sleep(0)
        jobs = self.tracker.to_account(now)
        if jobs:
            rows = await self.port.account([job.id for job in jobs], (), _ACCOUNT_BACK_SECS)
            self._tell(self.tracker.accounting(jobs, rows, self._loop.time()))

    def _hand_out(self, answer: Rows | Silence) -> None:
        later = []
        for number, asker in self._askers:
            if number == self.queries:  # it came while this query was under way
                later.append((number, asker))
            elif not asker.done():
                asker.set_result(answer)
        self._askers = later

    def _tell(self, changes: list[Change]) -> None:
        for change in changes:
            watch = self._watches.get(id(change.job))
            if watch is None:
                continue
            if isinstance(change.verdict, Ended):
                watch.ended.set()
            try:
                watch.on_change(change)
            except Exception:
                _log.exception("telling of job %s failed", change.job.id)
