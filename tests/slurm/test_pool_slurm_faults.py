"""`SlurmPool` on a real cluster, and what Slurm, its nodes and people do to its jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from tests.slurm.cluster import Cluster
from tests.slurm.slurm_fault_artifacts import SPEC, Limited, Saving, Task, Unlucky
from tests.slurm.slurm_fault_helpers import SCALE, Bench, Shims

from furu_async import SlurmPool, SlurmSpec
from furu_async._pool import control
from furu_async._slurm import poller
from furu_async._slurm.protocol import SubmitRules

ALONE = {"exclusive": True}
"""Options of workers that have their nodes for themselves."""

OTHER = SlurmSpec(cpus=2, mem_gb=0.1, time_min=5)
BAD = SlurmSpec(partition="nowhere", cpus=1, mem_gb=0.1, time_min=5)


@pytest.fixture
async def bench(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A run's place; afterwards nothing of it is left in Slurm."""
    made = Bench(slurm, tmp_path, Shims(tmp_path / "shims", monkeypatch))
    yield made
    await made.nothing_left()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm is asked every second, and a job that may have been submitted is searched for in seconds.

    The settings have to say so too: ``poll_interval_secs=1``.
    """
    monkeypatch.setattr(poller, "STEADY_SECS", 1.0)
    rules = partial(SubmitRules, look_first=0.5, look_apart=2.0, look_every=1.0)
    monkeypatch.setattr(control, "SubmitRules", rules)


# -- submitting --------------------------------------------------------------------------------------------------


@pytest.mark.fault("F34")
async def test_sbatch_submits_and_reports_an_error(bench: Bench) -> None:
    bench.shims.put(
        "sbatch",
        """if [ -e "$dir/once" ]; then exec "$real" "$@"; fi
