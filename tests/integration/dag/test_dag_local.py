"""`SlurmDag(cluster="local")`: the same on this machine, with real jobs and no Slurm."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from tests.slurm.dag_artifacts import Step, chain, layers
from tests.slurm.dag_helpers import attempts, until

from furu_async import FuruConfig, RunReport, SlurmDag, run_dag, submit_dag
from furu_async._slurm.local_port import LocalPort
from furu_async._slurm.port import Rows
from furu_async._slurm.states import Alive
from furu_async.errors import FuruDefinitionError

pytestmark = pytest.mark.timeout(180)
DAG = SlurmDag(cluster="local")


async def dag(targets: Any, config: FuruConfig, **options: Any) -> RunReport:
    """`run_dag` on this machine, bounded, without raising for what nodes do."""
    return await run_dag(
        targets, executor=DAG, config=config, progress=False, check=False, timeout=150, **options
    )


async def living(config: FuruConfig) -> list[str]:
    """Jobs that have not ended."""
    answer = await LocalPort(os.fspath(config.path)).query()
    assert isinstance(answer, Rows)
    return [row.id for row in answer.rows if isinstance(row.verdict(), Alive)]


async def gone(config: FuruConfig) -> None:
    """Wait until the last job has ended: one that has published is on its way out."""
    end = asyncio.get_running_loop().time() + 30
    while await living(config):
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.1)


@pytest.fixture
def config(tmp_path: Path) -> FuruConfig:
    """A store."""
    return FuruConfig(path=tmp_path / "store")


async def test_layers(tmp_path: Path, config: FuruConfig) -> None:
    targets = layers(tmp_path, 2, 2)
    report = await dag(targets, config)
    assert report.ok, [node.failure for node in report if node.failure]
    assert await report.load(targets[0]) == 3
    await gone(config)


async def test_a_failure_is_told_with_the_log_of_its_job(tmp_path: Path, config: FuruConfig) -> None:
    a, b = chain(tmp_path, "a:fail", "b")
    report = await dag(b, config)
    assert report[a].status == "failed"
    assert report[b].status == "skipped"
    failure = report[a].failure
    assert failure is not None
    assert "ValueError" in failure.error_type
    assert Path(failure.log_path).exists()
    assert len(attempts(tmp_path, "a")) == 2


async def test_cancelling(tmp_path: Path, config: FuruConfig) -> None:
    _, b = chain(tmp_path, "a:gate", "b")
    running = asyncio.create_task(dag(b, config))
    await until(lambda: attempts(tmp_path, "a"), 60, what="a to begin")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await living(config) == []


async def test_submitting_and_waiting(tmp_path: Path, config: FuruConfig) -> None:
    a, b = chain(tmp_path, "a:gate", "b")
    submission = await submit_dag(b, executor=DAG, config=config)
    assert set(submission.job_id_by_hash) == {a.furu_hash, b.furu_hash}
    assert len(await living(config)) == 2
    (tmp_path / "open-a").touch()
    report = await submission.wait()
    assert report.ok
    assert report.run_id == submission.run_id
    assert len(attempts(tmp_path, "a")) == 1


async def test_nothing_to_submit(tmp_path: Path, config: FuruConfig) -> None:
    (a,) = chain(tmp_path, "a")
    assert (await dag(a, config)).ok
    submission = await submit_dag(a, executor=DAG, config=config)
    assert submission.job_id_by_hash == {}
    assert (await submission.wait()).counts["cached"] == 1


def test_what_may_be_said_of_it() -> None:
    with pytest.raises(FuruDefinitionError, match="max_jobs"):
        SlurmDag(max_jobs=0)
    with pytest.raises(FuruDefinitionError, match="cluster"):
        SlurmDag(cluster="remote")  # type: ignore[arg-type]
    with pytest.raises(FuruDefinitionError, match="expected a text"):
        SlurmDag(slurm_additional_parameters={"constraint": {}})
    merged = SlurmDag(
        slurm_additional_parameters={"dependency": "singleton", "qos": "low"}, setup=("module load x",)
    ).merged(Step(name="x").spec)
    assert merged.extra is not None
    assert dict(merged.extra["slurm_additional_parameters"]) == {"dependency": "singleton", "qos": "low"}
    assert list(merged.extra["setup"]) == ["module load x"]


async def test_only_a_dag_can_be_submitted(tmp_path: Path, config: FuruConfig) -> None:
    with pytest.raises(FuruDefinitionError, match="use SlurmDag"):
        await submit_dag(Step(name="x", folder=tmp_path), executor="slurm", config=config)  # type: ignore[arg-type]
