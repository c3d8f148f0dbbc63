"""Submitting to a simulated cluster with a real record on disk: mishaps, cancellation, controllers that die."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from pathlib import Path

import pytest

from furu_async._slurm import protocol as p
from furu_async._slurm.admission import JobIdentity, admitted, this_job
from furu_async._slurm.names import belongs_to, read_name
from furu_async._slurm.poller import Poller
from furu_async._slurm.port import JobRequest, Submitted
from furu_async._slurm.submitter import Order, Pending, Submitter, Ticket
from furu_async._store import fs, submissions
from furu_async._store.layout import RunPaths
from furu_async._testing.slurm import Copy, SimSettings, SimulatedSlurm
from furu_async.testing import run_virtual

virtual = pytest.mark.virtual_time


class Site:
    """A cluster whose jobs ask whether they may act, and controllers that submit."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.slurm = SimulatedSlurm(SimSettings(**settings), self.program)  # type: ignore[arg-type]
        self.run = RunPaths(str(folder), "run-1")
        self.acting: list[Copy] = []
        self.turned_away: list[str] = []
        self.most_at_once = 0
        self.waited: list[p.Waiting] = []
        self.seconds = 1000.0

    async def program(self, copy: Copy) -> int:
        sid, k, token = copy.argv
        identity = JobIdentity(copy.job_id.split("_")[0], copy.job_id, restarts=copy.restart)
        yes, why = admitted(self.run.submission(sid), int(k), token, identity, self.run.end(1))
        if not yes:
            self.turned_away.append(why)
            return 0
        self.acting.append(copy)
        self.most_at_once = max(self.most_at_once, len({each.name for each in self.acting}))
        try:
            await asyncio.wait_for(copy.term.wait(), self.seconds)
        except TimeoutError:
            return 0
        finally:
            self.acting.remove(copy)
        return 143

    def order(self, sid: str = "s", **options: str | bool) -> Order:
        def request(ticket: Ticket) -> JobRequest:
            return JobRequest(
                name=ticket.name, argv=(ticket.sid, str(ticket.k), ticket.token), options=options
            )

        return Order(
            paths=self.run.submission(sid),
            run_id="run-1",
            sid=sid,
            what="Train",
            request=request,
            on_waiting=self.waited.append,
        )

    def controller(self, **more: object) -> Submitter:
        numbers = random.Random(1)
        return Submitter(self.slurm, token=lambda: f"{numbers.getrandbits(64):016x}", **more)  # type: ignore[arg-type]

    @property
    def live(self) -> list[str]:
        return [job.id for job in self.slurm.jobs if not job.ended]


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual
async def test_a_job_is_submitted_noted_and_admitted(tmp_path):
    site = Site(tmp_path)
    done = await site.controller().submit(site.order())
    assert done == p.Finished("placed", Submitted("1"), 1)
    await asyncio.sleep(2)
    assert [copy.name for copy in site.acting] == [site.slurm.job("1").name]
    name = site.slurm.job("1").name
    assert belongs_to(name, "run-1")
    parts = read_name(name)
    last = submissions.read(site.run.submission("s")).last
    assert parts is not None
    assert last is not None
    assert last.job is not None
    assert last.ruling is not None
    assert (last.token, last.job.job_id, last.ruling.job_id) == (parts.token, "1", "1")


@virtual
@pytest.mark.fault("F22")
@pytest.mark.parametrize("operation", ["link", "fsync"])
async def test_a_record_that_is_there_and_answered_with_an_error_is_known_as_ones_own(
    tmp_path, monkeypatch, operation
):
    """Somebody else's would have to be searched for, for half a minute."""
    site, real, failed = Site(tmp_path), getattr(fs, operation), []

    def fails(*given, **more):
        there = os.path.lexists(site.run.submission("s").attempt(1))
        result = real(*given, **more)
        if not failed and (operation == "link" or there):
            failed.append(given)
            raise OSError(errno.EIO, "the reply is lost")
        return result

    monkeypatch.setattr(fs, operation, fails)
    done = await site.controller().submit(site.order())
    assert done == p.Finished("placed", Submitted("1"), 1)
    assert len(failed) == 1
    assert now() < 5.0
    assert site.slurm.counts["find"] == 0


@virtual
@pytest.mark.fault("F34")
@pytest.mark.parametrize("delay", [0.1, 5.0, 25.0])
async def test_a_ghost_is_found_and_kept(tmp_path, delay):
    site = Site(tmp_path)
    site.slurm.mishap("ghost", delay)
    done = await site.controller().submit(site.order())
    assert (done.how, done.k, done.job) == ("placed", 1, Submitted("1"))
    assert site.slurm.counts["submit"] == 1
    assert site.waited[0].kind == "busy"


