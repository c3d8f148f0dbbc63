"""Real worker processes on a home that a controller would have prepared: how they start, work, and end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_artifacts import Inline, Kills, Needs, Quick, Reads, Sleeps, Stubborn
from worker_env import SCALE, TOKEN, Pool, alive, term

from furu_async._pool import queue
from furu_async._runtime import exit_codes
from furu_async._store import artifacts, runs, submissions
from furu_async._store.card import Card
from furu_async._store.records import Claim


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with Pool(tmp_path) as made:
        yield made


# -- work ------------------------------------------------------------------------------------------------------


def test_a_worker_does_what_is_in_the_queue_and_ends(pool: Pool) -> None:
    below = pool.make(Quick, 500)
    names = [pool.put(below), *(pool.put(pool.make(Quick, n)) for n in range(30))]
    names.append(pool.put(pool.make(Needs, 501, below=below), priority=0))
    worker = pool.start("--idle", "2", "--slots", "2")
    code, log = pool.end(worker, 60)
    assert code == exit_codes.ENDED, log
    reports = pool.reports()
    missing = [name for name, report in reports.items() if report.failure and report.failure.kind == "inputs"]
    assert sorted([*pool.done(), *missing]) == sorted(names), log
    assert "nothing to do for 2 s (after" in log
    status = pool.status()
    assert (status.stage, status.slots, status.job_id, status.spec_key) == ("ended", 2, "100", queue_key())
    claim = json.loads(Path(pool.artifact(below).claim(1)).read_text())
    assert (claim["backend"], claim["owner"]["job_id"]) == ("pool", "100")
    assert claim["beat"].startswith(f"runs/{pool.paths.home}/workers/{TOKEN[:12]}/")
    assert os.listdir(pool.run.worker(TOKEN[:12]).base) == ["status.json"], "beat, card and spools are gone"
    assert not os.path.exists(pool.run.claims)


def queue_key() -> str:
    from worker_artifacts import SPEC

    return SPEC.key


def test_its_beat_is_there_before_it_takes_anything(pool: Pool) -> None:
    worker = pool.start("--idle", "60")
    beat = pool.run.worker(TOKEN[:12]).beat
    pool.until(lambda: os.path.exists(beat), "a beat")
    pool.until(lambda: pool.status().stage == "idle", "its status")
    assert pool.status().beat == f"runs/{pool.paths.home}/workers/{TOKEN[:12]}/beat"
    term(worker)
    assert pool.end(worker)[0] == exit_codes.ENDED


def test_every_task_runs_in_a_child_whatever_its_class_asks_of_local(pool: Pool) -> None:
    pool.put(pool.make(Inline, 1))
    worker = pool.start("--idle", "1")
    pool.end(worker)
    assert int((pool.marks / "1.began").read_text()) != worker.pid


def test_the_controllers_settings_reach_the_tasks_and_its_environment_does_not(tmp_path: Path) -> None:
    with Pool(tmp_path, lease_secs=44.0, heartbeat_secs=5.0) as pool:
        name = pool.put(pool.make(Reads, 1))
        worker = pool.start("--idle", "1", env={"FURU_LEASE_SECS": "nonsense"})
        _, log = pool.end(worker)
        assert pool.done() == [name], log
        assert (pool.marks / "1.saw").read_text() == f"44.0 {pool.root} {tmp_path}"
        assert "PATH" not in Path(pool.paths.settings).read_text()


# -- admission -------------------------------------------------------------------------------------------------


def test_a_job_whose_token_does_not_count_ends_at_once(pool: Pool) -> None:
    pool.record()
    submissions.drop(pool.run.submission("s1"), 1, "sbatch did not answer")
    name = pool.put(pool.make(Quick, 1))
    code, log = pool.end(pool.start(record=False))
    assert code == exit_codes.ENDED
    assert "sbatch did not answer" in log
    assert pool.todo() == [name]
    assert not os.path.exists(pool.run.workers)


def test_the_second_job_of_a_token_ends_at_once(pool: Pool) -> None:
    first = pool.start("--idle", "60")
    pool.until(lambda: pool.status().stage == "idle", "the first one")
    code, log = pool.end(pool.start(record=False))
    assert code == exit_codes.ENDED
    assert "came first" in log
    term(first)
    pool.end(first)


@pytest.mark.parametrize("what", ["run", "pool", "record"])
def test_a_job_that_nobody_waits_for_any_more_ends_at_once(pool: Pool, what: str) -> None:
    if what == "run":
        card = Card(pool.run.worker("c"), Claim(token="c", backend="local"))
        card.write()
        assert runs.claim_run(pool.run, 0, card)
        runs.end_run(pool.run, 1, "c", "cancelled")
    elif what == "pool":
        queue.close(pool.paths)
    code, log = pool.end(pool.start(record=what != "record"))
    assert code == exit_codes.ENDED
    assert {"run": "has ended", "pool": "is closed", "record": "no record"}[what] in log


def test_an_array_task_and_a_restart_are_workers_of_their_own(pool: Pool) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "100", "SLURM_ARRAY_TASK_ID": "3"}
    worker = pool.start("--idle", "60", env=array)
    pool.until(lambda: pool.status(task=3).stage == "idle", "the array's task")
    assert pool.status(task=3).job_id == "100_3"
    worker.kill()
    worker.communicate()
    again = pool.start("--idle", "1", env={**array, "SLURM_RESTART_COUNT": "2"}, record=False)
    _, log = pool.end(again)
    assert pool.status(task=3, restarts=2).restart_count == 2, log


def test_a_store_that_cannot_be_seen_is_named(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.record()
    root, pool.root = pool.root, f"{pool.root}-elsewhere"
    worker = pool.start(record=False, env={"PYTHONPATH": str(_impatient(pool.tmp))})
    code, log = pool.end(worker)
    pool.root = root
    assert code == exit_codes.CANNOT_START
    assert f"{root}-elsewhere cannot be seen" in log


@pytest.mark.fault("F56")
def test_an_empty_folder_in_the_place_of_the_store_is_told_from_it(pool: Pool) -> None:
    pool.record()
    root, pool.root = pool.root, f"{pool.root}-mountpoint"
    Path(pool.root).mkdir()
    worker = pool.start(record=False, env={"PYTHONPATH": str(_impatient(pool.tmp))})
    code, log = pool.end(worker)
    assert code == exit_codes.CANNOT_START
    assert f"{pool.root} is there on {os.uname().nodename}, but not {pool.root}/runs/" in log
    assert "mounted on this node?" in log
    assert not list(Path(pool.root).iterdir()), "it left nothing there"
    pool.root = root


def _impatient(tmp: Path) -> Path:
    """A folder that makes workers wait less for what a file system may not show yet."""
    folder = tmp / "impatient"
    folder.mkdir()
    text = (
        "import furu_async._pool.worker_main as m; m._PATIENCE_SECS = m._RECORD_SECS = 0.1; "
        "m._Worker._until.__defaults__ = (0.1,)"
    )
    (folder / "sitecustomize.py").write_text(text)
    return folder


def test_another_version_of_the_library_is_skew(pool: Pool) -> None:
    pool.settings(library="9.9.9")
    name = pool.put(pool.make(Quick, 1))
    code, log = pool.end(pool.start())
    assert code == exit_codes.VERSION_SKEW
    assert "9.9.9" in log
    status = pool.status()
    assert status.stage == "ended"
    assert "9.9.9" in status.why
    assert pool.todo() == [name]


def test_a_module_that_cannot_be_imported_is_a_protocol_failure(pool: Pool) -> None:
    pool.settings(path=[])
    name = pool.put(pool.make(Quick, 1))
    _, log = pool.end(pool.start("--idle", "1"))
    failure = pool.reports()[name].failure
    assert failure is not None, log
    assert (failure.kind, failure.run_wide) == ("protocol", True)
    assert "worker_artifacts" in failure.message


# -- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F58")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_on_a_signal_it_is_gone_within_seconds_and_the_task_is_free(pool: Pool, number: int) -> None:
    running = pool.make(Sleeps, 1)
    name, waits = pool.put(running, priority=5), pool.put(pool.make(Quick, 2))
    worker = pool.start()
    pool.until(pool.began(1), "the task")
    child = int((pool.marks / "1.began").read_text())
    asked = time.monotonic()
    term(worker, number)
    code, log = pool.end(worker)
    assert code == exit_codes.ENDED, log
    assert time.monotonic() - asked < 5.0 * SCALE
    report = pool.reports()[name]
    assert report.failure is not None
    assert (report.outcome, report.begun, report.failure.kind) == ("failed", True, "preempted")
    assert pool.todo() == [waits]
    assert not alive(child)
    assert artifacts.look(pool.artifact(running)).verdict == "free"


@pytest.mark.fault("F58")
def test_slurm_signals_the_children_too(pool: Pool) -> None:
    name = pool.put(pool.make(Sleeps, 1))
    worker = pool.start()
    pool.until(pool.began(1), "the task")
    os.kill(int((pool.marks / "1.began").read_text()), signal.SIGTERM)
    term(worker)
    pool.end(worker)
    failure = pool.reports()[name].failure
    assert failure is not None
    assert failure.kind == "preempted"


def test_who_hears_no_signal_is_killed_after_the_grace_period_or_at_the_second_signal(pool: Pool) -> None:
    name = pool.put(pool.make(Stubborn, 1))
    worker = pool.start()
    pool.until(pool.began(1), "the task")
    child = int((pool.marks / "1.began").read_text())
    term(worker)
    pool.until(lambda: pool.status().stage == "draining", "draining")
    asked = time.monotonic()
    term(worker)
    code, log = pool.end(worker)
    assert code == exit_codes.ENDED, log
    assert time.monotonic() - asked < 4.0 * SCALE, "the second signal does not wait for the grace period"
    assert not alive(child)
    failure = pool.reports()[name].failure
    assert failure is not None
    assert failure.kind == "preempted"


def test_after_a_warning_what_runs_goes_on(pool: Pool) -> None:
    name, waits = pool.put(pool.make(Sleeps, 1), priority=5), pool.put(pool.make(Quick, 2))
    worker = pool.start()
    pool.until(pool.began(1), "the task")
    term(worker, signal.SIGUSR1)
    pool.until(lambda: pool.status().stage == "draining", "draining")
    assert worker.poll() is None
    term(worker)
    pool.end(worker)
    assert pool.todo() == [waits]
    assert list(pool.reports()) == [name]


def test_a_worker_that_is_killed_leaves_free_claims_and_no_processes(pool: Pool) -> None:
    node = pool.make(Sleeps, 1)
    name = pool.put(node)
    worker = pool.start()
    pool.until(pool.began(1), "the task")
    pool.until(lambda: pool.status().began == [name], "its status says so")
    child = int((pool.marks / "1.began").read_text())
    worker.kill()
    worker.communicate()
    pool.until(lambda: not alive(child), "the child's end")
    pool.until(lambda: artifacts.look(pool.artifact(node)).verdict == "free", "the end of its claim")
    assert queue.running(pool.paths, TOKEN[:12]) == [name], "the controller finds what it had"
    assert pool.status().began == [name]
    assert not os.path.exists(pool.run.ends)


def test_a_task_that_kills_its_worker_shows_that_it_had_begun(pool: Pool) -> None:
    name = pool.put(pool.make(Kills, 1))
    worker = pool.start()
    worker.wait(30 * SCALE)
    worker.communicate()
    assert queue.running(pool.paths, TOKEN[:12]) == [name]
    assert os.path.exists(pool.artifact(pool.make(Kills, 1)).claim(1))


def test_a_cancelled_task_is_ended_and_the_worker_goes_on(pool: Pool) -> None:
    name = pool.put(pool.make(Sleeps, 1), priority=5)
    worker = pool.start("--idle", "1")
    pool.until(pool.began(1), "the task")
    other = pool.put(pool.make(Quick, 2))
    queue.ask_to_cancel(pool.paths, name)
    code, log = pool.end(worker)
    assert code == exit_codes.ENDED, log
    report = pool.reports()[name]
    assert (report.outcome, report.detail) == ("returned", "cancelled")
    assert pool.done() == [other]


@pytest.mark.fault("F44")
def test_near_the_end_of_its_walltime_it_takes_nothing_and_ends_in_time(pool: Pool) -> None:
    name = pool.put(pool.make(Sleeps, 1))
    ends = time.time() + 14 * SCALE
    worker = pool.start("--idle", "60", env={"SLURM_JOB_END_TIME": str(int(ends))})
    code, log = pool.end(worker)
    assert code == exit_codes.ENDED, log
    assert time.time() < ends
    failure = pool.reports()[name].failure
    assert failure is not None
    assert failure.kind == "timeout"


def test_without_its_controller_it_ends(tmp_path: Path) -> None:
    with Pool(tmp_path, lease_secs=2.0, heartbeat_secs=0.25, heartbeat_grace_secs=2.0) as pool:
        code, log = pool.end(pool.start("--idle", "600"))
        assert code == exit_codes.ENDED
        assert "no sign of life" in log
