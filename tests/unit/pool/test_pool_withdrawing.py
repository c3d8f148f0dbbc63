"""Cancelling the jobs of workers: only those that Slurm has under their own names."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from furu_async._plan.leases import LeaseRules
from furu_async._pool.crew import Gone, Worker
from furu_async._pool.fleet import Fleet
from furu_async._pool.withdrawing import withdraw, withdraw_all
from furu_async._slurm.poller import Poller
from furu_async._slurm.port import JobRequest
from furu_async._slurm.submitter import Submitter, Ticket
from furu_async._slurm.withdrawing import RECENT_SECS
from furu_async._store import atomic, submissions
from furu_async._store.layout import QueuePaths, RunPaths
from furu_async._testing.slurm import SimulatedSlurm

pytestmark = pytest.mark.virtual_time
HOME = "20260101-000000-1-aaaaaa"


class Site:
    """A cluster with jobs of ours and of others, and a pool's folder."""

    def __init__(self, root: Path) -> None:
        self.slurm = SimulatedSlurm()
        self.poller = Poller(self.slurm, 60.0)
        self.submitter = Submitter(self.slurm)
        self.paths = QueuePaths(str(root), HOME)
        for number in range(1, 4):
            atomic.make_folders(RunPaths(str(root), HOME).submission(f"{number}").base)

    async def submit(self, *names: str) -> None:
        for name in names:
            await self.slurm.submit(JobRequest(name=name, argv=("sh", "-c", "sleep 10000")))

    def worker(self, number: int, *, placed: bool = False) -> Worker:
        """The worker in job ``number``, which an earlier controller has submitted if not ``placed``."""
        worker = Worker(f"{number}", "key", name=f"ours-{number}", job_id=f"{number}", intent="because")
        worker.placed_at = asyncio.get_running_loop().time() if placed else None
        worker.watch = self.poller.track(worker.job_id, worker.name)
        return worker

    async def answer_grows_old(self) -> None:
        """Until the poller has an answer, and it is some seconds old."""
        await self.poller.snapshot()
        while asyncio.get_running_loop().time() - self.poller.answered_at < 2 * RECENT_SECS:
            await asyncio.sleep(0.1)

    def living(self) -> list[str]:
        return [job.name for job in self.slurm.jobs if not job.ended]

    def closed(self) -> list[str]:
        run = RunPaths(self.paths.root, HOME)
        return [sid for sid in "123" if submissions.read(run.submission(sid)).closed is not None]


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_job_that_nothing_was_heard_of_is_looked_up_by_its_name(site: Site, at_once: bool) -> None:
    """An earlier controller's record has its id, which may be another job's by now."""
    await site.submit("ours-1", "theirs")
    workers = [site.worker(1), site.worker(2), Worker("3", "key")]
    await asyncio.sleep(5)
    workers[1].watch = None
    if at_once:
        until = asyncio.get_running_loop().time() + 5
        await withdraw_all(site.paths, site.submitter, site.poller, workers, until)
    else:
        await withdraw(site.paths, site.submitter, site.poller, workers)
    await asyncio.sleep(15)
    assert site.living() == ["theirs"]
    assert site.closed() == (["1", "2", "3"] if at_once else ["1", "2"])
    await site.poller.aclose()


@pytest.mark.fault("F52")
@pytest.mark.parametrize("placed", [True, False])
async def test_an_id_that_was_given_again_since_the_last_look(site: Site, placed: bool) -> None:
    """Also a job that was placed a moment ago may be lost with Slurm's state."""
    await site.submit("ours-1", "ours-2")
    workers = [site.worker(1, placed=placed), site.worker(2, placed=placed)]
    await site.answer_grows_old()
    queries = site.poller.queries
    site.slurm.forget_everything()
    await site.submit("theirs", "ours-2")
    await withdraw(site.paths, site.submitter, site.poller, workers)
    await asyncio.sleep(15)
    assert site.poller.queries > queries
    assert site.living() == ["theirs"]
    await site.poller.aclose()


async def test_what_was_just_placed_is_cancelled_unseen(site: Site) -> None:
    await site.submit("ours-1")
    began = asyncio.get_running_loop().time()
    await withdraw(site.paths, site.submitter, site.poller, [site.worker(1, placed=True)])
    assert asyncio.get_running_loop().time() - began < 2
    await asyncio.sleep(15)
    assert site.living() == []
    await site.poller.aclose()


async def test_a_slurm_that_says_nothing_costs_a_bounded_time(site: Site) -> None:
    """What it had when it last answered is cancelled all the same; of the rest nobody knows whose it is."""
    await site.submit("ours-1", "ours-2")
    known = site.worker(1)
    await site.answer_grows_old()
    asked, answered = site.slurm.query, asyncio.Event()

    async def hang() -> object:
        await answered.wait()
        return await asked()

    site.slurm.query = hang  # type: ignore[method-assign,assignment]
    began = asyncio.get_running_loop().time()
    await withdraw_all(site.paths, site.submitter, site.poller, [known, site.worker(2)], began + 3)
    assert asyncio.get_running_loop().time() - began < 4
    answered.set()
    await asyncio.sleep(15)
    assert site.living() == ["ours-2"]
    await site.poller.aclose()


async def test_the_end_of_a_pool_hears_of_workers_that_end_late(site: Site) -> None:
    """The poller asks ever more seldom by itself; who closes a pool waits for nothing else."""
    await site.submit("ours-1")
    gone: list[Gone] = []
    fleet = Fleet(
        site.paths,
        site.submitter,
        site.poller,
        LeaseRules(lease=120.0, grace=90.0, stale=1800.0),
        {},
        make=lambda *_: pytest.fail("nobody is to be submitted"),
        on_change=lambda: None,
        on_gone=gone.append,
        on_stopped=lambda *_: None,
        on_broken=pytest.fail,
    )
    fleet.workers.append(Worker("1", "key"))
    fleet._follow(fleet.workers[0], Ticket("1", 1, "token", "ours-1"), "1")
    await site.poller.snapshot()
    fleet.closing = True
    loop = asyncio.get_running_loop()
    kill_at = loop.time() + 5.2
    closing = asyncio.create_task(fleet._all_gone(loop.time() + 7.0))
    await asyncio.sleep(kill_at - loop.time())
    await site.slurm.cancel(["1"])
    await closing
    assert fleet.workers == []
    assert len(gone) == 1
    await site.poller.aclose()