@virtual
@pytest.mark.fault("F34")
async def test_a_ghost_that_comes_too_late_ends_itself(tmp_path):
    site = Site(tmp_path)
    site.slurm.mishap("ghost", 300.0)
    done = await site.controller().submit(site.order())
    assert (done.how, done.k) == ("placed", 2)
    await asyncio.sleep(400)
    assert len(site.slurm.jobs) == 2
    assert site.live == ["1"]
    assert site.most_at_once == 1
    assert "submitted in its place" in site.turned_away[0]


@virtual
@pytest.mark.fault("F34", "F53")
async def test_a_stopped_controller_carries_out_what_was_asked_meanwhile(tmp_path):
    site = Site(tmp_path)
    site.slurm.stop_controller()
    asyncio.get_running_loop().call_later(600, site.slurm.start_controller)
    done = await site.controller().submit(site.order())
    assert (done.how, done.k) == ("placed", 1)
    assert 600 <= now() < 640
    assert len(site.slurm.jobs) == 1


@virtual
@pytest.mark.fault("F34")
async def test_a_request_that_was_lost_is_made_again(tmp_path):
    site = Site(tmp_path)
    site.slurm.mishap("lost")
    done = await site.controller().submit(site.order())
    assert (done.how, done.k) == ("placed", 2)
    assert 30 <= now() < 60


@virtual
@pytest.mark.fault("F35")
async def test_what_slurm_refuses_ends_at_once_in_its_words(tmp_path):
    site = Site(tmp_path)
    done = await site.controller().submit(site.order(partition="nowhere"))
    assert done.how == "rejected"
    assert "Invalid partition name specified" in done.words
    assert now() < 5
    assert site.slurm.counts["submit"] == 1


@virtual
@pytest.mark.fault("F51")
@pytest.mark.parametrize("settings", [{"max_submit": 2}, {"max_job_count": 2, "min_job_age": 0.0}])
async def test_limits_are_waited_for_with_the_reason(tmp_path, settings):
    site = Site(tmp_path, **settings)
    site.seconds = 2000.0
    controller = site.controller()
    pending = [controller.begin(site.order(f"s{number}")) for number in range(5)]
    done = await asyncio.gather(*(each.wait() for each in pending))
    assert [each.how for each in done] == ["placed"] * 5
    assert now() > 4000
    assert {waiting.kind for waiting in site.waited} == {"limit"}
    assert len({job.name for job in site.slurm.copies}) == 5


@virtual
async def test_what_cannot_be_asked_for_is_raised_to_who_waits(tmp_path):
    site = Site(tmp_path)
    order = site.order()
    broken = Order(
        **{**{name: getattr(order, name) for name in order.__slots__}, "request": lambda ticket: 1 / 0}
    )
    with pytest.raises(ZeroDivisionError):
        await site.controller().submit(broken)


# -- cancellation ------------------------------------------------------------------------------------------------


@pytest.mark.fault("F97")
@pytest.mark.parametrize("mishap", [None, "ghost", "lost"])
def test_cancelled_at_any_moment_no_job_is_left(tmp_path, mishap):
    moments = 0

    async def main(step: int) -> bool:
        site = Site(tmp_path / f"{mishap}-{step}")
        if mishap:
            site.slurm.mishap(mishap, 3.0)
        controller = site.controller()
        task = asyncio.ensure_future(controller.submit(site.order()))
        for _ in range(step):
            await asyncio.sleep(0.005 if mishap is None else 0.7)
            if task.done():
                return False
        task.cancel()
        await asyncio.wait([task])
        assert await controller.settle(60)
        for (
            job
        ) in site.slurm.jobs:  # of a submission that was done in the same moment its caller was cancelled
            if not job.ended and not submissions.read(site.run.submission("s")).closed:
                raise AssertionError(f"job {job.id} is left")
        await asyncio.sleep(200)
        assert site.live == []
        assert site.acting == []
        return True

    for step in range(200):
        if not run_virtual(main(step)):
            break
        moments += 1
    assert moments >= 3


