"""Whole runs of a pool on virtual time: its controller, its workers and Slurm, and what goes wrong with each."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.sim.pool_sim import World, until
from tests.sim.sim_artifacts import Brief, Item, Resumable

from furu_async import RunEvent, SlurmSpec
from furu_async.testing import FakeExecutor, Hangs, Raises, Returns, run_virtual

pytestmark = pytest.mark.virtual_time
LONG = FakeExecutor(default=Returns(1, after=30.0))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path / "store", LONG)


def items(count: int, first: int = 0) -> list[Item]:
    return [Item(number=n) for n in range(first, first + count)]


async def test_a_dag_is_computed_and_nothing_is_left(world: World) -> None:
    layer = items(12)
    report = await world.run(Item(number=100, inputs=tuple(layer)), pool=world.pool(workers=3))
    assert report.counts["created"] == 13
    assert 150 <= report.duration < 170  # four rounds of three, and the last one
    assert world.slurm.counts["query"] <= report.duration + 10
    assert world.slurm.counts["submit"] == 1, "workers of one spec are one job array"


async def test_a_killed_worker_costs_its_task_one_attempt(world: World) -> None:
    async def kill(run: Any, executor: Any) -> None:
        (job,) = await until(world.working)
        world.kill(job)

    target = Item(number=1)
    report = await world.run(target, meanwhile=kill, pool=world.pool(workers=1))
    assert report[target].status == "created"
    assert report[target].attempts == 2
    assert report.duration < 2 + 30 + 2 + 15 + 10
    assert [line.partition(":")[0] for line in report[target].history] == ["lost"]


@pytest.mark.fault("F43")
async def test_a_preempted_worker_gives_its_tasks_back_without_a_strike(world: World) -> None:
    async def preempt(run: Any, executor: Any) -> None:
        (job,) = await until(world.working)
        world.slurm.preempt(job)

    target = Item(number=1)
    report = await world.run(target, meanwhile=preempt, pool=world.pool(workers=1), retries=0)
    assert report[target].status == "created"
    assert all("preempted" in line for line in report[target].history)


@pytest.mark.fault("F41")
async def test_a_requeued_worker_is_another_worker(world: World) -> None:
    async def requeue(run: Any, executor: Any) -> None:
        (job,) = await until(world.working)
        world.slurm.requeue(job)

    target = Item(number=1)
    report = await world.run(target, meanwhile=requeue, pool=world.pool(workers=1), retries=0)
    assert report[target].status == "created"
    assert "compute" not in "".join(report[target].history)


@pytest.mark.fault("F42")
async def test_a_node_that_fails_with_its_worker_alive_gives_one_result(world: World) -> None:
    async def fail(run: Any, executor: Any) -> None:
        await until(world.working)
        (copy,) = world.slurm.living
        world.slurm.fail_node(copy.node)

    target = Item(number=1)
    report = await world.run(target, meanwhile=fail, pool=world.pool(workers=1))
    assert report.ok
    assert world.ends(target, "tests.sim.sim_artifacts.Item").count("success") == 1


@pytest.mark.fault("F44")
async def test_a_task_that_began_late_gets_a_fresh_worker_and_pays_nothing(tmp_path: Path) -> None:
    first, second = Brief(number=1), Brief(number=2)
    script = FakeExecutor({first: Returns(1, after=150.0), second: Returns(2, after=200.0)})
    world = World(tmp_path / "store", script, preempt_max=0)
    top = Brief(number=3, inputs=(first,))  # so that the first one goes first
    wanted = []

    async def look(run: Any, executor: Any) -> None:
        for ticket in (1, 2):
            name = f"runs/*/queue/todo/*/*/{second.furu_hash}.{ticket}"
            (path,) = await until(lambda name=name: list(Path(world.root).glob(name)))
            wanted.append(json.loads(path.read_text()).get("whole", False))

    report = await world.run(top, second, meanwhile=look, pool=world.pool(workers=1))
    assert wanted == [False, True]
    assert report.ok, [node.failure for node in report]
    assert [line.partition(":")[0] for line in report[second].history] == ["preempted"]
    assert world.ends(second, "tests.sim.sim_artifacts.Brief") == ["preempted", "success"]
    assert len(world.pilots) == 2


@pytest.mark.fault("F44")
@pytest.mark.parametrize("workers", [1, 3])
async def test_a_task_that_fits_no_walltime_does_not_circle(tmp_path: Path, workers: int) -> None:
    """However late it begins: the second time it has all of a worker's time, and then it has failed."""
    endless = Brief(number=1)
    script = FakeExecutor({endless: Hangs()}, default=Returns(1, after=80.0))
    world = World(tmp_path / "store", script)
    others = [Brief(number=100 + n, inputs=(Brief(number=10 + n),)) for n in range(3)]
    report = await world.run(endless, *others, pool=world.pool(workers=workers))
    assert all(report[each].status == "created" for each in others)
    assert report[endless].status == "failed"
    assert report[endless].attempts <= 2
    failure = report[endless].failure
    assert failure is not None
    assert failure.kind == "timeout"
    assert "was not enough for it" in failure.message
    assert "time_min" in failure.hint()


