"""`SlurmPool` on a real cluster: controllers that are two, are killed, are told to stop, or leave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.slurm.cluster import Cluster
from tests.slurm.work_artifacts import Elsewhere
from tests.slurm.work_helpers import SCALE, Lab, until

from furu_async import Local, run_dag
from furu_async.errors import FuruRunTimeout

SCRIPT = Path(sys.executable).parent / "furu-async"


@pytest.fixture
async def lab(slurm: Cluster, tmp_path: Path) -> AsyncIterator[Lab]:
    """A store of its own; afterwards no job and no process of its runs is left."""
    made = Lab(slurm, tmp_path, lease_secs=10 * SCALE, heartbeat_secs=1.0)
    yield made
    await made.close()


async def said(process: subprocess.Popen[str], seconds: float = 60) -> dict[str, Any]:
    """What a controller says at its end."""
    out, err = await asyncio.to_thread(process.communicate, timeout=seconds * SCALE)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


# -- more than one -----------------------------------------------------------------------------------------------


@pytest.mark.fault("F65", "F70")
async def test_two_controllers_that_want_the_same_nodes_compute_each_once(lab: Lab) -> None:
    names = [f"w{k}" for k in range(6)]
    one = lab.control("gate/gate", *names, pool={"workers": 1})
    await lab.begun("gate")
    two = lab.control("gate/gate", *names, "more", pool={"workers": 1})
    await lab.begun("more")
    lab.open("gate")
    reports = await asyncio.gather(said(one), said(two))
    assert reports[0]["run_id"] != reports[1]["run_id"]
    assert [sum(report["counts"].values()) for report in reports] == [7, 8]
    assert sum(report["counts"]["created"] for report in reports) == 8
    assert all(report["counts"]["failed"] == 0 for report in reports)
    assert all(len(lab.attempts(name)) == 1 for name in ("gate", "more", *names))


# -- killed ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F07")
async def test_the_run_of_a_killed_controller_goes_on_with_its_workers_and_counts(lab: Lab) -> None:
    names = ("bad/fail:1 gate fail", "gate/gate", "done")
    pool = {"workers": 3, "idle": 1000}  # two stand at gates, perhaps before the others' jobs have begun
    first = lab.control(*names, pool=pool)
    await lab.begun("gate")
    await lab.begun("bad", 2)
    await lab.begun("done")
    await until(lambda: len(list(lab.home.glob("workers/*/status.json"))) == 3, "all three have begun")
    run = lab.home.name
    first.kill()
    before = lab.jobs()
    second = lab.control(*names, pool=pool)
    await until(lambda: len(list(lab.home.glob("claims/*"))) == 2, "the run is taken over")
    lab.open("gate", "bad")
    report = await said(second)
    assert report["run_id"] == run
    bad, gate, done = (lab.work(*name.partition("/")[::2]).furu_hash for name in names)
    assert report["nodes"][bad][:2] == ["failed", 3]
    assert report["nodes"][gate][0] == "created"
    assert report["nodes"][done][0] == "cached"
    assert len(lab.attempts("bad")) == 3
    assert len(lab.attempts("gate")) == len(lab.attempts("done")) == 1
    assert lab.jobs().keys() == before.keys()


async def test_workers_that_ended_without_a_controller_are_not_held_against_their_spec(lab: Lab) -> None:
    names = ("a/gate", "b/gate", "c/gate")
    first = lab.control(*names, pool={"workers": 3})
    for name in "abc":
        await lab.begun(name)
    first.kill()
    first.wait()
    lab.slurm.cancel(*{job.id.partition("_")[0] for job in lab.jobs().values()})
    await until(lambda: not lab.living(), "somebody has cancelled all of them")
    second = lab.control(*names, pool={"workers": 3})
    for name in "abc":
        await lab.begun(name, 2)
    lab.open(*"abc")
    assert (await said(second))["counts"]["created"] == 3


async def test_jobs_that_wait_are_cancelled_though_nothing_is_left_to_do(lab: Lab) -> None:
    for node in lab.slurm.node_states():
        lab.slurm.drain_node(node)
    first = lab.control("a")
    await until(lambda: [job for job in lab.jobs().values() if job.state == "PENDING"], "a job waits")
    first.kill()
    first.wait()
    await run_dag(lab.work("a"), executor=Local(workers=1), config=lab.config, progress=False)
    report = await said(lab.control("a"))
    assert report["run_id"] == lab.home.name
    assert report["counts"]["cached"] == 1
    assert not lab.living()


@pytest.mark.fault("F103")
async def test_workers_of_a_killed_controller_end_within_a_lease(lab: Lab) -> None:
    lab.settings(lease_secs=4 * SCALE, heartbeat_secs=0.5)
    controller = lab.control("gate/gate", "a", "b", pool={"idle": 1000})
    await lab.begun("gate")
    await until(lambda: lab.attempts("a") and lab.attempts("b"), "all begin")
    # One that has not looked at its controller before that died gives it the time that a new one may take.
    await until(lambda: len(list(lab.home.glob("workers/*/status.json"))) == 2, "both have looked")
    controller.kill()
    controller.wait()
    killed = time.monotonic()
    busy, _ = lab.attempts("gate")[0]
    await until(lambda: all(job.split()[0] == busy for job in lab.living()), "the idle one ends", 20)
    lab.open("gate")  # what runs is finished, and kept
    await lab.nothing_left()
    assert time.monotonic() - killed > 3.5 * SCALE
    report = await lab.run(lab.work("gate", "gate"))
    assert report.counts["cached"] == 1


# -- told to stop ------------------------------------------------------------------------------------------------


@pytest.mark.fault("F96", "F101")
async def test_ctrl_c_of_the_command_line_leaves_no_job(lab: Lab) -> None:
    (lab.folder / "steps.py").write_text(STEPS)
    process = subprocess.Popen(
        [SCRIPT, "run", "steps:slow", "--executor", "slurm-pool", "--workers", "2"],
        cwd=lab.folder,
        env={**os.environ, "FURU_PATH": str(lab.config.path), "FURU_POLL_INTERVAL_SECS": "5"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lab.processes.append(process)
    await lab.begun("slow", 2)
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.to_thread(process.communicate, timeout=60 * SCALE)
    assert process.returncode == 130, err
    assert "2 cancelled" in err
    await lab.nothing_left()
    assert time.monotonic() - pressed < 30 * SCALE


async def test_cancelling_the_task_that_waits_ends_everything(lab: Lab) -> None:
    running = lab.start(lab.work("a", "gate"), lab.work("b", "gate"), lab.work("c"), workers=2)
    await lab.begun("a")
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < 30 * SCALE
    assert not lab.living()
    # Nothing of it counts against the nodes.
    lab.open("a", "b")
    report = await lab.run(lab.work("a", "gate"), lab.work("b", "gate"), workers=2)
    assert report.counts["created"] == 2
    assert all(node.attempts == 1 for node in report)


async def test_a_run_that_takes_too_long_is_ended(lab: Lab) -> None:
    began = time.monotonic()
    with pytest.raises(FuruRunTimeout):
        await lab.run(lab.work("a", "gate"), lab.work("b", cls=Elsewhere), timeout=5 * SCALE)
    assert time.monotonic() - began < 35 * SCALE
    assert len(lab.attempts("a")) == 1
    assert not lab.living()


@pytest.mark.parametrize("how", ["drain", "cancel"])
async def test_after_a_failure_what_runs_is_left_or_ended(lab: Lab, how: Any) -> None:
    runs, bad = lab.work("runs", "gate"), lab.work("bad", "gate mistake")
    later = [lab.work(f"later{k}", "gate") for k in range(3)]
    tops = lab.work("top", "", runs), lab.work("top2", "", bad)  # what others need goes first
    running = lab.start(*tops, *later, workers=2, on_failure=how)
    await lab.begun("runs")
    await lab.begun("bad")
    assert all(lab.waiting(each) for each in later)
    lab.open("bad")
    if how == "drain":
        await until(lambda: not any(lab.waiting(each) for each in later), "what waits is taken back")
        lab.open("runs", *(each.name for each in later))
    report = await running
    assert report[bad].status == "failed"
    assert report[runs].status == ("created" if how == "drain" else "cancelled")
    # The worker of the one that failed may have taken one, and one ahead, before anybody could know.
    left = [report[each] for each in later if not lab.attempts(each.name)]
    assert left
    assert {(each.status, each.because) for each in left} == {("skipped", how)}
    assert report[tops[0]].because == how
    assert not lab.living()
    assert lab.attempts("top") == []


# -- leaves ------------------------------------------------------------------------------------------------------


async def test_a_detached_run_goes_on_and_is_adopted(lab: Lab) -> None:
    gate, more = lab.work("gate", "gate"), lab.work("more")
    targets = (lab.work("top", "", gate), more)
    running = lab.start(*targets, on_cancel="detach")
    await lab.begun("gate")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    jobs = lab.jobs()
    assert len(lab.living()) == 1
    lab.open("gate")
    await lab.begun("more")  # what is in the queue goes on without a controller
    report = await lab.run(*targets, on_cancel="detach")
    assert report.ok
    assert report.run_id == lab.home.name
    assert lab.jobs().keys() == jobs.keys()
    assert all(len(lab.attempts(name)) == 1 for name in ("gate", "more", "top"))


# -- the command line --------------------------------------------------------------------------------------------

STEPS = """
import time
from furu_async import Furu, SlurmSpec, stop_requested

