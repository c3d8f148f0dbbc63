"""The end of a `SlurmDag`'s run on the simulated Slurm: nothing is left, or it is said what."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.sim.dag_sim import Line, Part, SimDag, mortal
from tests.sim.test_dag_runs import World
from tests.unit.store.store_env import owner_card, paths_at, recover

from furu_async import FuruConfig, RunEvent, RunReport, SlurmDag, run_dag
from furu_async._dag import orders
from furu_async._dag.run import DagRun
from furu_async._executors.base import RunPort
from furu_async._executors.local import LocalExecutor
from furu_async._model.artifact import class_info
from furu_async._runtime.blocking import DOOR
from furu_async._slurm.port import Done, JobRequest, Rows, Silence
from furu_async._store.layout import RunPaths
from furu_async._testing.slurm_jobs import Copy
from furu_async.errors import FuruRunCancelled, FuruRunTimeout
from furu_async.testing import Fails, FakeExecutor, Hangs, Returns, run_virtual, tmp_root


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def beat_of(copy: Copy) -> Path:
    """Where the job of a copy beats."""
    given = dict(word[2:].split("=", 1) for word in copy.argv if word.startswith("--"))
    paths = RunPaths(given["root"], given["run"])
    task = copy.job_id.partition("_")[2]
    order = orders.read_order(paths.submission(given["sid"]))
    assert order is not None
    return Path(paths.worker(order.nodes[int(task or 0)].wid).beat)


async def cancelled(world: World, dag: SimDag, when: Callable[[], bool]) -> tuple[RunReport, float]:
    """A run that its caller cancels as soon as this is so: its report, and the seconds that it took to end."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def stop() -> None:
        nonlocal began
        while not when():
            await asyncio.sleep(0.5)
        began = loop.time()
        assert dag.executor is not None
        (run,) = dag.executor.runs
        run.stop("cancel")

    stopping = asyncio.create_task(stop())
    try:
        with pytest.raises(FuruRunCancelled) as raised:
            await world.run(dag)
    finally:
        await stopping
    assert raised.value.report is not None
    return raised.value.report, loop.time() - began


