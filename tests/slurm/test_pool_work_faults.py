"""`SlurmPool` on a real cluster: what can go wrong with the queue, with tasks and with workers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.slurm.cluster import Cluster
from tests.slurm.work_artifacts import OTHER, SPEC, Elsewhere, Modest, Skewed, Work
from tests.slurm.work_helpers import SCALE, Lab, hold_until, stop, until

from furu_async import Furu
from furu_async.errors import FuruError, FuruRunFailed


@pytest.fixture
async def lab(slurm: Cluster, tmp_path: Path) -> AsyncIterator[Lab]:
    """A store of its own; afterwards no job and no process of its runs is left."""
    made = Lab(slurm, tmp_path)
    yield made
    await made.close()


def replace(path: Path, text: str) -> None:
    """Have another content under this name, in one step."""
    fresh = path.parents[3] / f".fresh-{path.name}"
    fresh.write_text(text)
    fresh.replace(path)


def rewrite(path: Path | None, **changed: Any) -> None:
    """Replace fields of an entry."""
    assert path is not None
    replace(path, json.dumps({**json.loads(path.read_text()), **changed}))


# -- the queue ---------------------------------------------------------------------------------------------------


async def test_a_protocol_failure_in_the_queue_ends_the_run(lab: Lab) -> None:
    work = lab.work("a", "gate")
    running = lab.start(work, check=True)
    await lab.begun("a")
    taken = lab.taken(work)
    assert taken is not None
    report = {
        **json.loads(taken.read_text()),
        "outcome": "failed",
        "worker_id": taken.parent.name,
        "node": "n7",
        "failure": {"kind": "protocol", "message": "it cannot be run as asked", "run_wide": True},
    }
    failed = lab.queue / "failed" / taken.name
    replace(failed, json.dumps(report))
    with pytest.raises(FuruError) as caught:
        await running
    text = str(caught.value)
    for part in (
        str(failed),
        work.furu_hash,
        "attempt 1",
        SPEC.key,
        taken.parent.name,
        report["failure"]["message"],
    ):
        assert part in text, f"{part} is not in: {text}"
    assert len(lab.attempts("a")) == 1


@pytest.mark.fault("F81")
async def test_an_entry_for_another_spec_ends_the_run(lab: Lab) -> None:
    other = lab.work("b")
    running = await lab.block(other, check=True)
    rewrite(lab.waiting(other), spec_key=OTHER.key)
    lab.open("a")
    with pytest.raises(FuruError) as caught:
        await running
    for part in (other.furu_hash, SPEC.key, OTHER.key, "attempt 1"):
        assert part in str(caught.value), part
    assert lab.attempts("b") == []


@pytest.mark.fault("F79")
async def test_a_class_of_another_version_in_the_worker_ends_the_run(lab: Lab) -> None:
    skewed = lab.work("b", cls=Skewed)
    with pytest.raises(FuruError) as caught:
        await lab.run(skewed, check=True)
    assert skewed.furu_hash in str(caught.value)
    assert "the controller has furu_async" in str(caught.value)
    assert lab.attempts("b") == []


@pytest.mark.fault("F20", "F78")
async def test_an_entry_that_cannot_be_read_is_written_again_once(lab: Lab) -> None:
    once, twice = lab.work("b"), lab.work("c")
    running = await lab.block(once)
    first = lab.waiting(once)
    assert first is not None
    replace(first, '{"hash": ')
    lab.open("a")
    report = await running
    assert report[once].status == "created", report[once].failure
    assert report[once].attempts == 1
    bad = lab.queue / "bad"
    assert (bad / first.name).read_text() == '{"hash": '
    assert (bad / f"{first.name}.why").exists()
    # The second time: the worker is stopped while the loop, and so the controller, has not answered the first one.
    (lab.folder / "open-a").unlink()
    lab2 = Lab(lab.slurm, lab.folder / "second")
    lab2.folder.mkdir()
    running = await lab2.block(twice, lab2.work("d"))
    first = lab2.waiting(twice)
    assert first is not None
    replace(first, "")
    job = lab2.attempts("a")[0][0]
    lab2.open("a")
    hold_until((lab2.queue / "failed" / first.name).exists, "the worker says so")
    worker = lab2.processes_of(job)
    stop(worker)
    second = await until(lambda: lab2.waiting(twice), "it is written again")
    assert second.name != first.name
    replace(second, "[]")
    stop(worker, on=False)
    report = await running
    failure = report[twice].failure
    assert failure is not None
    assert failure.kind == "protocol"
    assert str(lab2.queue / "bad") in failure.message
    assert "twice" in failure.message
    assert lab2.attempts("c") == []
    await lab2.close()


@pytest.mark.fault("F78")
async def test_foreign_files_in_the_queue_are_set_aside(lab: Lab) -> None:
    other = lab.work("b")
    running = await lab.block(other)
    entry = lab.waiting(other)
    assert entry is not None
    places = [entry.parent, entry.parents[1], entry.parents[2], lab.queue / "failed", lab.queue / "done"]
    for number, place in enumerate(places):
        (place / f"README-{number}").write_text("hello")
        (place / f"dir-{number}").mkdir()
    (lab.queue / "running" / "notes").write_text("hello")
    (lab.queue / "failed" / f"{'0' * 32}.7").write_text("{}")  # of nobody that is known
    await until(lambda: (lab.queue / "bad" / "README-3").exists(), "it is moved")
    lab.open("a")
    report = await running
    assert report.ok
    assert report.counts["created"] == 3
    there = {path.name for path in (lab.queue / "bad").iterdir()}
    assert {"README-0", "README-3", "README-4"} <= there
    assert not list((lab.queue / "failed").iterdir())


# -- tasks -------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F94")
async def test_compute_failures_are_retried_until_there_are_too_many(lab: Lab) -> None:
    good, bad = lab.work("good", "fail:2"), lab.work("bad", "say fail")
    above = lab.work("above", "", bad)
    report = await lab.run(good, above, workers=2)
    assert (report[good].status, report[good].attempts) == ("created", 3)
    assert (report[bad].status, report[bad].attempts) == ("failed", 3)
    assert report[above].status == "skipped"
    assert len(lab.attempts("good")) == len(lab.attempts("bad")) == 3
    failure = report[bad].failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("compute", "bad fails")
    # What a task has written is found from the report.
    assert "bad says hello" in (Path(failure.log_path) / "stdout").read_text()
    assert "bad says hello" in failure.log_tail
    # A failure stands where failures are not tried again: nothing is started for it.
    before = lab.jobs()
    with pytest.raises(FuruRunFailed, match="bad fails"):
        await lab.run(above, retry_failed=False, check=True)
    assert lab.jobs().keys() == before.keys()


async def test_without_retries_the_first_failure_is_final(lab: Lab) -> None:
    bad = lab.work("bad", "fail:1")
    report = await lab.run(bad, retry_failed=False)
    assert (report[bad].status, report[bad].attempts) == ("failed", 1)
    report = await lab.run(bad)
    assert report[bad].status == "created"
    assert len(lab.attempts("bad")) == 2


@pytest.mark.fault("F45")
async def test_more_memory_or_time_is_had_from_the_next_spec(lab: Lab) -> None:
    hungry, slow = lab.work("hungry", "memory", cls=Modest), lab.work("slow", "slow", cls=Modest)
    report = await lab.run(hungry, slow, workers=2)
    assert report.ok, [node.failure for node in report]
    assert [word.split(":")[0] for word in report[hungry].history] == ["oom"]
    assert [word.split(":")[0] for word in report[slow].history] == ["timeout"]
    assert len({line[0] for line in lab.attempts("hungry")}) == 2


async def test_slots_run_at_the_same_time_in_one_job(lab: Lab) -> None:
    names = ("p", "q")
    running = lab.start(*(lab.work(name, "gate") for name in names), pool={"slots": 2})
    for name in names:
        await lab.begun(name)
    lab.open(*names)
    assert (await running).ok
    assert len(lab.jobs()) == 1


# -- workers -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("F10")
async def test_the_task_of_a_killed_worker_runs_again_within_seconds(lab: Lab) -> None:
    work = lab.work("a", "gate")
    running = lab.start(work, lab.work("b"), lab.work("c"))
    job, _ = await lab.begun("a")
    # Its worker has said so, too: where it has not, a task that was taken ahead could be the one that ran.
    await until(lambda: any(work.furu_hash in name for name in lab.began()), "its worker says so")
    killed = time.monotonic()
    for each in lab.processes_of(job):
        psutil.Process(each.pid).kill()
    await lab.begun("a", 2)
    took = time.monotonic() - killed
    lab.open("a")
    report = await running
    assert report.ok
    assert report[work].attempts == 2
    assert [word.split(":")[0] for word in report[work].history] == ["lost"]
    assert len(lab.attempts("b")) == len(lab.attempts("c")) == 1
    assert took < 15 * SCALE


@pytest.mark.fault("F12")
async def test_a_task_that_kills_its_worker_each_time_fails_alone(lab: Lab) -> None:
    poison = lab.work("poison", "poison")
    others = [lab.work(f"b{k}") for k in range(4)]
    report = await lab.run(poison, *others, workers=2)
    assert all(report[each].status == "created" for each in others)
    assert report[poison].status == "failed"
    failure = report[poison].failure
    assert failure is not None
    assert failure.kind == "lost"
    assert "worker" in failure.message
    # When a worker dies before it could say what it had begun, or with several tasks of which any may be to blame, the
    # start is not counted: once each for this task and for the first two workers, which die at the same time.
    assert report[poison].attempts == 4
    assert 4 <= len(lab.attempts("poison")) <= 7


@pytest.mark.fault("F11", "F56")
async def test_workers_that_die_at_their_start_stop_their_spec(lab: Lab) -> None:
    setup = ["echo there is no such environment >&2", "exit 3"]
    work, above = lab.work("a"), lab.work("above", "", lab.work("a"))
    report = await lab.run(above, lab.work("b"), workers=5, pool={"setup": setup})
    failure = report[work].failure
    assert failure is not None
    assert "5 workers in a row died within 60 s" in failure.message
    assert "there is no such environment" in failure.message
    assert report[above].status == "skipped"
    assert len(lab.jobs()) <= 10


@pytest.mark.fault("F14")
async def test_a_worker_that_stands_still_is_replaced_after_a_lease(lab: Lab) -> None:
    lab.settings(lease_secs=4 * SCALE, heartbeat_secs=0.5)
    work = lab.work("a", "gate")
    running = lab.start(work)
    job, _ = await lab.begun("a")
    stopped = time.monotonic()
    stop(lab.processes_of(job))
    other, _ = await lab.begun("a", 2)
    assert time.monotonic() - stopped > 3.5 * SCALE
    assert other != job
    lab.open("a")
    report = await running
    assert report.ok
    # Cancelling wakes it, and it may still be ending when the other one comes.
    assert report[work].history[0].startswith("lost")
    assert {word.split(":")[0] for word in report[work].history[1:]} <= {"elsewhere"}
    assert report[work].status == "created"


TAKES = """
import os, pathlib, sys
queue = pathlib.Path(sys.argv[1]).glob("runs/*/queue")
for entry in next(queue).glob("todo/*/*/*"):
    mine = entry.parents[3] / "running" / os.environ["SLURM_JOB_NAME"].rpartition("-")[2][:12]
    mine.mkdir(parents=True, exist_ok=True)
    entry.rename(mine / entry.name)
    open(sys.argv[2], "a").write("x")
    break