touch "$dir/once"
"$real" "$@" > /dev/null
echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
exit 1""",
    )
    report = await bench.start(Task(name="a", folder=bench.folder))
    assert report.ok, bench.story()
    assert len(bench.jobs()) == 1
    assert len(bench.shims.calls("sbatch")) == 1


@pytest.mark.fault("F35")
async def test_a_refusal_is_told_in_slurms_own_words_and_the_next_spec_is_used(bench: Bench) -> None:
    folder = bench.folder
    refused, second = (
        Task(name="refused", folder=folder, specs=(BAD,)),
        Task(name="second", folder=folder, specs=(BAD, SPEC)),
    )
    above = Task(name="above", parts=(refused,), folder=folder)
    report = await bench.start(above, second)
    assert report[second].status == "created", bench.story()
    assert report[refused].status == "failed"
    assert report[refused].failure is not None
    assert "invalid partition" in report[refused].failure.message.lower()
    assert report[above].because == "dependency"
    assert all(job.partition == "low" for job in bench.jobs().values())


@pytest.mark.fault("F34", "F53")
@pytest.mark.usefixtures("soon")
async def test_slurmctld_is_stopped_and_killed_while_workers_are_submitted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = bench.slurm
    monkeypatch.setenv("SLURM_CONF", slurm.environment(MessageTimeout=2)["SLURM_CONF"])
    first = Task(name="first", folder=bench.folder)
    second = Task(name="second", parts=(first,), what="gate", folder=bench.folder, specs=(OTHER,))
    last = Task(name="last", parts=(second,), folder=bench.folder)
    await bench.act(slurm.freeze, "slurmctld")
    running = bench.start(last)
    # It takes the call although it does not answer.
    await bench.until(lambda: bench.said("not submitted yet"), "a reason")
    await bench.act(slurm.thaw, "slurmctld")
    await bench.began("first")
    await bench.act(slurm.save)
    await bench.act(slurm.kill, "slurmctld")
    await bench.until(
        lambda: len(bench.shims.calls("sbatch")) >= 2 or bench.attempts("second"), "the next job"
    )
    await asyncio.sleep(0.5)  # as long as it is down
    await bench.act(slurm.launch, "slurmctld")
    await bench.began("second", seconds=40)
    bench.open("second")
    report = await running
    assert report.ok, bench.story()
    assert [len(bench.attempts(name)) for name in ("first", "second", "last")] == [1, 1, 1]
    assert len(bench.jobs()) == 2


@pytest.mark.fault("F51")
@pytest.mark.usefixtures("soon")
async def test_limits_are_waited_for_and_told(bench: Bench) -> None:
    slurm = bench.slurm
    blockers = [await bench.act(slurm.submit, "exec sleep 1000", "-H") for _ in range(2)]
    await bench.act(slurm.reconfigure, MaxJobCount=len(slurm.jobs()), MinJobAge=2)
    running = bench.start(
        Task(name="a", folder=bench.folder), config=bench.config(infra_secs=3, poll_interval_secs=1)
    )
    await bench.until(lambda: bench.said("not submitted yet", "1 pending"), "the reason")
    await asyncio.sleep(4)  # longer than trouble is waited out
    await bench.act(slurm.cancel, *blockers)
    report = await running
    assert report.ok, bench.story()


@pytest.mark.fault("F51")
async def test_of_several_workers_as_many_are_submitted_as_a_limit_allows(bench: Bench) -> None:
    slurm = bench.slurm
    await bench.act(slurm.reconfigure, AccountingStorageEnforce="associations,limits")
    change = ("sacctmgr", "-i", "modify", "user", "root", "set")
    await bench.act(slurm.run, *change, "MaxSubmitJobs=1")
    try:
        names = [f"t{k}" for k in range(3)]
        tasks = [Task(name=name, what="gate", folder=bench.folder) for name in names]
        running = bench.start(*tasks, pool=SlurmPool(workers=3))
        await bench.until(lambda: any(map(bench.attempts, names)), "a worker")
        await bench.until(lambda: bench.said("not submitted yet"), "the reason")
        assert len(bench.living()) == 1
        bench.open(*names)
        report = await running
    finally:
        await bench.act(slurm.run, *change, "MaxSubmitJobs=-1")
    assert report.ok, bench.story()


@pytest.mark.fault("F50")
async def test_an_array_is_cut_to_the_size_of_the_site(bench: Bench) -> None:
    await bench.act(bench.slurm.reconfigure, MaxArraySize=3)
    names = [f"t{k}" for k in range(4)]
    tasks = [Task(name=name, what="gate", folder=bench.folder) for name in names]
    running = bench.start(*tasks, pool=SlurmPool(workers=4))
    for name in names:
        await bench.began(name)
    jobs = bench.jobs()
    assert len(jobs) == 4
    assert any("_" in job for job in jobs)
    bench.open(*names)
    report = await running
    assert report.ok, bench.story()
    assert {attempt.job for name in names for attempt in bench.attempts(name)} <= {
        str(job.number) for job in jobs.values()
    }


# -- asking ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F36", "F37", "F38")
@pytest.mark.usefixtures("soon")
async def test_slurm_does_not_answer_and_then_has_forgotten_the_worker(bench: Bench) -> None:
    """Nothing is concluded while nobody can say how it ended: accounting is down, then late, then right."""
    slurm = bench.slurm
    await bench.act(slurm.reconfigure, MinJobAge=2)
    bench.shims.put(
        "squeue",
        """if [ "$ours" ] && [ -e "$dir/mute" ]; then
    echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1
