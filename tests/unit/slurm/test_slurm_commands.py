"""Running commands: deadlines, bounds, environments; and the real port over commands that are put in their place."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from furu_async import SlurmSpec
from furu_async._slurm import commands
from furu_async._slurm.parameters import Wish, request
from furu_async._slurm.port import Limits, Refused, Rows, Silence, Submitted, Unclear
from furu_async._slurm.real import RealSlurm
from furu_async._slurm.states import Ended

ENV = {"PATH": os.environ["PATH"]}


async def run(*argv, deadline=30.0, **more):
    return await commands.run(argv, deadline=deadline, env=ENV, **more)


async def test_a_command():
    done = await run("sh", "-c", "cat; echo no >&2; exit 3", stdin="yes" * 100_000)
    assert (done.code, done.out, done.err, done.truncated) == (3, "yes" * 100_000, "no\n", False)


async def test_a_command_that_is_not_there():
    done = await run("no-such-command")
    assert done.code == 127
    assert "no-such-command" in done.err


@pytest.mark.fault("F34")
async def test_at_the_deadline_the_whole_group_is_killed(tmp_path: Path):
    child = tmp_path / "child"
    begin = time.monotonic()
    done = await run("sh", "-c", f"sleep 100 & echo $! > {child}; echo half; wait", deadline=0.5)
    assert (done.code, done.out) == (None, "half\n")
    assert time.monotonic() - begin < 20
    pid = int(child.read_text())
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX":
                break
        except FileNotFoundError:
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the grandchild lives")


@pytest.mark.fault("F51")
async def test_a_command_that_goes_on_by_itself_is_cut_off():
    done = await run(
        "sh", "-c", "echo 'full, sleeping and retrying' >&2; sleep 100", stop_on=["sleeping and retrying"]
    )
    assert done.code is None
    assert "retrying" in done.err


async def test_output_is_bounded(monkeypatch):
    monkeypatch.setattr(commands, "LIMIT", 1000)
    done = await run("sh", "-c", "head -c 300000 /dev/zero")
    assert (done.code, len(done.out), done.truncated) == (0, 1000, True)


async def test_a_cancelled_caller_loses_no_process(tmp_path: Path):
    mark = tmp_path / "mark"
    task = asyncio.create_task(run("sh", "-c", f"sleep 0.3; touch {mark}"))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    for _ in range(200):
        if mark.exists():
            return
        await asyncio.sleep(0.05)
    pytest.fail("the command was lost with its caller")


def test_the_controllers_own_job_does_not_leak():
    env = {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOB_ID": "7",
        "SLURM_MEM_PER_NODE": "1",
        "SBATCH_PARTITION": "debug",
        "SBATCH_ACCOUNT": "me",
        "SQUEUE_FORMAT": "%i",
        "SACCT_FORMAT": "x",
        "SRUN_DEBUG": "1",
        "HOME": "/root",
    }
    assert commands.clean_environment(env) == {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "HOME": "/root",
    }
    asking = commands.asking_environment(env)
    assert asking["SLURM_TIME_FORMAT"] == "%s"
    assert asking["LC_ALL"] == "C"
    submitting = commands.submitting_environment(env, {"partition"})
    assert submitting == {**commands.clean_environment(env), "SBATCH_ACCOUNT": "me"}
    assert "SBATCH_ACCOUNT" not in commands.submitting_environment(env, {"account"})


# -- the real port over commands put first on PATH ---------------------------------------------------------------


class Shims:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = RealSlurm(env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}, ask_secs=20)

    def put(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "$@" >> {self.folder}/{name}.calls\n{script}\n')
        path.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def shims(tmp_path: Path) -> Shims:
    return Shims(tmp_path)


REQUEST = request(SlurmSpec(), Wish("furu-x", ("true",), "/logs"))


async def test_submitting(shims):
    shims.put("sbatch", f"cat > {shims.folder}/script; echo '12;east'")
    assert await shims.port.submit(REQUEST) == Submitted("12", "east")
    assert "--job-name=furu-x" in (shims.folder / "script").read_text()
    shims.put(
        "sbatch", "cat >/dev/null; echo 'sbatch: error: Batch job submission failed: Invalid qos' >&2; exit 1"
    )
    assert isinstance(await shims.port.submit(REQUEST), Refused)
    shims.put("sbatch", "cat >/dev/null; kill -9 $$")
    assert isinstance(await shims.port.submit(REQUEST), Unclear)


@pytest.mark.fault("F35")
async def test_a_host_without_slurm_is_told_so(tmp_path):
    answer = await RealSlurm(env={"PATH": str(tmp_path)}).submit(REQUEST)
    assert isinstance(answer, Refused)
    assert "no sbatch" in answer.words


@pytest.mark.fault("F36")
async def test_commands_that_fail_are_silence_not_an_empty_answer(shims):
    shims.put("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    shims.put("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    queue = await shims.port.query()
    assert isinstance(queue, Silence)
    assert "Unable to contact" in queue.words
    accounting = await shims.port.account(["1"])
    assert isinstance(accounting, Silence)
    assert accounting.off
    found = await shims.port.find("furu-x")
    assert not found.answered
    assert await shims.port.limits() == Limits() or (await shims.port.limits()).known


@pytest.mark.fault("F49")
async def test_states_that_no_test_cluster_shows(shims):
    line = "12|furu-x|{}|None|0|1800000000|n1|0|"
    for state, kind in [
        ("BOOT_FAIL", "infrastructure"),
        ("DEADLINE", "infrastructure"),
        ("OUT_OF_MEMORY", "oom"),
    ]:
        shims.put("squeue", f"echo '{line.format(state)}'")
        answer = await shims.port.query()
        assert isinstance(answer, Rows)
        verdict = answer.rows[0].verdict()
        assert isinstance(verdict, Ended)
        assert verdict.kind == kind


@pytest.mark.fault("F59", "F50")
async def test_accounting_is_always_asked_for_jobs_and_since_when(shims):
    shims.put("sacct", "true")
    await shims.port.account([str(n) for n in range(900)], ["a", "b"], 7200)
    calls = shims.calls("sacct")
    assert len(calls) == 4
    assert all("--starttime=now-7200seconds" in call and "--duplicates" in call for call in calls)
    assert all("--jobs=" in call for call in calls[:3])
    assert "--name=a,b" in calls[3]


@pytest.mark.fault("F59")
async def test_one_cluster_of_several(shims):
    port = RealSlurm("east", env={**os.environ, "PATH": f"{shims.folder}:{os.environ['PATH']}"})
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sacct"):
        shims.put(name, "cat >/dev/null; echo 1")
    await port.submit(REQUEST)
    await port.query()
    await port.cancel(["1"])
    await port.hold(["1", "2"])
    await port.account(["1"])
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sacct"):
        assert "--clusters=east" in shims.calls(name)[0]
    assert shims.calls("scontrol")[0].endswith("hold 1,2")


async def test_an_exact_name_is_looked_for_in_the_queue_then_in_accounting(shims):
    shims.put("squeue", "echo '12|furu-y|RUNNING|None|0|1800000000|n1|0|'")
    shims.put("sacct", "echo '13|furu-x|COMPLETED|0:0|1800000000|n1|None|c'")
    found = await shims.port.find("furu-x")
    assert found.answered
    assert [row.id for row in found.rows] == ["13"]
