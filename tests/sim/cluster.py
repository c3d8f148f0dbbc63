"""A simulated cluster from one number: hosts, controllers and keepers on one store, faults, and what must be true.

``python tests/sim/cluster.py --runs 1000 --seed 0``; one seed: ``--runs 1 --seed 17 --trace``.

Per seed a few controllers make overlapping calls on a few hosts. Processes are killed and paused at any step, hosts
crash, mounts hang, clocks are wrong and jump. Then all faults heal, and a last controller makes the whole call.
What the library itself runs is the library's; operating system, time and the attempts are simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.sim.chance import drawn_names, drawn_plan
from tests.sim.children import ClusterExecutor
from tests.sim.crises import Controller, Crises
from tests.sim.keepers import Keepers
from tests.sim.processes import ClusterLoop, Host, here
from tests.sim.sim_artifacts import Checked, Item, Large, Limited, Stubborn
from tests.sim.witness import Broken, Watch, path_of, truth

from furu_async import Scheduler
from furu_async._executors.runs import Run
from furu_async._plan.invariants import check_invariants
from furu_async._runner.loading import load_result
from furu_async._runtime import clock
from furu_async._runtime.config import FuruConfig
from furu_async._store import fs, liveness
from furu_async._store.artifacts import look
from furu_async._store.records import ChildRecord
from furu_async._testing.storage import SimulatedStorage, StorageFaults
from furu_async.errors import FuruError
from furu_async.report import RunEvent
from furu_async.testing import Fails, FakeExecutor, Hangs, Outcome, Raises, Returns

BOUND = 3000.0
"""True seconds after the faults have healed within which every run must have ended."""

_KINDS: tuple[Any, ...] = ("compute", "oom", "killed", "preempted", "infrastructure", "inputs", "timeout")
_ERRORS = (errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EACCES, errno.EDQUOT, errno.ETIMEDOUT)


class Cluster:
    """What one seed stands for, and what was seen of it.

    Args:
        outages: durability is ``auto`` and hosts lose their power often, and with it a part of what they wrote.
    """

    def __init__(self, seed: int, root: str, outages: bool = False) -> None:
        self.seed = seed
        self.root = root
        rng = self.rng = random.Random(seed)
        self.trouble = False
        self.outages = outages
        self.loop = ClusterLoop(seed, grain=rng.choice([0.0, 0.3, 1.0]))
        skewed = rng.random() < 0.7
        self.hosts = [Host(f"host{k}", rng, skewed) for k in range(rng.choice([1, 2, 2, 3]))]
        lease = rng.uniform(8, 20)
        grace = rng.uniform(8, 20)
        self.config = FuruConfig(
            path=Path(root),
            record_git="off",
            lease_secs=lease,
            heartbeat_secs=lease / 8,
            heartbeat_grace_secs=grace,
            stale_after_secs=60.0,
            infra_secs=60.0,
            durability="auto" if outages else rng.choice(["power", "power", "auto"]),
        )
        self.watch = Watch(
            self.loop, root, min(lease, grace), max(lease, grace), self.config.durability == "power"
        )
        self.watch.on_attempt = lambda attempt: self.crises.on_attempt(attempt)
        self.storage = None if not outages and rng.random() < 0.4 else self._draw_storage()
        self.watch.sure = not self.trouble
        self.crises = Crises(self, rng.choice([2, 4, 8] if outages else [0, 1, 1, 2, 4, 8]))
        self.fault_rate = rng.choice([0.0, 0.0, 0.2, 0.5])
        self.heal_at = rng.uniform(30, 200)
        self.calm = False
        self.items: list[Any] = []
        self._draw_dag()
        self.controllers: list[Controller] = []
        self.lives = 0

    def _draw_storage(self) -> SimulatedStorage:
        rng = self.rng
        rate = rng.choice([0.0, 0.0, 0.002, 0.02])
        faults = StorageFaults(
            stale_secs=rng.choice([0.0, rng.uniform(0, 2), rng.uniform(0, 30)]),
            lost_reply=rng.choice([0.0, 0.0, 0.01, 0.05]),
            errors={rng.choice(_ERRORS): rate, rng.choice(_ERRORS): rate} if rate else {},
            spell_secs=rng.choice([0.0, 0.0, rng.uniform(0, 10)]),
            torn=rng.choice([0.3, 0.5, 0.7] if self.outages else [0.0, 0.5, 1.0]),
            nameless=rng.random() < 0.5,
        )
        self.trouble = bool(faults.lost_reply or faults.errors)
        clock, chance = (lambda: self.loop.now), random.Random(self.seed + 1)
        return SimulatedStorage(self.root, clock, chance, _host_of, faults)

    def _draw_dag(self) -> None:
        rng = self.rng
        for number in range(rng.randint(1, 8)):
            kind: Any = rng.choice([Item, Item, Limited, Stubborn, Checked, Large])
            below = rng.sample(self.items, min(len(self.items), rng.choice([0, 1, 1, 2, 3])))
            self.items.append(kind(number=number, inputs=tuple(below)))
        used = {dep.furu_hash for item in self.items for dep in item.inputs}
        self.targets = [each for each in self.items if each.furu_hash not in used or rng.random() < 0.1]

    @property
    def disturbed(self) -> bool:
        """Something happened that may leave something behind."""
        return self.trouble or self.crises.happened > 0

    def digest(self) -> str:
        """Identity of what happened, and when, and of all that was written to the store."""
        written = self.watch.written.copy()
        written.update(repr(self.watch.trace).encode())
        return written.hexdigest()[:16]

    # -- the operating system --------------------------------------------------------------------------------

    def this_host(self) -> tuple[str, str, str]:
        """As of `liveness.System`."""
        process = here.get()
        return (process.host.name, f"boot{process.boot}", "pids") if process else ("world", "", "")

    def this_pid(self) -> int:
        """As of `liveness.System`."""
        process = here.get()
        return process.pid if process else 1

    def start_time(self, pid: int) -> int | None:
        """As of `liveness.System`."""
        process = here.get()
        other = process.host.processes.get(pid) if process else None
        return None if other is None or other.dead else other.start_time

    def end_children(self, children: list[ChildRecord]) -> bool:
        """As of `liveness.System`."""
        process = here.get()
        for child in children if process else ():
            assert process is not None
            other = process.host.processes.get(child.pid)
            if other is not None and other.start_time == child.start_time:
                self.loop.kill(other)
        return True

    # -- controllers -----------------------------------------------------------------------------------------

    def script(self, life: int) -> Callable[[Any, int], Outcome]:
        """What becomes of the attempts of one life of a controller."""

        def outcome(obj: Any, attempt: int) -> Outcome:
            rng = random.Random(f"{self.seed} {obj.number} {life} {attempt}")
            after = rng.choice([0.0, 0.01, 1.0, 10.0, rng.uniform(0, 60), rng.uniform(0, 60)])
            if self.calm or rng.random() >= self.fault_rate:
                return Returns(_value, min(after, 40.0))
            if rng.random() < 0.2 and isinstance(obj, Limited):
                return Hangs()
            if rng.random() < 0.2:
                return Raises(rng.choice([ValueError("a"), MemoryError()]), after)
            return Fails(rng.choice(_KINDS), after=after)

        return outcome

    def start(self, number: int, host: Host, targets: list[Any], options: dict[str, Any]) -> Controller:
        """Start a controller's process; it makes one call, and ends."""
        life = self.lives
        self.lives += 1
        process = self.loop.start_process(host, "controller", number)
        controller = Controller(number, process, targets, options)
        self.controllers.append(controller)
        owner = (host.name, f"boot{process.boot}", process.pid, process.start_time)
        self.watch.owners[owner] = process
        self.watch.say("starts", life, repr(process))
        self.crises.plan(controller)
        main = self.loop.run_in(process, self._main(controller, life), f"controller {number}")
        main.add_done_callback(lambda _: self.loop.at(None, 0.05, self._exit, controller))
        return controller

    async def _main(self, controller: Controller, life: int) -> None:
        fake = FakeExecutor(self.script(life), workers=1 + life % 3, seed=self.seed)

        def opened(executor: Any) -> None:
            controller.executor = executor

        executor = ClusterExecutor(fake, self.watch, opened)
        try:
            async with Scheduler(executor, config=self.config) as scheduler:
                run = scheduler.start(
                    controller.targets, check=False, on_event=self._tell, **controller.options
                )
                controller.run = run
                _check_each_event(run)
                controller.report = await run
        except Exception as error:
            controller.error = error

    def _tell(self, event: RunEvent) -> None:
        if event.kind == "node_done" and event.status == "created":
            self.watch.told.add(event.hash)
        self.watch.say(event.kind, event.hash[:6] if event.hash else "", event.status, event.attempt)

    def _exit(self, controller: Controller) -> None:
        """The controller's process has ended in order."""
        process = controller.process
        controller.over = True
        if process.dead:
            return
        truth(self.watch.say, "exits", repr(process), type(controller.error).__name__)
        left = [task.get_name() for task in process.tasks if not task.done()]
        if left:
            self.watch.break_("orphans", f"{process!r} has ended, and tasks are left: {left}")
        if controller.error is not None and not isinstance(controller.error, FuruError):
            self.watch.break_("endless", f"{process!r} ended by a bug: {controller.error!r}")
            self.watch.broken.__cause__ = controller.error  # type: ignore[union-attr]
        if process.calls:
            self.loop.at(None, 30.0, self.loop.kill, process)  # threads that hang in a mount
        else:
            self.loop.kill(process)

    # -- the whole -------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Faults, healing, and the last call."""
        rng, loop = self.rng, self.loop
        loop.call_later(self.heal_at, self.crises.heal)
        for number in range(rng.choice([1, 2, 3, 3, 4])):
            targets = self.targets
            if rng.random() < 0.3:
                targets = rng.sample(self.items, rng.randint(1, len(self.items)))
            options: dict[str, Any] = {
                "on_failure": rng.choice(["continue", "continue", "drain", "cancel"]),
                "retries": rng.choice([None, 0, 1]),
                "timeout": rng.choice([None, None, None, rng.uniform(1, 100)]),
            }
            wait = rng.choice([0.0, 0.0, rng.uniform(0, 0.2), rng.uniform(0, 30)])
            loop.at(None, wait, self._start_if_up, number, rng.choice(self.hosts), targets, options)
        await asyncio.sleep(self.heal_at + 0.001)
        await self._until(self._all_over, "controllers")
        await asyncio.sleep(40.0)  # what was killed last is still ending what it left
        self._check_left()
        for _ in range(4):
            # A result that was lost with its host is not asked for by one that was made of it and is still there.
            targets = self.items if self.watch.tails_lost else self.targets
            last = self.start(99, self.hosts[0], targets, {"distrust": self._unusable()})
            await self._until(lambda last=last: last.over, "the last controller")  # type: ignore[misc]
            if self.watch.broken is not None:
                return
            if last.report is not None and last.report.ok and not self._unusable():
                break
        else:
            self.watch.break_("endless", f"the last call failed: {last.error!r} {last.report}")
        await asyncio.sleep(40.0)
        self._check_end()

    def _start_if_up(self, number: int, host: Host, *args: Any) -> None:
        if host.up:
            self.start(number, host, *args)

    def _all_over(self) -> bool:
        return all(one.over or one.process.dead for one in self.controllers)

    async def _until(self, condition: Callable[[], bool], who: str) -> None:
        until = self.loop.now + BOUND
        while not condition():
            if self.loop.now > until or self.watch.broken is not None:
                from furu_async._testing.waiting import describe_tasks

                self.watch.break_("endless", f"{who} did not end:\n{describe_tasks(self.loop)}")
                return
            await asyncio.sleep(1.0)

    def check_claims(self, before: dict[str, int]) -> None:
        """Without faults nothing stays claimed by a living process that does nothing with it; two looks apart."""
        idle = {}
        for obj in self.items:
            seen = look(path_of(self.root, obj))
            if seen.verdict == "claimed" and seen.claim is not None:
                owner = self.watch.owner_of(seen.claim)
                at_it = any(
                    one.ended is None and one.generation == seen.generation
                    for one in self.watch.running[obj.furu_hash]
                )
                if owner is not None and not owner.dead and not at_it:
                    idle[obj.furu_hash] = seen.generation
                    if before.get(obj.furu_hash) == seen.generation:
                        text = f"{owner!r} holds the claim of {obj!r} and does nothing"
                        self.watch.break_("orphans", text)
        if idle and not before:
            self.loop.at(None, 25.0, self.check_claims, idle)

    def _check_left(self) -> None:
        """What controllers that ended in order have left behind."""
        clean = {
            one.run.run_id: one
            for one in self.controllers
            if one.over and one.run is not None and one.run.done and not one.run._driver.forced
        }
        for one in self.controllers:
            if one.over and one.keeper is not None and not one.keeper.dead:
                self.watch.break_("orphans", f"{one.keeper!r} outlived its controller")
        for child in [p for p in self.loop.processes if p.kind == "child" and not p.dead]:
            owners = [one for one in self.controllers if one.run is not None and one.run.run_id in clean]
            if (
                any(one.process.number == child.number and one.report for one in owners)
                and not self.disturbed
            ):
                self.watch.break_("orphans", f"{child!r} outlived its controller")
        self.watch.check_store(self.items)
        if self.disturbed:
            return
        for obj in self.items:
            seen = look(path_of(self.root, obj))
            if seen.verdict == "claimed":
                self.watch.break_("orphans", f"the claim of {obj!r} was left open: {seen.claim}")

    def _unusable(self) -> list[Any]:
        """A crash may have cut results that nobody had synced; who loads finds out, and distrusts them."""
        unusable = []
        for obj in self.items if self.watch.tails_lost else ():
            try:
                load_result(obj, self.root)
            except FuruError:
                unusable.append(obj)
        return unusable

    def _check_end(self) -> None:
        self.watch.check_store(self.items)
        for obj in self.items:
            if look(path_of(self.root, obj)).verdict != "published":
                self.watch.break_("lost", f"{obj!r} is not published in the end")
                continue
            try:
                right = load_result(obj, self.root) == _value(obj)
            except FuruError as error:
                self.watch.break_("torn", f"{obj!r} cannot be loaded in the end: {error}")
            else:
                if not right:
                    self.watch.break_("torn", f"{obj!r} is not what it should be")


