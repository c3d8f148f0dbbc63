"""The controller of one pool at work: its queue is watched, its workers are as many as they should be.

One task goes round: it reads what workers say, looks at them, and has some submitted or cancelled. It goes fast while
something happens and slower while nothing does, and sleeps while there is nothing to wait for.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from furu_async._executors.publishing import NEEDS_A_PERSON
from furu_async._model.resources import SlurmSpec
from furu_async._plan.leases import LeaseRules
from furu_async._plan.retry import backoff
from furu_async._pool import audit, queue, reports
from furu_async._pool.crew import Gone, Worker
from furu_async._pool.feeder import Feeder
from furu_async._pool.fleet import Fleet
from furu_async._pool.home import Survey, prepare, settings_of
from furu_async._pool.objects_log import ObjectsLog
from furu_async._pool.pool import SlurmPool
from furu_async._pool.sizing import Cancel, SpecView, Submit, View, decide
from furu_async._pool.wanted import Task
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._runtime.config import FuruConfig
from furu_async._slurm.parameters import Wish
from furu_async._slurm.parameters import request as job_request
from furu_async._slurm.poller import Poller
from furu_async._slurm.port import JobRequest, SlurmPort
from furu_async._slurm.protocol import SubmitRules
from furu_async._slurm.submitter import Submitter, Ticket
from furu_async._store.layout import QueuePaths, RunPaths

_FIRST = 0.02
_GROWTH = 1.5
_SLOWEST = 1.0
_STATUS_SECS = 0.25
_ROUND_SECS = 60.0
_CLOSE_SECS = 6.0
_AGAIN_FIRST, _AGAIN_MOST = 0.5, 10.0
_PATIENCE = 2.0

_log = logging.getLogger("furu_async.pool")


class Owner(Protocol):
    """What is told of what happens."""

    def again(self, task: Task) -> None:
        """Write the entry of a task again."""

    def over(self, task: Task) -> None:
        """A task is about to tell its end to its runs."""

    def on_gone(self, gone: Gone) -> None:
        """A worker is no more."""

    def on_stopped(self, spec_key: str, why: str) -> None:
        """No worker is submitted for a spec any more."""

    def on_broken(self, text: str) -> None:
        """Nothing can go on."""

    def on_workers(self) -> None:
        """Something about the workers may be new."""


class Control:
    """See the module; all methods belong to one event loop.

    Args:
        home: id of the run in whose folder the queue is.
        wanted: tasks that wait or run, by spec key.

    Attributes:
        tasks: by the names of their entries.
        specs: every spec that a task was written for.
        detached: workers are to go on without a controller.
    """

    def __init__(
        self,
        pool: SlurmPool,
        config: FuruConfig,
        root: str,
        home: str,
        port: SlurmPort,
        owner: Owner,
        wanted: Mapping[str, int],
    ) -> None:
        self.pool: SlurmPool = pool
        self.config: FuruConfig = config
        self.paths: QueuePaths = QueuePaths(root, home)
        self.tasks: dict[str, Task] = {}
        self.specs: dict[str, SlurmSpec] = {}
        self.detached: bool = False
        self.objects: ObjectsLog = ObjectsLog(self.paths.objects)
        self.feeder: Feeder = Feeder(self.paths, self.objects, config.infra_secs, self._on_trouble)
        self.poller: Poller = Poller(port, config.poll_interval_secs)
        self._owner = owner
        self._wanted = wanted
        submitter = Submitter(port, rules=SubmitRules(infra_secs=config.infra_secs), look=self.poller.find)
        rules = LeaseRules(
            lease=config.lease_secs, grace=config.heartbeat_grace_secs, stale=config.stale_after_secs
        )
        self.fleet: Fleet = Fleet(
            self.paths,
            submitter,
            self.poller,
            rules,
            self.tasks,
            make=self._request,
            on_change=self._on_change,
            on_gone=owner.on_gone,
            on_stopped=owner.on_stopped,
            on_broken=owner.on_broken,
        )
        self._loop = asyncio.get_running_loop()
        self._judge = reports.Judge(self.paths, self.tasks, owner.again, owner.over, self._loop.time)
        self._wake = asyncio.Event()
        self._hurry = False
        self._task: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")
        self._auditor = audit.Auditor(rules)
        self._audited_at = self._loop.time()
        self._trouble_since: dict[str, float] = {}
        self._closed = False
        self._slowest = min(_SLOWEST, max(_FIRST, config.poll_interval_secs / 10))

    # -- its life --------------------------------------------------------------------------------------------

    async def begin(self, survey_done: Callable[[Survey], None]) -> None:
        """Make the folder ready, tell what an earlier controller left, begin to go round.

        Raises:
            OSError: the store cannot be written: somebody has to put that right, or it went on for too long.
        """
        survey_done(await self._prepare())
        self._task = self._loop.create_task(self._run(), name="furu pool")
        self._task.add_done_callback(self._on_end)

    async def _prepare(self) -> Survey:
        settings, since, tries = settings_of(self.config), self._loop.time(), 0
        while True:
            try:
                return await DOOR.files.run(prepare, self.paths, settings, self.objects, deadline=_ROUND_SECS)
            except OSError as error:  # a deadline that has passed, too
                tries += 1
                pause = backoff(_AGAIN_FIRST, _AGAIN_MOST, tries, 0.0)
                late = self._loop.time() + pause - since > self.config.infra_secs
                if late or error.errno in NEEDS_A_PERSON:
                    raise
                if tries == 1:
                    self._on_trouble(f"{error.filename or self.paths.base}: {error.strerror or error}")
            await asyncio.sleep(pause)

    def poke(self) -> None:
        """Something is likely to happen soon."""
        self._hurry = True
        self._wake.set()

    def no_more(self) -> None:
        """Everything is about to be cancelled: submit nobody any more, and close the queue once that is written."""
        self.fleet.closing = True
        self.poke()

    async def aclose(self, leave: bool = False) -> list[Worker]:
        """Close the queue, end all workers; those that may still be there when the time is over.

        Args:
            leave: leave queue and workers as they are.
        """
        if self._task is not None:
            self._task.remove_done_callback(self._on_end)
            self._task.cancel()
            await asyncio.wait([self._task])
        if leave:
            await self.feeder.settle(_PATIENCE)
            await self.fleet.leave(_PATIENCE)
            await self.poller.aclose()
            return []
        try:
            await DOOR.files.run(queue.close, self.paths, deadline=_PATIENCE)
        except (OSError, BlockingTimeout) as error:
            _log.warning("the queue could not be closed: %s", error)
        left = await self.fleet.aclose(_CLOSE_SECS, _PATIENCE)
        await self.poller.aclose()
        await self.feeder.settle(0.5)
        return left

    # -- the loop --------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        delay = _FIRST
        unlink: list[str] = []
        while True:
            found, before = await self._round(unlink), unlink
            unlink = self._judge.judge(found)
            await self._look()
            await self._audit()
            self.resize()
            if self.fleet.closing and not self._closed and all(task.unwanted for task in self.tasks.values()):
                self._closed = True
                self.feeder.close()
            self._owner.on_workers()
            busy = bool(unlink) or found.more or self._hurry
            self._hurry = False
            delay = _FIRST if busy else min(delay * _GROWTH, self._slowest)
            if (unlink and unlink != before) or found.more:  # the same again could not be removed
                continue
            await self._pause(delay)

    async def _round(self, unlink: list[str]) -> reports.Round:
        try:
            found = await DOOR.probe.run(
                reports.look_round, self.paths, self.tasks, unlink, deadline=_ROUND_SECS
            )
        except BlockingTimeout as error:
            found = reports.Round(trouble=str(error))
        self._heard("reports", found.trouble)
        return found

    async def _look(self) -> None:
        now = self._loop.time()
        if now - self._looked_at >= _STATUS_SECS:
            self._looked_at = now
            self._heard("beats", await self.fleet.look())

    async def _audit(self) -> None:
        now = self._loop.time()
        if now - self._audited_at < self._auditor.interval:
            return
        self._audited_at = now
        followed = {worker.wid for worker in self.fleet.workers}
        try:
            sight = await DOOR.probe.run(audit.look, self.paths, followed, deadline=_ROUND_SECS)
        except (OSError, BlockingTimeout) as error:
            self._heard("audit", str(error))
            return
        self._heard("audit", "")
        lost, silent = self._auditor.judge(sight, self.tasks, self._loop.time())
        for task in lost:
            _log.warning("the entry of %s is nowhere; it is written again", task.describe())
            self._owner.again(task)
        for wid in silent:
            self.fleet.examine_stranger(wid)

    def _heard(self, look: str, trouble: str) -> None:
        """What came of a look at the queue; the same one in trouble for too long ends the runs."""
        now = self._loop.time()
        if not trouble:
            self._trouble_since.pop(look, None)
        elif look not in self._trouble_since:
            self._trouble_since[look] = now
            self._on_trouble(trouble)
        elif now - self._trouble_since[look] > self.config.infra_secs:
            self._owner.on_broken(f"the queue cannot be read for {self.config.infra_secs:g} s: {trouble}")
            self._trouble_since[look] = now

    async def _pause(self, delay: float) -> None:
        self._wake.clear()
        if not self.tasks and not self.fleet.workers:
            await self._wake.wait()
            return
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _on_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("the pool's controller failed", exc_info=error)
            self._owner.on_broken(f"an error of the library's own: {type(error).__name__}: {error}")

    def _on_trouble(self, text: str) -> None:
        _log.warning("the store gives trouble, which is waited out: %s", text)

    def _on_change(self) -> None:
        self._wake.set()

    # -- workers ---------------------------------------------------------------------------------------------

    def resize(self) -> None:
        """Have workers submitted or cancelled, as sizing says."""
        if self.fleet.closing or self.fleet.adopting:
            return
        specs = [
            SpecView(key, count, 0, self.pool.limit(self.specs[key]), self.fleet.has_room(key))
            for key, count in self._wanted.items()
            if count > 0
        ]
        views = [worker.view() for worker in self.fleet.workers]
        for step in decide(View(specs, views, self.pool.slots, self.pool.max_workers)):
            match step:
                case Submit(key, count):
                    self.fleet.submit(self.specs[key], count)
                case Cancel(wids):
                    self.fleet.cancel(wids, "its place was wanted for another spec")

    def _request(self, spec: SlurmSpec, ticket: Ticket, count: int) -> JobRequest:
        run = RunPaths(self.paths.root, self.paths.home)
        argv: tuple[str, ...] = (
            *(sys.executable, "-m", "furu_async.worker", "pool"),
            *("--root", self.paths.root, "--home", self.paths.home),
            *("--sid", ticket.sid, "--try", str(ticket.k), "--token", ticket.token),
            *("--spec-key", spec.key, "--slots", str(self.pool.slots), "--idle", f"{self.pool.idle:g}"),
        )
        if self.detached:
            argv = (*argv, "--detached")
        wish = Wish(ticket.name, argv, f"{run.base}/logs", array=count if count > 1 else 0)
        return job_request(self.pool.with_options(spec), wish)

    def counts(self) -> Counter[str]:
        """Workers by what they do."""
        return Counter(worker.phase for worker in self.fleet.workers)

    def why(self) -> str:
        """Why nothing moves, as far as the workers are the reason; empty if some work."""
        workers = self.fleet.workers
        if any(worker.phase in ("working", "idle") for worker in workers):
            return ""
        reasons = Counter(worker.reason() for worker in workers)
        if reasons:
            most, _ = reasons.most_common(1)[0]
            return f"{len(workers)} workers, none at work yet: {most}"
        stopped = [f"{key}: {each.why}" for key, each in self.fleet.breakers.items() if each.why]
        return f"no workers: {'; '.join(stopped)}" if stopped else "no workers yet"
