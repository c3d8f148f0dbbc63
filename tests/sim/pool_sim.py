"""A pool on virtual time: the real controller and real pilots in this process, jobs of a simulated Slurm.

Only the attempts are made up (`FakeExecutor`), and a killed worker is one whose every step fails from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.sim.mortal_keeper import MortalKeeper

from furu_async import Furu, FuruConfig, RunReport, SlurmPool
from furu_async._executors.base import Executor
from furu_async._executors.identity import Identity
from furu_async._executors.local import LocalExecutor
from furu_async._executors.runs import Run
from furu_async._executors.scheduler import Scheduler
from furu_async._pool.entries import worker_id
from furu_async._pool.executor import PoolExecutor
from furu_async._pool.pilot import Pilot
from furu_async._pool.walltime import Walltime
from furu_async._pool.work import PilotPlan
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runtime import exit_codes
from furu_async._slurm.admission import JobIdentity, admitted
from furu_async._slurm.port import SlurmPort, base_id
from furu_async._store import runs
from furu_async._store.layout import ArtifactPaths, QueuePaths, RunPaths
from furu_async._testing.slurm import Copy, SimSettings, SimulatedSlurm
from furu_async._testing.slurm_jobs import walltime
from furu_async.errors import FuruError
from furu_async.testing import FakeExecutor

SETTINGS = SimSettings(start_secs=2.0, kill_wait=30.0)


@dataclass(frozen=True, kw_only=True)
class SimPool(SlurmPool):
    """A `SlurmPool` on a simulated Slurm."""

    world: Any = None

    def open(self, config: FuruConfig) -> Executor:
        made = _SimExecutor(self, config)
        self.world.executors.append(made)
        return made


class _SimExecutor(PoolExecutor):
    seed = 0

    def _make_keeper(self) -> KeeperClient:
        return MortalKeeper(self.config.heartbeat_secs)

    def _make_port(self, root: str) -> SlurmPort:
        port: SlurmPort = self.pool.world.port()  # type: ignore[attr-defined]
        return port


class World:
    """A store, a cluster, and what workers do with their tasks.

    Attributes:
        pilots: that were started, by job and start.
        before: runs before a worker begins; may return an exit code, and then it does not.
    """

    def __init__(self, root: Path, script: FakeExecutor | None = None, **settings: Any) -> None:
        self.root = str(root)
        self.config = FuruConfig(path=root, record_git="off", **settings)
        self.script = script or FakeExecutor()
        self.slurm = SimulatedSlurm(SETTINGS, program=self.worker)
        self.executors: list[_SimExecutor] = []
        self.pilots: dict[str, Pilot] = {}
        self.keepers: dict[str, MortalKeeper] = {}
        self.logs: dict[str, list[str]] = {}
        self.before: Callable[[Copy], Awaitable[int | None]] | None = None
        self._zombies: list[asyncio.Task[Any]] = []

    def pool(self, **options: Any) -> SimPool:
        return SimPool(world=self, **options)

    def port(self) -> Any:
        """What a controller speaks to."""
        return self.slurm

    # -- workers ---------------------------------------------------------------------------------------------

    async def worker(self, copy: Copy) -> int:
        """The program of a job: what `worker_main` does, without a process."""
        words = list(copy.argv[copy.argv.index("pool") + 1 :])
        detached = "--detached" in words
        words = [word for word in words if word != "--detached"]
        given = dict(zip(words[::2], words[1::2], strict=True))
        if self.before is not None and (code := await self.before(copy)) is not None:
            return code
        run = RunPaths(self.root, given["--home"])
        index = int(copy.job_id.partition("_")[2] or -1)
        job = JobIdentity(base_id(copy.job_id), copy.job_id, index, copy.restart)
        if runs.look_run(run).verdict == "over" or (Path(run.base) / "queue" / "closed").exists():
            return 0
        may, _ = admitted(run.submission(given["--sid"]), int(given["--try"]), given["--token"], job)
        if not may:
            return 0
        return await self._pilot(copy, given, worker_id(given["--token"], index, copy.restart), detached)

    async def _pilot(self, copy: Copy, given: dict[str, str], wid: str, detached: bool) -> int:
        loop = asyncio.get_running_loop()
        slots = int(given["--slots"])
        executor = replace(self.script, workers=slots).open(self.config)
        assert isinstance(executor, LocalExecutor)
        keeper = MortalKeeper(self.config.heartbeat_secs)
        executor.keeper = executor.runs.keeper = executor.steps.keeper = executor.steps.late._keeper = keeper
        executor.work_as(
            Identity(
                backend="pool",
                worker_id=wid,
                job_id=copy.job_id,
                restart_count=copy.restart,
                spool=f"{self.root}/spool-{wid}",
            )
        )
        limit = walltime(self.slurm.job(copy.job_id).request)
        plan = PilotPlan(
            wid=wid,
            spec_key=given["--spec-key"],
            slots=slots,
            idle=float(given["--idle"]),
            detached=detached,
            job_id=copy.job_id,
            restart_count=copy.restart,
            walltime=Walltime(loop.time() + limit - 2.0, limit - 2.0),
            seed=len(self.pilots),
        )
        log = self.logs.setdefault(wid, [])
        pilot = Pilot(plan, QueuePaths(self.root, given["--home"]), self.config, executor, log.append)
        self.pilots[wid], self.keepers[wid] = pilot, keeper
        work = loop.create_task(pilot.run(), name=f"pilot {wid}")
        signals = [
            loop.create_task(self._on_signal(copy.term, pilot, "SIGTERM")),
            loop.create_task(self._on_signal(copy.warned, pilot, "SIGUSR2")),
        ]
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._kill(wid, work)
            raise
        except FuruError as error:
            log.append(f"cannot work: {error}")
            return exit_codes.CANNOT_START
        finally:
            for each in signals:
                each.cancel()
        return 0

    async def _on_signal(self, event: asyncio.Event, pilot: Pilot, name: str) -> None:
        await event.wait()
        pilot.signal(name)

    def _kill(self, wid: str, work: asyncio.Task[Any]) -> None:
        """Nothing that it does from now on has an effect."""

        def dead(*_: Any) -> Any:
            raise OSError(5, "it is dead")

        self.pilots[wid]._desk.round = dead  # type: ignore[method-assign]
        self.keepers[wid].die()
        workers: Any = self.pilots[wid].executor.dispatcher
        for task in list(getattr(workers, "_tasks", {}).values()):
            task.cancel()
        work.cancel()
        self._zombies.append(work)

    def kill(self, job_id: str) -> None:
        """SIGKILL to a worker."""
        for copy in self.slurm.living:
            if copy.job_id == job_id:
                copy.kill()

    # -- runs ------------------------------------------------------------------------------------------------

    async def run(
        self,
        *targets: Furu[Any],
        meanwhile: Callable[[Run, _SimExecutor], Awaitable[Any]] | None = None,
        pool: SimPool | None = None,
        **options: Any,
    ) -> RunReport:
        """A run, and what happens during it; afterwards nothing is left."""
        async with Scheduler(pool or self.pool(), config=self.config) as scheduler:
            run = scheduler.start(targets, check=False, **options)
            executor: Any = scheduler.executor
            other = asyncio.ensure_future(meanwhile(run, executor)) if meanwhile is not None else None
            try:
                report = await run
            finally:
                if other is not None:
                    other.cancel()
                    await asyncio.wait([other])
                    if not other.cancelled() and other.exception() is not None:
                        raise other.exception() or AssertionError
        await self.nothing_is_left()
        return report

    async def nothing_is_left(self) -> None:
        """No job is alive in Slurm."""
        async with asyncio.timeout(120):
            while not all(job.ended for job in self.slurm.jobs):
                await asyncio.sleep(1.0)
        for zombie in self._zombies:
            zombie.cancel()
        if self._zombies:
            await asyncio.wait(self._zombies)
            for zombie in self._zombies:
                if not zombie.cancelled():
                    zombie.exception()
        self._zombies = []

    def working(self) -> list[str]:
        """Jobs whose worker is at a task."""
        at_work = {
            (pilot.plan.job_id, pilot.plan.restart_count)
            for pilot in self.pilots.values()
            if any(task.began is not None for task in pilot.work.tasks.values())
        }
        return [each.job_id for each in self.slurm.living if (each.job_id, each.restart) in at_work]

    def ends(self, obj: Furu[Any], name: str) -> list[str]:
        """How the generations of an artifact ended."""
        import json

        paths = ArtifactPaths(self.root, name, obj.furu_hash)
        found = []
        for path in sorted(Path(paths.ends).iterdir(), key=lambda each: int(each.name)):
            end = json.loads(path.read_bytes())
            found.append("success" if end["status"] == "success" else end["failure"]["kind"])
        return found


async def until(condition: Callable[[], Any], secs: float = 600.0) -> Any:
    """Wait for a condition with a deadline."""
    async with asyncio.timeout(secs):
        while not (found := condition()):
            await asyncio.sleep(0.1)
        return found
