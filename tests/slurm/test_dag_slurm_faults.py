"""`SlurmDag` on a real cluster, where Slurm's commands lie, its limits are reached, or jobs wait for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.slurm.cluster import Cluster
from tests.slurm.dag_artifacts import Step, Unlucky, chain, layers
from tests.slurm.slurm_fault_artifacts import Task
from tests.slurm.slurm_fault_helpers import Bench, Shims

from furu_async import RunReport, SlurmDag
from furu_async._slurm import poller, tracking
from furu_async._slurm.tracking import TrackRules


@pytest.fixture
async def bench(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A run's place; afterwards nothing of it is left in Slurm, which is asked every second."""
    monkeypatch.setattr(poller, "STEADY_SECS", 1.0)
    made = Bench(slurm, tmp_path, Shims(tmp_path / "shims", monkeypatch))
    yield made
    await made.nothing_left()


def start(
    bench: Bench, *targets: Any, dag: SlurmDag | None = None, **options: Any
) -> asyncio.Task[RunReport]:
    """Begin to compute them with one job a node."""
    options.setdefault("config", bench.config(poll_interval_secs=1))
    return bench.start(*targets, executor=dag or SlurmDag(), **options)


def lines(bench: Bench, name: str) -> int:
    """Attempts of a `Step`."""
    path = bench.folder / name
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.fault("F34")
async def test_sbatch_submits_a_node_and_reports_an_error(bench: Bench) -> None:
    bench.shims.put(
        "sbatch",
        """if [ -e "$dir/once" ]; then exec "$real" "$@"; fi
touch "$dir/once"
"$real" "$@" > /dev/null
echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
exit 1""",
    )
    *_, c = chain(bench.folder, "a", "b", "c")
    report = await start(bench, c)
    assert report.ok, bench.story()
    assert len(bench.jobs()) == 3
    assert len(bench.shims.calls("sbatch")) == 3
    assert [lines(bench, name) for name in "abc"] == [1, 1, 1]


@pytest.mark.fault("F34")
async def test_a_held_job_that_sbatch_did_not_tell_of_does_not_outlive_its_run(bench: Bench) -> None:
    bench.shims.put(
        "sbatch",
        """"$real" "$@" > /dev/null
echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
exit 1""",
    )
    _a, b = chain(bench.folder, "a", "b")
    running = start(bench, b)
    await bench.until(lambda: bench.jobs(), "a job")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.living() == []


@pytest.mark.fault("F51")
async def test_a_dag_larger_than_what_an_account_may_submit_goes_in_waves(bench: Bench) -> None:
    slurm = bench.slurm
    await bench.act(slurm.reconfigure, AccountingStorageEnforce="associations,limits")
    change = ("sacctmgr", "-i", "modify", "user", "root", "set")
    await bench.act(slurm.run, *change, "MaxSubmitJobs=2")
    try:
        report = await start(bench, *layers(bench.folder, 3, 3))
    finally:
        await bench.act(slurm.run, *change, "MaxSubmitJobs=-1")
    assert report.ok, bench.story()
    assert [lines(bench, f"s{layer}-{k}") for layer in range(3) for k in range(3)] == [1] * 9
    assert bench.said("Slurm takes no more jobs at present")
    assert any("limit" in note.lower() for note in report.notes), report.notes


@pytest.mark.fault("F51")
async def test_a_cluster_that_is_full_is_waited_for(bench: Bench) -> None:
    slurm = bench.slurm
    blockers = [await bench.act(slurm.submit, "exec sleep 1000", "-H") for _ in range(2)]
    await bench.act(slurm.reconfigure, MaxJobCount=len(slurm.jobs()) + 1, MinJobAge=2)
    *_, c = chain(bench.folder, "a", "b", "c")
    running = start(bench, c, config=bench.config(poll_interval_secs=1, infra_secs=3))
    await bench.until(lambda: bench.said("Slurm takes no more jobs at present"), "the reason")
    await asyncio.sleep(4)  # longer than trouble is waited out
    await bench.act(slurm.cancel, *blockers)
    report = await running
    assert report.ok, bench.story()
    assert [lines(bench, name) for name in "abc"] == [1, 1, 1]


@pytest.mark.fault("F38", "F52")
async def test_the_id_of_a_nodes_job_is_given_to_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "TrackRules", partial(TrackRules, gone_secs=3.0, lag_secs=3.0))
    saved = await bench.save_state()
    node = Task(name="a", what="first", folder=bench.folder)
    running = start(bench, node)
    first = await bench.began("a")
    await bench.give_id_again(saved, first.job)
    report = await running
    assert report.ok, bench.story()
    assert len(bench.attempts("a")) == 2
    await bench.stranger_is_spared(first.job)


@pytest.mark.fault("F54")
async def test_a_job_that_is_completed_and_has_left_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("furu_async._dag.following.VISIBLE_SECS", 3.0)
    flag = bench.folder / "flag"
    a, b = chain(bench.folder, "a", "b")
    setup = (f"[ -e {flag} ] || {{ touch {flag}; exit 0; }}",)
    report = await start(bench, b, dag=SlurmDag(setup=setup))
    assert report.ok, bench.story()
    assert [line.partition(":")[0] for line in report[a].history] == ["lost"], report[a].history
    assert [lines(bench, name) for name in "ab"] == [1, 1]


@pytest.mark.fault("F54")
async def test_a_job_that_fails_after_its_result(bench: Bench) -> None:
    """Slurm ends the job of what needs it; that gets another one, as the result is there."""
    a = Unlucky(name="a", folder=bench.folder)
    b = Step(name="b", parts=(a,), folder=bench.folder)
    report = await start(bench, b)
    assert report.ok, bench.story()
    assert [lines(bench, name) for name in "ab"] == [1, 1]
    assert [report[node].attempts for node in (a, b)] == [1, 1]
    assert "FAILED" in [job.state for job in bench.jobs().values()]


@pytest.mark.fault("F55")
async def test_a_node_that_waits_has_no_lease_and_says_why(bench: Bench) -> None:
    slurm = bench.slurm
    for name in slurm.options.names:
        await bench.act(slurm.drain_node, name)
    a, b = chain(bench.folder, "a", "b")
    config = bench.config(poll_interval_secs=1, lease_secs=2, heartbeat_grace_secs=2)
    running = start(bench, b, config=config)
    await bench.until(
        lambda: [e for e in bench.events if e.kind == "workers" and "1 pending (Dependency)" in e.message],
        "how the jobs are",
    )
    await asyncio.sleep(6)  # longer than a lease
    for name in slurm.options.names:
        await bench.act(slurm.resume_node, name)
    report = await running
    assert report.ok, bench.story()
    assert [report[node].attempts for node in (a, b)] == [1, 1]
    assert len(bench.jobs()) == 2
