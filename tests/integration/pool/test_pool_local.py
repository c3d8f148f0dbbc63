"""Whole runs of a `SlurmPool` on this machine: real workers, which are jobs of the stand-in for a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from pool_local_artifacts import Fails, Flaky, Item, KillsItsWorker, Other, Sleeps

from furu_async import Furu, FuruConfig, RunReport, Scheduler, SlurmPool, SlurmSpec, run_dag
from furu_async._slurm import local_files as files
from furu_async._slurm.local_files import LocalPaths
from furu_async.errors import FuruDefinitionError

SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))
TWO = SlurmPool(workers=2, cluster="local")


@pytest.fixture
async def config(tmp_path: Path) -> AsyncIterator[FuruConfig]:
    """A store of its own; afterwards no worker and no daemon is left."""
    made = FuruConfig(path=tmp_path / "store", poll_interval_secs=5)
    yield made
    paths = LocalPaths.of(str(made.path))
    await until(lambda: not files.daemon_lives(paths), "the daemon leaves")
    assert not workers(made), "workers were left behind"


def workers(config: FuruConfig) -> list[psutil.Process]:
    """Worker processes of a store."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "furu_async.worker" in words and str(config.path) in words:
            found.append(process)
    return found


async def until(condition: Callable[[], Any], what: str, secs: float = 30.0) -> Any:
    """Wait for a condition with a deadline."""
    end = time.monotonic() + secs * SCALE
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


async def run(config: FuruConfig, *targets: Furu[Any], **options: Any) -> RunReport:
    """A run that gives its report whatever happens."""
    given = {"executor": TWO, "check": False, "progress": False, "config": config, **options}
    return await run_dag(targets, **given)


async def test_a_dag_is_computed_by_workers_and_nothing_is_left(config: FuruConfig) -> None:
    layer = tuple(Item(number=n) for n in range(8))
    top = Item(number=100, inputs=layer)
    report = await run(config, top)
    assert report.counts["created"] == 9
    assert await report.load(top) == 128
    assert (Path(report.run_dir) / "queue" / "closed").exists()
    again = await run(config, top)
    assert again.counts["cached"] == 1


async def test_failures_are_retried_and_then_final(config: FuruConfig, tmp_path: Path) -> None:
    bad, good = Fails(calls=str(tmp_path / "bad")), Flaky(calls=str(tmp_path / "good"))
    above = Item(number=1, inputs=(bad,))
    report = await run(config, above, good)
    assert report[good].status == "created"
    assert report[good].attempts == 3
    assert report[bad].status == "failed"
    failure = report[bad].failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("compute", "cannot do it")
    assert (tmp_path / "bad").read_text() == "xxx"
    assert report[above].status == "skipped"


async def test_nodes_of_several_specs_have_workers_of_their_own(config: FuruConfig) -> None:
    top = Other(number=1, inputs=(Item(number=2), Other(number=3)))
    seen: set[str] = set()
    async with Scheduler(SlurmPool(workers=1, cluster="local"), config=config) as scheduler:
        run = scheduler.start(top)
        async for _ in run.events():
            executor: Any = scheduler.executor
            seen |= {row.spec_key for row in executor.workers_view()}
        assert (await run).counts["created"] == 3
    assert len(seen) == 2


@pytest.mark.fault("F36")
async def test_the_tasks_of_a_worker_that_is_killed_run_elsewhere(config: FuruConfig, tmp_path: Path) -> None:
    target = KillsItsWorker(calls=str(tmp_path / "calls"))
    begun = time.monotonic()
    report = await run(config, target, Item(number=5), executor=SlurmPool(workers=1, cluster="local"))
    assert report.counts["created"] == 2, report[target].failure
    assert (tmp_path / "calls").read_text() == "xx"
    assert report[target].attempts == 2
    assert time.monotonic() - begun < 40 * SCALE


async def test_a_task_that_kills_every_worker_fails_with_what_happened(
    config: FuruConfig, tmp_path: Path
) -> None:
    target = KillsItsWorker(calls=str(tmp_path / "calls"), times=100)
    report = await run(config, target, Item(number=5))
    assert report[Item(number=5)].status == "created"
    assert report[target].status == "failed"
    failure = report[target].failure
    assert failure is not None
    assert failure.kind == "lost"
    assert "worker" in failure.message


async def test_a_cancelled_run_ends_its_tasks_and_workers(config: FuruConfig, tmp_path: Path) -> None:
    sleeping = Sleeps(calls=str(tmp_path / "calls"))
    async with Scheduler(TWO, config=config) as scheduler:
        run = scheduler.start([sleeping, *(Sleeps(calls=sleeping.calls, number=n) for n in range(1, 5))])
        await until((tmp_path / "calls").exists, "a task begins")
        begun = time.monotonic()
        run.cancel()
        await run.ended()
    assert time.monotonic() - begun < 30 * SCALE
    assert run.report is not None
    assert run.report[sleeping].status in ("cancelled", "skipped")