@pytest.mark.fault("F44")
async def test_a_task_that_saves_nothing_does_not_circle_and_one_that_does_goes_on(tmp_path: Path) -> None:
    idle, saving = Resumable(number=1), Resumable(number=2)
    world = World(tmp_path / "store", FakeExecutor(default=Hangs()), preempt_max=2)
    (checkpoints,) = (Path(tmp_path / "store/data/tests/sim/sim_artifacts/Resumable") / saving.furu_hash,)

    async def save(run: Any, executor: Any) -> None:
        for step in range(5):
            folder = checkpoints / "checkpoints" / str(step + 1)
            await until(
                lambda folder=folder: (folder.parents[1] / ".furu/claims" / folder.name).exists(), 1e4
            )
            await asyncio.sleep(20.0)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "step").write_text(str(step))

    seen: list[RunEvent] = []
    pool = world.pool(workers=2)
    report = await world.run(idle, saving, meanwhile=save, pool=pool, on_event=seen.append)
    assert (report[idle].status, report[idle].attempts) == ("failed", 3)
    assert (report[saving].status, report[saving].attempts) == ("failed", 8)
    mine = [event for event in seen if event.hash == saving.furu_hash]
    assert [event.attempt for event in mine if event.kind == "node_started"] == list(range(1, 9))
    slices = [event for event in mine if event.kind == "node_retry"]
    assert [event.attempt for event in slices] == list(range(2, 9))
    assert all("all of its worker's walltime" in event.message for event in slices)
    for node in (idle, saving):
        failure = report[node].failure
        assert failure is not None
        assert failure.kind == "preempted"
        assert "furu_checkpoint_dir" in failure.hint()


@pytest.mark.fault("F46")
async def test_workers_that_somebody_cancels_give_their_tasks_back_and_are_replaced_twice(
    world: World,
) -> None:
    cancelled: list[str] = []

    async def cancel(run: Any, executor: Any) -> None:
        while True:
            (job,) = await until(lambda: [job for job in world.working() if job not in cancelled])
            cancelled.append(job)
            world.slurm.scancel(job)

    target = Item(number=1)
    report = await world.run(target, meanwhile=cancel, pool=world.pool(workers=1))
    assert len(cancelled) == 3
    failure = report[target].failure
    assert failure is not None
    assert "cancelled by somebody else" in failure.message
    assert "compute" not in "".join(report[target].history)


@pytest.mark.fault("F44", "F57")
async def test_the_end_of_a_workers_walltime_costs_a_short_task_nothing(world: World) -> None:
    spec = SlurmSpec(time_min=3)
    targets = [Walled(number=n) for n in range(12)]
    report = await world.run(*targets, pool=world.pool(workers={spec: 1}), retries=0)
    assert report.counts["created"] == 12
    assert len(world.slurm.jobs) > 2
    assert "compute" not in "".join(line for each in targets for line in report[each].history)


class Walled(Item):
    """On an allocation of three minutes."""

    _time_limit = 100.0

    def _spec(self) -> SlurmSpec:
        return SlurmSpec(time_min=3)


class Either(Item):
    """Prefers a partition that does not exist."""

    def _spec(self) -> list[SlurmSpec]:
        return [SlurmSpec(partition="nowhere"), SlurmSpec(partition="low")]


@pytest.mark.fault("F35")
async def test_a_rejected_spec_is_left_for_the_next_one(world: World) -> None:
    report = await world.run(Either(number=1), Item(number=2))
    assert report.counts["created"] == 2


class Nowhere(Item):
    """On a partition that does not exist."""

    def _spec(self) -> SlurmSpec:
        return SlurmSpec(partition="nowhere")


@pytest.mark.fault("F35")
async def test_a_rejected_spec_without_another_fails_its_nodes_with_slurms_words(world: World) -> None:
    report = await world.run(Nowhere(number=1), Item(number=2))
    assert report[Item(number=2)].status == "created"
    failure = report[Nowhere(number=1)].failure
    assert failure is not None
    assert failure.kind == "protocol"
    assert "invalid partition" in failure.message.lower()


