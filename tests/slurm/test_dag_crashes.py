"""`SlurmDag` on a real cluster: controllers that die, Slurm that forgets or does not answer, DAGs that share nodes."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.slurm.cluster import Cluster
from tests.slurm.dag_artifacts import Checkpointed, Step, chain
from tests.slurm.dag_controller import diamond
from tests.slurm.dag_helpers import Ours, attempts, dag, settings, until

from furu_async import Local, SlurmDag, run_dag, submit_dag
from furu_async.errors import FuruExecutorError

NODES = 11


@pytest.fixture
def ours(slurm: Cluster) -> Ours:
    """The jobs of this test."""
    return Ours(slurm)


def controller(folder: Path, arrays: bool) -> subprocess.Popen[bytes]:
    """Start one."""
    argv = [sys.executable, "-m", "tests.slurm.dag_controller", str(folder), "1" if arrays else "0"]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(10))
async def test_killed_while_it_submits_and_called_again(
    slurm: Cluster, ours: Ours, tmp_path: Path, seed: int
) -> None:
    """The same set of jobs, none twice."""
    draw = random.Random(seed)
    arrays = seed % 2 == 0
    process = controller(tmp_path, arrays)
    try:
        await until(lambda: list(tmp_path.glob("store/runs/*/submissions/*/try-1")), what="a submission")
        await asyncio.sleep(draw.random() * 0.4)
    finally:
        process.kill()
        process.wait()
    running = asyncio.create_task(
        dag(diamond(tmp_path), settings(tmp_path), executor=SlurmDag(arrays=arrays), timeout=200)
    )
    await until(lambda: attempts(tmp_path, "x0"), 60, what="x0 to begin")
    (tmp_path / "open-x0").touch()
    report = await running
    assert report.ok, [node.failure for node in report if node.failure]
    assert len(ours()) == NODES, sorted(str(job) for job in ours().values())
    assert all(
        len(attempts(tmp_path, name)) == 1 for name in ("x0", "x2", "y0", "y1", "y2", "y3", "z2", "top")
    )


@pytest.mark.fault("F70")
async def test_two_dags_that_share_nodes_at_the_same_moment(
    slurm: Cluster, ours: Ours, tmp_path: Path
) -> None:
    config = settings(tmp_path)
    shared = [Step(name=f"shared-{k}", folder=tmp_path) for k in range(3)]
    tops = [Step(name=f"top-{k}", parts=tuple(shared), folder=tmp_path) for k in range(2)]
    reports = await asyncio.gather(*(dag([top, *shared], config) for top in tops))
    assert all(report.ok for report in reports), [n.failure for r in reports for n in r if n.failure]
    assert [len(attempts(tmp_path, f"shared-{k}")) for k in range(3)] == [1, 1, 1]
    assert len(ours()) == 5


@pytest.mark.fault("F70")
async def test_a_dependency_in_the_queue_of_another_run_is_wired_to(
    slurm: Cluster, ours: Ours, tmp_path: Path
) -> None:
    config = settings(tmp_path)
    a, b = chain(tmp_path, "a:gate", "b")
    first = await submit_dag(a, config=config)
    running = asyncio.create_task(dag(b, config))
    await until(lambda: len(ours()) == 2, what="the job of b")
    (job_b,) = set(ours()) - set(first.job_id_by_hash.values())
    assert slurm.show(job_b)["Dependency"].startswith(f"afterok:{first.job_id_by_hash[a.furu_hash]}")
    (tmp_path / "open-a").touch()
    report = await running
    assert report.ok
    assert report[a].status == "cached"
    assert len(attempts(tmp_path, "a")) == 1


@pytest.mark.fault("F70", "F35")
@pytest.mark.parametrize("how", ["SIGKILL", "scancel"])
async def test_the_job_of_another_run_dies_while_a_dag_waits_for_it(
    slurm: Cluster, ours: Ours, tmp_path: Path, how: str
) -> None:
    """Nobody follows that run any more. The node gets a job of this run, and nothing is wired to the dead one again."""
    config = settings(tmp_path)
    a, b = chain(tmp_path, "a:gate", "b")
    first = await submit_dag(a, config=config)
    await until(lambda: attempts(tmp_path, "a"), what="a to begin")
    running = asyncio.create_task(dag(b, config))
    await until(lambda: len(ours()) == 2, what="the job of b")
    job = first.job_id_by_hash[a.furu_hash]
    slurm.run("scancel", *(["--signal=KILL", "--full"] if how == "SIGKILL" else []), job)
    await until(lambda: len(attempts(tmp_path, "a")) == 2, what="a to begin again")
    (tmp_path / "open-a").touch()
    report = await running
    assert report.ok, [node.failure for node in report if node.failure]
    assert len(ours()) <= 5


@pytest.mark.fault("F70")
async def test_a_dependency_that_a_local_run_computes_is_an_error_at_once(
    slurm: Cluster, ours: Ours, tmp_path: Path
) -> None:
    config = settings(tmp_path)
    a, b = chain(tmp_path, "a:gate", "b")
    local = asyncio.create_task(run_dag(a, executor=Local(workers=1), config=config, progress=False))
    await until(lambda: attempts(tmp_path, "a"), what="a to begin")
    with pytest.raises(FuruExecutorError, match=r"(?s)local run .* holds the claim.*wait until") as raised:
        await dag(b, config, timeout=30)
    assert "Step" in str(raised.value)
    (tmp_path / "open-a").touch()
    assert (await local).ok
    assert not ours()
    assert (await dag(b, config)).ok


@pytest.mark.fault("F40")
async def test_a_parent_that_slurm_has_forgotten(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    """MinJobAge 2 s: the parent's job is purged before the child is submitted, in the next wave."""
    slurm.reconfigure(MinJobAge=2)
    a, b = chain(tmp_path, "a", "b:gate")
    c = Step(name="c", parts=(a, b), folder=tmp_path)
    running = asyncio.create_task(dag(c, settings(tmp_path), executor=SlurmDag(max_jobs=1)))
    await until(lambda: attempts(tmp_path, "b"), 60, what="b to begin")
    job_a = attempts(tmp_path, "a")[0].split()[0]
    await until(lambda: job_a not in slurm.jobs(), 60, what="Slurm to forget a")
    (tmp_path / "open-b").touch()
    report = await running
    assert report.ok, [n.failure for n in report if n.failure]


