"""One simulated run from one number: a random DAG, a script of faults, interruptions, and what must be true after it.

Everything but the attempts themselves is the library as it is, on a store of real files, on virtual time.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sim.chance import drawn_plan
from tests.sim.sim_artifacts import Checked, Item, Limited, Stubborn

from furu_async import Scheduler
from furu_async._executors.runs import CANCEL_SECS, Run
from furu_async._model.artifact import class_info
from furu_async._plan.invariants import check_invariants
from furu_async._runtime.config import FuruConfig
from furu_async._store.artifacts import look
from furu_async._store.layout import ArtifactPaths
from furu_async._store.marker import read_end
from furu_async.errors import FuruError
from furu_async.report import RunEvent, RunReport
from furu_async.testing import (
    Elsewhere,
    Fails,
    FakeExecutor,
    Hangs,
    Outcome,
    Raises,
    Returns,
    VirtualLoop,
)

_KINDS: tuple[Any, ...] = (
    "compute",
    "inputs",
    "timeout",
    "oom",
    "killed",
    "lost",
    "preempted",
    "infrastructure",
    "cancelled",
)
_SLACK = 5.0


@dataclass
class World:
    """What one seed stands for, and what was seen of it."""

    seed: int
    root: str
    items: list[Item] = field(default_factory=list)
    targets: list[Item] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    workers: int = 1
    fault_rate: float = 0.3
    starts: Counter[str] = field(default_factory=Counter)
    trace: list[tuple[Any, ...]] = field(default_factory=list)
    stopped_at: dict[str, float] = field(default_factory=dict)
    calm: bool = False
    hung: str = ""
    slept: float = 0.0

    def digest(self) -> str:
        """Identity of what happened, and when."""
        return hashlib.sha256(repr(self.trace).encode()).hexdigest()[:16]


def make_world(seed: int, root: str) -> World:
    """Draw a DAG and how it is run."""
    rng = random.Random(seed)
    world = World(seed, root, workers=rng.randint(1, 4), fault_rate=rng.choice([0.0, 0.2, 0.4, 0.7]))
    for number in range(rng.randint(1, 12)):
        kind = rng.choice([Item, Item, Limited, Stubborn, Checked])
        below = rng.sample(world.items, min(len(world.items), rng.choice([0, 1, 1, 2, 3])))
        world.items.append(kind(number=number, inputs=tuple(below)))
    used = {dep.furu_hash for item in world.items for dep in item.inputs}
    world.targets = [each for each in world.items if each.furu_hash not in used or rng.random() < 0.1]
    world.options = {
        "on_failure": rng.choice(["continue", "continue", "drain", "cancel"]),
        "max_failures": rng.choice([None, None, 1, 2]),
        "retries": rng.choice([None, 0, 1, 3]),
        "retry_failed": rng.choice([True, True, True, False]),
        "timeout": rng.choice([None, None, None, rng.uniform(0.001, 60)]),
    }
    return world


def path_of(root: str, item: Item) -> ArtifactPaths:
    """Its place in the store."""
    return ArtifactPaths(root, class_info(type(item)).name, item.furu_hash)


def draw_outcome(world: World, item: Any, attempt: int) -> Outcome:
    """The script. Also the moment at which dependencies have to be there."""
    world.starts[item.furu_hash] += 1
    for dep in item.inputs:
        verdict = look(path_of(world.root, dep)).verdict
        assert verdict == "published", f"{item!r} was begun, and its input {dep!r} is {verdict}"
    rng = random.Random(f"{world.seed} {item.number} {attempt}")
    after = rng.choice([0.0, 0.01, 1.0, 1.0, 10.0, rng.expovariate(0.2)])
    if world.calm or rng.random() >= world.fault_rate:
        return Returns(item.number, min(after, 40.0))  # below the time limit
    draw = rng.random()
    if draw < 0.5:
        return Fails(rng.choice(_KINDS), after=after)
    if draw < 0.6:
        return Raises(
            rng.choice([ValueError("a"), TypeError("b"), MemoryError(), KeyboardInterrupt()]), after
        )
    if draw < 0.62:
        return Fails("protocol", after=after, run_wide=rng.random() < 0.5)
    if draw < 0.75 and (isinstance(item, Limited) or world.options["timeout"]):
        return Hangs()
    ends: Any = rng.choice(["published", "failed", "lost"])
    return Elsewhere(ends, after * 10, value=item.number, kind=rng.choice(_KINDS[:5]))


async def live(world: World) -> list[Run]:
    """Start one run or several, interrupt them, wait for the end."""
    rng = random.Random(world.seed + 1)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    config = FuruConfig(path=Path(world.root), record_git="off", infra_secs=120.0)
    fake = FakeExecutor(lambda obj, n: draw_outcome(world, obj, n), workers=world.workers, seed=world.seed)
    runs: list[Run] = []
    if rng.random() < 0.1:
        world.hung = rng.choice(["probe", "logs"])
        loop.call_later(rng.uniform(0, 5), _hang, world, loop, rng.uniform(1, 200))
    if rng.random() < 0.1:
        loop.call_later(rng.uniform(0, 20), _sleep, world, loop, rng.uniform(1, 600))
    # A second scheduler is another controller: it shares nothing with the first one but the store.
    async with Scheduler(fake, config=config) as first, Scheduler(fake, config=config) as second:
        for number in range(1 + (rng.random() < 0.3) + (rng.random() < 0.1)):
            await asyncio.sleep(rng.choice([0, 0, 0.0005, 1, 5]) if number else 0)
            where = second if rng.random() < 0.2 else first
            runs.append(_start(world, where, len(runs)))
            if rng.random() < 0.2:
                loop.call_later(rng.choice([0, 0.001, 1, rng.uniform(0, 30)]), _cancel, world, runs[-1])
        if rng.random() < 0.9:
            await first.drain()
            await second.drain()
        else:
            await asyncio.sleep(rng.uniform(0, 10))
            for run in runs:
                world.stopped_at.setdefault(run.run_id, loop.time())
    return runs


def _hang(world: World, loop: VirtualLoop, seconds: float) -> None:
    if not world.calm:
        loop.hang(world.hung, seconds)


def _sleep(world: World, loop: VirtualLoop, seconds: float) -> None:
    if not world.calm:
        loop.sleep_through(seconds)
        world.slept += seconds


def _cancel(world: World, run: Run) -> None:
    if not run.done:
        world.stopped_at.setdefault(run.run_id, asyncio.get_running_loop().time())
        run.cancel()


def _start(world: World, scheduler: Scheduler, number: int) -> Run:
    loop = asyncio.get_running_loop()
    begun: list[Run] = []

    def listen(event: RunEvent) -> None:
        if event.kind == "run_ended" and begun:
            stopped = world.stopped_at.get(begun[0].run_id)
            late = loop.time() - stopped if stopped is not None else 0.0
            world.trace.append((number, "late", round(late, 6)))
        shown = (number, round(loop.time(), 6), event.kind, event.hash, event.status, event.attempt)
        world.trace.append(shown)

    run = scheduler.start(world.targets, **world.options, check=False, on_event=listen)
    begun.append(run)
    advanced = run._driver._handle

    def handle(event: Any, now: float) -> None:
        advanced(event, now)
        check_invariants(run._driver.state)

    run._driver._handle = handle  # type: ignore[method-assign]
    return run


def check_run(world: World, run: Run) -> None:
    """What must be true of each run, however it went."""
    assert run.done
    report = run.report
    assert report is not None
    end = run._driver.end
    if run._crash is not None:
        raise run._crash
    assert end is not None
    assert sum(report.counts.values()) == len(report.nodes)
    assert set(report.nodes) == set(run._driver.state.nodes)
    assert report.ok == (
        not end.why and all(report[t].status in ("created", "cached") for t in world.targets)
    )
    for item in world.items:
        if item in report:
            check_node(world, report, item, end.why)


def check_node(world: World, report: RunReport, item: Item, why: str) -> None:
    """What must be true of a node of a run that has ended."""
    node = report[item]
    good = ("created", "cached")
    if node.status in good:
        assert look(path_of(world.root, item)).verdict == "published", node
    if node.status == "created":
        assert node.attempts >= 1
        assert all(report[dep].status in good for dep in item.inputs)
    if node.status == "failed":
        assert node.failure is not None
    if node.status == "skipped" and node.because == "dependency":
        assert report.nodes[node.root].status == "failed"
    if node.status == "skipped" and node.because == "cancel":
        assert why or world.options["on_failure"] == "cancel"
    if node.status == "cancelled":
        assert node.attempts >= 1 or node.history


def check_store(world: World) -> None:
    """One result per artifact at most, and no claim of ours is left open."""
    for item in world.items:
        paths = path_of(world.root, item)
        ends = [int(each.name) for each in Path(paths.ends).glob("*") if each.name.isdigit()]
        good = [n for n in ends if read_end(paths, paths.end(n), n).status == "success"]
        assert len(good) <= 1, f"{item!r} was published in generations {good}"
        seen = look(paths)
        if seen.verdict == "claimed":
            assert seen.claim is not None
            assert seen.claim.run_id.startswith("elsewhere-"), f"the claim of {item!r} was left open"


async def _whole(world: World) -> None:
    runs = await live(world)
    await asyncio.sleep(0)
    left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"tasks are left: {left}"
    for run in runs:
        check_run(world, run)
    check_store(world)
    late = [entry[2] for entry in world.trace if entry[1] == "late"]
    bound = CANCEL_SECS + _SLACK + world.slept
    assert all(each <= bound for each in late), f"it took {max(late)} s to stop"
    await _again(world)


async def _again(world: World) -> None:
    """The same call without faults: it goes on from what is there, and what is there is not made again."""
    world.calm = True
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.hang(world.hung, 0.0)
    before = {item.furu_hash: look(path_of(world.root, item)).verdict for item in world.items}
    starts = Counter(world.starts)
    config = FuruConfig(path=Path(world.root), record_git="off")
    fake = FakeExecutor(lambda obj, n: draw_outcome(world, obj, n), workers=8)
    async with Scheduler(fake, config=config) as scheduler:
        report = await scheduler.start(world.targets)
    assert report.ok
    for item in world.items:
        if before[item.furu_hash] == "published":
            assert world.starts[item.furu_hash] == starts[item.furu_hash], f"{item!r} was made again"
    check_store(world)


def simulate(seed: int, folder: str | None = None) -> World:
    """Live through one seed in a temporary store.

    Raises:
        AssertionError, FuruError: something that is always true was not.
    """
    root = tempfile.mkdtemp(prefix=f"sim-{seed}-", dir=folder)
    try:
        world = make_world(seed, root)
        with drawn_plan(seed), asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
            runner.run(_whole(world))
        return world
    finally:
        shutil.rmtree(root, ignore_errors=True)


def campaign(seeds: Sequence[int], folder: str | None = None) -> list[tuple[int, BaseException]]:
    """Simulate many; what failed, and why."""
    failures: list[tuple[int, BaseException]] = []
    for seed in seeds:
        try:
            simulate(seed, folder)
        except (AssertionError, FuruError, RuntimeError, KeyError, asyncio.CancelledError) as error:
            failures.append((seed, error))
    return failures