fi
exec "$real" "$@\"""",
    )
    bench.shims.put(
        "sacct",
        """"$real" "$@" > "$dir/answer" || { touch "$dir/down"; exit 1; }
if [ "$ours" ] && [ ! -e "$dir/late" ]; then
    sed 's/|\\(FAILED\\|NODE_FAIL\\)|/|RUNNING|/' "$dir/answer"; touch "$dir/late"
else
    cat "$dir/answer"; touch "$dir/right"
fi""",
    )
    task = Task(name="a", what="first", folder=bench.folder)
    running = bench.start(task, config=bench.config(poll_interval_secs=1))
    job = (await bench.began("a")).job
    bench.shims.flag("mute")
    await bench.act(bench.kill_job, job)
    await bench.until(lambda: job not in slurm.jobs(), "the job to be forgotten")
    await bench.act(slurm.kill, "slurmdbd")
    bench.shims.flag("mute", False)
    await bench.until((bench.shims.folder / "down").exists, "a question while accounting is down", 40)
    assert len(bench.attempts("a")) == 1
    await bench.act(slurm.launch, "slurmdbd")
    await bench.until((bench.shims.folder / "late").exists, "a late answer", 40)
    if not (bench.shims.folder / "right").exists():
        assert len(bench.attempts("a")) == 1
    report = await running
    assert report.ok, bench.story()
    assert len(bench.attempts("a")) == 2
    assert bench.attempts("a")[1].job != job
    assert [line.partition(":")[0] for line in report[task].history] == ["lost"]


@pytest.mark.fault("F53")
@pytest.mark.usefixtures("soon")
async def test_slurmctld_is_away_while_workers_work(bench: Bench) -> None:
    slurm = bench.slurm
    first = Task(name="first", what="gate", folder=bench.folder)
    second = Task(name="second", parts=(first,), what="gate", folder=bench.folder)
    last = Task(name="last", parts=(second,), folder=bench.folder)
    running = bench.start(last, config=bench.config(poll_interval_secs=1))
    await bench.began("first")
    await bench.act(slurm.save)
    await bench.act(slurm.kill, "slurmctld")
    asked = len(bench.shims.calls("squeue", "--noheader"))
    bench.open("first")
    await bench.began("second")
    await bench.until(lambda: len(bench.shims.calls("squeue", "--noheader")) > asked, "a question")
    await bench.act(slurm.launch, "slurmctld")
    bench.open("second")
    report = await running
    assert report.ok, bench.story()
    assert len(bench.jobs()) == 1
    assert [len(bench.attempts(name)) for name in ("first", "second", "last")] == [1, 1, 1]


@pytest.mark.fault("F38", "F52")
async def test_a_confirmed_job_is_forgotten_and_its_id_given_out_again(bench: Bench) -> None:
    saved = await bench.save_state()
    running = bench.start(
        Task(name="a", what="first", folder=bench.folder), config=bench.config(lease_secs=5)
    )
    first = await bench.began("a")
    await bench.give_id_again(saved, first.job)
    report = await running
    assert report.ok, bench.story()
    assert len(bench.attempts("a")) == 2
    await bench.stranger_is_spared(first.job)


@pytest.mark.fault("F59", "F60")
async def test_slurm_is_asked_once_per_interval_for_all_jobs(bench: Bench) -> None:
    names = [f"t{k}" for k in range(6)]
    tasks = [Task(name=name, what="gate", folder=bench.folder) for name in names]
    running = bench.start(*tasks, pool=SlurmPool(workers=6))
    for name in names:
        await bench.began(name)
    calls = await bench.until(
        lambda: len(found := bench.shims.calls("squeue", "--noheader")) >= 4 and found, "four polls"
    )
    times = [at for at, _ in calls]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps) > 0.9
    # 1 s at first, then growing by a half each time, up to the interval.
    assert all(gap > 0.85 * min(1.5**k, 5.0) for k, gap in enumerate(gaps[:3])), gaps
    assert all("--states=all" in words and "--array" in words for _, words in calls)
    for _, words in bench.shims.calls("sacct", "--noheader"):
        assert "--starttime=now-" in words
        assert "--jobs=" in words or "--name=" in words
    bench.open(*names)
    report = await running
    assert report.ok, bench.story()


# -- jobs that end, or stop ----------------------------------------------------------------------------------------