async def end_all_tasks() -> None:
    """What dead controllers and slow commands have left."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Slow(Line):
    """A cluster whose ``scancel`` takes its time."""

    def __init__(self, world: World, secs: float) -> None:
        super().__init__(world.slurm)
        self.secs = secs

    async def cancel(self, ids: Collection[str]) -> Done:
        await asyncio.sleep(self.secs)
        return await super().cancel(ids)


@pytest.mark.parametrize("word", [True, False], ids=["its word is there", "no word of it"])
def test_jobs_that_linger_after_their_results(root: FuruConfig, word: bool) -> None:
    """One that says itself that it ends is waited for a moment, another one for seconds; and that is told."""

    async def main() -> None:
        world, loop = World(root), asyncio.get_running_loop()
        honest, finished = world.jobs, [0.0]

        async def lingering(copy: Copy) -> int:
            beat = beat_of(copy) if not word else None
            code = await honest(copy)
            finished[0] = loop.time()
            if len(honest.acted) == 11:  # the last one
                if beat is not None:
                    beat.parent.mkdir(parents=True, exist_ok=True)
                    beat.write_text("1\n")
                await asyncio.sleep(60)
            return code

        world.slurm.program = lingering
        report = await world.run(world.controller())
        took = loop.time() - finished[0]
        assert report.ok
        assert len(world.living()) == 1
        if word:
            assert took < 2.5  # of which the last look at the store is most
            assert report.notes == ()
        else:
            assert 5 <= took < 9
            assert f"{world.living()[0]} (RUNNING)" in report.notes[-1]

    run_virtual(main(), seed=1)


def test_who_wants_to_leave_does_not_wait_for_jobs_that_linger(root: FuruConfig) -> None:
    async def main() -> None:
        world, loop = World(root), asyncio.get_running_loop()
        honest, over = world.jobs, asyncio.Event()

        async def lingering(copy: Copy) -> int:
            beat = beat_of(copy)
            code = await honest(copy)
            beat.parent.mkdir(parents=True, exist_ok=True)
            beat.write_text("1\n")
            await asyncio.sleep(60 if len(honest.acted) == 11 else 0)
            return code

        def listen(event: RunEvent) -> None:
            if event.kind == "workers" and "the run is over" in event.message:
                over.set()

        world.slurm.program = lingering
        running = asyncio.create_task(world.run(world.controller(), on_event=listen))
        await over.wait()  # it is told what is waited for
        began = loop.time()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert loop.time() - began < 0.5

    run_virtual(main(), seed=1)


def test_a_job_that_takes_a_moment_to_end(root: FuruConfig) -> None:
    async def main() -> None:
        world = World(root)
        honest = world.jobs

        async def slow(copy: Copy) -> int:
            code = await honest(copy)
            await asyncio.sleep(0.15)
            return code

        world.slurm.program = slow
        report = await world.run(world.controller())
        assert report.ok
        assert report.notes == ()
        assert world.living() == []

    run_virtual(main(), seed=1)


def test_computed_again(root: FuruConfig) -> None:
    """Results that are to be set aside are not taken for those of the run."""

    async def main() -> None:
        world = World(root)
        for arrays in (True, True, False):
            report = await world.run(world.controller(arrays=arrays), rerun=("ALL",))
            assert report.counts["created"] == 11, report.counts
            assert world.living() == []

    run_virtual(main(), seed=1)


@pytest.mark.parametrize("stop", [True, False])
def test_a_release_that_takes_twelve_seconds(
    root: FuruConfig, monkeypatch: pytest.MonkeyPatch, stop: bool
) -> None:
    """It gets what is left of the bound on a run that was stopped, ten seconds else, and can see how much that is."""
    left: list[float] = []
    whole: list[bool] = []

    async def slowly(self: LocalExecutor, run: RunPort) -> None:
        left.append(anyio.current_effective_deadline() - asyncio.get_running_loop().time())
        await asyncio.sleep(12)
        whole.append(True)

    monkeypatch.setattr(LocalExecutor, "release", slowly)

    async def main() -> None:
        target = Part(name="x")
        outcome = Hangs() if stop else Returns(1)
        timeout = 5.0 if stop else None
        running = run_dag(
            target,
            executor=FakeExecutor({}, outcome),
            config=root,
            timeout=timeout,
            check=False,
            progress=False,
        )
        if stop:
            with pytest.raises(FuruRunTimeout):
                await running
        else:
            await running
        assert 20 < left[0] <= 30 if stop else left == [10.0]
        assert bool(whole) == stop

    run_virtual(main(), seed=1)


@pytest.mark.parametrize("secs", [12.0, 100.0])
def test_a_slow_scancel_is_waited_for_or_told(root: FuruConfig, secs: float) -> None:
    async def main() -> None:
        world = World(root, script=lambda obj, attempt: Hangs())
        dag = SimDag(Slow(world, secs), SlurmDag())
        running = asyncio.get_running_loop().time() + 20
        report, took = await cancelled(world, dag, lambda: asyncio.get_running_loop().time() > running)
        assert took <= 30.5
        if secs == 12:
            assert world.living() == []
            assert report.notes == ()
        else:
            assert any("still in Slurm when the run ended" in note for note in report.notes)
        await end_all_tasks()

    run_virtual(main(), seed=1)


@pytest.mark.fault("F36", "F46")
def test_jobs_are_cancelled_though_the_queue_does_not_answer(root: FuruConfig) -> None:
    """`squeue` is silent, `scancel` works: what the queue had when it last answered is cancelled, in time."""

    class Mute(Line):
        mute = False

        async def query(self) -> Rows | Silence:
            return (
                Silence("squeue: error: Unable to contact slurm controller")
                if self.mute
                else await super().query()
            )

    async def main() -> None:
        world = World(root, script=lambda obj, attempt: Hangs())
        line = Mute(world.slurm)
        asyncio.get_running_loop().call_later(60, setattr, line, "mute", True)
        running = asyncio.get_running_loop().time() + 90
        _, took = await cancelled(
            world, SimDag(line, SlurmDag()), lambda: asyncio.get_running_loop().time() > running
        )
        assert took <= 30.5
        assert world.living() == []
        await end_all_tasks()

    run_virtual(main(), seed=1)


@pytest.mark.fault("F46")
def test_killed_between_the_intent_and_scancel(root: FuruConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One node of an array is over, one goes on, one is to be cancelled: the next call finishes that."""
    mortal(monkeypatch)

    async def main() -> None:
        world = World(root)
        a0, a1, a2 = (obj for obj in world.jobs.objs.values() if getattr(obj, "name", "")[0] == "a")
        script = {a0: Returns(1), a1: Hangs(), a2: Returns(1, after=30.0)}
        world.jobs.fake = FakeExecutor(script, default=Returns(1, after=1.0))

        class Dying(Line):
            async def cancel(self, ids: Collection[str]) -> Done:
                self.dead.set()
                return await super().cancel(ids)

        first = SimDag(Dying(world.slurm), SlurmDag())
        killed = asyncio.create_task(world.run(first))
        while world.jobs.acted.total() < 3:
            await asyncio.sleep(0.5)
        await asyncio.sleep(5)
        executor = first.executor
        assert executor is not None
        (dag,) = executor.runs.values()
        dag.kill(a1.furu_hash)
        await first.line.dead.wait()
        await first.die()
        assert not killed.done()
        array = {world.slurm.jobs[k].id for k in range(3)}
        assert sum(job in world.living() for job in array) == 2
        world.jobs.fake = FakeExecutor({}, default=Returns(1, after=1.0))
        began = asyncio.get_running_loop().time()
        report = await world.run(world.controller())
        assert report.ok, [node.failure for node in report if node.failure]
        assert asyncio.get_running_loop().time() - began < 60  # nobody waits for the one that hangs
        assert world.living() == []
        assert world.jobs.acted[a0.furu_hash] == world.jobs.acted[a2.furu_hash] == 1
        assert world.jobs.acted[a1.furu_hash] == 2
        await end_all_tasks()

    run_virtual(main(), seed=1)


