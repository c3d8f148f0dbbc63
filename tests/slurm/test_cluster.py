"""The test cluster does what its verbs say, and Slurm does what the executors have to be built for."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.slurm import cluster as program
from tests.slurm import configure, daemons
from tests.slurm.cluster import Cluster, ClusterError, Options, room
from tests.slurm.conftest import require
from tests.slurm.daemons import wait_for

LONG = "exec sleep 1000"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path for a further cluster, which is ended in any case."""
    path = Path(tempfile.mkdtemp(prefix="furu-slurm-", dir=room()))
    yield path
    if path.exists():
        call("down", "--folder", str(path))
        shutil.rmtree(path, ignore_errors=True)


def running(slurm: Cluster, script: str = LONG, *options: str) -> str:
    """The id of a job that runs, its process included."""
    job = slurm.submit(script, *options)
    slurm.wait_state(job, "RUNNING")
    wait_for(lambda: slurm.processes(job), 10, f"the process of job {job}")
    return job


def lines(path: Path) -> list[str]:
    """What a job has written so far."""
    return path.read_text().splitlines() if path.exists() else []


# -- asking


def test_a_job_runs_within_two_seconds_and_is_seen_to_the_end(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit(f"echo $SLURM_CLUSTER_NAME > {tmp_path}/out", "-J", "name|with bar")
    slurm.wait_state(job, "COMPLETED", seconds=10)
    assert lines(tmp_path / "out") == [slurm.place.name]
    seen = slurm.job(job)
    assert (seen.name, seen.partition, seen.restarts) == ("name|with bar", "low", 0)
    wait_for(lambda: slurm.accounted(job) == [(job, "COMPLETED")], 30, "sacct to know the end")


def test_srun_starts_steps_on_several_nodes(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit("srun sh -c 'echo $SLURMD_NODENAME'", "-N", "2", "-o", f"{tmp_path}/out")
    slurm.wait_state(job, "COMPLETED")
    assert sorted(lines(tmp_path / "out")) == ["n1", "n2"]


def test_servers_listen_on_the_loopback_interface_only(slurm: Cluster) -> None:
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {slurm.place.ctld_port, slurm.place.dbd_port, *slurm.place.node_ports}
    found = [words[1].split(":") for words in listening if words[3] == "0A"]
    ours = {int(port, 16): address for address, port in found if int(port, 16) in ports}
    assert ours.keys() == ports
    assert {address[-2:] for address in ours.values()} == {"7F"}, "the first byte comes last"
    tcp6 = Path("/proc/net/tcp6").read_text().splitlines()[1:]
    assert not ports & {int(line.split()[1].split(":")[1], 16) for line in tcp6 if line.split()[3] == "0A"}


def test_an_array_is_shown_task_by_task(slurm: Cluster) -> None:
    array = slurm.submit(LONG, "--array=0-4%2")
    wait_for(
        lambda: [job.state for job in slurm.jobs().values() if job.array == int(array)].count("RUNNING") == 2,
        10,
        "2",
    )
    tasks = {job.id: job for job in slurm.jobs().values() if job.array == int(array)}
    assert sorted(tasks) == [f"{array}_{index}" for index in range(5)]
    assert {job.reason for job in tasks.values() if job.state == "PENDING"} == {"JobArrayTaskLimit"}


def test_features_choose_the_node(slurm: Cluster) -> None:
    assert slurm.job(running(slurm, LONG, "-C", "beta")).nodes == "n2"


def test_sacct_is_late_and_squeue_hides_an_unknown_id_among_known_ones(slurm: Cluster) -> None:
    job = running(slurm)
    assert slurm.accounted(job) != [(job, "RUNNING")]
    alone = slurm.run("squeue", "-h", "-j", "999999", check=False)
    assert alone.returncode == 1
    assert "Invalid job id" in alone.stderr
    among = slurm.run("squeue", "-h", "-o", "%i", "-j", f"{job},999999")
    assert among.stdout.split() == [job]
    slurm.cancel(job)
    wait_for(lambda: slurm.accounted(job) == [(job, "CANCELLED by 0")], 30, "sacct to know the end")


# -- jobs


def test_suspend_stops_the_process_and_resume_lets_it_go_on(slurm: Cluster) -> None:
    job = running(slurm)
    slurm.suspend(job)
    slurm.wait_state(job, "SUSPENDED")
    wait_for(lambda: all(each.stopped() for each in slurm.processes(job)), 10, "stopped processes")
    slurm.resume(job)
    slurm.wait_state(job, "RUNNING")
    wait_for(lambda: not any(each.stopped() for each in slurm.processes(job)), 10, "processes that go on")


def test_hold_keeps_a_job_pending_until_release(slurm: Cluster) -> None:
    job = slurm.submit("exit 3", "-H")
    assert slurm.wait_job(job, lambda job: job.reason == "JobHeldUser").state == "PENDING"
    slurm.release(job)
    slurm.wait_state(job, "FAILED")
    later = slurm.submit(LONG, "--begin=now+1hour")
    slurm.hold(later)
    assert slurm.wait_job(later, lambda job: job.reason.startswith("JobHeld")).state == "PENDING"


def test_cancel_ends_the_processes_too(slurm: Cluster) -> None:
    job = running(slurm, "while :; do sleep 0.1; done")
    slurm.cancel(job)
    slurm.wait_state(job, "CANCELLED")
    wait_for(lambda: not slurm.processes(job), 20, "the processes to end")


def signals(path: Path, then: str = "") -> str:
    """A script that writes each start with its restart count, and the signals it gets; what it does after SIGTERM."""
    return (
        f"echo start ${{SLURM_RESTART_COUNT:-0}} $SLURM_JOB_ID >> {path}\n"
        f"trap 'echo CONT >> {path}' CONT\ntrap 'echo TERM >> {path};{then or ':'}' TERM\n"
        "while :; do sleep 0.05; done"
    )


def test_a_requeued_job_gets_sigterm_and_sigcont_and_starts_again_under_its_id(
    slurm: Cluster, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = running(slurm, signals(out))
    wait_for(lambda: lines(out) == [f"start 0 {job}"], 10, "the job's first line")
    slurm.requeue(job)
    assert slurm.job(job).state == "COMPLETING"
    assert slurm.wait_state(job, "PENDING").reason == "BeginTime"
    assert sorted(lines(out)[1:]) == ["CONT", "TERM"]
    slurm.start_now(job)
    assert slurm.wait_state(job, "RUNNING").restarts == 1
    wait_for(lambda: lines(out)[3:] == [f"start 1 {job}"], 10, "the second start")
    wait_for(lambda: len(slurm.accounted(job, duplicates=True)) == 2, 30, "two rows in sacct")
    assert slurm.accounted(job, duplicates=True)[0] == (job, "REQUEUED")
    assert len(slurm.accounted(job)) == 1


def test_a_preempted_job_gets_sigterm_and_is_requeued(slurm: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = running(slurm, signals(out, then="exit 1"))
    wait_for(lambda: len(lines(out)) == 1, 10, "the job's first line")
    winner = slurm.preempt(job)
    assert slurm.job(winner).nodes == "n1"
    assert slurm.job(job).state == "PENDING"
    assert "TERM" in lines(out)
    slurm.start_now(job)
    again = slurm.wait_state(job, "RUNNING")
    assert (again.restarts, again.nodes) == (1, "n2")


def test_requeuehold_never_starts_by_itself_and_can_show_as_special_exit(slurm: Cluster) -> None:
    held, special = running(slurm), running(slurm)
    slurm.requeuehold(held)
    slurm.requeuehold(special, special_exit=True)
    slurm.wait_state(special, "SPECIAL_EXIT")
    assert slurm.wait_state(held, "PENDING").reason == "job requeued in held state"


# -- what an `sbatch` and a dependency mean


def test_sbatch_can_fail_and_the_job_runs_all_the_same(slurm: Cluster, tmp_path: Path) -> None:
    slurm.freeze("slurmctld")
    with pytest.raises(ClusterError, match="Socket timed out on send/recv"):
        slurm.submit(f"echo ran >> {tmp_path}/out", "-J", "ghost", MessageTimeout=2)
    slurm.thaw("slurmctld")
    wait_for(lambda: lines(tmp_path / "out") == ["ran"], 20, "the job that was not submitted")
    assert [job.name for job in slurm.jobs().values()].count("ghost") == 1


def test_afterok_counts_as_satisfied_once_slurm_has_forgotten_the_failed_job(
    slurm: Cluster, tmp_path: Path
) -> None:
    failed = slurm.submit("exit 1")
    slurm.wait_state(failed, "FAILED")
    slurm.purge(failed)
    for name, parent in (("forgotten", failed), ("never", "999999")):
        child = slurm.submit(f"echo ran > {tmp_path}/{name}", "-d", f"afterok:{parent}")
        slurm.wait_state(child, "COMPLETED")
        assert lines(tmp_path / name) == ["ran"]


def test_afterok_on_a_failed_job_pends_for_ever_unless_it_is_to_be_killed(slurm: Cluster) -> None:
    failed = slurm.submit("exit 1")
    slurm.wait_state(failed, "FAILED")
    stuck = slurm.submit("true", "-d", f"afterok:{failed}")
    killed = slurm.submit("true", "-d", f"afterok:{failed}", "--kill-on-invalid-dep=yes")
    assert slurm.wait_state(killed, "CANCELLED").reason in ("Dependency", "DependencyNeverSatisfied")
    assert slurm.wait_job(stuck, lambda job: job.reason == "DependencyNeverSatisfied").state == "PENDING"


# -- daemons and nodes


def test_a_lost_node_means_two_live_copies_of_one_job(slurm: Cluster, tmp_path: Path) -> None:
    beats = f"while :; do echo beat >> {tmp_path}/$SLURMD_NODENAME; sleep 0.1; done"
    job = running(slurm, beats)
    node = slurm.job(job).nodes
    wait_for(lambda: lines(tmp_path / node), 10, "the first beat")  # what is seen before is a prolog perhaps
    (first, *_) = slurm.processes(job)
    slurm.fail_node(node, by_timeout=True)
    assert slurm.wait_state(job, "PENDING").restarts == 1
    slurm.start_now(job)
    again = slurm.wait_state(job, "RUNNING")
    assert again.nodes != node
    before = {each: len(lines(tmp_path / each)) for each in (node, again.nodes)}
    wait_for(
        lambda: all(len(lines(tmp_path / each)) > number + 2 for each, number in before.items()),
        10,
        "both beats",
    )
    assert first.alive()
    slurm.launch(node)
    wait_for(lambda: not first.alive(), 20, "the old copy to end when its node is back")
    assert slurm.job(job).state == "RUNNING"


def test_a_node_that_is_declared_down_ends_its_jobs_and_resume_brings_it_back(slurm: Cluster) -> None:
    job = running(slurm)
    slurm.down_node("n1")
    wait_for(lambda: not slurm.processes(job), 20, "the job's processes to end")
    assert slurm.node_states()["n1"].startswith("DOWN")
    assert slurm.wait_state(job, "PENDING").restarts == 1
    slurm.resume_node("n1")
    slurm.wait_idle()
    slurm.drain_node("n2")
    assert slurm.node_states()["n2"].startswith("DRAIN")


def test_jobs_survive_slurmctld_killed_and_started_again(slurm: Cluster) -> None:
    job = running(slurm)
    slurm.save()
    slurm.kill("slurmctld")
    with pytest.raises(ClusterError, match="`squeue` ended with 1"):
        slurm.run("squeue", MessageTimeout=2)
    slurm.launch("slurmctld")
    assert slurm.job(job).state == "RUNNING"
    assert slurm.processes(job)


def test_a_job_that_sbatch_has_confirmed_can_be_forgotten_with_its_process_alive(slurm: Cluster) -> None:
    slurm.save()
    job = running(slurm)
    slurm.kill("slurmctld")
    process = slurm.processes(job)[0]
    assert process.alive()
    slurm.launch("slurmctld")
    assert job not in slurm.jobs()
    wait_for(lambda: not process.alive(), 30, "the process to be ended when its node registers")
    assert slurm.submit("true", "-H") == job, "the id is given out again"


def test_a_job_whose_launch_fails_is_requeued_and_held(slurm: Cluster) -> None:
    spool = slurm.folder / "spool" / "n1"
    spool.rename(spool.with_name("away"))
    spool.touch()
    try:
        job = slurm.submit(LONG, "-w", "n1")
        held = slurm.wait_job(job, lambda job: job.state == "PENDING" and job.restarts, seconds=30)
    finally:
        spool.unlink()
        spool.with_name("away").rename(spool)
    assert "held" in held.reason


def test_every_other_daemon_can_be_restarted_under_a_running_job(slurm: Cluster) -> None:
    job = running(
        slurm, "while [ -e . ] && [ ! -e done ]; do sleep 0.05; done", "-w", "n2", "-D", str(slurm.folder)
    )
    for name in ("munged", "mariadbd", "slurmdbd", "n2"):
        slurm.restart(name)
        assert slurm.job(job).state == "RUNNING"
    (slurm.folder / "done").touch()
    slurm.wait_state(job, "COMPLETED")
    (slurm.folder / "done").unlink()


def test_without_slurmdbd_sacct_fails_and_the_queue_works(slurm: Cluster) -> None:
    slurm.kill("slurmdbd")
    done = slurm.run("sacct", "-j", "1", check=False)
    assert done.returncode != 0
    slurm.wait_state(slurm.submit("true"), "COMPLETED")


# -- memory


def test_changed_settings_hold_until_the_next_reset(slurm: Cluster) -> None:
    slurm.wipe()
    slurm.reconfigure(MaxJobCount=3, KillWait=7)
    config = slurm.run("scontrol", "show", "config").stdout
    assert "KillWait                = 7 sec" in config
    for _ in range(2):
        slurm.submit(LONG)
    with pytest.raises(ClusterError, match=r"did not end in 2 s: .*Slurm temporarily unable to accept job"):
        slurm.submit(LONG, seconds=2)
    slurm.reset()
    assert "KillWait                = 2 sec" in slurm.run("scontrol", "show", "config").stdout


def test_ids_begin_again_after_a_wipe(slurm: Cluster) -> None:
    old = running(slurm)
    slurm.wipe()
    assert slurm.jobs() == {}
    assert not slurm.processes(old)
    assert int(slurm.submit("true")) == 1


def test_reset_leaves_no_job_no_process_and_every_node_idle(slurm: Cluster) -> None:
    stubborn = running(
        slurm, "trap '' TERM\nsetsid sh -c 'while :; do sleep 0.1; done' &\nwhile :; do sleep 0.1; done"
    )
    slurm.submit(LONG, "-H")
    slurm.requeuehold(running(slurm), special_exit=True)
    slurm.down_node("n3")
    slurm.kill("n2")
    slurm.kill("slurmdbd")
    slurm.freeze("slurmctld")
    assert slurm.processes(stubborn)
    slurm.reset()
    assert set(slurm.node_states().values()) == {"IDLE"}
    assert slurm.processes() == []
    assert slurm.run("squeue", "-h").stdout == ""
    assert all(each.alive() for each in slurm.daemons.values())


# -- the program


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the program as people do."""
    command = [sys.executable, str(program.__file__), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_two_clusters_do_not_meet_and_down_works_without_the_starter(slurm: Cluster, folder: Path) -> None:
    up = call("up", "--folder", str(folder), "--no-accounting", "--nodes", "1")
    assert up.returncode == 0, up.stderr
    other = Cluster.attach(folder)
    assert f"export SLURM_CONF={other.place.conf}" in up.stdout
    assert "is up already" in call("up", "--folder", str(folder)).stdout
    assert call("status", "--folder", str(folder)).returncode == 0
    job = running(other)
    assert slurm.jobs().keys() & {job} == set() or slurm.processes(job) != other.processes(job)
    processes = [*other.processes(), *other.daemons.values()]
    assert call("down", "--folder", str(folder)).returncode == 0
    assert not any(each.alive() for each in processes)
    assert not folder.exists()
    slurm.wait_idle()


def test_what_a_killed_start_leaves_goes_with_down_and_with_the_next_up(folder: Path) -> None:
    require()
    command = [sys.executable, str(program.__file__), "up", "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as starter:
        wait_for(lambda: daemons.with_environment([(daemons.MARK, str(folder))]), 30, "the first daemon")
        starter.send_signal(signal.SIGKILL)
    assert call("status", "--folder", str(folder)).returncode == 1
    again = call("up", "--folder", str(folder), "--no-accounting", "--nodes", "1")
    assert "taking down what is left" in again.stdout
    assert again.returncode == 0, again.stderr
    call("down", "--folder", str(folder))
    assert not daemons.with_environment([(daemons.MARK, str(folder))])


def test_a_guard_ends_the_cluster_when_its_starter_is_gone(folder: Path) -> None:
    require(accounting=False)
    keeper = program.guard(folder)
    cluster = Cluster(folder, Options(nodes=1, accounting=False))
    cluster.start()
    keeper.communicate(timeout=30)
    assert not any(each.alive() for each in cluster.daemons.values())
    assert not folder.exists()


def test_a_failed_start_shows_the_log_and_leaves_nothing(folder: Path) -> None:
    require(accounting=False)
    bad = Cluster(folder, Options(nodes=1, accounting=False, extra=("NoSuchSetting=1",)))
    with pytest.raises(ClusterError, match="NoSuchSetting"):
        bad.start()
    assert not daemons.with_environment([(daemons.MARK, str(folder))])
    assert not folder.exists()


def test_the_reason_to_skip_names_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(configure, "SEARCHED", str(tmp_path))
    assert configure.missing() == list(configure.PROGRAMS)
    reason = configure.why_not(accounting=False)
    assert reason is not None
    assert "apt-get install munge slurmctld slurmd slurm-client" in reason
    monkeypatch.setenv("FURU_CI", "1")
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception), match="apt-get install") as caught:
        require()
    assert caught.type is pytest.fail.Exception, "a skip here would skip this test too"
    monkeypatch.delenv("FURU_CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install"):
        require()