@pytest.mark.fault("F43")
async def test_a_preempted_worker_is_replaced_within_seconds(bench: Bench) -> None:
    slurm = bench.slurm
    stubborn = Task(name="stubborn", what="stubborn", folder=bench.folder)
    other = Task(name="other", what="gate", folder=bench.folder)
    running = bench.start(stubborn, other, pool=SlurmPool(workers=2, slurm_additional_parameters=ALONE))
    first = await bench.began("stubborn")
    await bench.began("other")
    await bench.until(
        lambda: [job for job in bench.jobs().values() if job.state == "RUNNING"][1:], "both workers"
    )
    (job,) = [job for job in bench.jobs().values() if str(job.number) == first.job]
    winner = await bench.act(slurm.preempt, job.id)
    again = await bench.began("stubborn", 2)
    told = float((bench.folder / "stubborn.term").read_text().splitlines()[0])
    assert again.at - told < 5 * SCALE
    await bench.act(slurm.cancel, winner)
    bench.open("other")
    report = await running
    assert report.ok, bench.story()
    assert [line.partition(":")[0] for line in report[stubborn].history] == ["preempted"]
    assert len(bench.attempts("other")) == 1


@pytest.mark.fault("F41")
async def test_a_requeued_worker_and_a_task_that_saves_first(bench: Bench) -> None:
    slurm = bench.slurm
    saving = Saving(name="saving", what="stubborn", folder=bench.folder)
    running = bench.start(saving)
    first = await bench.began("saving")
    await bench.act(slurm.requeue, first.job)
    report = await running
    assert report.ok, bench.story()
    assert await report.load(saving) == 7  # it had its time to save
    assert [line.partition(":")[0] for line in report[saving].history] == ["preempted"]
    assert len(bench.attempts("saving")) == 2


@pytest.mark.fault("F43")
async def test_a_preempted_worker_that_may_not_be_requeued(bench: Bench) -> None:
    slurm = bench.slurm
    pool = SlurmPool(workers=1, slurm_additional_parameters={"no_requeue": True})
    task = Task(name="a", what="first", folder=bench.folder)
    running = bench.start(task, pool=pool)
    first = await bench.began("a")
    winner = await bench.act(slurm.preempt, first.job)
    report = await running
    await bench.act(slurm.cancel, winner)
    assert report.ok, bench.story()
    assert [line.partition(":")[0] for line in report[task].history] == ["preempted"]
    assert bench.attempts("a")[1].job != first.job


@pytest.mark.fault("F42")
async def test_a_node_is_lost_and_the_old_copy_goes_on(bench: Bench) -> None:
    slurm = bench.slurm
    task = Task(name="a", what="gate", folder=bench.folder)
    above = Task(name="b", parts=(task,), folder=bench.folder)
    running = bench.start(above, config=bench.config(lease_secs=8))
    first = await bench.began("a")
    await bench.act(slurm.fail_node, first.node)
    # Slurm puts the job back into its queue, so another one is there for the task; the old process lives on.
    await bench.until(lambda: len(bench.jobs()) == 2, "another worker")
    assert slurm.processes(first.job)
    bench.open("a")
    report = await running
    assert report.ok, bench.story()
    assert await report.load(above) == 2
    ends = list((bench.folder / "store" / "data").glob(f"**/{task.furu_hash}/.furu/ends/*"))
    published = [path for path in ends if '"success"' in path.read_text()]
    assert len(published) == 1
    assert len(bench.attempts("a")) == 1
    await bench.act(slurm.launch, first.node)


@pytest.mark.fault("F46")
@pytest.mark.usefixtures("soon")
async def test_somebody_cancels_pilots_again_and_again(bench: Bench) -> None:
    task = Task(name="a", what="gate", folder=bench.folder)
    running = bench.start(task, config=bench.config(poll_interval_secs=1))
    for time_ in (1, 2, 3):
        attempt = await bench.began("a", time_)
        await bench.act(bench.slurm.cancel, attempt.job)
    report = await running
    assert report[task].status == "failed"
    failure = report[task].failure
    assert failure is not None
    assert "cancelled by somebody else" in failure.message
    assert len(bench.attempts("a")) == 3
    assert len(bench.jobs()) == 3