@pytest.mark.fault("F53")
@pytest.mark.timeout(300)
async def test_slurmctld_is_killed_during_the_submission(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    steps = chain(tmp_path, *[f"n{k}" for k in range(12)])
    running = asyncio.create_task(dag(steps[-1], settings(tmp_path), timeout=200))
    await until(lambda: len(list(tmp_path.glob("store/runs/*/submissions/*/try-1"))) >= 4, what="submissions")
    await asyncio.to_thread(slurm.kill, "slurmctld")
    await asyncio.sleep(2)
    await asyncio.to_thread(slurm.launch, "slurmctld")
    report = await running
    assert report.ok, [n.failure for n in report if n.failure]
    assert all(len(attempts(tmp_path, f"n{k}")) == 1 for k in range(12))


@pytest.mark.fault("F42")
@pytest.mark.timeout(300)
async def test_a_node_is_lost_and_the_old_copy_lives_on(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    a, b = chain(tmp_path, "a:gate", "b")
    running = asyncio.create_task(dag(b, settings(tmp_path), timeout=200))
    await until(lambda: attempts(tmp_path, "a"), what="a to begin")
    job = attempts(tmp_path, "a")[0].split()[0]
    node = slurm.job(job).nodes
    await asyncio.to_thread(slurm.fail_node, node)
    await asyncio.to_thread(slurm.start_now, job)
    await until(lambda: len(attempts(tmp_path, "a")) >= 2, 60, what="a to begin again")
    (tmp_path / "open-a").touch()
    report = await running
    assert report.ok, [n.failure for n in report if n.failure]
    folder = next(tmp_path.glob(f"store/data/**/{a.furu_hash}"))
    ends = [path.read_text() for path in (folder / ".furu/ends").iterdir()]
    assert sum('"success"' in text for text in ends) == 1


async def test_preemption_goes_on_from_the_checkpoint(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    node = Checkpointed(folder=tmp_path)
    running = asyncio.create_task(dag(node, settings(tmp_path)))
    await until(lambda: attempts(tmp_path, "steps"), what="it to begin")
    (job,) = ours()
    winner = await asyncio.to_thread(slurm.preempt, job)
    slurm.cancel(winner)
    await asyncio.to_thread(slurm.start_now, job)
    report = await running
    assert report.ok, [n.failure for n in report if n.failure]
    assert attempts(tmp_path, "steps") == ["0", "1"]
    assert len(ours()) == 1


@pytest.mark.fault("F44")
async def test_the_end_of_walltime_costs_nothing_where_something_was_saved(
    slurm: Cluster, ours: Ours, tmp_path: Path
) -> None:
    node = Checkpointed(folder=tmp_path)
    running = asyncio.create_task(dag(node, settings(tmp_path, preempt_max=0)))
    await until(lambda: attempts(tmp_path, "steps"), what="it to begin")
    (job,) = ours()
    await asyncio.to_thread(slurm.run, "scancel", "--signal=USR2", "--batch", job)
    report = await running
    assert report.ok, [n.failure for n in report if n.failure]
    assert attempts(tmp_path, "steps") == ["0", "1"]
    assert [line.partition(":")[0] for line in report[node].history] == ["preempted"]
    assert len(ours()) == 2


@pytest.mark.fault("F48")
async def test_held_by_a_person_is_told(slurm: Cluster, ours: Ours, tmp_path: Path) -> None:
    _a, b = chain(tmp_path, "a:gate", "b")
    notes: list[str] = []
    running = asyncio.create_task(
        dag(b, settings(tmp_path), on_event=lambda event: notes.append(event.message))
    )
    await until(lambda: attempts(tmp_path, "a"), what="a to begin")
    waiting = next(job.id for job in ours().values() if job.state == "PENDING")
    slurm.hold(waiting)
    (tmp_path / "open-a").touch()
    await until(lambda: any("scontrol release" in note for note in notes), 40, what="a word about it")
    slurm.release(waiting)
    assert (await running).ok
