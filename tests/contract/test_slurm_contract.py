"""One suite over both clusters behind the port, so that the simulated one cannot lie."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_sites import SCALE, Scenario, Site, run_real, run_simulated

from furu_async._slurm import protocol as p
from furu_async._slurm.poller import Poller
from furu_async._slurm.port import JobRequest, Limits, Refused, Rows, Silence, Submitted, Unclear
from furu_async._slurm.states import Ended, NoInformation
from furu_async._slurm.submitter import Order, Submitter, Ticket
from furu_async._slurm.tracking import TrackRules
from furu_async._store import submissions
from furu_async._store.layout import RunPaths

try:
    from tests.slurm.conftest import cluster as cluster
    from tests.slurm.conftest import slurm as slurm
except ImportError:  # the sources came without the test bench
    pass

On = Callable[[Scenario], None]


@pytest.fixture(params=["simulated", pytest.param("real", marks=[pytest.mark.xdist_group("slurm")])])
def on(request: pytest.FixtureRequest, tmp_path: Path) -> On:
    """Runs a scenario on one of the clusters."""
    if request.param == "simulated":
        return run_simulated
    if "slurm" not in globals():
        pytest.skip("there is no tests/slurm, which starts a real cluster")
    real = request.getfixturevalue("slurm")
    return lambda scenario: run_real(scenario, real, str(tmp_path))


async def now() -> float:
    return asyncio.get_running_loop().time()


# -- jobs --------------------------------------------------------------------------------------------------------


def test_a_job_that_fails(on):
    async def scenario(site: Site) -> None:
        job = await site.submit("sleep 1; exit 3", "furu-fails")
        row = await site.state(job, "RUNNING")
        assert (row.name, row.restarts) == ("furu-fails", 0)
        assert re.fullmatch(r"n\d", row.nodes)
        assert row.submitted > 1_700_000_000
        verdict = await site.ended(job)
        assert (verdict.how, verdict.exit_code, verdict.signal) == ("failed", 3, 0)
        (account,) = await site.accounted(job)
        assert (account.name, account.state, account.exit_code) == ("furu-fails", "FAILED", 3)
        assert account.submitted == row.submitted

    on(scenario)


def test_a_job_that_works(on):
    async def scenario(site: Site) -> None:
        job = await site.submit("true")
        verdict = await site.ended(job)
        assert (verdict.how, verdict.exit_code, verdict.kind) == ("completed", 0, None)

    on(scenario)


@pytest.mark.fault("F35")
def test_what_is_refused(on):
    async def scenario(site: Site) -> None:
        request = site.request("true")
        nowhere = JobRequest(name="x", argv=("true",), options={**request.options, "partition": "nowhere"})
        answer = await site.port.submit(nowhere)
        assert isinstance(answer, Refused)
        assert answer.kind == "rejected"
        assert "Invalid partition name specified" in answer.words
        answer = await site.port.submit(site.request("true", array=5000))
        assert isinstance(answer, Refused)
        assert "Invalid job array specification" in answer.words
        assert await site.rows() == {}

    on(scenario)


@pytest.mark.fault("F50")
def test_an_array(on):
    async def scenario(site: Site) -> None:
        job = await site.submit("sleep 100", array=3, hold=True)
        rows = await site.rows()
        assert sorted(rows) == [f"{job}_{task}" for task in range(3)]
        assert {row.base_id for row in rows.values()} == {job}
        await site.port.release([job])
        for task in range(3):
            await site.state(f"{job}_{task}", "RUNNING")
        assert (await site.port.cancel([f"{job}_1"])).ok
        assert (await site.ended(f"{job}_1")).how == "cancelled"
        assert (await site.rows())[f"{job}_0"].state == "RUNNING"
        assert (await site.port.cancel([job])).ok
        for task in (0, 2):
            assert (await site.ended(f"{job}_{task}")).how == "cancelled"

    on(scenario)


@pytest.mark.fault("F48", "F55")
def test_a_held_job(on):
    async def scenario(site: Site) -> None:
        job = await site.submit("true", hold=True)
        verdict = await site.alive(job, "held", "held")
        assert verdict.reason is not None
        assert verdict.reason.text == "JobHeldUser"
        assert (await site.port.release([job])).ok
        await site.ended(job)
        other = await site.submit("true", hold=True)
        assert (await site.port.release([other])).ok
        assert (await site.ended(other)).how == "completed"

    on(scenario)


def test_cancelling(on):
    async def scenario(site: Site) -> None:
        waiting = await site.submit("true", hold=True)
        running = await site.submit("sleep 100")
        deaf = await site.submit("trap '' TERM; sleep 100")
        await site.state(running, "RUNNING")
        await site.state(deaf, "RUNNING")
        await asyncio.sleep(1)  # the shell has to come to its first line
        assert (await site.port.cancel([waiting, running, deaf])).ok
        for job in (waiting, running, deaf):
            verdict = await site.ended(job)
            assert (verdict.how, verdict.kind, verdict.by_dependency) == ("cancelled", "cancelled", False)
        assert (await site.accounted(running))[-1].state.startswith("CANCELLED by ")
        assert (await site.port.cancel([running, "999999"])).ok

    on(scenario)


# -- dependencies ------------------------------------------------------------------------------------------------


@pytest.mark.fault("F39")
def test_afterok(on):
    async def scenario(site: Site) -> None:
        parent = await site.submit("sleep 1", hold=True)
        child = await site.submit("true", dependency=f"afterok:{parent}")
        verdict = await site.alive(child, "pending")
        assert verdict.reason is not None
        assert verdict.reason.text == "Dependency"
        await site.port.release([parent])
        assert (await site.ended(child)).how == "completed"
        assert (await site.ended(parent)).how == "completed"

    on(scenario)


@pytest.mark.fault("F39", "F48")
def test_a_parent_that_fails(on):
    async def scenario(site: Site) -> None:
        parent = await site.submit("exit 1", hold=True)
        child = await site.submit("true", dependency=f"afterok:{parent}")
        grandchild = await site.submit("true", dependency=f"afterok:{child}")
        stays = await site.submit("true", dependency=f"afterok:{parent}", kill=False)
        await site.port.release([parent])
        for job in (child, grandchild):
            assert (await site.ended(job)).by_dependency
            verdict = (await site.accounted(job))[-1].verdict()
            assert isinstance(verdict, Ended)
            assert verdict.how == "cancelled"  # why, accounting does not always say
        await site.alive(stays, "pending", "dependency")
        await site.port.cancel([stays])

    on(scenario)


@pytest.mark.fault("F40")
def test_a_parent_that_slurm_does_not_know_counts_as_done(on):
    async def scenario(site: Site) -> None:
        parent = await site.submit("exit 1")
        await site.ended(parent)
        await site.act("purge", parent)
        assert parent not in await site.rows()
        child = await site.submit("true", dependency=f"afterok:{parent}")
        assert (await site.ended(child)).how == "completed"
        stranger = await site.submit("true", dependency="afterok:999999")
        assert (await site.ended(stranger)).how == "completed"

    on(scenario)


# -- starting again ----------------------------------------------------------------------------------------------


@pytest.mark.fault("F41", "F37")
def test_a_requeue(on):
    async def scenario(site: Site) -> None:
        job = await site.submit("sleep 8")
        before = await site.state(job, "RUNNING")
        await site.act("requeue", job)
        verdict = await site.alive(job, "pending", "waiting")
        assert verdict.restarts == 1
        after = await site.state(job, "RUNNING")
        assert (after.restarts, after.id, after.name) == (1, before.id, before.name)
        assert after.submitted > before.submitted
        assert (await site.ended(job)).restarts == 1
        first, last = await site.accounted(job, 2)
        assert first.submitted < last.submitted
        assert not isinstance(first.verdict(), NoInformation)
        assert last.state == "COMPLETED"

    on(scenario)


@pytest.mark.fault("F48")
def test_requeued_and_held(on):
    async def scenario(site: Site) -> None:
        special = await site.submit("sleep 100")
        held = await site.submit("sleep 100")
        await site.state(special, "RUNNING")
        await site.state(held, "RUNNING")
        await site.act("special_exit", special)
        await site.act("requeuehold", held)
        verdict = await site.alive(special, "held", "held")
        assert verdict.state == "SPECIAL_EXIT"
        await site.alive(held, "held", "held")
        await site.port.cancel([special, held])
        assert (await site.ended(special)).how == "cancelled"

    on(scenario)


@pytest.mark.fault("F43")
def test_a_preemption_is_a_restart(on):
    async def scenario(site: Site) -> None:
        job = await site.submit("sleep 100")
        await site.state(job, "RUNNING")
        await site.act("preempt", job)
        row = await site.state(job, "PENDING")
        assert row.restarts == 1
        await site.port.cancel([job])

    on(scenario)


@pytest.mark.fault("F42")
def test_a_lost_node_makes_two_copies(on):
    async def scenario(site: Site) -> None:
        job = await site.submit("sleep 60")
        row = await site.state(job, "RUNNING")

        async def one() -> bool:
            return await site.living(job) == 1

        await site.until(one, "the job has no processes")
        await site.act("fail_node", row.nodes)
        verdict = await site.alive(job, "running")
        assert verdict.restarts == 1
        assert verdict.node != row.nodes

        async def two() -> bool:
            return await site.living(job) == 2

        await site.until(two, "there are not two copies")
        await site.act("resume_node", row.nodes)
        await site.port.cancel([job])
        await site.ended(job)

    on(scenario)


@pytest.mark.fault("F47")
def test_a_suspended_job(on):
    async def scenario(site: Site) -> None:
        job = await site.submit("sleep 100")
        await site.state(job, "RUNNING")
        await site.act("suspend", job)
        await site.alive(job, "suspended")
        await site.act("resume", job)
        await site.alive(job, "running")
        await site.port.cancel([job])

    on(scenario)


# -- finding, silence, limits ------------------------------------------------------------------------------------


def test_finding_a_job_by_its_name(on):
    async def scenario(site: Site) -> None:
        name = f"furu-find-me-{secrets.token_hex(4)}"
        job = await site.submit("sleep 1", name)
        other = await site.submit("true", f"{name}-not")
        found = await site.port.find(name)
        assert found.answered
        assert [row.id for row in found.rows] == [job]
        await site.ended(job)
        await site.ended(other)
        await site.accounted(job)
        await site.act("purge", job)
        found = await site.port.find(name)
        assert [(row.id, row.state) for row in found.rows] == [(job, "COMPLETED")]
        nothing = await site.port.find("furu-nobody")
        assert nothing.answered
        assert nothing.rows == ()
        by_name = await site.port.account((), [name, f"{name}-not"])
        assert isinstance(by_name, Rows)
        assert {row.id for row in by_name.rows} == {job, other}

    on(scenario)


@pytest.mark.fault("F34", "F36")
def test_a_controller_that_does_not_answer(on):
    async def scenario(site: Site) -> None:
        await site.act("freeze")
        begin = await now()
        answer = await site.port.submit(site.request("sleep 3", "furu-ghost"))
        assert isinstance(answer, Unclear)
        assert "Socket timed out" in answer.words
        silence = await site.port.query()
        assert isinstance(silence, Silence)
        assert not silence.off
        assert not (await site.port.find("furu-ghost")).answered
        assert not (await site.port.cancel(["1"])).ok
        assert await site.port.limits() == Limits()
        assert await now() - begin < 200 * SCALE
        await site.act("thaw")

        async def there() -> bool:
            found = await site.port.find("furu-ghost")
            return found.answered and len(found.rows) == 1

        await site.until(there, "the job that sbatch knew nothing of is not there")

    on(scenario)


def test_limits_can_be_asked_for(on):
    async def scenario(site: Site) -> None:
        limits = await site.port.limits()
        assert limits.known
        assert (limits.max_array_size, limits.min_job_age, limits.message_timeout) == (1001, 300, 5)

    on(scenario)


@pytest.mark.fault("F51")
def test_a_controller_that_is_full(on):
    async def scenario(site: Site) -> None:
        await site.act("empty")
        await site.act("max_jobs", 5)
        for number in range(6):
            name = f"furu-full-{number}-{secrets.token_hex(4)}"
            answer = await site.port.submit(site.request("true", name, hold=True))
            if not isinstance(answer, Submitted):
                break
        assert isinstance(answer, Unclear)
        assert answer.limit
        await asyncio.sleep(2)
        assert (await site.port.find(name)).rows == ()
        await site.port.cancel(list(await site.rows()))

    on(scenario)


# -- what stands on the port -------------------------------------------------------------------------------------


def order(folder: Path, site: Site, script: str, sid: str = "s") -> Order:
    def request(ticket: Ticket) -> JobRequest:
        return site.request(script, ticket.name)

    paths = RunPaths(str(folder), "run-1").submission(sid)
    return Order(paths=paths, run_id="run-1", sid=sid, what="Train", request=request)


RULES = p.SubmitRules(look_first=0.5, look_apart=4.0, look_every=1.0, cancel_secs=10.0)


def test_submitting_and_following_many(on, tmp_path):
    async def scenario(site: Site) -> None:
        submitter, poller = Submitter(site.port, rules=RULES), Poller(site.port)
        scripts = ["true", "exit 3", "sleep 2"] * 4
        pending = [
            submitter.begin(order(tmp_path, site, script, f"s{n}")) for n, script in enumerate(scripts)
        ]
        done = await asyncio.gather(*(each.wait() for each in pending))
        watches = []
        for each, one in zip(pending, done, strict=True):
            assert one.job is not None
            assert each.ticket is not None
            watches.append(poller.track(one.job.job_id, each.ticket.name))
        ends = await asyncio.wait_for(
            asyncio.gather(*(watch.wait_ended() for watch in watches)), site.patience * SCALE
        )
        assert [end.how for end in ends] == ["completed", "failed", "completed"] * 4
        assert poller.queries < 30 * SCALE
        await poller.aclose()

    on(scenario)


@pytest.mark.fault("F34", "F53", "F08")
def test_a_submission_through_an_outage_makes_one_job(on, tmp_path):
    async def scenario(site: Site) -> None:
        submitter = Submitter(site.port, rules=RULES)
        await site.act("freeze")
        pending = submitter.begin(order(tmp_path, site, "sleep 1"))
        loop = asyncio.get_running_loop()
        thaw = loop.create_task(asyncio.sleep(8))
        thaw.add_done_callback(lambda _: tasks.append(loop.create_task(site.act("thaw"))))
        tasks: list[asyncio.Task[object]] = []
        done = await asyncio.wait_for(pending.wait(), site.patience * SCALE)
        assert done.how == "placed"
        assert done.job is not None
        rows = await site.rows()
        assert list(rows) == [done.job.job_id]
        assert (await site.ended(done.job.job_id)).how == "completed"
        assert len(await site.rows()) == 1
        await asyncio.gather(*tasks)

    on(scenario)


@pytest.mark.fault("F97")
def test_a_submission_that_is_cancelled_leaves_nothing(on, tmp_path):
    async def scenario(site: Site) -> None:
        submitter = Submitter(site.port, rules=RULES)
        pending = [submitter.begin(order(tmp_path, site, "sleep 100", f"s{n}")) for n in range(6)]
        await asyncio.sleep(0.015)
        for each in pending:
            each.cancel("not wanted")
        assert await submitter.settle(30 * SCALE)

        async def over() -> bool:
            return all(isinstance(row.verdict(), Ended) for row in (await site.rows()).values())

        await site.until(over, "jobs are left")
        for n in range(6):
            there = submissions.read(RunPaths(str(tmp_path), "run-1").submission(f"s{n}"))
            assert there.closed is not None or not there.tries

    on(scenario)


@pytest.mark.fault("F52", "F38")
def test_ids_that_begin_again(on):
    async def scenario(site: Site) -> None:
        poller = Poller(site.port, rules=TrackRules(gone_secs=2.0, lag_secs=4.0))
        old = await site.submit("sleep 200", "furu-old")
        watch = poller.track(old, "furu-old")
        await site.state(old, "RUNNING")
        await site.act("wipe")
        new = await site.submit("sleep 2", "furu-new")
        while new != old:
            new = await site.submit("sleep 2", "furu-new")
        again = poller.track(new, "furu-new")
        ended = await asyncio.wait_for(again.wait_ended(), site.patience * SCALE)
        assert ended.how == "completed"
        ended = await asyncio.wait_for(watch.wait_ended(), site.patience * SCALE)
        assert ended.how in ("unknown", "cancelled", "node_fail")
        await poller.aclose()

    on(scenario)


@pytest.mark.fault("F41")
def test_the_poller_tells_of_a_restart(on):
    async def scenario(site: Site) -> None:
        poller = Poller(site.port)
        job = await site.submit("sleep 6")
        restarts: list[bool] = []
        watch = poller.track(job, "furu-x", lambda change: restarts.append(change.restarted))
        await site.state(job, "RUNNING")
        await site.act("requeue", job)
        ended = await asyncio.wait_for(watch.wait_ended(), site.patience * SCALE)
        assert (ended.how, ended.restarts) == ("completed", 1)
        assert restarts.count(True) == 1
        await poller.aclose()

    on(scenario)


def test_answers_to_nothing(on):
    async def scenario(site: Site) -> None:
        assert await site.rows() == {}
        assert await site.port.account([]) == Rows()
        assert (await site.port.cancel([])).ok
        answer = await site.port.account(["999999"])
        assert isinstance(answer, Rows)
        assert answer.rows == ()

    on(scenario)