@pytest.mark.fault("F47")
@pytest.mark.usefixtures("soon")
async def test_a_suspended_worker_is_not_lost(bench: Bench) -> None:
    slurm = bench.slurm
    running = bench.start(
        Task(name="a", what="gate", folder=bench.folder),
        config=bench.config(lease_secs=4, poll_interval_secs=1),
    )
    job = (await bench.began("a")).job
    await bench.act(slurm.suspend, job)
    await asyncio.sleep(6)  # longer than a lease
    await bench.act(slurm.resume, job)
    bench.open("a")
    report = await running
    assert report.ok, bench.story()
    assert len(bench.attempts("a")) == 1
    assert len(bench.jobs()) == 1


@pytest.mark.fault("F48", "F55")
async def test_a_worker_that_waits_has_no_lease_and_says_why(bench: Bench) -> None:
    slurm = bench.slurm
    for node in slurm.options.names:
        await bench.act(slurm.drain_node, node)
    config = bench.config(lease_secs=2, heartbeat_grace_secs=2)
    task = Task(name="a", folder=bench.folder)
    running = bench.start(task, config=config)
    await bench.until(lambda: bench.said("1 workers", "not") or bench.said("Nodes"), "a reason")
    ((job, _),) = (await bench.until(bench.jobs, "the job")).items()
    await bench.act(slurm.hold, job)
    await bench.until(lambda: bench.said("JobHeld", "scontrol release"), "the reason")
    await asyncio.sleep(3)  # longer than a lease
    await bench.act(slurm.release, job)
    for node in slurm.options.names:
        await bench.act(slurm.resume_node, node)
    first = await bench.began("a")
    assert first.job == job
    report = await running
    assert report.ok, bench.story()
    assert len(bench.jobs()) == 1
    assert report[task].attempts == 1


@pytest.mark.fault("F41", "F48")
async def test_a_worker_is_requeued_and_held(bench: Bench) -> None:
    slurm = bench.slurm
    task = Task(name="a", what="first", folder=bench.folder)
    running = bench.start(task)
    first = await bench.began("a")
    await bench.act(slurm.requeuehold, first.job)
    report = await running
    assert report.ok, bench.story()
    assert [line.partition(":")[0] for line in report[task].history] == ["preempted"]
    assert bench.attempts("a")[1].job != first.job


@pytest.mark.fault("F48")
async def test_a_worker_that_can_never_start_ends_its_nodes(bench: Bench) -> None:
    slurm = bench.slurm
    task = Task(name="a", folder=bench.folder)
    await bench.act(slurm.run, "scontrol", "update", "PartitionName=low", "MaxTime=1")
    try:
        report = await bench.start(task)
    finally:
        await bench.act(slurm.run, "scontrol", "update", "PartitionName=low", "MaxTime=UNLIMITED")
    assert report[task].status == "failed"
    failure = report[task].failure
    assert failure is not None
    assert "PartitionTimeLimit" in failure.message
    assert "time_min" in failure.message


@pytest.mark.fault("F44", "F57")
async def test_the_walltime_of_pilots_is_over_or_too_short(bench: Bench) -> None:
    """One is ended by Slurm while it works; what another believes to have left is too short for the next task."""
    slurm = bench.slurm
    ends = bench.folder / "ends"
    # Slurm looks at walltimes every thirty seconds, so both are waited for together.
    setup = (
        'if [ "$SLURM_CPUS_PER_TASK" = 2 ]; then',
        f"export SLURM_JOB_END_TIME=$(($(date +%s) + 32)); echo $SLURM_JOB_END_TIME >> {ends}",
        "fi",
    )
    over = Task(name="over", what="first", folder=bench.folder)
    long = Task(name="long", what="gate", folder=bench.folder, specs=(OTHER,))
    limited = Limited(name="limited", parts=(long,), folder=bench.folder, specs=(OTHER,))
    running = bench.start(over, limited, pool=SlurmPool(workers=1, setup=setup))
    first = await bench.began("over")
    await bench.act(slurm.run, "scontrol", "update", f"JobId={first.job}", "EndTime=now+1")
    pilot = await bench.began("long")
    until = float(ends.read_text()) - 24  # its limit of 20 s and the grace period do not fit then
    await bench.until(lambda: time.time() > until, "the time that is left to be too short")
    bench.open("long")
    report = await running
    assert report.ok, bench.story()
    assert [line.partition(":")[0] for line in report[over].history] == ["preempted"]
    assert bench.attempts("over")[1].job != first.job
    assert slurm.jobs()[first.job].state == "TIMEOUT"
    assert bench.attempts("limited")[0].job != pilot.job
    assert report[limited].attempts == 1
    assert report[limited].history == ()