@pytest.mark.fault("F51")
async def test_a_limit_of_slurm_is_waited_for_and_told(world: World) -> None:
    world.slurm.settings = replace(world.slurm.settings, max_submit=0, max_job_count=0)
    seen: list[str] = []

    async def allow(run: Any, executor: Any) -> None:
        await asyncio.sleep(3000)
        seen.append(run.why(Item(number=1)))
        world.slurm.settings = replace(world.slurm.settings, max_job_count=100)

    report = await world.run(Item(number=1), meanwhile=allow)
    assert report.ok
    assert "not submitted yet" in seen[0]


@pytest.mark.fault("F55")
async def test_workers_that_wait_for_hours_are_waited_for(world: World) -> None:
    world.slurm.settings = replace(world.slurm.settings, slots=0)
    seen: list[str] = []

    async def free(run: Any, executor: Any) -> None:
        await asyncio.sleep(3600)
        seen.append(run.why(Item(number=1)))
        world.slurm.settings = replace(world.slurm.settings, slots=4)
        world.slurm._schedule_soon()

    report = await world.run(Item(number=1), meanwhile=free, pool=world.pool(workers=1))
    assert report.ok
    assert report[Item(number=1)].attempts == 1
    assert "none at work yet" in seen[0]


@pytest.mark.fault("F56")
async def test_five_workers_that_die_young_stop_the_spec(world: World) -> None:
    async def broken(copy: Any) -> int:
        return 75

    world.before = broken
    report = await world.run(Item(number=1), pool=world.pool(workers=1))
    failure = report[Item(number=1)].failure
    assert failure is not None
    assert "5 workers in a row" in failure.message
    assert len(world.slurm.jobs) == 5


@pytest.mark.fault("F56")
async def test_where_all_but_one_worker_die_at_their_start_that_one_does_the_work(world: World) -> None:
    """Long tasks, so that it has finished none when five have died; what waits is its own, and nobody is stormed."""
    first: list[str] = []

    async def broken(copy: Any) -> int | None:
        if not first:
            first.append(copy.job_id)
        return None if copy.job_id == first[0] else 75

    world.before = broken
    world.script = FakeExecutor(default=Returns(1, after=300.0))
    layer = items(4)
    top = Item(number=100, inputs=tuple(layer))
    report = await world.run(top, pool=world.pool(workers=3))
    assert report.ok, [node.failure for node in report]
    assert len(world.pilots) == 1
    # Five before the first task has ended, then ever more slowly.
    assert 5 <= world.slurm.counts["submit"] <= 30
    (note,) = report.notes
    assert "died" in note
    assert " on n" in note


async def test_a_run_that_drains_begins_nothing_more_that_workers_have_taken_ahead(tmp_path: Path) -> None:
    """Tasks of a millisecond, so that 30 are taken ahead; then one fails while another one is under way."""
    quick, slow = items(100), [Item(number=500 + n, inputs=tuple(items(1))) for n in range(40)]
    bad = Item(number=999, inputs=tuple(items(1)))
    script = FakeExecutor(
        {**dict.fromkeys(quick, Returns(1, after=0.001)), bad: Raises(TypeError("no"), after=0.3)},
        default=Returns(1, after=200.0),
    )
    world = World(tmp_path / "store", script)
    above = Item(number=1000, inputs=(bad,))  # so that it goes before the slow ones
    pool = world.pool(workers=1, slots=2)
    report = await world.run(*quick, above, *slow, on_failure="drain", pool=pool)
    assert report[bad].status == "failed"
    assert {report[each].status for each in slow} <= {"created", "skipped"}
    assert sum(report[each].status == "created" for each in slow) <= 4
    assert report.duration < 450
    assert list(Path(world.root).glob("runs/*/queue/cancel/*")) == []


@pytest.mark.fault("F53")
async def test_a_controller_of_slurm_that_is_away_for_a_quarter_of_an_hour_is_bridged(world: World) -> None:
    async def away(run: Any, executor: Any) -> None:
        await until(world.working)
        world.slurm.kill_controller()
        await asyncio.sleep(870)
        world.slurm.start_controller()

    layer = items(60)
    report = await world.run(*layer, meanwhile=away, pool=world.pool(workers=2))
    assert report.counts["created"] == 60


@pytest.mark.fault("F34", "F53")
async def test_a_ghost_of_a_submission_does_no_harm(world: World) -> None:
    world.slurm.mishap("ghost", 5.0)
    report = await world.run(*items(3), pool=world.pool(workers=1))
    assert report.counts["created"] == 3
    assert len(world.slurm.jobs) == 1


