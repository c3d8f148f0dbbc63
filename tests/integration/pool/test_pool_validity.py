"""A ``_validate`` of a published node is user code: in a controller of Slurm jobs, too, it is asked in a child."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from furu_async import Furu, FuruConfig, Local, RunEvent, SlurmDag, SlurmPool, SlurmSpec, run_dag
from furu_async._executors import asking
from furu_async.errors import FuruRunFailed

POOL = SlurmPool(workers=1, cluster="local")
DAG = SlurmDag(cluster="local")
BOTH = pytest.mark.parametrize("executor", [POOL, DAG], ids=["pool", "dag"])


class Checked(Furu[int]):
    """What ``_validate`` does is in a file; it leaves a line with its process."""

    folder: str

    def _spec(self) -> SlurmSpec:
        return SlurmSpec(cpus=1, mem_gb=0.1, time_min=5)

    def _create(self) -> int:
        return 1

    def _validate(self) -> bool:
        with open(f"{self.folder}/log", "a") as log:
            log.write(f"{os.getpid()}\n")
        todo, _, most = Path(self.folder, "script").read_text().partition(":")
        if todo == "crash" and len(Path(self.folder, "log").read_text().splitlines()) <= int(most):
            os._exit(9)
        if todo == "hang":
            time.sleep(60)
        return True

    def pids(self) -> list[int]:
        return [int(line) for line in Path(self.folder, "log").read_text().split()]


@pytest.fixture
def config(tmp_path: Path) -> FuruConfig:
    return FuruConfig(path=tmp_path / "store", record_git="off", poll_interval_secs=5)


@pytest.fixture
async def checked(tmp_path: Path, config: FuruConfig) -> Checked:
    (tmp_path / "script").write_text("")
    made = Checked(folder=str(tmp_path))
    await run_dag(made, executor=Local(mode="inline"), config=config, progress=False)
    (tmp_path / "log").unlink()
    return made


def nothing_left(config: FuruConfig, before: list[Path]) -> None:
    """No child, no folder of the run."""
    assert [each.cmdline() for each in psutil.Process().children(recursive=True)] == []
    assert sorted((config.path / "runs").iterdir()) == before


@BOTH
async def test_it_runs_in_a_child_and_leaves_nothing(
    executor: Any, checked: Checked, config: FuruConfig
) -> None:
    before = sorted((config.path / "runs").iterdir())
    report = await run_dag(checked, executor=executor, config=config, progress=False)
    assert report[checked].status == "cached"
    (pid,) = checked.pids()
    assert pid != os.getpid()
    nothing_left(config, before)


@pytest.mark.fault("F87")
@BOTH
async def test_one_that_kills_its_process_twice_counts_as_not_there(
    executor: Any, checked: Checked, config: FuruConfig
) -> None:
    Path(checked.folder, "script").write_text("crash:2")
    report = await run_dag(checked, executor=executor, config=config, progress=False, check=False)
    assert report[checked].status == "created", report[checked].failure
    assert any("ended its process" in note for note in report.notes)


@pytest.mark.fault("F87", "F19")
@BOTH
async def test_one_that_hangs_ends_the_run_with_its_name_and_is_never_computed_again(
    executor: Any, checked: Checked, config: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted((config.path / "runs").iterdir())
    Path(checked.folder, "script").write_text("hang")
    monkeypatch.setattr("furu_async._executors.checks.VALIDATE_SECS", 1.5)
    monkeypatch.setattr(asking, "_IDLE_SECS", 0.05)
    events: list[RunEvent] = []
    began = time.monotonic()
    with pytest.raises(FuruRunFailed, match=r"_validate of Checked\(.* gave no answer") as caught:
        await run_dag(
            checked,
            executor=executor,
            config=replace(config, infra_secs=1.0),
            progress=False,
            on_event=events.append,
        )
    assert time.monotonic() - began < 30
    assert caught.value.report is not None
    assert caught.value.report[checked].attempts == 0
    assert [event for event in events if event.kind == "node_retry"], "the reason of the wait is told"
    assert os.getpid() not in checked.pids()
    nothing_left(config, before)