def _host_of() -> str:
    process = here.get()
    return process.host.name if process is not None else ""


def _value(obj: Any) -> Any:
    return str(obj.number) * 5000 if isinstance(obj, Large) else obj.number


def _check_each_event(run: Run) -> None:
    advanced = run._driver._handle

    def handle(event: Any, now: float) -> None:
        advanced(event, now)
        check_invariants(run._driver.state)

    run._driver._handle = handle  # type: ignore[method-assign]


@contextlib.contextmanager
def _simulated(cluster: Cluster) -> Iterator[None]:
    """The cluster in the places of operating system, time and chance."""
    wall = clock.wall
    keepers = Keepers(cluster.loop, cluster.crises.on_keeper, cluster.watch.beaten, cluster.watch.bereaved)
    clock.wall = cluster.loop.wall
    liveness.stand_in = cluster
    keepers.install()
    if cluster.storage is not None:
        cluster.storage.install()
    cluster.watch.install()
    try:
        with drawn_plan(cluster.seed), drawn_names(cluster.seed, cluster.this_pid):
            yield
    finally:
        if cluster.storage is not None:
            cluster.storage.restore()
        fs.restore()
        keepers.restore()
        liveness.stand_in = None
        clock.wall = wall


def simulate(seed: int, folder: str | None = None, outages: bool = False) -> Cluster:
    """Live through one seed in a temporary store.

    Raises:
        Broken: a promise was broken.
        Exception: so was the simulation, or the library.
    """
    if folder is None and os.path.isdir("/dev/shm"):
        folder = "/dev/shm"
    root = tempfile.mkdtemp(prefix=f"cluster-{seed}-", dir=folder)
    try:
        cluster = Cluster(seed, root, outages)
        loop = cluster.loop
        with _simulated(cluster):
            asyncio.set_event_loop(loop)
            try:
                loop.run_until_complete(cluster.live())
            finally:
                left = loop.dispose()
                asyncio.set_event_loop(None)
                loop.close()
        if cluster.watch.broken is not None:
            cluster.watch.broken.trace = cluster.watch.trace  # type: ignore[attr-defined]
            raise cluster.watch.broken
        if left:
            raise Broken("orphans", f"tasks are left: {left}")
        return cluster
    finally:
        shutil.rmtree(root, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--outages", action="store_true", help="hosts lose their power often")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    parser.add_argument("--folder", default=None, help="where the temporary stores go")
    options = parser.parse_args(arguments)
    logging.getLogger("furu_async").setLevel(logging.ERROR)
    failed, began = 0, time.monotonic()
    for seed in range(options.seed, options.seed + options.runs):
        try:
            cluster = simulate(seed, options.folder, options.outages)
        except Exception as error:
            failed += 1
            if options.trace:
                print(*getattr(error, "trace", ()), sep="\n")
            if options.runs == 1:
                traceback.print_exception(error)
            text = str(error).strip().splitlines()
            print(f"seed {seed}: {type(error).__name__}: {text[0][:300] if text else ''}")
            mode = " --outages" if options.outages else ""
            print(
                f"  again with: python tests/sim/cluster.py --runs 1 --seed {seed}{mode} --trace", flush=True
            )
        else:
            if options.trace:
                print(*cluster.watch.trace, sep="\n")
            if options.runs == 1:
                print(cluster.digest())
    seconds = time.monotonic() - began
    print(f"{options.runs} runs in {seconds:.1f} s ({options.runs / seconds:.0f}/s), {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
