"""What a Slurm job's processes are: one interpreter is started, keeper and child are forks of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes_artifacts import Seen

from furu_async import FuruConfig, SlurmDag, SlurmPool, run_dag

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("executor", [SlurmDag(cluster="local"), SlurmPool(workers=1, cluster="local")])
async def test_a_job_starts_one_interpreter(tmp_path: Path, executor: SlurmDag | SlurmPool) -> None:
    report = await run_dag(
        Seen(), executor=executor, config=FuruConfig(path=tmp_path), progress=False, timeout=100
    )
    seen = await report.load(Seen())
    assert "furu_async.worker" in seen["above"]
    assert seen["own"] == seen["above"]
    assert seen["keeper"] == seen["above"]