@pytest.mark.fault("F44", "F58")
async def test_the_walltime_of_pilots_ends_as_was_known(bench: Bench) -> None:
    """What had a part of it costs nothing and has a fresh pilot next; what had all of it would need more."""
    small = SlurmSpec(cpus=1, mem_gb=0.1, time_min=1)
    other = SlurmSpec(cpus=2, mem_gb=0.1, time_min=1)
    done = Task(name="done", folder=bench.folder, specs=(small,))
    late = Task(name="late", parts=(done,), what="first", folder=bench.folder, specs=(small,))
    endless = Task(name="endless", what="gate", folder=bench.folder, specs=(other,))
    report = await bench.start(late, endless, config=bench.config(preempt_max=0), timeout=200 * SCALE)
    assert report[late].status == "created", bench.story()
    assert [line.partition(":")[0] for line in report[late].history] == ["preempted"]
    first, second = bench.attempts("late")
    assert bench.attempts("done")[0].job == first.job != second.job
    failure = report[endless].failure
    assert failure is not None
    assert (failure.kind, report[endless].attempts) == ("timeout", 1), bench.story()
    assert "all of its worker's walltime" in failure.message
    assert "time_min" in failure.hint()


@pytest.mark.fault("F58")
@pytest.mark.parametrize("name", ["USR1", "USR2"])
async def test_signals_before_the_end_are_no_failure_of_the_node(bench: Bench, name: str) -> None:
    task = Task(name="a", what="gate" if name == "USR1" else "first", folder=bench.folder)
    later = Task(name="b", parts=(task,), folder=bench.folder)
    running = bench.start(later)
    first = await bench.began("a")
    await bench.act(bench.slurm.run, "scancel", f"--signal={name}", "--batch", first.job)
    if name == "USR1":
        await bench.until(lambda: "draining" in _log(bench), "the worker to hear it")
        bench.open("a")
    report = await running
    assert report.ok, bench.story()
    kinds = [line.partition(":")[0] for line in report[task].history]
    assert kinds == ([] if name == "USR1" else ["preempted"])
    assert bench.attempts("b")[0].job != first.job


# -- states that this Slurm does not give --------------------------------------------------------------------------


@pytest.mark.fault("F49")
@pytest.mark.usefixtures("soon")
async def test_workers_that_slurm_cannot_start_are_bounded(bench: Bench) -> None:
    state = "BOOT_FAIL"
    bench.shims.put(
        "squeue",
        f"""[ "$ours" ] || exec "$real" "$@"
"$real" "$@" | sed 's/|PENDING /|{state} /'""",
    )
    task = Task(name="a", folder=bench.folder)
    for node in bench.slurm.options.names:
        await bench.act(bench.slurm.drain_node, node)
    report = await bench.start(task, config=bench.config(poll_interval_secs=1))
    await bench.act(bench.slurm.cancel, *bench.jobs())
    assert report[task].status == "failed"
    failure = report[task].failure
    assert failure is not None
    assert state in failure.message
    assert len(bench.jobs()) == 5
    assert report[task].history == ()