class Step(Furu[int]):
    n: int
    below: tuple[Furu[int], ...] = ()
    def _spec(self) -> SlurmSpec:
        return SlurmSpec(cpus=1, mem_gb=0.1, time_min=5)
    def _create(self) -> int:
        return self.n + sum(each.get() for each in self.below)

class Slow(Step):
    def _create(self) -> int:
        with open("slow", "a") as file:
            file.write("0 0\\n")
        while not stop_requested():
            time.sleep(0.02)
        raise RuntimeError("stopped")

targets = [Step(n=100, below=tuple(Step(n=k) for k in range(5)))]
slow = [Slow(n=1), Slow(n=2)]
if __name__ == "__main__":
    import asyncio
    from furu_async import SlurmPool, run_dag
    print(asyncio.run(run_dag(targets, executor=SlurmPool(workers=2))).counts["created"])
"""


def call(lab: Lab, folder: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command as somebody types it in a folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FURU_")}
    env = {**kept, "FURU_POLL_INTERVAL_SECS": "5", "COLUMNS": "120", **variables}
    return subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=90 * SCALE,
        check=False,
    )


async def test_a_script_as_a_user_runs_it(lab: Lab) -> None:
    tmp_path = lab.folder
    (tmp_path / "steps.py").write_text(STEPS)
    command = (SCRIPT, "run", "steps.py:targets", "--executor", "slurm-pool", "--workers", "3")
    dry = call(lab, tmp_path, *command, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "3 jobs" in dry.stdout
    assert not lab.jobs()
    assert not (tmp_path / "furu-data").exists()
    done = call(lab, tmp_path, *command)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].endswith(f"results in {tmp_path / 'furu-data'}")
    assert "6 created" in lines[-1]
    assert not lab.living()
    assert len(lab.jobs()) <= 3
    # The same classes from the script itself, which is __main__ there, find the same results.
    again = call(lab, tmp_path, sys.executable, "steps.py")
    assert (again.returncode, again.stdout) == (0, "0\n"), again.stderr


async def test_a_module_of_a_package_with_a_store_elsewhere(lab: Lab) -> None:
    tmp_path = lab.folder
    package, store, other = tmp_path / "code" / "lab_steps", tmp_path / "store", tmp_path / "other"
    package.mkdir(parents=True)
    other.mkdir()
    (package / "__init__.py").touch()
    (package / "steps.py").write_text(STEPS)
    command = (SCRIPT, "run", "lab_steps.steps:targets", "--executor", "slurm-pool", "--workers", "3")
    done = call(lab, tmp_path / "code", *command, FURU_PATH=str(store))
    assert done.returncode == 0, done.stderr
    assert "6 created" in done.stderr
    assert (store / "data" / "lab_steps" / "steps").is_dir()
    # From another folder the package is found by PYTHONPATH, and by the workers too.
    again = call(
        lab, other, *command, "--rerun", "ALL", FURU_PATH=str(store), PYTHONPATH=str(tmp_path / "code")
    )
    assert again.returncode == 0, again.stderr
    assert "6 created" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "other", "store"]
    assert not list(other.iterdir())
    assert not lab.living()
