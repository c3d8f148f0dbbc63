"""Two clusters behind one port, for the contract suite: the simulated one on virtual time, and a real one."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from furu_async import SlurmSpec
from furu_async._slurm.parameters import Wish, request
from furu_async._slurm.parse import UNNAMED
from furu_async._slurm.port import JobRequest, JobRow, Rows, SlurmPort, Submitted
from furu_async._slurm.real import RealSlurm
from furu_async._slurm.states import Alive, Ended
from furu_async._testing.slurm import SimSettings, SimulatedSlurm
from furu_async.testing import run_virtual

SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))
SPEC = SlurmSpec(cpus=1, mem_gb=0.1, time_min=5)
Scenario = Callable[["Site"], Coroutine[Any, Any, None]]


class Site(ABC):
    """A cluster, what happens to it, and how to wait for something there.

    Attributes:
        patience: seconds that something may take; real ones are slower.
    """

    port: SlurmPort
    patience: float = 60.0
    logs: str = "/nonexistent"
    before: frozenset[tuple[str, str, int]] = frozenset()

    def request(self, script: str, name: str = "furu-x", *, kill: bool = True, **wish: Any) -> JobRequest:
        """A job that runs lines of shell, as far as the simulated one knows them."""
        made = request(SPEC, Wish(name, ("sh", "-c", script), self.logs, **wish))
        if kill:
            return made
        return replace(made, options={**made.options, "kill-on-invalid-dep": "no"})

    async def submit(self, script: str, name: str = "furu-x", **wish: Any) -> str:
        """Submit a job that has to be accepted; its id."""
        answer = await self.port.submit(self.request(script, name, **wish))
        assert isinstance(answer, Submitted), answer
        return answer.job_id

    async def rows(self) -> dict[str, JobRow]:
        """All jobs that the queue has."""
        answer = await self.port.query()
        assert isinstance(answer, Rows), answer
        assert answer.unparsed == ()
        return {row.id: row for row in answer.rows if (row.id, row.name, row.submitted) not in self.before}

    async def begin(self) -> None:
        """What is there already is not of this scenario: a real cluster remembers the jobs of others."""
        answer = await self.port.query()
        assert isinstance(answer, Rows), answer
        self.before = frozenset((row.id, row.name, row.submitted) for row in answer.rows)

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Wait until this gives something; that."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.patience * SCALE
        while True:
            got = await condition()
            if got:
                return got
            assert loop.time() < end, f"{what}; the jobs are {await self.port.query()}"
            await asyncio.sleep(0.2)

    async def state(self, job_id: str, *states: str) -> JobRow:
        """Wait until a job is in one of these states."""

        async def there() -> JobRow | None:
            row = (await self.rows()).get(job_id)
            return row if row is not None and row.state in states else None

        row: JobRow = await self.until(there, f"job {job_id} is not {' or '.join(states)}")
        return row

    async def alive(self, job_id: str, phase: str, reason: str = "") -> Alive:
        """Wait until a job is alive in a phase, for a reason of a kind."""

        async def there() -> Alive | None:
            row = (await self.rows()).get(job_id)
            verdict = row.verdict() if row is not None else None
            if not isinstance(verdict, Alive) or verdict.phase != phase:
                return None
            if reason and (verdict.reason is None or verdict.reason.kind != reason):
                return None
            return verdict

        verdict: Alive = await self.until(there, f"job {job_id} is not {phase} {reason}")
        return verdict

    async def ended(self, job_id: str) -> Ended:
        """Wait until the queue says that a job has ended."""

        async def there() -> Ended | None:
            row = (await self.rows()).get(job_id)
            verdict = row.verdict() if row is not None else None
            return verdict if isinstance(verdict, Ended) else None

        verdict: Ended = await self.until(there, f"job {job_id} has not ended")
        return verdict

    async def accounted(self, job_id: str, count: int = 1) -> tuple[JobRow, ...]:
        """Wait until accounting has so many starts of a job, the last of them ended."""

        async def there() -> tuple[JobRow, ...] | None:
            answer = await self.port.account([job_id])
            known = (await self.rows()).get(job_id)
            since = known.submitted - 30 if known is not None and count == 1 else 0
            rows = answer.rows if isinstance(answer, Rows) else ()
            rows = tuple(row for row in rows if row.submitted >= since)
            complete = len(rows) >= count and all(row.name != UNNAMED for row in rows)
            return rows if complete and isinstance(rows[-1].verdict(), Ended) else None

        rows: tuple[JobRow, ...] = await self.until(there, f"accounting has not seen the end of {job_id}")
        return rows

    @abstractmethod
    async def act(self, verb: str, *arguments: Any) -> Any:
        """Do something to the cluster: see the table in each site."""


class Simulated(Site):
    """The simulated one."""

    def __init__(self) -> None:
        settings = SimSettings(slots=4, kill_wait=2.0, requeue_delay=5.0, message_timeout=5.0, acct_lag=1.0)
        self.port = self.slurm = SimulatedSlurm(settings)

    async def act(self, verb: str, *arguments: Any) -> Any:
        slurm = self.slurm
        actions: dict[str, Callable[..., Any]] = {
            "freeze": slurm.stop_controller,
            "thaw": slurm.start_controller,
            "requeue": slurm.requeue,
            "special_exit": lambda job: slurm.requeue(job, hold="SPECIAL_EXIT"),
            "requeuehold": lambda job: slurm.requeue(job, hold="JobHeldUser"),
            "preempt": slurm.preempt,
            "suspend": lambda job: slurm.force(job, "SUSPENDED"),
            "resume": lambda job: slurm.force(job, "RUNNING"),
            "fail_node": slurm.fail_node,
            "resume_node": slurm.resume_node,
            "purge": slurm.purge,
            "empty": lambda: None,
            "wipe": slurm.forget_everything,
            "max_jobs": lambda most: setattr(slurm, "settings", replace(slurm.settings, max_job_count=most)),
        }
        actions[verb](*arguments)
        await asyncio.sleep(0.1)

    async def living(self, job_id: str) -> int:
        """Runs of a job that have processes."""
        return sum(copy.job_id == job_id for copy in self.slurm.living)


class Real(Site):
    """The real one, in ``tests/slurm``."""

    patience = 90.0

    def __init__(self, cluster: Any, logs: str) -> None:
        self.cluster = cluster
        self.logs = logs
        self.port = RealSlurm(env=cluster.environment())

    async def act(self, verb: str, *arguments: Any) -> Any:
        cluster = self.cluster
        actions: dict[str, Callable[..., Any]] = {
            "freeze": lambda: cluster.freeze("slurmctld"),
            "thaw": lambda: cluster.thaw("slurmctld"),
            "requeue": cluster.requeue,
            "special_exit": lambda job: cluster.requeuehold(job, special_exit=True),
            "requeuehold": cluster.requeuehold,
            "preempt": cluster.preempt,
            "suspend": cluster.suspend,
            "resume": cluster.resume,
            "fail_node": cluster.fail_node,
            "resume_node": cluster.launch,
            "purge": cluster.purge,
            "empty": lambda: cluster.purge(*cluster.jobs()),
            "wipe": cluster.wipe,
            "max_jobs": lambda most: cluster.reconfigure(MaxJobCount=most),
        }
        return await asyncio.to_thread(actions[verb], *arguments)

    async def living(self, job_id: str) -> int:
        """Runs of a job that have processes: each is a shell and perhaps what it waits for."""
        found = await asyncio.to_thread(self.cluster.processes, job_id)
        return len({os.getpgid(each.pid) for each in found})


def run_simulated(scenario: Scenario) -> None:
    """On virtual time."""

    async def main() -> None:
        await scenario(Simulated())

    run_virtual(main())


def run_real(scenario: Scenario, cluster: Any, logs: str) -> None:
    """On a real cluster."""

    async def main() -> None:
        site = Real(cluster, logs)
        await site.begin()
        await scenario(site)

    asyncio.run(main())