def cancelled_and_killed(root: FuruConfig, seed: int) -> None:
    """A run is cancelled, its controller dies at some step of that, and the same call is made again."""

    async def main() -> None:
        draw = random.Random(seed)
        world = World(root)
        world.jobs.fake = FakeExecutor({}, default=Returns(1, after=draw.choice([3.0, 300.0])))
        first = world.controller(arrays=seed % 2 == 0)
        running = asyncio.create_task(world.run(first))
        await asyncio.sleep(draw.random() * 12)
        first.line.crash_at = first.line.steps + draw.randrange(1, 60)
        for run in list(first.executor.runs) if first.executor is not None else []:
            run.stop("cancel")
        dead = asyncio.create_task(first.line.dead.wait())
        await asyncio.wait([running, dead], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            dead.cancel()
            assert isinstance(running.exception(), FuruRunCancelled)
        else:
            await first.die()
        world.jobs.fake = FakeExecutor({}, default=Returns(1, after=1.0))
        report = await world.run(world.controller(arrays=seed % 2 == 0))
        assert report.ok, [node.failure for node in report if node.failure]
        assert world.living() == []
        assert max(world.jobs.acted.values()) <= 2
        await end_all_tasks()

    run_virtual(main(), seed=seed)


@pytest.mark.parametrize("part", range(2))
@pytest.mark.timeout(600)
def test_killed_at_any_step_of_a_cancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    mortal(monkeypatch)
    for seed in range(part * 20, part * 20 + 20):
        with tmp_root(tmp_path / f"store-{seed}", record_git="off") as config:
            try:
                cancelled_and_killed(config, seed)
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise


def test_an_id_that_is_somebody_elses_by_now(root: FuruConfig) -> None:
    """Slurm's state was lost and ids begin again: what has our jobs' ids is not ours."""

    async def main() -> None:
        world = World(root, script=lambda obj, attempt: Hangs())
        dag = world.controller(arrays=False)

        async def lose() -> bool:
            await asyncio.sleep(90)
            world.slurm.forget_everything()
            for _ in range(11):
                other = JobRequest(name="somebody", argv=("sh", "-c", "sleep 10000"))
                await world.slurm.submit(other)
            await asyncio.sleep(15)
            return True

        world.slurm.program = lambda copy: (
            world.jobs(copy) if copy.name.startswith("furu") else asyncio.sleep(10_000, 0)
        )
        losing = asyncio.create_task(lose())
        await cancelled(world, dag, losing.done)
        assert [job.name for job in world.slurm.jobs if not job.ended] == ["somebody"] * 11

    run_virtual(main(), seed=1)


def test_a_job_that_nobody_needs_any_more(root: FuruConfig) -> None:
    """Its node was made by somebody else, and it still waits in the queue when the run ends."""

    async def main() -> None:
        world = World(root)
        for node in world.slurm.settings.nodes:
            world.slurm.fail_node(node)
        running = asyncio.create_task(world.run(world.controller(arrays=False)))
        while len(world.slurm.jobs) < 11:
            await asyncio.sleep(1)
        for obj in world.jobs.objs.values():
            paths = paths_at(root.path, obj.furu_hash, class_info(type(obj)).name)
            await DOOR.files.run(recover, paths, owner_card(root.path, "other"))
        report = await running
        assert report.ok
        assert report.counts["cached"] == 11
        assert world.living() == []

    run_virtual(main(), seed=1)


def ghostly(root: FuruConfig, secs: float) -> World:
    """A cluster whose first ``sbatch`` times out, and whose job comes so many seconds later."""
    world = World(root, script=lambda obj, attempt: Hangs())
    world.slurm.mishap("ghost", secs)
    return world


@pytest.mark.fault("F34")
def test_a_held_job_that_turns_up_while_its_run_ends(root: FuruConfig) -> None:
    """It comes after the last of the looks that a cancelled submission makes."""

    async def main() -> None:
        world, begun = ghostly(root, 10.0), asyncio.get_running_loop().time()
        await cancelled(world, world.controller(), lambda: asyncio.get_running_loop().time() >= begun + 6)
        assert world.slurm.jobs
        assert world.living() == []

    run_virtual(main(), seed=1)


@pytest.mark.fault("F34")
def test_a_held_job_that_turns_up_after_its_run(root: FuruConfig) -> None:
    """``sbatch`` gave no answer, and nobody will ever release its job: the next run cancels it."""

    async def main() -> None:
        world = ghostly(root, 100.0)
        report, _ = await cancelled(world, world.controller(), lambda: world.slurm.counts["submit"] > 0)
        assert world.living() == []
        note = report.notes[-1]
        await asyncio.sleep(200)
        names = {world.slurm.job(job).name for job in world.living()}
        assert len(names) == 1  # an array
        assert f"scancel --name={names.pop()}" in note
        world.jobs.fake = FakeExecutor({}, default=Returns(1, after=1.0))
        report = await world.run(world.controller())
        assert report.ok
        assert "cancelled held jobs of earlier runs" in report.notes[-1]
        assert world.living() == []

    run_virtual(main(), seed=1)


def test_what_an_earlier_job_left_says_nothing_about_the_next(
    root: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that needs another job is looked at while that job is being claimed."""
    patiently = DagRun.patiently

    async def slowly(self: DagRun, fn: Any, *args: Any) -> Any:
        if getattr(fn, "__name__", "") == "_prepare":
            await asyncio.sleep(3)
        return await patiently(self, fn, *args)

    monkeypatch.setattr(DagRun, "patiently", slowly)

    async def main() -> None:
        world = World(root)
        bad = next(obj for obj in world.jobs.objs.values() if getattr(obj, "name", "") == "top")
        honest = world.jobs

        async def failing(copy: Copy) -> int:
            first = not honest.acted[bad.furu_hash]
            honest.fake = FakeExecutor({bad: Fails("oom")} if first else {}, default=Returns(1, after=1.0))
            return await honest(copy)

        world.slurm.program = failing
        report = await world.run(world.controller())
        assert report.ok, [node.failure for node in report if node.failure]
        assert [line.split(":")[0] for line in report[bad].history] == ["oom"]
        assert report[bad].attempts == 2

    run_virtual(main(), seed=1)
