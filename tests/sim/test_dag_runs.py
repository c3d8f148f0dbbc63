"""`SlurmDag` on the simulated Slurm and virtual time: whole runs, misfortunes, controllers killed at every step."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.laboratory import chosen, repeatable
from tests.sim.dag_sim import Jobs, Line, Part, Saving, SimDag, mortal

from furu_async import FuruConfig, RunEvent, RunReport, Scheduler, SlurmDag, run_dag
from furu_async._testing.slurm import SimSettings, SimulatedSlurm
from furu_async.testing import Fails, FakeExecutor, Hangs, Returns, run_virtual, tmp_root

SETTINGS = SimSettings(slots=4, kill_wait=2.0, requeue_delay=5.0, message_timeout=5.0, acct_lag=1.0)
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL")


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def small_dag() -> list[Part]:
    """Eleven nodes: arrays in some layers, single jobs in others."""
    one = [Part(name=f"a{k}") for k in range(3)]
    two = [Part(name=f"b{k}", parts=tuple(one[: 2 + k % 2])) for k in range(4)]
    three = [Part(name=f"c{k}", parts=(two[k], two[(k + 1) % 4])) for k in range(3)]
    return [Part(name="top", parts=tuple(three))]


class World:
    """A cluster, its jobs, and a DAG."""

    def __init__(self, config: FuruConfig, script: Any = None, **settings: Any) -> None:
        self.config = config
        self.targets = small_dag()
        fake = FakeExecutor(script or {}, default=Returns(1, after=3.0))
        self.jobs = Jobs(config, fake, self.targets)
        changed = {name: value for name, value in settings.items()}
        self.slurm = SimulatedSlurm(SimSettings(**{**_plain(SETTINGS), **changed}), self.jobs)

    def controller(self, crash_at: int = 0, arrays: bool = True, max_jobs: int | None = None) -> SimDag:
        return SimDag(Line(self.slurm, crash_at), SlurmDag(arrays=arrays, max_jobs=max_jobs))

    async def run(self, dag: SimDag, **options: Any) -> RunReport:
        options.setdefault("check", False)
        options.setdefault("timeout", 20_000)
        return await run_dag(self.targets, executor=dag, config=self.config, progress=False, **options)

    def living(self) -> list[str]:
        return [job.id for job in self.slurm.jobs if not job.ended]


def _plain(settings: SimSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in SimSettings.__dataclass_fields__}


def test_a_run_that_goes_well(root: FuruConfig) -> None:
    async def main() -> None:
        world = World(root)
        report = await world.run(world.controller())
        assert report.ok, [node.failure for node in report if node.failure]
        assert report.counts["created"] == 11
        assert set(world.jobs.acted.values()) == {1}
        assert world.living() == []

    run_virtual(main(), seed=1)


@pytest.mark.fault("F51")
def test_limits_of_the_cluster_are_waited_for(root: FuruConfig) -> None:
    """Two jobs at a time, in a DAG of eleven: waves that never wait for jobs that are held."""

    async def main() -> None:
        world = World(root, max_submit=2)
        report = await world.run(world.controller())
        assert report.ok, [node.failure for node in report if node.failure]
        assert set(world.jobs.acted.values()) == {1}

    run_virtual(main(), seed=1)


@pytest.mark.fault("F39")
def test_a_failure_skips_what_depends_on_it(root: FuruConfig) -> None:
    async def main() -> None:
        world = World(root)
        bad = next(obj for obj in world.jobs.objs.values() if getattr(obj, "name", "") == "b0")
        world.jobs.fake = FakeExecutor({bad: Fails("compute")}, default=Returns(1, after=3.0))
        report = await world.run(world.controller())
        assert report[bad].status == "failed"
        assert report[bad].attempts == 4
        assert report.counts == {"created": 8, "cached": 0, "failed": 1, "skipped": 2, "cancelled": 0}
        assert world.living() == []

    run_virtual(main(), seed=1)


@pytest.mark.fault("F45")
def test_another_specification_for_what_ran_out_of_memory(root: FuruConfig) -> None:
    async def main() -> None:
        world = World(root)
        bad = next(obj for obj in world.jobs.objs.values() if getattr(obj, "name", "") == "a0")
        outcomes = [Fails("oom"), Returns(1)]
        seen: list[int] = []

        class Changing(Jobs):
            async def __call__(self, copy: Any) -> int:
                argv = dict(word[2:].split("=", 1) for word in copy.argv if word.startswith("--"))
                self.fake = FakeExecutor({bad: outcomes[min(len(seen), 1)]}, default=Returns(1, after=3.0))
                code = await super().__call__(copy)
                if code and argv:
                    seen.append(code)
                return code

        jobs = Changing(root, world.jobs.fake, world.targets)
        world.slurm.program = jobs
        report = await world.run(world.controller(arrays=False))
        assert report.ok, [node.failure for node in report if node.failure]
        assert [line.split(":")[0] for line in report[bad].history] == ["oom"]
        assert jobs.acted[bad.furu_hash] == 2

    run_virtual(main(), seed=1)


@pytest.mark.fault("F54")
@pytest.mark.parametrize("lie", ["completed without a result", "failed with one"])
def test_the_store_decides_what_a_job_has_done(root: FuruConfig, lie: str) -> None:
    async def main() -> None:
        world = World(root)
        honest, told = world.jobs, []

        async def lying(copy: Any) -> int:
            if not told and "a" in copy.name:
                told.append(copy.job_id)
                return 0 if lie.startswith("completed") else await honest(copy) + 1
            return await honest(copy)

        world.slurm.program = lying
        report = await world.run(world.controller(arrays=False))
        assert report.ok, [node.failure for node in report if node.failure]
        assert max(honest.acted.values()) <= 2
        assert world.living() == []

    run_virtual(main(), seed=1)


@pytest.mark.fault("F41")
@pytest.mark.parametrize("after", [0.0, 0.01, 2.0])
def test_a_start_that_nobody_saw_is_an_attempt(root: FuruConfig, after: float) -> None:
    """A job that is requeued before the controller has looked at it, or while it is known to run."""

    async def main() -> None:
        world = World(root)
        honest, hit = world.jobs, []

        async def requeued(copy: Any) -> int:
            if not hit:
                hit.append(copy.job_id)
                asyncio.get_running_loop().call_later(after, world.slurm.requeue, copy.job_id)
            return await honest(copy)

        world.slurm.program = requeued
        report = await world.run(world.controller(arrays=False))
        assert report.ok, [node.failure for node in report if node.failure]
        (again,) = [node for node in report if node.attempts == 2]
        assert [line.split(":")[0] for line in again.history] == ["preempted"]

    run_virtual(main(), seed=1)


@pytest.mark.fault("F44")
def test_ends_of_walltime_cost_nothing_while_the_checkpoint_changes(root: FuruConfig) -> None:
    config = replace(root, preempt_max=2)

    async def main() -> None:
        world = World(config)
        saving, idle = Saving(name="saving"), Saving(name="idle")
        world.targets = [saving, idle]
        world.jobs = Jobs(config, FakeExecutor(default=Hangs()), world.targets)
        world.slurm.program = world.jobs
        base = Path(root.path) / "data/tests/sim/dag_sim/Saving" / saving.furu_hash

        async def save() -> None:
            for step in range(1, 6):
                while not (base / ".furu/claims" / str(step)).exists():
                    await asyncio.sleep(1.0)
                await asyncio.sleep(60.0)
                folder = base / "checkpoints" / str(step)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "step").write_text(str(step))

        helping = asyncio.get_running_loop().create_task(save())
        seen: list[RunEvent] = []
        report = await world.run(world.controller(), on_event=seen.append)
        await helping
        assert (report[idle].status, report[idle].attempts) == ("failed", 3)
        assert (report[saving].status, report[saving].attempts) == ("failed", 8)
        mine = [event for event in seen if event.hash == saving.furu_hash]
        assert [event.attempt for event in mine if event.kind == "node_started"] == list(range(1, 9))
        slices = [event for event in mine if event.kind == "node_retry"]
        assert [event.attempt for event in slices] == list(range(2, 9))
        assert all(event.message.startswith("preempted: ") for event in slices)
        for node in (idle, saving):
            failure = report[node].failure
            assert failure is not None
            assert failure.kind == "preempted"

    run_virtual(main(), seed=1)


@pytest.mark.fault("F70")
@pytest.mark.parametrize("seed", range(30))
def test_two_runs_that_share_nodes(root: FuruConfig, seed: int) -> None:
    """At about the same time: each shared node is computed once, and both go on from it, however late they look."""
    draw = random.Random(seed)

    async def main() -> None:
        world = World(root)
        shared = [Part(name=f"s{k}") for k in range(3)]
        tops = [Part(name=f"t{k}", parts=tuple(shared)) for k in range(2)]
        script = {each: Returns(1, after=draw.uniform(0.0, 4.0)) for each in shared}
        world.jobs = Jobs(root, FakeExecutor(script, default=Returns(1)), tops)
        world.slurm.program = world.jobs

        async def one(top: Part, after: float) -> RunReport:
            await asyncio.sleep(after)
            dag, options = world.controller(arrays=draw.random() < 0.5), {"check": False, "timeout": 3000}
            return await run_dag([top, *shared], executor=dag, config=root, progress=False, **options)

        first, second = await asyncio.gather(one(tops[0], 0.0), one(tops[1], draw.uniform(0.0, 8.0)))
        assert first.ok, [node.failure for node in first if node.failure]
        assert second.ok, [node.failure for node in second if node.failure]
        assert set(world.jobs.acted.values()) == {1}
        assert world.living() == []

    run_virtual(main(), seed=seed)


@pytest.mark.fault("F55")
def test_days_in_the_queue(root: FuruConfig) -> None:
    """No lease runs while a job waits, neither for its own run nor for one that waits for its result."""

    async def main() -> None:
        world = World(root)
        for node in world.slurm.settings.nodes:
            world.slurm.fail_node(node)
        running = asyncio.create_task(world.run(world.controller(), timeout=10 * 86400.0))
        await asyncio.sleep(60)
        other = asyncio.create_task(world.run(world.controller(arrays=False), timeout=10 * 86400.0))
        await asyncio.sleep(86400.0)
        assert not running.done()
        for node in world.slurm.settings.nodes:
            world.slurm.resume_node(node)
        assert (await running).ok
        assert (await other).ok
        assert set(world.jobs.acted.values()) == {1}
        assert len(world.slurm.jobs) == 11

    run_virtual(main(), seed=1)


def test_a_run_says_for_what_the_job_of_a_node_waits(root: FuruConfig) -> None:
    async def main() -> None:
        world = World(root)
        for node in world.slurm.settings.nodes:
            world.slurm.fail_node(node)
        top = world.targets[0]
        first = top.parts[0].parts[0].parts[0]  # type: ignore[attr-defined]
        async with Scheduler(world.controller(), config=root) as scheduler:
            run = scheduler.start(world.targets)
            while "PENDING" not in run.why(first):
                await asyncio.sleep(1)
            assert run.why(first).startswith("job ")
            assert run.why(top).startswith("waits for 3 of 3 dependencies")
            for node in world.slurm.settings.nodes:
                world.slurm.resume_node(node)
            assert (await run).ok

    run_virtual(main(), seed=1)


def test_cancelling_leaves_nothing(root: FuruConfig) -> None:
    async def main() -> None:
        world = World(root, script=lambda obj, attempt: Hangs())
        running = asyncio.create_task(world.run(world.controller()))
        await asyncio.sleep(20)
        began = asyncio.get_running_loop().time()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert asyncio.get_running_loop().time() - began < 30
        await asyncio.sleep(5)
        assert world.living() == []

    run_virtual(main(), seed=1)


@pytest.mark.fault("F53")
@pytest.mark.parametrize("seconds", [60, 900])
def test_a_controller_of_slurm_that_is_away(root: FuruConfig, seconds: float) -> None:
    async def main() -> None:
        world = World(root)
        running = asyncio.create_task(world.run(world.controller()))
        await asyncio.sleep(2)
        world.slurm.kill_controller()
        await asyncio.sleep(seconds - 20)
        world.slurm.start_controller()
        report = await running
        assert report.ok, [node.failure for node in report if node.failure]
        assert set(world.jobs.acted.values()) == {1}

    run_virtual(main(), seed=1)


@pytest.mark.fault("F34")
@pytest.mark.parametrize("kind", ["ghost", "lost"])
def test_sbatch_that_times_out(root: FuruConfig, kind: Any) -> None:
    async def main() -> None:
        world = World(root)
        world.slurm.mishap(kind, 5.0)
        world.slurm.mishap(kind, 50.0)
        report = await world.run(world.controller())
        assert report.ok, [node.failure for node in report if node.failure]
        assert set(world.jobs.acted.values()) == {1}
        assert world.living() == []

    run_virtual(main(), seed=1)


def crash_once(root: FuruConfig, seed: int) -> int:
    """A controller dies at some step, the same call is made again; gives the number of steps of the first."""

    async def main() -> int:
        draw = random.Random(seed)
        world = World(root)
        first = world.controller(crash_at=draw.randrange(1, 140), arrays=seed % 2 == 0)
        running = asyncio.create_task(world.run(first))
        dead = asyncio.create_task(first.line.dead.wait())
        await asyncio.wait([running, dead], return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await first.die()
        else:
            dead.cancel()
        report = await world.run(world.controller(arrays=seed % 2 == 0))
        assert report.ok, [node.failure for node in report if node.failure]
        acted = world.jobs.acted
        assert set(acted.values()) == {1}, acted
        assert len(acted) == 11
        assert len(world.slurm.jobs) == 11, sorted(job.id for job in world.slurm.jobs)
        assert world.living() == []
        steps = first.line.steps
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
        return steps

    return run_virtual(main(), seed=seed)


@pytest.mark.parametrize("part", range(4))
@pytest.mark.timeout(600)
def test_killed_at_any_step_and_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """The same set of jobs, none twice."""
    mortal(monkeypatch)
    for seed in range(part * 25, part * 25 + 25):
        if not chosen(seed):
            continue
        with (
            tmp_root(tmp_path / f"store-{seed}", record_git="off") as config,
            repeatable(f"seed {seed}", seed),
        ):
            crash_once(config, seed)


async def crises(world: World, draw: random.Random) -> None:
    """What befalls a cluster in a few minutes."""
    slurm = world.slurm
    for _ in range(draw.randrange(1, 6)):
        await asyncio.sleep(draw.random() * 6)
        running = [job for job in slurm.jobs if job.copy is not None and not job.ended]
        match draw.choice(["requeue", "preempt", "node", "controller", "sbatch", "kill", "kill"]):
            case "requeue" if running:
                slurm.requeue(draw.choice(running).id)
            case "preempt" if running:
                slurm.preempt(draw.choice(running).id)
            case "node" if running:
                node = draw.choice(running).node
                slurm.fail_node(node)
                await asyncio.sleep(draw.random() * 10)
                slurm.resume_node(node)
            case "controller":
                slurm.kill_controller() if draw.random() < 0.5 else slurm.stop_controller()
                await asyncio.sleep(draw.random() * 60)
                slurm.start_controller()
            case "sbatch":
                slurm.mishap(draw.choice(["ghost", "lost"]), draw.random() * 25)
            case "kill" if running:
                copy = draw.choice(running).copy
                assert copy is not None
                copy.kill()


def storm(root: FuruConfig, seed: int) -> None:
    """A run, or two of which the first is killed, among crises: all results are there, each published once."""

    async def main() -> None:
        draw = random.Random(seed)
        world = World(root, queue_lag=draw.choice([0.0, 0.0, 3.0]))
        flaky = {obj: [Fails("compute"), Returns(1, after=1.0)] for obj in world.jobs.objs.values()}
        script = {obj: outcome for obj, outcome in flaky.items() if draw.random() < 0.2}
        world.jobs.fake = FakeExecutor(script, default=Returns(1, after=3.0))
        arrays = draw.random() < 0.5
        trouble = asyncio.create_task(crises(world, draw))
        if draw.random() < 0.3:
            first = world.controller(crash_at=draw.randrange(1, 200), arrays=arrays)
            running = asyncio.create_task(world.run(first))
            dead = asyncio.create_task(first.line.dead.wait())
            await asyncio.wait([running, dead], return_when=asyncio.FIRST_COMPLETED)
            dead.cancel()
            if not running.done():
                await first.die()
        report = await world.run(world.controller(arrays=arrays))
        assert report.ok, [node.failure for node in report if node.failure]
        await trouble
        await asyncio.sleep(120)
        assert world.living() == []
        for obj in world.jobs.objs.values():
            ends = Path(root.path, "data", "tests", "sim", "dag_sim", "Part", obj.furu_hash, ".furu", "ends")
            assert sum('"success"' in path.read_text() for path in ends.iterdir()) == 1
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    run_virtual(main(), seed=seed)


@pytest.mark.fault("F41", "F42", "F34", "F53")
@pytest.mark.parametrize("part", range(4))
@pytest.mark.timeout(600)
def test_crises_of_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    mortal(monkeypatch)
    for seed in range(part * 25, part * 25 + 25):
        if not chosen(seed):
            continue
        with (
            tmp_root(tmp_path / f"store-{seed}", record_git="off") as config,
            repeatable(f"seed {seed}", seed),
        ):
            storm(config, seed)