async def test_a_worker_that_falls_silent_is_replaced(world: World) -> None:
    async def silence(run: Any, executor: Any) -> None:
        (job,) = await until(world.working)
        world.kill(job)
        world.slurm.kill_controller()  # nobody can say what became of it
        await asyncio.sleep(300)
        world.slurm.start_controller()

    target = Item(number=1)
    report = await world.run(target, meanwhile=silence, pool=world.pool(workers=1))
    assert report[target].status == "created"
    assert any("lost" in line for line in report[target].history)


async def test_a_stopped_beat_with_a_living_job_is_noticed_within_a_lease(tmp_path: Path) -> None:
    world = World(
        tmp_path / "store", FakeExecutor(default=Returns(1, after=400.0)), lease_secs=60, heartbeat_secs=7
    )

    async def mute(run: Any, executor: Any) -> None:
        await until(world.working)
        (wid,) = world.pilots
        world.keepers[wid].beating = False

    target = Item(number=1)
    report = await world.run(target, meanwhile=mute, pool=world.pool(workers=1))
    assert report[target].status == "created"
    assert report.duration < 400 + 60 + 100


@pytest.mark.fault("F81")
async def test_a_protocol_failure_in_the_queue_ends_the_run_with_its_story(world: World) -> None:
    from furu_async._pool import queue
    from furu_async._pool.entries import Report
    from furu_async.report import Failure

    async def inject(run: Any, executor: Any) -> None:
        await until(world.working)
        control = executor.control
        (name,) = control.tasks
        task = control.tasks[name]
        report = Report(
            hash=task.hash,
            name=task.origin.node.name,
            spec_key=task.spec_key,
            ticket=task.number,
            run_id=run.run_id,
            worker_id="w-injected",
            outcome="failed",
            failure=Failure(kind="protocol", message="other code", run_wide=True),
        )
        queue.report(control.paths, "w-injected", name, report)

    target = Item(number=1)
    report = await world.run(target, meanwhile=inject, pool=world.pool(workers=1))
    assert not report.ok
    failure = report[target].failure
    assert failure is not None
    for part in (f"failed/{target.furu_hash}", task_spec(), "w-injected", "attempt 1", "other code"):
        assert part in failure.message


def task_spec() -> str:
    return SlurmSpec().key


@pytest.mark.fault("F78")
async def test_a_report_that_cannot_be_read_is_asked_for_again_once(world: World) -> None:
    world.slurm.settings = replace(world.slurm.settings, slots=0)

    async def spoil(run: Any, executor: Any) -> None:
        for n in (1, 2):
            name = f"{target.furu_hash}.{n}"
            await until(lambda name=name: executor.control is not None and name in executor.control.tasks)
            Path(executor.control.paths.failed, name).write_bytes(b"{ torn")

    target = Item(number=1)
    report = await world.run(target, meanwhile=spoil)
    failure = report[target].failure
    assert failure is not None
    assert failure.kind == "protocol"
    assert "twice" in failure.message


async def trouble(world: World, chance: random.Random) -> None:
    """A few misfortunes."""
    for _ in range(chance.randint(1, 6)):
        await asyncio.sleep(chance.uniform(0, 40))
        living = world.slurm.living
        if not living:
            continue
        copy = chance.choice(living)
        what = chance.choice(["kill", "preempt", "requeue", "fail_node", "restart"])
        if what == "kill":
            copy.kill()
        elif what == "restart":
            world.slurm.kill_controller()
            try:
                await asyncio.sleep(chance.uniform(1, 100))
            finally:
                world.slurm.start_controller()
        elif what == "fail_node":
            world.slurm.fail_node(copy.node)
            await asyncio.sleep(30)
            world.slurm.resume_node(copy.node)
        else:
            getattr(world.slurm, what)(copy.job_id)


async def random_run(seed: int, folder: Path) -> None:
    """A run with misfortunes; every node is created once, within a day."""
    chance = random.Random(seed)
    world = World(folder, FakeExecutor(default=Returns(1, after=chance.choice([0.0, 1.0, 20.0]))))
    layer = items(chance.randint(1, 30))
    top = Item(number=1000, inputs=tuple(layer))
    pool = world.pool(workers=chance.randint(1, 4), slots=chance.randint(1, 3))
    async with asyncio.timeout(3000):
        report = await world.run(top, meanwhile=lambda *_: trouble(world, chance), pool=pool)
    assert report.counts["created"] + report.counts["cached"] == len(layer) + 1, report.counts
    for obj in (top, *layer):
        assert world.ends(obj, "tests.sim.sim_artifacts.Item").count("success") == 1


@pytest.mark.fault("F101")
@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_to_workers_every_node_is_created_once(seed: int, tmp_path: Path) -> None:
    run_virtual(random_run(seed, tmp_path / "store"))
