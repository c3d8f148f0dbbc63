"""Following jobs: the tracker on its own, and the poller with a simulated cluster on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest

from furu_async._slurm.poller import Poller
from furu_async._slurm.port import Found, JobRequest, JobRow, Rows, Silence, Submitted
from furu_async._slurm.states import Alive, Ended, NoInformation
from furu_async._slurm.tracking import Change, Tracker, reason_to_wait
from furu_async._testing.slurm import SimSettings, SimulatedSlurm

virtual = pytest.mark.virtual_time


def row(state="RUNNING", *, id="7", name="n", submitted=100, restarts=0, reason="") -> JobRow:
    return JobRow(id=id, name=name, state=state, submitted=submitted, restarts=restarts, reason=reason)


class Followed:
    """A tracker of one job, and what it has said of it."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self.job = self.tracker.add("7", "n", 0.0)
        self.now = 1.0

    def queue(self, *rows: JobRow, at: float | None = None) -> list[Change]:
        self.now = self.now + 1 if at is None else at
        return self.tracker.queue(Rows(rows), self.now - 0.1, self.now)

    def silence(self, at: float | None = None) -> list[Change]:
        self.now = self.now + 1 if at is None else at
        return self.tracker.queue(Silence("connect failure"), self.now - 0.1, self.now)

    def accounting(self, *rows: JobRow) -> list[Change]:
        jobs = self.tracker.to_account(self.now)
        assert jobs == [self.job]
        return self.tracker.accounting(jobs, Rows(rows), self.now)


def test_only_what_is_new_is_told():
    seen = Followed()
    assert [change.verdict for change in seen.queue(row("PENDING"))] == [Alive("pending", "PENDING", None, 0)]
    assert seen.queue(row("PENDING")) == []
    assert len(seen.queue(row("PENDING", reason="Priority"))) == 1
    assert len(seen.queue(row())) == 1
    (change,) = seen.queue(row("COMPLETED"))
    assert isinstance(change.verdict, Ended)
    assert seen.queue() == []


@pytest.mark.fault("F41")
def test_a_requeue_is_another_start_of_the_same_job():
    seen = Followed()
    seen.queue(row())
    (change,) = seen.queue(row("PENDING", restarts=1, submitted=130, reason="BeginTime"))
    assert change.restarted
    (change,) = seen.queue(row("RUNNING", restarts=1, submitted=130))
    assert not change.restarted
    # It has left the queue, and accounting still shows the start before.
    seen.queue()
    (change,) = seen.accounting(row("REQUEUED", restarts=-1))
    assert isinstance(change.verdict, NoInformation)
    seen.queue(at=60.0)
    (change,) = seen.accounting(row("PREEMPTED", restarts=-1), row("COMPLETED", submitted=130, restarts=-1))
    assert isinstance(change.verdict, Ended)
    assert (change.verdict.how, change.verdict.restarts) == ("completed", 1)


@pytest.mark.fault("F37")
def test_an_older_row_of_accounting_is_not_believed():
    seen = Followed()
    seen.queue(row(submitted=130, restarts=1))
    seen.queue()
    (change,) = seen.accounting(row("NODE_FAIL", submitted=100, restarts=-1))
    assert isinstance(change.verdict, NoInformation)
    assert "earlier start" in change.verdict.why
    seen.queue(at=20.0)
    (change,) = seen.accounting(row("NODE_FAIL"), row("RUNNING", submitted=130))
    assert isinstance(change.verdict, NoInformation)


@pytest.mark.fault("F52")
def test_another_job_under_the_same_id_is_not_it():
    seen = Followed()
    seen.queue(row())
    assert seen.queue(row("FAILED", name="somebody else's", submitted=900)) == []
    (change,) = seen.accounting(row("FAILED", name="somebody else's", submitted=900), row("COMPLETED"))
    assert isinstance(change.verdict, Ended)
    assert change.verdict.how == "completed"


