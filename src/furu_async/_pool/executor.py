"""`PoolExecutor`: a `SlurmPool` at work, on one event loop, for any number of runs of one store.

Claims no artifact and runs no user code: it writes entries, and hears from `Control` what became of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

from furu_async._executors.asking import Asker
from furu_async._executors.base import Find, Node, Request, RunPort
from furu_async._executors.held_runs import HeldRuns
from furu_async._executors.identity import Identity
from furu_async._executors.sharing import leave, withdraw
from furu_async._model.resources import SlurmSpec
from furu_async._pool.control import Control
from furu_async._pool.crew import Gone, Row, row_of
from furu_async._pool.home import Survey
from furu_async._pool.orphans import care_for
from furu_async._pool.pool import SlurmPool
from furu_async._pool.telling import sentence
from furu_async._pool.wanted import Stage, Task
from furu_async._pool.writer import Writer
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runner.validity import Validation
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import FuruConfig
from furu_async._slurm.local_port import LocalPort
from furu_async._slurm.port import SlurmPort
from furu_async._slurm.real import RealSlurm
from furu_async._store import atomic
from furu_async._store.layout import QueuePaths
from furu_async._store.runs import Unfinished
from furu_async.errors import FuruExecutorError
from furu_async.report import Failure

_SURVEY_SECS = 5.0

_log = logging.getLogger("furu_async.pool")


class PoolExecutor:
    """See the module, and `Executor` for what runs ask of it.

    The keeper and the cluster are made by methods of their own, so that simulations can put others in their places.
    """

    kind = "slurm-pool"
    seed: int | None = None
    specs_in_turn: bool = True
    can_detach: bool = True
    find_job: Find | None = None

    def __init__(self, pool: SlurmPool, config: FuruConfig) -> None:
        self.pool: SlurmPool = pool
        self.config: FuruConfig = config
        self.identity: Identity = Identity()
        self.held: HeldRuns = HeldRuns(self._make_keeper(), self.identity)
        self._asker = Asker(self.held, config)
        self._noted: set[tuple[str, str]] = set()
        self.table: dict[tuple[str, str], Task] = {}
        self.control: Control | None = None
        self._home: RunPort | None = None
        self._adopted: RunPort | None = None
        self._ready = False
        self._waiting: list[Task] = []
        self._out: Counter[str] = Counter()
        self._writer: Writer | None = None
        self._over = asyncio.Event()
        self._preparing: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def _make_keeper(self) -> KeeperClient:
        return KeeperClient(self.config.heartbeat_secs)

    def _make_port(self, root: str) -> SlurmPort:
        return LocalPort(root) if self.pool.cluster == "local" else RealSlurm()

    # -- the port --------------------------------------------------------------------------------------------

    @property
    def has_limits(self) -> bool:
        """Only some specs have workers, so a node may be refused."""
        return not isinstance(self.pool.workers, int)

    def check(self, node: Node, specs: Sequence[SlurmSpec]) -> str | None:
        """Why none of its specs has workers here, or None."""
        if any(self.pool.limit(spec) for spec in specs):
            return None
        keys = ", ".join(spec.key for spec in specs)
        return f"SlurmPool(workers=...) names no workers for its specs ({keys})"

    async def adopt(self, run: RunPort, found: Unfinished) -> bool:
        """Claim a dead controller's run; its queue and its workers are gone on with when the first node starts.

        If none does, what is left of its workers is ended in the end.
        """
        taken = await self.held.adopt(run, found)
        if taken and self._home is None and self._adopted is None:
            self._adopted = run
        return taken

    def start(self, request: Request) -> None:
        """Queue a node, or join the task that is already at it for another run."""
        task = self.table.get((request.run.root, request.node.hash))
        if task is not None and task.unwanted:
            task.after.append(request)
            return
        if task is not None:
            task.requests.append(request)
            self.held.open(request.run, lambda _: None)
            if task.begun:
                task.begun = False
                task.began(task.worker)
            return
        task = Task(request)
        self.table[task.key] = task
        self.held.open(request.run, lambda failure: self._opened(task, failure))

    def take_back(self, run: RunPort, node: str) -> None:
        """Return the node if no process is at it."""
        task = self.table.get((run.root, node))
        if task is None or withdraw(task.after, run) or task.begun or leave(task.requests, run):
            return
        self._take_out(task, end=False)

    def kill(self, run: RunPort, node: str) -> None:
        """End the task; if another run wants it too, only this run lets go."""
        task = self.table.get((run.root, node))
        if task is None or withdraw(task.after, run) or leave(task.requests, run):
            return
        task.unwanted = True
        self._take_out(task, end=True)

    async def validate(self, run: RunPort, node: Node, files: bool) -> Validation:
        """In a child process of its own, if that is user code."""
        return await self._asker.validate(run, node, files)

    async def release(self, run: RunPort) -> None:
        """The run is over here: end what it still has. The home run stays open for as long as there are workers."""
        if run.detached:
            self._let_go(run)
            return
        for (_, node), task in list(self.table.items()):
            if any(request.run is run for request in (*task.requests, *task.after)):
                self.kill(run, node)
        while any(request.run is run for task in self.table.values() for request in task.requests):
            self._over.clear()
            await self._over.wait()
        if run is not self._home and (self._home is not None or run is not self._adopted):
            self.held.close(run)

    def _let_go(self, run: RunPort) -> None:
        """What is in the queue stays there, for whoever makes the same call again."""
        for task in list(self.table.values()):
            for request in [each for each in task.requests if each.run is run]:
                task.requests.remove(request)
            if not task.requests:
                self.over(task)
        if run is not self._home:
            self.held.close(run)

    def no_more(self) -> None:
        """Close the queue: workers end with what they are at, whether or not somebody is left to end them."""
        left = self._home is not None and self._home.detached
        if self.control is not None and not self.control.detached and not left:
            self.control.no_more()

    async def aclose(self) -> None:
        """Close the queue and end all workers, bounded in time."""
        if self._home is None and self._adopted is not None:
            await self._find_left(self._adopted)
        if self._preparing is not None and not self._preparing.done():
            await asyncio.wait([self._preparing], timeout=_SURVEY_SECS)  # what it finds is to be ended, too
            self._preparing.cancel()
            await asyncio.wait([self._preparing])
        if self.control is not None:
            left = await self.control.aclose(leave=self._home is not None and self._home.detached)
            if left:
                jobs = ", ".join(worker.job_id or worker.sid for worker in left)
                _log.warning(
                    "jobs that may still be in Slurm, and end themselves when they find it: %s", jobs
                )
        for run in (self._home, self._adopted):
            if run is not None:
                self.held.close(run)
        await self._asker.aclose()
        await self.held.aclose()

    async def _find_left(self, run: RunPort) -> None:
        """No node had to be run; a dead controller may have left workers all the same, or jobs that still wait."""
        self._home = run
        base = QueuePaths(run.root, run.run_id).base
        try:
            there = await DOOR.files.run(atomic.exists, base, deadline=_SURVEY_SECS)
        except OSError as error:
            _log.warning("what an earlier controller left cannot be seen: %s", error)
            return
        if there and not run.detached:
            self._prepare()

    # -- for people ------------------------------------------------------------------------------------------

    def workers_view(self) -> list[Row]:
        """One row for each worker."""
        return [row_of(worker) for worker in self.control.fleet.workers] if self.control is not None else []

    def why(self, run: RunPort, node: str) -> str:
        """Why a node that was asked for does not run, in words; empty if nothing can be said."""
        task = self.table.get((run.root, node))
        if task is None or task.begun:
            return ""
        if self.control is None or not self._ready:
            return "the queue is being made"
        why = self.control.why()
        return f"in the queue of spec {task.spec_key}" + (f"; {why}" if why else "")

    def on_workers(self) -> None:
        """Tell the runs how the workers are."""
        if self.control is None:
            return
        counts = dict(self.control.counts())
        text = sentence(self.workers_view(), self.control.why() if self.table else "")
        for run in list(self.held.opened.values()):
            run.workers(counts, text)

    # -- the queue -------------------------------------------------------------------------------------------

    def _opened(self, task: Task, failure: Failure | None) -> None:
        run = task.origin.run
        if task.stage is Stage.OVER:
            return
        if not self.held.is_open(run):
            self.over(task)
            task.taken_back() if failure is None else task.failed(failure)
            return
        if self._home is None:
            self._home = run
            self._prepare()
        if self._home.root != run.root:
            text = f"this pool serves {self._home.root}, and a run at {run.root} needs one of its own"
            self.over(task)
            task.failed(Failure(kind="protocol", error_type="FuruProtocolError", message=text))
        elif self._ready:
            self._write(task)
        else:
            self._waiting.append(task)

    def _prepare(self) -> None:
        assert self._home is not None
        home = self._home
        port = self._make_port(home.root)
        self.control = Control(self.pool, self.config, home.root, home.run_id, port, self, self._out)
        self._writer = Writer(self.control, self._out, self._fail)
        self.control.detached = home.on_cancel == "detach"
        self._preparing = self._loop.create_task(self._begin(self.control), name="furu pool begin")
        self._preparing.add_done_callback(self._on_prepared)

    async def _begin(self, control: Control) -> None:
        try:
            await control.begin(self._surveyed)
        except OSError as error:
            self.on_broken(
                f"the pool's folder cannot be made: {error.filename or ''} {error.strerror or error}"
            )
            return
        self._ready = True
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            if task.stage is Stage.NEW:
                self._write(task)

    def _on_prepared(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("a pool could not be begun", exc_info=error)
            self.on_broken(f"an error of the library's own: {type(error).__name__}: {error}")

    def _surveyed(self, survey: Survey) -> None:
        control, writer = self.control, self._writer
        assert control is not None
        assert writer is not None
        writer.survey = survey
        for sid in survey.sids:
            control.fleet.adopt(sid)

    def _write(self, task: Task) -> None:
        assert self._writer is not None
        self._writer.write(task)

    # -- what becomes of them --------------------------------------------------------------------------------

    def again(self, task: Task) -> None:
        """Write the entry of a task again, under a new number."""
        self._forget(task)
        if task.unwanted:
            self.over(task)
            task.taken_back()
        else:
            self._write(task)

    def over(self, task: Task) -> None:
        """A task is about to tell its end to its runs."""
        if task.stage is Stage.OVER:
            return
        self._forget(task)
        task.stage = Stage.OVER
        if self.table.get(task.key) is task:
            del self.table[task.key]
        if task in self._waiting:
            self._waiting.remove(task)
        if (task.unwanted or task.recalled) and self.control is not None and task.number:
            self.control.feeder.forget_cancel(task.file)
        self._over.set()
        for request in task.after:
            self._loop.call_soon(self.start, request)

    def _forget(self, task: Task) -> None:
        """Its present entry does not count any more."""
        if self.control is not None and self.control.tasks.get(task.file) is task:
            del self.control.tasks[task.file]
        if task.stage is Stage.OUT:
            self._out[task.spec_key] -= 1
            task.stage = Stage.NEW

    def _fail(self, task: Task, failure: Failure) -> None:
        self.over(task)
        task.failed(failure)

    def _take_out(self, task: Task, end: bool) -> None:
        """Take an entry out of the queue; a worker that has it returns it, if it has begun only where ``end``."""
        if task.stage is not Stage.OUT or self.control is None:
            self.over(task)
            task.taken_back()
            return
        feeder, name, number = self.control.feeder, task.file, task.number

        def withdrawn(result: object) -> None:
            if task.stage is not Stage.OUT or task.number != number:
                return
            if result is True:
                self.over(task)
                task.taken_back()
            else:
                task.recalled = not end
                feeder.cancel(name, begun=end)

        if task.place is None:
            withdrawn(False)
        else:
            feeder.withdraw(task.place, name, withdrawn)

    # -- workers that are gone -------------------------------------------------------------------------------

    def on_gone(self, gone: Gone) -> None:
        """What a worker had taken is told to the runs, or waits again."""
        assert self.control is not None
        place = (gone.worker.spec_key, gone.worker.node)
        if gone.young and place not in self._noted:
            self._noted.add(place)
            for run in list(self.held.opened.values()):
                run.note(gone.young)
        care_for(gone, self.control, self.again, self.over)
        if self.control.fleet.closing:  # what it has put back nobody takes any more
            for task in [each for each in self.table.values() if each.unwanted]:
                self._take_out(task, end=True)

    def on_stopped(self, spec_key: str, why: str) -> None:
        """Tasks that wait for this spec go to the next of theirs, or fail with the reason."""
        _log.warning("no more workers are submitted for spec %s: %s", spec_key, why)
        control = self.control
        assert control is not None
        for task in [each for each in self.table.values() if each.spec_key == spec_key]:
            if task.stage is Stage.OUT and not task.taken and not task.unwanted and task.place is not None:
                number = task.number

                def withdrawn(result: object, task: Task = task, number: int = number) -> None:
                    if result is True and task.stage is Stage.OUT and task.number == number:
                        self.again(task)

                control.feeder.withdraw(task.place, task.file, withdrawn)

    def on_broken(self, text: str) -> None:
        """Nothing can go on."""
        for run in list(self.held.opened.values()):
            run.fail(FuruExecutorError(text))
