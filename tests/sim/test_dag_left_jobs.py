"""A node that a job of another run is at, and that run's controller is dead: what becomes of the job decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sim.dag_sim import Jobs, Part, mortal
from tests.sim.test_dag_runs import World

from furu_async import FuruConfig, RunReport, run_dag
from furu_async._runtime.blocking import DOOR
from furu_async._testing.slurm_jobs import Copy
from furu_async._testing.strangers import Stranger
from furu_async.testing import Fails, FakeExecutor, Hangs, Outcome, Returns, run_virtual, tmp_root

SHARED = Part(name="shared")
FIRST, SECOND = (Part(name=name, parts=(SHARED,)) for name in ("first", "second"))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FuruConfig]:
    mortal(monkeypatch)
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


class Left:
    """A run whose controller dies while the job of the node that another run shares is at work."""

    def __init__(self, config: FuruConfig, shared: Outcome) -> None:
        self.config = config
        self.world = World(config)
        self.shared = shared
        self.world.jobs = Jobs(config, FakeExecutor(self._outcome), [FIRST, SECOND])
        self.world.slurm.program = self.world.jobs

    def _outcome(self, obj: object, attempt: int) -> Outcome:
        return self.shared if obj is SHARED else Returns(1)

    async def begin(self) -> Copy:
        """The first start of the job; nobody controls it any more."""
        first = self.world.controller()
        running = run_dag([FIRST], executor=first, config=self.config, progress=False, check=False)
        self._first = asyncio.create_task(running)
        while (job := next((job for job in self.world.slurm.jobs if job.copy is not None), None)) is None:
            await asyncio.sleep(0.5)
        assert job.copy is not None
        await asyncio.sleep(2)
        await first.die()
        return job.copy

    async def second(self, *targets: Part, **options: Any) -> RunReport:
        """The other run."""
        return await run_dag(
            targets,
            executor=self.world.controller(),
            config=self.config,
            progress=False,
            check=False,
            timeout=5000,
            **options,
        )

    async def taken_by_another(self) -> Stranger:
        """Somebody without Slurm claims the shared node as soon as its job has failed."""
        other = Stranger(str(self.config.path), SHARED)
        while not (self.ends(SHARED) == 1 and await DOOR.files.run(other.claim)):
            await asyncio.sleep(0.01)
        return other

    def ends(self, part: Part) -> int:
        """How many generations of it have ended."""
        base = Path(self.config.path, "data", "tests", "sim", "dag_sim", "Part", part.furu_hash)
        return len(list(base.glob(".furu/ends/*")))


async def works(other: Stranger, seconds: float) -> None:
    """It beats for so long."""
    for _ in range(int(seconds / 5)):
        await asyncio.sleep(5)
        await DOOR.files.run(other.beat)


def living(config: FuruConfig, case: Callable[[Left, Copy], Awaitable[None]], shared: Outcome) -> None:
    """Run a case; what becomes of the shared node is given."""

    async def main() -> None:
        left = Left(config, shared)
        await case(left, await left.begin())
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    run_virtual(main(), seed=1)


@pytest.mark.fault("F70", "F35")
@pytest.mark.parametrize("asked", [False, True], ids=["as a dependency", "as a target, too"])
def test_a_job_that_is_killed_is_replaced_and_nothing_is_wired_to_it_again(
    root: FuruConfig, asked: bool
) -> None:
    """Its beat is left in the store, as a SIGKILL leaves it. Slurm's word that it has failed is not waited upon."""

    async def case(left: Left, copy: Copy) -> None:
        async def kill() -> None:
            await asyncio.sleep(20)
            left.shared = Returns(1)
            copy.kill()

        loop = asyncio.get_running_loop()
        killing, begin = asyncio.create_task(kill()), loop.time()
        report = await left.second(*([SECOND, SHARED] if asked else [SECOND]))
        await killing
        assert report.ok, [node.failure for node in report if node.failure]
        assert loop.time() - begin < 60, "no lease is waited for"
        assert left.ends(SHARED) == 2
        assert left.ends(SECOND) <= 4
        assert len(left.world.slurm.jobs) <= 6

    living(root, case, Hangs())