@pytest.mark.fault("F37")
def test_accounting_that_has_heard_the_end_before_the_start_has_no_name_yet():
    seen = Followed()
    seen.queue(row(submitted=100))
    seen.queue()
    (change,) = seen.accounting(row("FAILED", name="allocation", submitted=100))
    assert isinstance(change.verdict, Ended)
    assert change.verdict.how == "failed"
    other = Followed()
    other.queue(row(submitted=100))
    other.queue()
    (change,) = other.accounting(row("FAILED", name="allocation", submitted=900))
    assert isinstance(change.verdict, NoInformation)


@pytest.mark.fault("F38")
def test_a_job_that_nobody_knows_has_ended_and_nobody_knows_how():
    seen = Followed()
    seen.queue(row())
    seen.queue(at=10.0)
    (change,) = seen.accounting()
    assert isinstance(change.verdict, NoInformation)
    seen.queue(at=30.0)
    assert seen.accounting() == []
    seen.queue(at=45.0)
    (change,) = seen.accounting()
    assert isinstance(change.verdict, Ended)
    assert (change.verdict.how, change.verdict.kind) == ("unknown", "preempted")


@pytest.mark.fault("F38")
def test_accounting_that_says_running_for_ever_is_not_believed_for_ever():
    seen = Followed()
    seen.queue(row())
    said = []
    for at in range(10, 400, 10):
        seen.queue(at=float(at))
        for job in seen.tracker.to_account(seen.now):
            said += seen.tracker.accounting([job], Rows((row(),)), seen.now)
    assert isinstance(said[0].verdict, NoInformation)
    assert "accounting still says RUNNING" in said[0].verdict.why
    assert isinstance(said[-1].verdict, Ended)
    assert said[-1].verdict.how == "unknown"


@pytest.mark.fault("F36", "F53")
def test_silence_says_nothing_about_any_job():
    seen = Followed()
    seen.queue(row())
    (change,) = seen.silence()
    assert isinstance(change.verdict, NoInformation)
    assert change.verdict.silent
    for at in range(100, 4000, 100):
        assert seen.silence(float(at)) == []
        assert seen.tracker.to_account(seen.now) == []
    (change,) = seen.queue(row())
    assert isinstance(change.verdict, Alive)


def test_a_job_that_was_added_after_the_question_is_not_missing():
    seen = Followed()
    assert seen.tracker.queue(Rows(), 0.0, 5.0) == []
    assert seen.job.missing_since is None


@pytest.mark.fault("F36")
def test_without_accounting_a_job_that_left_has_ended():
    seen = Followed()
    seen.queue(row())
    seen.queue()
    jobs = seen.tracker.to_account(seen.now)
    (change,) = seen.tracker.accounting(jobs, Silence("accounting storage is disabled", off=True), seen.now)
    assert isinstance(change.verdict, NoInformation)
    (change,) = seen.queue()
    assert isinstance(change.verdict, Ended)
    assert change.verdict.how == "unknown"
    assert seen.tracker.to_account(seen.now + 100) == []


@pytest.mark.fault("F50")
def test_tasks_of_an_array_are_jobs_of_their_own():
    tracker = Tracker()
    jobs = [tracker.add(f"9_{n}", "n", 0.0) for n in range(3)]
    rows = Rows((row("COMPLETED", id="9_0"), row("RUNNING", id="9_1"), row("PENDING", id="9_2")))
    tracker.queue(rows, 1.0, 1.0)
    assert [type(job.verdict) for job in jobs] == [Ended, Alive, Alive]


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (None, "not seen"),
        (Tracker().add("1", "", 0.0).verdict, "not seen"),
        (row("PENDING", reason="JobHeldUser").verdict(), "scontrol release"),
        (row("PENDING", reason="Priority").verdict(), "PENDING, Priority"),
        (row().verdict(), "RUNNING"),
        (row("TIMEOUT").verdict(), "TIMEOUT"),
        (Ended("unknown"), "nobody can say"),
        (NoInformation("why"), "why"),
    ],
)
def test_reasons_for_people(verdict, text):
    assert text in reason_to_wait(verdict)