@pytest.mark.fault("F45", "F54")
@pytest.mark.parametrize("state", ["OUT_OF_MEMORY", "COMPLETED"])
async def test_the_word_for_a_dead_worker(bench: Bench, state: str) -> None:
    bench.shims.put(
        "squeue",
        f"""[ "$ours" ] || exec "$real" "$@"
"$real" "$@" | sed 's/|FAILED /|{state} /'""",
    )
    larger = SlurmSpec(cpus=1, mem_gb=0.2, time_min=5)
    done = Task(name="done", folder=bench.folder)
    task = Task(name="a", parts=(done,), what="first", folder=bench.folder, specs=(SPEC, larger))
    running = bench.start(task)
    first = await bench.began("a")
    await bench.act(bench.kill_job, first.job)
    report = await running
    assert report.ok, bench.story()
    kind = "oom" if state == "OUT_OF_MEMORY" else "lost"
    assert [line.partition(":")[0] for line in report[task].history] == [kind]
    second = bench.attempts("a")[1].job
    memory = bench.slurm.show(second)["MinMemoryNode"]
    assert memory == ("205M" if kind == "oom" else "103M")
    assert len(bench.attempts("done")) == 1


@pytest.mark.fault("F54")
async def test_a_worker_that_fails_after_its_results(bench: Bench) -> None:
    """Its job fails, as Slurm says; what it has published counts."""
    first = Unlucky(name="a", folder=bench.folder)
    second = Task(name="b", what="gate", folder=bench.folder)
    running = bench.start(first, second, pool=SlurmPool(workers=1, idle=0.2))
    job = (await bench.began("a")).job
    await bench.act(bench.slurm.wait_state, job, "FAILED")
    bench.open("b")
    report = await running
    assert report.ok, bench.story()
    assert [report[task].attempts for task in (first, second)] == [1, 1]
    assert len(bench.jobs()) == 2


@pytest.mark.fault("F56")
async def test_a_node_without_the_environment(bench: Bench) -> None:
    """What starts there dies; what can start elsewhere does the work."""
    setup = '[ "$SLURMD_NODENAME" != n1 ] || { echo "no such module: env"; exit 3; }'
    names = [f"t{k}" for k in range(6)]
    tasks = [Task(name=name, what="gate", folder=bench.folder) for name in names]
    running = bench.start(*tasks, pool=SlurmPool(workers=3, setup=[setup], slurm_additional_parameters=ALONE))
    await bench.until(lambda: "no such module" in _log(bench), "the end of a job on n1")
    bench.open(*names)
    report = await running
    assert report.ok, bench.story()
    assert {attempt.node for name in names for attempt in bench.attempts(name)} <= {"n2", "n3"}


@pytest.fixture
def blind(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A node that does not see the store: there is an empty folder in its place."""
    node, store = "n1", tmp_path / "store"
    store.mkdir()
    command = slurm._command
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(store))
    monkeypatch.setattr(
        slurm, "_command", lambda name: [*(hide if name == node else ()), *command(name)], raising=True
    )
    slurm.shut_down(node)
    slurm.launch(node)
    slurm.wait_idle()
    yield node
    monkeypatch.undo()
    slurm.restart(node)


@pytest.mark.fault("F56")
@pytest.mark.usefixtures("soon")
async def test_a_node_that_does_not_see_the_store(blind: str, bench: Bench) -> None:
    """The others work, though they have finished nothing when the fifth worker dies there; people are told where."""
    names = [f"t{k}" for k in range(4)]
    tasks = [Task(name=name, what="gate", folder=bench.folder) for name in names]
    top = Task(name="top", parts=tuple(tasks), folder=bench.folder)
    running = bench.start(
        top,
        pool=SlurmPool(workers=3, slurm_additional_parameters=ALONE),
        config=bench.config(poll_interval_secs=1),
    )

    def died() -> list[str]:
        return [job.id for job in bench.jobs().values() if job.state == "FAILED"]

    await bench.until(lambda: len(died()) >= 5, "five deaths", 60)
    assert bench.said("a worker on", blind, "died")
    await asyncio.sleep(3)  # long enough for a sixth, if there were one
    assert len(died()) == 5
    bench.open(*names)
    report = await running
    assert report.ok, bench.story()
    assert {attempt.node for name in names for attempt in bench.attempts(name)} <= {"n2", "n3"}
    assert any(f"a worker on {blind} died" in note and "store" in note for note in report.notes)


def _log(bench: Bench) -> str:
    """Everything that workers have written."""
    logs = (bench.folder / "store" / "runs").glob("*/logs/*.log")
    return "".join(path.read_text() for path in logs)
