"""`SlurmDag` on a real cluster: runs that go well, nodes that fail, people who interfere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.slurm.cluster import Cluster
from tests.slurm.dag_artifacts import SPEC, Other, Patient, Step, chain, layers
from tests.slurm.dag_helpers import Ours, attempts, dag, living, settings, until

from furu_async import RunEvent, SlurmDag, SlurmSpec, submit_dag
from furu_async._slurm.real import RealSlurm
from furu_async.errors import FuruRunCancelled, FuruRunTimeout


@pytest.fixture
def ours(slurm: Cluster) -> Ours:
    """The jobs of this test."""
    return Ours(slurm)


@pytest.mark.fault("F50")
async def test_layers_run_in_order_as_arrays(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    targets = layers(tmp_path, 3, 4)
    report = await dag(targets, settings(tmp_path))
    assert report.ok, report.notes
    assert report.counts["created"] == 12
    await until(lambda: not living(slurm), 2, "Slurm to have ended all jobs")  # as a rule at once
    assert await report.load(targets[0]) == 1 + 4 * (1 + 4)
    jobs = {job.id.partition("_")[0] for job in ours().values()}
    assert len(jobs) == 3  # siblings with the same parents are one array
    assert all(len(attempts(tmp_path, f"s{k}-{n}")) == 1 for k in range(3) for n in range(4))


async def test_an_array_is_called_after_its_classes(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    kinds = (Step, Step, Other)
    nodes = [kind(name=f"n{k}", folder=tmp_path) for k, kind in enumerate(kinds)]
    report = await dag(nodes, settings(tmp_path))
    assert report.ok, report.notes
    (name,) = {job.name for job in ours().values()}
    assert name.startswith("furu-Step+Other-")
    assert len((await RealSlurm().find(name)).rows) == 3
    logs = {path.name for path in tmp_path.glob("store/runs/*/logs/*.log")}
    assert logs == {f"{name}-{job}.log" for job in ours()}


@pytest.mark.fault("F39")
async def test_a_failed_root_ends_its_dependents_as_skipped(slurm: Cluster, tmp_path: Path) -> None:
    a, b, c = chain(tmp_path, "a:fail", "b", "c")
    other = Step(name="other", parts=(), folder=tmp_path)
    times: dict[str, float] = {}

    def listen(event: RunEvent) -> None:
        if event.kind == "node_done":
            times[event.hash] = asyncio.get_running_loop().time()

    report = await dag([c, other], settings(tmp_path), on_event=listen)
    assert report.counts == {"created": 1, "cached": 0, "failed": 1, "skipped": 2, "cancelled": 0}
    failure = report[a].failure
    assert failure is not None
    assert failure.kind == "compute"
    assert "a fails" in failure.message
    assert Path(failure.log_path).exists()
    assert report[a].attempts == 2  # repeated in its job
    assert len(set(attempts(tmp_path, "a"))) == 1
    assert report[b].because == "dependency"
    assert report[c].root == a.furu_hash
    assert abs(times[c.furu_hash] - times[a.furu_hash]) < 1
    await until(lambda: not living(slurm), 20, "the end of all jobs")


async def test_a_compute_failure_is_repeated_in_its_job(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    a, b = chain(tmp_path, "a:fail-once", "b")
    events: list[RunEvent] = []
    report = await dag(b, settings(tmp_path), on_event=events.append)
    assert report.ok
    (again,) = [event for event in events if event.kind == "node_retry"]
    assert (again.hash, again.attempt) == (a.furu_hash, 2)
    assert "a fails" in again.message
    assert report[a].attempts == 2
    assert len(report[a].history) == 1
    assert len(attempts(tmp_path, "a")) == 2
    assert len(set(attempts(tmp_path, "a"))) == 1
    assert len(ours()) == 2


async def test_a_killed_process_is_repeated(slurm: Cluster, tmp_path: Path) -> None:
    (a,) = chain(tmp_path, "a:die")
    report = await dag(a, settings(tmp_path))
    assert report[a].status == "failed"
    assert report[a].failure is not None
    assert report[a].failure.kind == "killed"
    assert len(attempts(tmp_path, "a")) == 4


@pytest.mark.fault("F46")
async def test_a_person_cancels_a_job_in_the_middle(slurm: Cluster, tmp_path: Path) -> None:
    a, b, c = chain(tmp_path, "a", "b:gate", "c")
    running = asyncio.create_task(dag(c, settings(tmp_path)))
    await until(lambda: attempts(tmp_path, "b"), what="b to begin")
    slurm.cancel(attempts(tmp_path, "b")[0].split()[0])
    report = await running
    assert report[a].status == "created"
    assert report[b].status == "failed"
    assert report[b].failure is not None
    assert report[b].failure.kind == "cancelled"
    assert report[c].status == "skipped"
    assert report[c].root == b.furu_hash


@pytest.mark.fault("F46")
async def test_cancelling_leaves_nothing_in_slurm(slurm: Cluster, tmp_path: Path) -> None:
    *_, d = chain(tmp_path, "a:gate", "b", "c", "d")
    running = asyncio.create_task(dag(d, settings(tmp_path)))
    await until(lambda: attempts(tmp_path, "a"), what="a to begin")
    loop = asyncio.get_running_loop()
    began = loop.time()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert loop.time() - began < 30
    assert living(slurm) == []
    # Nothing of it counts against the nodes.
    (tmp_path / "open-a").touch()
    report = await dag(d, settings(tmp_path))
    assert report.ok


async def test_a_run_that_takes_too_long_is_cancelled(slurm: Cluster, tmp_path: Path) -> None:
    (a,) = chain(tmp_path, "a:sleep")
    with pytest.raises(FuruRunTimeout):
        await dag(a, settings(tmp_path), timeout=6)
    assert living(slurm) == []


@pytest.mark.fault("F41", "F75")
async def test_requeued_under_the_same_id_is_another_attempt(
    slurm: Cluster, ours: Ours, tmp_path: Path
) -> None:
    a, b = chain(tmp_path, "a:gate", "b")
    running = asyncio.create_task(dag(b, settings(tmp_path)))
    await until(lambda: attempts(tmp_path, "a"), what="a to begin")
    job = attempts(tmp_path, "a")[0].split()[0]
    slurm.requeue(job)
    slurm.start_now(job)
    await until(lambda: len(attempts(tmp_path, "a")) == 2, 60, what="a to begin again")
    (tmp_path / "open-a").touch()
    report = await running
    assert report.ok, report
    assert attempts(tmp_path, "a") == [f"{job} 0", f"{job} 1"]
    assert report[a].attempts == 2
    folder = next(tmp_path.glob(f"store/data/**/{a.furu_hash}")) / ".furu" / "jobs"
    notes = [json.loads((folder / str(n)).read_text()) for n in (1, 2)]
    assert [note["job_id"] for note in notes] == [job, job]
    assert notes[1]["token"] == notes[0]["token"] + "-r1"
    assert [word.split(":")[0] for word in report[a].history] == ["preempted"]
    assert len(ours()) == 2


@pytest.mark.fault("F44")
async def test_another_specification_after_the_end_of_the_walltime(
    slurm: Cluster, ours: Ours, tmp_path: Path
) -> None:
    short = SlurmSpec(cpus=1, mem_gb=0.1, time_min=1)
    slow = Patient(name="slow", folder=tmp_path, spec=short)
    top = Step(name="top", parts=(slow,), folder=tmp_path)
    running = asyncio.create_task(dag(top, settings(tmp_path), timeout=200))
    await until(lambda: attempts(tmp_path, "slow"), what="slow to begin")
    job = attempts(tmp_path, "slow")[0].split()[0]
    # Slurm looks at the ends of walltimes every half minute; a minute would make that two.
    slurm.run("scontrol", "update", f"JobId={job}", "EndTime=now+1")
    report = await running
    assert report.ok, [node.failure for node in report]
    assert await report.load(top) == 8
    assert [word.split(":")[0] for word in report[slow].history] == ["timeout"]
    assert len(ours()) == 4  # the two of them twice


@pytest.mark.fault("F45")
async def test_another_specification_for_want_of_memory(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    slow = Patient(name="slow", folder=tmp_path, what="memory")
    top = Step(name="top", parts=(slow,), folder=tmp_path)
    report = await dag(top, settings(tmp_path))
    assert report.ok, [node.failure for node in report]
    assert [word.split(":")[0] for word in report[slow].history] == ["oom"]
    assert len(ours()) == 4


async def test_a_parent_that_fails_before_its_child_is_wired(
    slurm: Cluster, ours: Ours, tmp_path: Path
) -> None:
    a, b = chain(tmp_path, "a:fail", "b")
    report = await dag(b, settings(tmp_path), executor=SlurmDag(max_jobs=1))
    assert report[a].status == "failed"
    assert report[b].status == "skipped"
    assert len(ours()) == 1


@pytest.mark.fault("F47")
async def test_a_suspended_job_is_alive(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    _, b = chain(tmp_path, "a:gate", "b")
    config = settings(tmp_path, lease_secs=4, heartbeat_secs=1, heartbeat_grace_secs=4)
    running = asyncio.create_task(dag(b, config))
    await until(lambda: attempts(tmp_path, "a"), what="a to begin")
    job = attempts(tmp_path, "a")[0].split()[0]
    await asyncio.to_thread(slurm.suspend, job)
    await asyncio.sleep(10)
    assert not running.done()
    await asyncio.to_thread(slurm.resume, job)
    (tmp_path / "open-a").touch()
    assert (await running).ok
    assert len(attempts(tmp_path, "a")) == 1


async def test_submit_and_wait(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    a, b, c = chain(tmp_path, "a:gate", "b", "c")
    submission = await submit_dag(c, config=settings(tmp_path))
    assert set(submission.job_id_by_hash) == {a.furu_hash, b.furu_hash, c.furu_hash}
    assert submission.root_job_ids == (submission.job_id_by_hash[c.furu_hash],)
    assert Path(submission.log_dir).is_dir()
    states = ours()
    assert set(states) == set(submission.job_id_by_hash.values())
    assert slurm.show(submission.job_id_by_hash[b.furu_hash])["Dependency"].startswith("afterok:")
    waiting = asyncio.create_task(submission.wait())
    await until(lambda: attempts(tmp_path, "a"), what="a to begin")
    (tmp_path / "open-a").touch()
    report = await waiting
    assert report.ok
    assert report.run_id == submission.run_id
    assert report.counts["created"] == 3
    assert set(ours()) == set(states)


async def test_submit_and_never_wait(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    *_, c = chain(tmp_path, "a", "b", "c")
    submission = await submit_dag(c, config=settings(tmp_path))
    await until(lambda: not living(slurm), 60, "the end of all jobs")
    assert c.furu_hash in submission.job_id_by_hash
    report = await dag(c, settings(tmp_path))
    assert report.ok
    assert report.counts["cached"] == 1
    assert len(ours()) == 3


async def test_submit_and_cancel(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    *_, c = chain(tmp_path, "a:gate", "b", "c")
    submission = await submit_dag(c, config=settings(tmp_path))
    await until(lambda: attempts(tmp_path, "a"), what="a to begin")
    report = await submission.cancel()
    assert not report.ok
    assert living(slurm) == []
    assert len(ours()) == 3


async def test_a_waiter_that_is_cancelled_leaves_the_jobs(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    *_, c = chain(tmp_path, "a:gate", "b", "c")
    config = settings(tmp_path)
    running = asyncio.create_task(dag(c, config, on_cancel="detach"))
    await until(lambda: attempts(tmp_path, "a"), what="a to begin")
    running.cancel()
    with pytest.raises((asyncio.CancelledError, FuruRunCancelled)):
        await running
    assert len(living(slurm)) == 3
    (tmp_path / "open-a").touch()
    report = await dag(c, config)
    assert report.ok
    assert len(ours()) == 3
    assert len(attempts(tmp_path, "a")) == 1


@pytest.mark.fault("F82")
async def test_a_dependency_of_the_user_is_joined(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    first = slurm.submit("exec sleep 1000")
    a = Step(name="a", folder=tmp_path)
    b = Step(name="b", parts=(a,), folder=tmp_path, after=f"afterany:{first}")
    running = asyncio.create_task(dag(b, settings(tmp_path)))
    await until(lambda: attempts(tmp_path, "a"), what="a to begin")
    jobs = [job for job in ours().values() if job.state == "PENDING"]
    assert len(jobs) == 1
    assert f"afterany:{first}" in slurm.show(jobs[0].id)["Dependency"]
    slurm.cancel(first)
    assert (await running).ok


async def test_more_jobs_than_may_be_there_at_a_time(slurm: Cluster, tmp_path: Path) -> None:
    targets = layers(tmp_path, 3, 3)
    report = await dag(targets, settings(tmp_path), executor=SlurmDag(max_jobs=2))
    assert report.ok, report.notes
    assert report.counts["created"] == 9
    assert SPEC.key