# -- with a cluster ----------------------------------------------------------------------------------------------


class Run:
    """A cluster, a poller, and what was told of each job."""

    def __init__(self, interval: float = 10.0, **settings: object) -> None:
        self.slurm = SimulatedSlurm(SimSettings(**settings))  # type: ignore[arg-type]
        self.poller = Poller(self.slurm, interval, draw=lambda: 0.5)
        self.told: dict[str, list[Change]] = {}

    async def job(self, command: str = "sleep 10", name: str = "furu-x", **options: str | bool):
        request = JobRequest(name=name, argv=("sh", "-c", command), options=options)
        answer = await self.slurm.submit(request)
        assert isinstance(answer, Submitted)
        return self.poller.track(
            answer.job_id, name, lambda change: self.told.setdefault(answer.job_id, []).append(change)
        )

    def phases(self, job_id: str = "1") -> list[str]:
        return [
            change.verdict.phase if isinstance(change.verdict, Alive) else type(change.verdict).__name__
            for change in self.told[job_id]
        ]


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual
async def test_a_job_from_start_to_end():
    run = Run()
    watch = await run.job("sleep 10; exit 3")
    ended = await asyncio.wait_for(watch.wait_ended(), 100)
    assert (ended.how, ended.exit_code) == ("failed", 3)
    assert run.phases() == ["running", "Ended"]
    await run.poller.aclose()


@virtual
@pytest.mark.fault("F60", "F109")
async def test_one_query_for_all_jobs_at_least_a_second_apart_and_slowing_down():
    run = Run(slots=400)
    times: list[float] = []
    query = run.slurm.query

    async def timed():
        times.append(now())
        return await query()

    run.slurm.query = timed  # type: ignore[method-assign]
    watches = [await run.job("sleep 600") for _ in range(1000)]
    await asyncio.wait_for(asyncio.gather(*(watch.wait_ended() for watch in watches)), 2000)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= 1.0
    steady = gaps[20:]
    assert all(8.9 <= gap <= 11.1 for gap in steady)
    assert len(times) < 90
    assert run.slurm.counts["account"] == 0


@virtual
@pytest.mark.fault("F60")
@pytest.mark.parametrize("waited_for", [False, True])
async def test_whoever_waits_for_an_end_hears_of_it_soon(waited_for: bool):
    """Hints that something is new are followed now and then; one that has nothing else to wait for always is."""
    run = Run()
    watch = await run.job("sleep 600")
    await asyncio.sleep(300)
    run.poller.poke()
    await asyncio.sleep(21)  # a regular question has just been asked
    await run.slurm.cancel([watch.job.id])
    begin, queries = now(), run.poller.queries
    run.poller.poke(waited_for)
    await watch.wait_ended()
    assert (now() - begin <= 4.0) == waited_for
    assert run.poller.queries - queries <= 1 + (now() - begin)
    await run.poller.aclose()


@virtual
async def test_a_poller_without_jobs_is_silent():
    run = Run()
    watch = await run.job("sleep 5")
    await watch.wait_ended()
    count = run.poller.queries
    await asyncio.sleep(3600)
    assert run.poller.queries == count
    watch = await run.job("sleep 5")
    await asyncio.wait_for(watch.wait_ended(), 60)


@virtual
async def test_everybody_searches_with_one_query():
    run = Run()
    for number in range(50):
        await run.slurm.submit(JobRequest(name=f"furu-{number}", argv=("sleep", "100")))
    before = run.slurm.counts["query"]
    found = await asyncio.gather(*(run.poller.find(f"furu-{number}") for number in range(50)))
    assert [each.rows[0].name for each in found] == [f"furu-{number}" for number in range(50)]
    assert run.slurm.counts["query"] - before <= 2
    assert await run.poller.find("furu-none") == Found()
    run.slurm.kill_controller()
    assert not (await run.poller.find("furu-1")).answered


