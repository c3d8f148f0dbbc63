"""The workers of a pool: submitting, following and ending them.

Slurm's word comes from the poller, a worker's own from its folder. A worker that has ended, or was silent for a lease,
is examined: what it had taken is told to whoever asked for it. Nothing here decides how many there are to be.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from furu_async._model.resources import SlurmSpec
from furu_async._plan.leases import LeaseRules
from furu_async._pool import crew, deaths
from furu_async._pool.breaker import Breaker
from furu_async._pool.copies import Copies
from furu_async._pool.crew import Gone, Worker
from furu_async._pool.entries import WorkerStatus, worker_id
from furu_async._pool.wanted import Task
from furu_async._pool.withdrawing import withdraw, withdraw_all
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._slurm import protocol as p
from furu_async._slurm.poller import Poller
from furu_async._slurm.port import JobRequest
from furu_async._slurm.states import Alive, Ended
from furu_async._slurm.submitter import Order, Pending, Submitter, Ticket, on_disk
from furu_async._slurm.tracking import Change, reason_to_wait
from furu_async._store import submissions
from furu_async._store.layout import QueuePaths, RunPaths

_EXAMINE_SECS = 60.0
_AGAIN_SECS = 2.0

_log = logging.getLogger("furu_async.pool")

MakeRequest = Callable[[SlurmSpec, Ticket, int], JobRequest]


class Fleet:
    """See the module; all methods belong to one event loop.

    Args:
        make: the call of ``sbatch`` for so many workers of a spec.
        tasks: by the names of their entries.
        on_change: something is new; called often.
        on_gone: a worker is no more, and its remains are known.
        on_stopped: nothing is submitted for a spec any more, and why.
        on_broken: Slurm, or the disk, gave trouble for too long.

    Attributes:
        workers: all that are not gone.
        breakers: by spec key.
        adopting: submissions of an earlier controller of which nothing is known yet.
    """

    def __init__(
        self,
        paths: QueuePaths,
        submitter: Submitter,
        poller: Poller,
        rules: LeaseRules,
        tasks: dict[str, Task],
        *,
        make: MakeRequest,
        on_change: Callable[[], None],
        on_gone: Callable[[Gone], None],
        on_stopped: Callable[[str, str], None],
        on_broken: Callable[[str], None],
    ) -> None:
        self.paths: QueuePaths = paths
        self._folder = RunPaths(paths.root, paths.home).base
        self.workers: list[Worker] = []
        self.breakers: dict[str, Breaker] = {}
        self._submitter = submitter
        self._poller = poller
        self._rules = rules
        self._tasks = tasks
        self._make = make
        self._on_change = on_change
        self._on_gone = on_gone
        self._on_stopped = on_stopped
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._pending: dict[str, Pending] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._changes = asyncio.Event()
        self._copies = Copies()
        self._count = 0
        self._most = sys.maxsize
        self.closing: bool = False
        self.adopting: int = 0

    # -- submitting ------------------------------------------------------------------------------------------

    def breaker(self, spec_key: str) -> Breaker:
        """That of a spec."""
        return self.breakers.setdefault(spec_key, Breaker())

    def has_room(self, spec_key: str) -> bool:
        """Whether workers may be submitted for a spec."""
        return deaths.may_replace(self.breaker(spec_key), self._of(spec_key), self._loop.time())

    def serves(self, spec_key: str) -> bool:
        """Whether tasks may wait for a spec: workers may be had, or there are some."""
        return self.breaker(spec_key).open or any(worker.works for worker in self._of(spec_key))

    def _of(self, spec_key: str) -> list[Worker]:
        return [worker for worker in self.workers if worker.spec_key == spec_key]

    def submit(self, spec: SlurmSpec, count: int) -> None:
        """Submit workers for a spec, several as a job array; more than fit into one as several."""
        while count > 0:
            size = min(count, self._most)
            count -= size
            self._count += 1
            self._begin(f"{self._count:04d}.{size}.{spec.key}", spec, size, spec.key)

    def adopt(self, sid: str) -> None:
        """Follow the workers of an earlier controller's submission; what is not in Slurm yet is taken back."""
        parts = sid.split(".", 2)
        if len(parts) == 3 and parts[0].isdigit() and parts[1].isdigit():
            self._count = max(self._count, int(parts[0]))
            self.adopting += 1
            self._keep(self._adopt(sid, max(1, int(parts[1])), parts[2]), f"furu pool adopt {sid}")

    async def _adopt(self, sid: str, count: int, key: str) -> None:
        paths = RunPaths(self.paths.root, self.paths.home).submission(sid)
        try:
            there = await on_disk(submissions.read, paths)
        except OSError as error:
            _log.warning("a submission of an earlier controller cannot be read: %s", error)
            there = submissions.Submission()
        last = there.last
        if last is not None and last.job is not None and there.closed is None and not self.closing:
            workers = crew.workers_of(sid, key, count)
            self.workers += workers
            for worker in workers:
                worker.earlier = True
                self._follow(worker, Ticket(sid, last.number, last.token, last.name), last.job.job_id)
        else:
            self._begin(sid, SlurmSpec(), count, key)
            self._pending[sid].cancel("its controller died")
        self.adopting -= 1
        self._on_change()

    def _begin(self, sid: str, spec: SlurmSpec, count: int, key: str) -> None:
        workers = crew.workers_of(sid, key, count)
        self.workers += workers

        def waiting(why: p.Waiting) -> None:
            for worker in workers:
                worker.waiting = f"not submitted yet: {why.words}" if why.words else ""
            if why.kind == "limit" and count > 1:  # fewer may be within it
                self._most = max(1, count // 2)
                self._pending[sid].cancel("its workers are submitted in smaller parts")
            self._on_change()

        order = Order(
            paths=RunPaths(self.paths.root, self.paths.home).submission(sid),
            run_id=self.paths.home,
            sid=sid,
            what=f"worker-{key}"[:40],
            request=lambda ticket: self._make(spec, ticket, count),
            on_waiting=waiting,
        )
        pending = self._pending[sid] = self._submitter.begin(order)
        self._keep(self._placed(sid, pending, workers), f"furu pool submission {sid}")

    async def _placed(self, sid: str, pending: Pending, workers: list[Worker]) -> None:
        try:
            finished = await pending.wait()
        except Exception as error:
            _log.exception("submitting workers failed")
            finished = p.Finished("infrastructure", words=f"{type(error).__name__}: {error}")
        ticket = pending.ticket
        if finished.how == "placed" and finished.job is not None and ticket is not None:
            for worker in workers:
                worker.placed_at = self._loop.time()
                self._follow(worker, ticket, finished.job.job_id)
        else:
            for worker in workers:
                self._drop(worker)
            if finished.how == "rejected" and len(workers) > 1 and "array" in finished.words.lower():
                self._most = max(1, len(workers) // 2)  # the site's MaxArraySize is less
            elif finished.how == "rejected":
                self.breaker(workers[0].spec_key).reject(finished.words)
                self._stopped(workers[0].spec_key)
            elif finished.how == "infrastructure" and not self.closing:
                self._on_broken(f"workers cannot be submitted: {finished.words}")
        self._pending.pop(sid, None)
        self._on_change()

    def _follow(self, worker: Worker, ticket: Ticket, job_id: str) -> None:
        worker.waiting = ""
        worker.name = ticket.name
        worker.wid = worker_id(ticket.token, worker.index, 0)
        worker.job_id = job_id if worker.index < 0 else f"{job_id}_{worker.index}"
        worker.log = f"{self._folder}/logs/{ticket.name}-{worker.job_id}.log"
        worker.watch = self._poller.track(
            worker.job_id, ticket.name, lambda change: self._changed(worker, ticket.token, change)
        )

    def _stopped(self, spec_key: str) -> None:
        """As long as some of its workers work, what waits is theirs."""
        if not self.closing and not self.serves(spec_key):
            self._on_stopped(spec_key, self.breaker(spec_key).why)

    # -- following -------------------------------------------------------------------------------------------

    def _changed(self, worker: Worker, token: str, change: Change) -> None:
        verdict = change.verdict
        if change.restarted and not worker.gone:
            # The run of the job before may still live where its node was lost; it is another worker from now on.
            self._copies.add(worker, self._loop.time())
            worker.wid = worker_id(token, worker.index, change.job.restarts)
            worker.status = worker.seen = worker.began_at = None
        if isinstance(verdict, Alive):
            worker.see(verdict, self._loop.time())
        if isinstance(verdict, Ended) and not worker.gone:
            self._lose(worker, verdict)
        elif change.job.restarts and crew.is_back_in_queue(worker):
            worker.intent = "Slurm has put it back into its queue, and another one takes its place"
            self._scancel([worker])
        self._on_change()

    def _lose(self, worker: Worker, ended: Ended | None, mute: bool = False) -> None:
        worker.gone = worker.ending = True
        self._keep(self._examine(worker, ended, mute), "furu pool examine")

    async def _examine(self, worker: Worker, ended: Ended | None, mute: bool = False) -> None:
        since = self._loop.time()
        while (remains := await crew.examined(self.paths, worker, self._tasks)).trouble and not self.closing:
            text = f"what worker {worker.wid} left cannot be seen: {remains.trouble}"
            _log.warning("%s; tried again", text)
            if self._loop.time() - since > self._submitter.rules.infra_secs:
                self._on_broken(text)
                since = self._loop.time()
            await asyncio.sleep(_AGAIN_SECS)
        worker.status = remains.status or worker.status
        young = ""
        if worker in self.workers:
            self._drop(worker)
            ours = self.closing or worker.earlier or bool(worker.intent)
            breaker = self.breaker(worker.spec_key)
            young = deaths.count(breaker, worker, ended, remains, now=self._loop.time(), ours=ours)
            self._stopped(worker.spec_key)
        self._on_gone(Gone(worker, ended, remains, mute, young))
        self._on_change()

    def examine_stranger(self, wid: str) -> None:
        """Look at what a worker left that is not followed (any more), and was silent for a lease."""
        stranger = Worker("", "", wid=wid, ending=True, gone=True)
        self._keep(self._examine(stranger, None), "furu pool examine")

    def _drop(self, worker: Worker) -> None:
        worker.gone = True
        if worker.watch is not None:
            worker.watch.close()
        if worker in self.workers:
            self.workers.remove(worker)
        self._changes.set()

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._jobs.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        self._changes.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("a step of the pool failed", exc_info=error)
            self._on_broken(f"an error of the library's own: {type(error).__name__}: {error}")

    async def look(self) -> str:
        """Read status and beat of every worker that has, or may have, a process; why a beat could not be read."""
        there = [worker for worker in self.workers if worker.wid and not worker.gone]
        wids = [worker.wid for worker in there] + self._copies.wids()
        try:
            seen = await DOOR.probe.run(
                lambda: [crew.glance(self.paths, wid) for wid in wids], deadline=_EXAMINE_SECS
            )
        except BlockingTimeout:
            return ""
        now = self._loop.time()
        for copy in self._copies.judge(seen[len(there) :], now):
            self._keep(self._examine(copy, crew.STARTED_AGAIN), "furu pool examine")
        for worker, glance in zip(there, seen, strict=False):
            if worker.gone:
                continue
            if glance.status is not None and glance.status.wid == worker.wid:
                self._hear(worker, glance.status)
            self._observe(worker, glance, now)
        return next((glance.trouble for glance in seen if glance.trouble), "")

    def _hear(self, worker: Worker, status: WorkerStatus) -> None:
        before, worker.status = worker.status, status
        if status.finished > (before.finished if before is not None else 0):
            self.breaker(worker.spec_key).worked()
        worker.began_at = self._loop.time() if worker.began_at is None else worker.began_at
        crew.tell_begun(status, self._tasks)
        if before is None or before.stage != status.stage:
            if status.stage in ("draining", "ended"):
                self._poller.poke()
            self._on_change()

    def _observe(self, worker: Worker, glance: crew.Glance, now: float) -> None:
        """Slurm's word comes first; where a job runs and its worker says nothing, silence counts."""
        verdict = worker.verdict
        if isinstance(verdict, Alive) and verdict.phase == "suspended":
            worker.seen = None  # its silence counts from when it goes on
            return
        if crew.never_starts(worker, now):
            self._give_up(worker, reason_to_wait(verdict))
            return
        if glance.beat is None and not (isinstance(verdict, Alive) and verdict.phase == "running"):
            return
        if worker.status is not None and worker.status.stage == "ended":
            return
        if crew.observe(worker, glance, now, self._rules) != "lost":
            return
        mute = worker.seen is not None and worker.seen.counter is None
        worker.intent = "it gave no sign of life" if not mute else "it never gave a sign of life"
        self._scancel([worker])
        self._lose(worker, None, mute)

    def _give_up(self, worker: Worker, why: str) -> None:
        """Slurm will never start it, nor others like it."""
        worker.intent = f"it can never start: {why}"
        self._scancel([worker])
        if not any(each.status is not None for each in self._of(worker.spec_key)):
            self.breaker(worker.spec_key).reject(why)
            self._stopped(worker.spec_key)

    # -- ending ----------------------------------------------------------------------------------------------

    def cancel(self, wids: Sequence[str], why: str) -> None:
        """End workers whose places are wanted for others."""
        chosen = [w for w in self.workers if w.view().wid in wids and not w.intent]
        for worker in chosen:
            worker.intent = why
            pending = self._pending.get(worker.sid)
            if pending is not None and worker.index < 0:
                pending.cancel(why)
        self._scancel(chosen)

    def _scancel(self, workers: Sequence[Worker]) -> None:
        self._keep(withdraw(self.paths, self._submitter, self._poller, workers), "furu pool scancel")

    async def aclose(self, secs: float, patience: float) -> list[Worker]:
        """End all workers; those that Slurm may still have after ``secs`` seconds.

        The queue is closed before: workers with nothing to do end by themselves within ``patience``.
        """
        self.closing = True
        until = self._loop.time() + secs
        for pending in list(self._pending.values()):
            pending.cancel("its pool was closed")
        waiting = [w for w in self.workers if w.job_id and w.status is None]
        for worker in self.workers:
            worker.intent = worker.intent or "its pool was closed"
        soft = self._loop.time() + patience
        ending = withdraw_all(self.paths, self._submitter, self._poller, waiting, soft)
        self._keep(ending, "furu pool scancel")
        while self.workers and self._loop.time() < soft:
            await self.look()
            if all(w.status is not None and w.status.stage == "ended" for w in self.workers if w.job_id):
                break
            await asyncio.sleep(0.05)
        left = [w for w in self.workers if w.job_id and not (w.status and w.status.stage == "ended")]
        for deadline in (until - patience, until):
            await withdraw_all(self.paths, self._submitter, self._poller, left, deadline)
            await self._all_gone(deadline)
            # One ends slowly, or Slurm has put it back into its queue.
            left = [w for w in self.workers if w.job_id]
        await self._submitter.settle(max(0.0, until - self._loop.time()))
        for task in list(self._jobs):
            task.cancel()
        return list(self.workers)

    async def _all_gone(self, until: float) -> None:
        while (self.workers or self._jobs) and self._loop.time() < until:
            self._changes.clear()
            self._poller.poke(waited_for=True)  # again and again: it would ask ever more seldom by itself
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changes.wait(), min(1.0, until - self._loop.time()))

    async def leave(self, secs: float) -> None:
        """Follow nobody any more; what is being submitted has a moment to get through."""
        self.closing = True
        await self._submitter.settle(secs)
        for task in list(self._jobs):
            task.cancel()
