"""A DAG's jobs in the simulated Slurm, on virtual time, and controllers that die there at any step."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from tests.sim.mortal_keeper import MortalKeeper

from furu_async import Furu, FuruConfig, SlurmDag, SlurmSpec
from furu_async._dag import orders
from furu_async._dag.executor import DagExecutor
from furu_async._dag.job import Assignment, NodeJob, assigned
from furu_async._dag.job_main import _patiently
from furu_async._dag.run import DagRun
from furu_async._executors.base import Executor, ExecutorLike
from furu_async._executors.identity import Identity
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runtime import exit_codes
from furu_async._runtime.blocking import DOOR
from furu_async._slurm.admission import JobIdentity, admitted
from furu_async._slurm.port import Done, Found, JobRequest, Limits, Rows, Silence, SlurmPort, SubmitAnswer
from furu_async._slurm.submitter import Pending
from furu_async._store.layout import RunPaths
from furu_async._testing.fake_executor import FakeExecutor, _Scripted
from furu_async._testing.keeper import InProcessKeeper
from furu_async._testing.slurm_jobs import Copy


class Part(Furu[int]):
    """A node of a simulated DAG."""

    name: str
    parts: tuple[Furu[int], ...] = ()

    def _spec(self) -> list[SlurmSpec]:
        return [SlurmSpec(cpus=1, time_min=10), SlurmSpec(cpus=2, time_min=60)]

    def _create(self) -> int:
        raise AssertionError("what becomes of it is in the script")


class Saving(Part):
    """A node that goes on from its checkpoint."""

    _resumable = True


class _JobExecutor(_Scripted):
    def __init__(self, fake: FakeExecutor, one: Assignment) -> None:
        super().__init__(fake, one.config)
        self.work_as(
            Identity(backend="dag", worker_id=one.wid, job_id=one.job.id, restart_count=one.job.restarts)
        )

    def _make_keeper(self) -> KeeperClient:
        self._mortal = MortalKeeper(self.config.heartbeat_secs)
        return self._mortal

    def die(self) -> None:
        """SIGKILL: nothing is put in order."""

        async def nothing(*_: Any) -> None: ...

        self._mortal.die()
        self.release = self.aclose = nothing  # type: ignore[method-assign]


class Jobs:
    """What runs in the jobs: the library's own code for them, with attempts that follow a script.

    Attributes:
        acted: how many jobs (not starts of them) were admitted for each node.
    """

    def __init__(self, config: FuruConfig, fake: FakeExecutor, targets: Collection[Furu[Any]]) -> None:
        self.config = config
        self.fake = fake
        self.acted: Counter[str] = Counter()
        self.objs: dict[str, Furu[Any]] = {}
        stack = list(targets)
        while stack:
            obj = stack.pop()
            if obj.furu_hash not in self.objs:
                self.objs[obj.furu_hash] = obj
                stack += getattr(obj, "parts", ())

    async def __call__(self, copy: Copy) -> int:
        """One start of a job."""
        given = dict(word[2:].split("=", 1) for word in copy.argv if word.startswith("--"))
        base, _, task = copy.job_id.partition("_")
        job = JobIdentity(base, copy.job_id, int(task) if task else -1, copy.restart)
        paths = RunPaths(given["root"], given["run"])
        submission = paths.submission(given["sid"])
        try:
            ok, _ = await _patiently(lambda: admitted(submission, int(given["try"]), given["token"], job))
            if not ok:
                return exit_codes.NOT_WANTED
            settings = await _patiently(lambda: orders.read_settings(paths))
            order = await _patiently(lambda: orders.read_order(submission))
        except OSError:
            return exit_codes.CANNOT_START
        node = assigned(order, job) if order is not None else None
        if settings is None or node is None:
            return exit_codes.CANNOT_START
        if not copy.restart:
            self.acted[node.hash] += 1
        one = Assignment(
            root=given["root"],
            run_id=given["run"],
            sid=given["sid"],
            node=node,
            job=job,
            config=self.config,
            policy=orders.policy_of(settings),
            load=self.objs.__getitem__,
        )
        made: list[_JobExecutor] = []

        def open_executor(each: Assignment) -> _JobExecutor:
            made.append(_JobExecutor(self.fake, each))
            return made[-1]

        work = NodeJob(one, open_executor, lambda _: None)

        async def hear(signal: asyncio.Event, then: Callable[[], None]) -> None:
            await signal.wait()
            then()

        loop = asyncio.get_running_loop()
        hearing = [
            loop.create_task(hear(copy.term, lambda: work.stop("SIGTERM"))),
            loop.create_task(hear(copy.warned, work.warn)),
        ]
        running = loop.create_task(work.run(), name=f"job {copy.job_id}")
        try:
            return await asyncio.shield(running)
        except OSError:
            return exit_codes.CANNOT_START
        except asyncio.CancelledError:
            for executor in made:
                executor.die()
            running.cancel()
            raise
        finally:
            for task in hearing:
                task.cancel()


class Line:
    """The port of one controller, which hears nothing any more from the moment that it is killed.

    Args:
        crash_at: at which of its steps (calls of the port, steps on the store) it dies; 0: never.
    """

    def __init__(self, inner: SlurmPort, crash_at: int = 0) -> None:
        self.inner = inner
        self.steps = 0
        self.crash_at = crash_at
        self.dead = asyncio.Event()

    async def step(self) -> None:
        """Another step; none comes after the last."""
        self.steps += 1
        if self.crash_at and self.steps >= self.crash_at:
            self.dead.set()
        await self.alive()

    async def alive(self) -> None:
        """Return only to the living."""
        if self.dead.is_set():
            await asyncio.Event().wait()

    async def submit(self, request: JobRequest) -> SubmitAnswer:
        await self.step()
        answer = await self.inner.submit(request)
        await self.step()
        return answer

    async def query(self) -> Rows | Silence:
        await self.step()
        return await self.inner.query()

    async def account(
        self, ids: Collection[str], names: Collection[str] = (), back_secs: float = 86400.0
    ) -> Rows | Silence:
        await self.step()
        return await self.inner.account(ids, names, back_secs)

    async def find(self, name: str) -> Found:
        await self.step()
        return await self.inner.find(name)

    async def cancel(self, ids: Collection[str]) -> Done:
        await self.step()
        return await self.inner.cancel(ids)

    async def hold(self, ids: Collection[str]) -> Done:
        await self.step()
        return await self.inner.hold(ids)

    async def release(self, ids: Collection[str]) -> Done:
        await self.step()
        answer = await self.inner.release(ids)
        await self.step()
        return answer

    async def limits(self) -> Limits:
        await self.step()
        return await self.inner.limits()


class SimDag(ExecutorLike):
    """A `SlurmDag` on a simulated cluster."""

    __slots__ = ("dag", "executor", "keeper", "line")

    def __init__(self, line: Line, dag: SlurmDag | None = None) -> None:
        self.line = line
        self.dag = dag or SlurmDag()
        self.keeper: InProcessKeeper | None = None
        self.executor: DagExecutor | None = None

    def open(self, config: FuruConfig) -> Executor:
        """Make its executor."""
        self.keeper = InProcessKeeper()
        self.executor = DagExecutor(self.dag, config, self.line, self.keeper)
        return self.executor

    async def die(self) -> None:
        """What its keeper does when its supervisor is gone."""
        self.line.dead.set()
        if self.keeper is not None:
            await DOOR.files.run(self.keeper._steps.supervisor_died)


def mortal(monkeypatch: Any) -> None:
    """Let controllers with a `Line` die at any step on the store, too."""
    patiently, step = DagRun.patiently, Pending._step

    async def store_step(self: DagRun, fn: Any, *args: Any) -> Any:
        line = self.shared.port
        if isinstance(line, Line):
            await line.step()
        answer = await patiently(self, fn, *args)
        if isinstance(line, Line):
            await line.step()
        return answer

    async def submission_step(self: Pending, command: Any) -> None:
        line = self._owner.port
        if isinstance(line, Line):
            await line.step()
        await step(self, command)
        if isinstance(line, Line):
            await line.alive()

    monkeypatch.setattr(DagRun, "patiently", store_step)
    monkeypatch.setattr(Pending, "_step", submission_step)