@virtual
@pytest.mark.fault("F60")
async def test_searches_in_a_row_are_a_second_apart_too():
    run = Run()
    begin = now()
    for _ in range(10):
        await run.poller.find("furu-none")
    assert now() - begin >= 9.0
    assert run.slurm.counts["query"] == 10


@virtual
async def test_an_answer_that_was_on_its_way_does_not_count_for_who_asks_now():
    run = Run(accounting="off")
    query = run.slurm.query

    async def slow():
        answer = await query()
        await asyncio.sleep(3)
        return answer

    run.slurm.query = slow  # type: ignore[method-assign]
    first = asyncio.ensure_future(run.poller.find("furu-x"))
    await asyncio.sleep(1)
    await run.slurm.submit(JobRequest(name="furu-x", argv=("sleep", "100")))
    assert len((await run.poller.find("furu-x")).rows) == 1
    assert (await first).rows == ()


@virtual
@pytest.mark.fault("F53", "F36")
async def test_an_outage_of_a_quarter_of_an_hour_is_bridged():
    run = Run()
    watch = await run.job("sleep 3000")
    await asyncio.sleep(30)
    run.slurm.kill_controller()
    queries = run.poller.queries
    await asyncio.sleep(900)
    assert isinstance(watch.verdict, NoInformation)
    since = run.poller.tracker.silent_since
    assert since is not None
    assert asyncio.get_running_loop().time() - since > 850
    assert run.poller.queries - queries < 30  # it backs off
    run.slurm.start_controller()
    await asyncio.sleep(61)
    assert run.poller.tracker.silent_since is None
    assert isinstance(watch.verdict, Alive)
    assert (await watch.wait_ended()).how == "completed"
    assert run.phases() == ["running", "NoInformation", "running", "Ended"]


@virtual
@pytest.mark.fault("F37", "F38")
async def test_a_job_that_is_purged_at_once_is_found_in_accounting_that_lags():
    run = Run(min_job_age=0.0, acct_lag=8.0)
    watch = await run.job("sleep 20; exit 4")
    ended = await asyncio.wait_for(watch.wait_ended(), 100)
    assert (ended.how, ended.exit_code) == ("failed", 4)
    assert run.phases() == ["running", "NoInformation", "Ended"] or run.phases()[-1] == "Ended"


@virtual
@pytest.mark.fault("F36", "F38")
@pytest.mark.parametrize("accounting", ["off", "down"])
async def test_without_accounting_a_purged_job_ends_all_the_same(accounting):
    run = Run(min_job_age=0.0, accounting=accounting)
    watch = await run.job("sleep 20")
    ended = await asyncio.wait_for(watch.wait_ended(), 400)
    assert ended.how == "unknown"


@virtual
@pytest.mark.fault("F41")
async def test_a_requeued_job_is_followed_through():
    run = Run()
    watch = await run.job("sleep 300")
    await asyncio.sleep(50)
    run.slurm.requeue("1")
    ended = await asyncio.wait_for(watch.wait_ended(), 1000)
    assert (ended.how, ended.restarts) == ("completed", 1)
    assert sum(change.restarted for change in run.told["1"]) == 1
    assert len(run.slurm.copies) == 2


@virtual
@pytest.mark.fault("F42", "F41")
async def test_a_lost_node_is_a_restart_while_the_old_copy_lives():
    run = Run(requeue_delay=20)
    watch = await run.job("sleep 300")
    await asyncio.sleep(50)
    run.slurm.fail_node("n1")
    await asyncio.sleep(60)
    assert len(run.slurm.living) == 2
    assert isinstance(watch.verdict, Alive)
    assert (watch.verdict.restarts, watch.verdict.node) == (1, "n2")
    assert [change.restarted for change in run.told["1"]].count(True) == 1
    run.slurm.resume_node("n1")
    await watch.wait_ended()