async def test_two_runs_share_a_node_and_the_workers(config: FuruConfig, tmp_path: Path) -> None:
    shared = Sleeps(calls=str(tmp_path / "calls"))
    async with Scheduler(TWO, config=config) as scheduler:
        first = scheduler.start(Item(number=1, inputs=(shared,)))
        await until((tmp_path / "calls").exists, "it begins")
        second = scheduler.start(Item(number=2, inputs=(shared,)))
        await until(lambda: second.counts().get("running") or second.counts().get("elsewhere"), "it joins")
        (tmp_path / "calls.go").touch()
        assert (await first).counts["created"] == 2
        report = await second
    assert (tmp_path / "calls").read_text() == "x"
    assert report.counts["created"] + report.counts["cached"] == 2


async def test_a_worker_that_is_told_to_end_gives_its_task_back(config: FuruConfig, tmp_path: Path) -> None:
    target = Sleeps(calls=str(tmp_path / "calls"))
    async with Scheduler(SlurmPool(workers=1, cluster="local"), config=config) as scheduler:
        run = scheduler.start(target)
        await until((tmp_path / "calls").exists, "it begins")
        for process in workers(config):
            process.send_signal(signal.SIGTERM)
        await until(lambda: (tmp_path / "calls").read_text() == "xx", "it begins again")
        (tmp_path / "calls.go").touch()
        report = await run
    assert report.counts["created"] == 1


async def test_slots_run_at_the_same_time(config: FuruConfig, tmp_path: Path) -> None:
    targets = [Sleeps(calls=str(tmp_path / "calls"), number=n) for n in range(3)]
    async with Scheduler(SlurmPool(workers=1, slots=3, cluster="local"), config=config) as scheduler:
        run = scheduler.start(targets)
        await until(
            lambda: (tmp_path / "calls").exists() and (tmp_path / "calls").read_text() == "xxx", "three run"
        )
        (tmp_path / "calls.go").touch()
        assert (await run).counts["created"] == 3


async def test_a_foreign_file_and_a_late_report_are_set_aside(config: FuruConfig, tmp_path: Path) -> None:
    target = Sleeps(calls=str(tmp_path / "calls"))
    async with Scheduler(TWO, config=config) as scheduler:
        run = scheduler.start(target)
        await until((tmp_path / "calls").exists, "it begins")
        queue = Path(run.run_dir) / "queue"
        (queue / "failed" / "README").write_text("hello")
        (queue / "failed" / f"{'0' * 32}.7").write_text("{}")
        (queue / "done" / f"{'0' * 32}.7").write_text("{}")
        await until(lambda: (queue / "bad" / "README").exists(), "the foreign file is moved")
        await until(
            lambda: not list((queue / "failed").iterdir()) and not list((queue / "done").iterdir()), "late"
        )
        (tmp_path / "calls.go").touch()
        assert (await run).ok


async def test_a_spec_without_workers_is_refused_before_anything_runs(config: FuruConfig) -> None:
    pool = SlurmPool(workers={SlurmSpec(): 1}, cluster="local")
    with pytest.raises(FuruDefinitionError, match="names no workers"):
        await run(config, Other(number=1), executor=pool)


async def test_workers_that_die_at_their_start_stop_the_spec(
    config: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = SlurmPool(workers=1, cluster="local", setup=["echo no such module >&2", "exit 3"])
    report = await run(replace(config, infra_secs=600), Item(number=1), executor=pool)
    failure = report[Item(number=1)].failure
    assert failure is not None
    assert "5 workers in a row died" in failure.message
    assert "no such module" in failure.message


@pytest.mark.fault("F09")
async def test_the_same_call_goes_on_with_the_workers_of_a_controller_that_was_killed(
    config: FuruConfig, tmp_path: Path
) -> None:
    """The worker that is at a task goes on with it; nothing is computed twice, and no job is left."""
    calls = tmp_path / "calls"
    script = str(Path(__file__).parent / "controller.py")
    words = [sys.executable, script, str(config.path), str(calls), "4"]
    first = await asyncio.create_subprocess_exec(*words, start_new_session=True)
    await until(lambda: calls.exists() and calls.read_text() == "xx", "two tasks begin")
    before = {process.pid for process in workers(config)}
    first.kill()
    await first.wait()
    second = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    try:
        await until(
            lambda: len(list((config.path / "runs").glob("*/claims/2"))) == 1, "it goes on with the run"
        )
        await asyncio.sleep(1)
        assert {process.pid for process in workers(config)} == before
        (tmp_path / "calls.go").touch()
        async with asyncio.timeout(60 * SCALE):
            out, _ = await second.communicate()
    finally:
        if second.returncode is None:
            second.kill()
            await second.wait()
    assert out.split()[1:] == [b"4", b"4"]
    assert calls.read_text() == "xxxx"