@virtual
@pytest.mark.fault("F97")
async def test_cancelled_in_the_moment_in_which_it_was_done(tmp_path):
    site = Site(tmp_path)
    controller = site.controller()
    pending = controller.begin(site.order("s2"))
    assert (await pending.wait()).how == "placed"
    pending.cancel("too late, and still")
    assert await controller.settle(60)
    await asyncio.sleep(100)
    assert site.live == []
    closed = submissions.read(site.run.submission("s2")).closed
    assert closed is not None
    assert closed.why == "too late, and still"


@virtual
@pytest.mark.fault("F46", "F97")
async def test_the_intent_is_on_disk_before_scancel(tmp_path):
    site = Site(tmp_path)
    controller = site.controller()
    pending = controller.begin(site.order())
    intents = []
    cancel = site.slurm.cancel

    async def watched(ids):
        intents.append(submissions.read(site.run.submission("s")).closed)
        return await cancel(ids)

    site.slurm.cancel = watched  # type: ignore[method-assign]
    while site.slurm.counts["submit"] == 0:
        await asyncio.sleep(0)
    pending.cancel("Ctrl-C")
    done = await pending.wait()
    assert done.how == "gone"
    assert intents[0] is not None
    assert (intents[0].intent, intents[0].why) == ("cancel", "Ctrl-C")


# -- controllers that die ----------------------------------------------------------------------------------------


async def kill(pending: Pending) -> None:
    """As by kill -9: nothing is taken back. What is on its way to Slurm or the disk arrives."""
    pending.task.cancel()
    await asyncio.wait([pending.task])


@pytest.mark.fault("F08", "F34", "F75")
@pytest.mark.parametrize("mishap", [None, "ghost"])
def test_a_successor_of_a_controller_that_died_at_any_moment_has_one_job(tmp_path, mishap):
    async def main(step: int) -> tuple[bool, int]:
        site = Site(tmp_path / f"{mishap}-{step}")
        site.seconds = 5000.0
        if mishap:
            site.slurm.mishap(mishap, 3.0)
        pending = site.controller().begin(site.order())
        ended = False
        for _ in range(step):
            await asyncio.sleep(0.002 if mishap is None else 0.5)
            ended = pending.state.finished is not None
        await kill(pending)
        poller = Poller(site.slurm)
        done = await site.controller(look=poller.find).submit(site.order())
        assert done.how == "placed"
        await asyncio.sleep(100)
        assert done.job is not None
        assert site.live == [done.job.job_id]
        assert site.most_at_once == 1
        note = submissions.read_note(site.run.submission("s").job(done.k))
        assert note is not None
        assert note.job_id == done.job.job_id
        await poller.aclose()
        return ended, done.k

    tries = set()
    for step in range(40):
        ended, k = run_virtual(main(step))
        tries.add(k)
        if ended:
            break
    else:
        pytest.fail("it never ended by itself")
    assert 1 in tries


@virtual
@pytest.mark.fault("F08")
async def test_jobs_of_a_run_that_has_ended_do_nothing(tmp_path):
    site = Site(tmp_path)
    await site.controller().submit(site.order(hold=True))
    end = Path(site.run.end(1))
    end.parent.mkdir(parents=True)
    end.touch()
    await site.slurm.release(["1"])
    await asyncio.sleep(10)
    assert site.turned_away == ["its run has ended"]


@virtual
@pytest.mark.fault("F41", "F42")
async def test_another_start_of_the_same_job_is_admitted(tmp_path):
    site = Site(tmp_path, requeue_delay=5.0)
    await site.controller().submit(site.order())
    await asyncio.sleep(5)
    site.slurm.fail_node("n1")
    await asyncio.sleep(60)
    assert [copy.restart for copy in site.acting] == [0, 1]  # the claim of the artifact decides between these
    assert site.turned_away == []


@virtual
async def test_an_array_is_one_submission(tmp_path):
    site = Site(tmp_path)
    done = await site.controller().submit(site.order(array="0-3"))
    await asyncio.sleep(5)
    assert done.job == Submitted("1")
    assert sorted(copy.job_id for copy in site.acting) == ["1_0", "1_1", "1_2", "1_3"]


def test_which_job_this_process_is():
    assert this_job({}) is None
    assert this_job(
        {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2", "SLURM_JOB_END_TIME": "9"}
    ) == JobIdentity("7", "7", -1, 2, 9)
    env = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert this_job(env) == JobIdentity("7", "7_3", 3)
    assert this_job({"SLURM_JOB_ID": "8", "SLURM_HET_JOB_ID": "7"}) == JobIdentity("7", "7")
    assert (this_job() is None) == ("SLURM_JOB_ID" not in os.environ)