@virtual
@pytest.mark.fault("F55")
async def test_a_job_may_wait_for_days_and_the_reason_is_known():
    run = Run()
    watch = await run.job("sleep 1", hold=True)
    await asyncio.sleep(5 * 86400)
    assert isinstance(watch.verdict, Alive)
    assert watch.verdict.phase == "held"
    assert "JobHeldUser" in reason_to_wait(watch.verdict)
    await run.slurm.release(["1"])
    await asyncio.wait_for(watch.wait_ended(), 60)
    assert run.phases() == ["held", "Ended"] or run.phases() == ["held", "running", "Ended"]


@virtual
@pytest.mark.fault("F52")
async def test_ids_that_begin_again_are_not_confused():
    run = Run(acct_lag=1.0)
    watch = await run.job("sleep 1000", name="furu-old")
    await asyncio.sleep(100)
    run.slurm.forget_everything()
    other = await run.job("sleep 50", name="furu-new")
    assert other.job.id == watch.job.id
    ended = await asyncio.wait_for(watch.wait_ended(), 400)
    assert ended.how == "unknown"
    assert (await other.wait_ended()).how == "completed"


@virtual
@pytest.mark.fault("F48")
async def test_a_job_that_will_never_start_says_so():
    run = Run()
    parent = await run.job("exit 1")
    watch = await run.job("true", dependency="afterok:1")
    await parent.wait_ended()
    await asyncio.sleep(30)
    assert isinstance(watch.verdict, Alive)
    assert watch.verdict.reason is not None
    assert watch.verdict.reason.kind == "dependency"


@virtual
@pytest.mark.fault("F39")
async def test_a_job_whose_parent_failed_is_cancelled_by_slurm():
    run = Run()
    parent = await run.job("exit 1")
    watch = await run.job("true", dependency="afterok:1", **{"kill-on-invalid-dep": "yes"})
    await parent.wait_ended()
    ended = await asyncio.wait_for(watch.wait_ended(), 30)
    assert ended.by_dependency
    run.slurm.purge("2")  # and accounting has its own word for it
    again = run.poller.track("2", "furu-x")
    assert (await asyncio.wait_for(again.wait_ended(), 60)).by_dependency


@virtual
@pytest.mark.fault("F47")
async def test_a_suspended_job_is_alive():
    run = Run()
    watch = await run.job("sleep 1000")
    await asyncio.sleep(5)
    for state in ("SUSPENDED", "STOPPED", "RESIZING", "STAGE_OUT"):
        run.slurm.force("1", state)
        await asyncio.sleep(30)
        assert isinstance(watch.verdict, Alive)
    watch.close()
    await asyncio.sleep(30)
    queries = run.poller.queries
    await asyncio.sleep(3600)
    assert run.poller.queries == queries


@virtual
@pytest.mark.fault("F99")
async def test_a_crash_in_what_listens_stops_nobody(caplog):
    caplog.set_level(logging.CRITICAL, "furu_async.slurm")
    run = Run()
    run.poller.track("1", "furu-x", lambda _: 1 / 0)
    watch = await run.job("sleep 20")
    query = run.slurm.query
    broken = iter([True, True])

    async def sometimes():
        if next(broken, False):
            raise RuntimeError("a bug")
        return await query()

    run.slurm.query = sometimes  # type: ignore[method-assign]
    assert (await asyncio.wait_for(watch.wait_ended(), 400)).how == "completed"


@virtual
async def test_closing_answers_who_waits():
    run = Run()
    run.slurm.stop_controller()
    waiting = asyncio.create_task(run.poller.snapshot())
    await asyncio.sleep(1)
    await run.poller.aclose()
    answer = await asyncio.wait_for(waiting, 1)
    assert isinstance(answer, Silence)