"""


@pytest.mark.fault("F01")
async def test_a_task_whose_workers_never_beat_fails_the_second_time(lab: Lab) -> None:
    lab.settings(heartbeat_grace_secs=2 * SCALE)
    takes, taken = lab.folder / "takes.py", lab.folder / "taken"
    takes.write_text(TAKES)
    setup = [f"{sys.executable} {takes} {lab.config.path} {taken}", "exec sleep 1000"]
    work = lab.work("a")
    report = await lab.run(work, pool={"setup": setup})
    assert report[work].status == "failed"
    failure = report[work].failure
    assert failure is not None
    assert failure.kind == "lost"
    assert "never showed a beat" in failure.message
    assert taken.read_text() == "xx"


async def test_a_worker_that_is_slow_to_start_is_waited_for(lab: Lab) -> None:
    lab.settings(heartbeat_grace_secs=30 * SCALE)
    report = await lab.run(lab.work("a"), pool={"setup": ["sleep 3"]})
    assert report.ok
    assert len(lab.jobs()) == 1


@pytest.mark.fault("F74")
async def test_a_worker_whose_place_is_wanted_gives_its_task_back(lab: Lab) -> None:
    # One place for two specs: whenever a task is ready on one of them, the idle worker of the other has to go, just as
    # the next task for it may come.
    last: Furu[int] | None = None
    singles = []
    for k in range(3):
        parts = () if last is None else (last,)
        last = lab.work(f"x{k}", "", *parts, cls=Elsewhere if k % 2 else Work)
        singles.append(lab.work(f"y{k}", "", last))
    report = await lab.run(last, *singles, pool={"max_workers": 1})
    assert report.ok, [node.failure for node in report]
    assert all(node.attempts == 1 and not node.history for node in report)