@pytest.mark.fault("F70")
@pytest.mark.parametrize("asked", [False, True], ids=["as a dependency", "as a target, too"])
@pytest.mark.parametrize("after", [0.0, 2.0, 20.0, 200.0, 300.0])
def test_a_job_that_fails_is_followed_by_one_of_this_run(root: FuruConfig, asked: bool, after: float) -> None:
    """Its failure goes by the retry policy of whoever waits, at whatever moment it comes."""

    async def case(left: Left, copy: Copy) -> None:
        second = asyncio.create_task(left.second(*([SECOND, SHARED] if asked else [SECOND])))
        while left.ends(SHARED) == 0:
            await asyncio.sleep(1)
        left.shared = Returns(1)
        report = await second
        assert report.ok, [node.failure for node in report if node.failure]
        assert report[SHARED].status in ("created", "cached")
        assert len(left.world.slurm.jobs) <= 6

    living(root, case, Fails("oom", after=2.0 + after))


@pytest.mark.fault("F70")
@pytest.mark.parametrize("asked", [False, True], ids=["as a dependency", "as a target, too"])
@pytest.mark.parametrize("ends", ["published", "failed", "lost"])
def test_whoever_takes_the_node_after_it_is_waited_for(root: FuruConfig, asked: bool, ends: str) -> None:
    """A run on another host, without Slurm, is quicker: jobs are in the queue that need the node, and they are kept."""

    async def case(left: Left, copy: Copy) -> None:
        second = asyncio.create_task(left.second(*([SECOND, SHARED] if asked else [SECOND])))
        other = await left.taken_by_another()
        left.shared = Returns(1)
        await works(other, 150)
        if ends == "published":
            await DOOR.files.run(other.publish, 1)
        elif ends == "failed":
            await DOOR.files.run(other.fail, "compute")
        report = await second
        assert report.ok, [node.failure for node in report if node.failure]
        assert left.ends(SHARED) == (2 if ends == "published" else 3)
        assert left.ends(SECOND) <= 4

    living(root, case, Fails("oom", after=60.0))


@pytest.mark.fault("F70")
def test_a_node_that_somebody_takes_between_two_of_our_jobs_is_waited_for(root: FuruConfig) -> None:
    async def main() -> None:
        left = Left(root, Fails("oom", after=5.0))
        second = asyncio.create_task(left.second(SECOND))
        other = await left.taken_by_another()
        left.shared = Returns(1)
        await works(other, 50)
        await DOOR.files.run(other.publish, 1)
        report = await second
        assert report.ok, [node.failure for node in report if node.failure]
        assert left.ends(SHARED) == 2
        assert left.world.living() == []

    run_virtual(main(), seed=1)


@pytest.mark.fault("F70")
def test_with_retry_failed_false_its_failure_stands(root: FuruConfig) -> None:
    async def case(left: Left, copy: Copy) -> None:
        report = await left.second(SECOND, SHARED, retry_failed=False)
        failure = report[SHARED].failure
        assert failure is not None
        assert (report[SHARED].status, failure.kind) == ("failed", "oom")
        assert report[SECOND].status == "skipped"
        assert left.ends(SHARED) == 1

    living(root, case, Fails("oom", after=20.0))


@pytest.mark.fault("F70")
def test_a_job_that_goes_on_is_waited_for(root: FuruConfig) -> None:
    """For longer than a lease: it beats."""

    async def case(left: Left, copy: Copy) -> None:
        report = await left.second(SECOND, SHARED)
        assert report.ok, [node.failure for node in report if node.failure]
        assert (report[SHARED].status, left.ends(SHARED)) == ("cached", 1)
        assert len(left.world.slurm.jobs) == 3

    living(root, case, Returns(1, after=400))
