"""One small run of a pool on virtual time, made to go wrong at some point, and what has to be true afterwards.

Controller, workers and cluster share one loop, so a place in the course of all of them is a number.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import errno
import logging
import random
import secrets
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.laboratory import Counts
from tests.sim.pool_sim import World
from tests.sim.sim_artifacts import Item, Stubborn
from tests.sim.simulate import path_of
from tests.sim.turns import Turns

from furu_async import RunReport, run_dag
from furu_async._pool.entries import worker_id
from furu_async._pool.worker_main import _End, _Worker
from furu_async._slurm.admission import JobIdentity
from furu_async._slurm.port import JobRequest, SubmitAnswer, base_id
from furu_async._store import fs, liveness
from furu_async._store.artifacts import look
from furu_async._store.layout import RunPaths
from furu_async._store.marker import read_end
from furu_async._store.records import ChildRecord
from furu_async._testing.slurm import Copy
from furu_async.errors import FuruError
from furu_async.testing import Computes, FakeExecutor, Returns

WORKERS = 2
LEASE_SECS = 40.0

GONE_SECS = 10.0
"""Within so many seconds after the end of a call no job of it is in Slurm."""

IDLE_SECS = 20.0
"""A worker with nothing to do ends after so many; of a run that was detached nobody else ends it."""

AGAIN_SECS = 30.0
"""A call in which nothing happens any more ends within so many: it waits for nobody's lease."""

TAKEOVER_SECS = 60.0
"""A call that goes on with a dead controller's ends within so many: it may have to find out what was submitted."""

SEARCH_SECS = 20.0
"""For so long a job is searched for that may turn up in Slurm."""

SIDE: contextvars.ContextVar[str] = contextvars.ContextVar("side", default="")
"""Whose a task is: a controller's, called ``controller`` or ``another``, or a ``job``'s."""

HOST = ("node", "boot", "namespace")


COMPUTED: Counter[int] = Counter()
"""How often each node was, by its number; reset by each trial."""


class Once(Stubborn):
    """Does not work the first time, where `fails`."""

    fails = False

    def _create(self) -> int:
        if Once.fails:
            Once.fails = False
            raise ConnectionError("once")
        COMPUTED[self.number] += 1
        return super()._create()


class Sum(Item):
    """Computes in earnest."""

    def _create(self) -> int:
        COMPUTED[self.number] += 1
        return super()._create()


A = Item(number=1)
B = Once(number=2, inputs=(A,))
C = Item(number=3, inputs=(A,))
D = Sum(number=4, inputs=(B, C))
ALL = (A, B, C, D)


class Sides(Turns):
    """Knows whose its tasks are."""

    def create_task(self, coro: Any, **options: Any) -> Any:
        """As of any loop; a task with a context of its own belongs to whoever makes it."""
        context = options.get("context")
        if context is not None and SIDE not in context:
            context.run(SIDE.set, SIDE.get())
        task = super().create_task(coro, **options)
        task.side = SIDE.get() if context is None else context[SIDE]
        return task


def tasks_of(side: str) -> list[asyncio.Task[Any]]:
    """Tasks of a side that have not ended; the cluster's own are nobody's."""
    tasks = [task for task in asyncio.all_tasks() if getattr(task, "side", "") == side]
    return [task for task in tasks if not task.get_name().startswith("simulated job")]


@contextmanager
def steady() -> Iterator[None]:
    """Inside, what is drawn at random is the same each time."""
    uuid4, token_hex, state = uuid.uuid4, secrets.token_hex, random.getstate()
    random.seed(0)
    uuid.uuid4 = lambda: uuid.UUID(int=random.getrandbits(128))
    secrets.token_hex = lambda size=16: f"{random.getrandbits(8 * size):0{2 * size}x}"
    try:
        yield
    finally:
        uuid.uuid4, secrets.token_hex = uuid4, token_hex
        random.setstate(state)


def live(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on such a loop."""
    with steady(), asyncio.Runner(loop_factory=lambda: Sides(0)) as runner:
        return runner.run(main)


class Processes:
    """What can be known of processes where each side is one, and what the dead can do: nothing.

    Attributes:
        dead: sides that were killed.
        seen: changing operations of the first controller so far.
    """

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.seen: int = 0
        self._at = 0
        self._do: Callable[[], object] = lambda: None
        self._pids = {"controller": 11, "another": 12, "job": 13, "": 14}

    def this_host(self) -> tuple[str, str, str]:
        return HOST

    def this_pid(self) -> int:
        return self._pids[SIDE.get()]

    def start_time(self, pid: int) -> int | None:
        return None if any(self._pids[side] == pid for side in self.dead) else 1000 + pid

    def end_children(self, children: list[ChildRecord]) -> bool:
        return not children

    def at_operation(self, n: int, do: Callable[[], object]) -> None:
        """Call ``do`` before the n-th changing operation of the first controller."""
        self._at, self._do = n, do

    def live(self) -> None:
        """Whoever this is goes on."""
        if SIDE.get() in self.dead:
            raise OSError(errno.EIO, "it is dead")

    @contextmanager
    def installed(self) -> Iterator[Processes]:
        """Inside, the library sees them."""
        before = {name: getattr(fs, name) for name in fs.CHANGING}
        for name, present in before.items():
            setattr(fs, name, self._mortal(present))
        liveness.stand_in = self
        try:
            yield self
        finally:
            liveness.stand_in = None
            for name, present in before.items():
                setattr(fs, name, present)

    def _mortal(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            self.live()
            if SIDE.get() == "controller":
                self.seen += 1
                if self.seen == self._at:
                    self._do()
                    self.live()
            return operation(*given, **more)

        return call


class MortalPort:
    """Slurm, as long as whoever asks it lives."""

    def __init__(self, slurm: Any, processes: Processes) -> None:
        self._slurm = slurm
        self._processes = processes

    def __getattr__(self, name: str) -> Any:
        async def call(*given: Any) -> Any:
            self._processes.live()
            answer = await getattr(self._slurm, name)(*given)
            self._processes.live()
            return answer

        return call


class Careful(World):
    """Jobs ask whether they may act as the library's own do: with patience for a store that gives errors.

    Attributes:
        processes: where controllers can be killed.
        most: jobs that were in Slurm at once.
    """

    processes: Processes | None = None

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.most: int = 0
        accept = self.slurm._accept

        def counted(request: JobRequest) -> SubmitAnswer:
            answer = accept(request)
            self.most = max(self.most, sum(not job.ended for job in self.slurm.jobs))
            return answer

        self.slurm._accept = counted  # type: ignore[method-assign]

    def port(self) -> Any:
        return self.slurm if self.processes is None else MortalPort(self.slurm, self.processes)

    async def worker(self, copy: Copy) -> int:
        SIDE.set("job")
        words = [word for word in copy.argv[copy.argv.index("pool") + 1 :] if word != "--detached"]
        detached = "--detached" in copy.argv
        given = dict(zip(words[::2], words[1::2], strict=True))
        index = int(copy.job_id.partition("_")[2] or -1)
        asking = _Worker(
            argparse.Namespace(
                root=self.root,
                home=given["--home"],
                sid=given["--sid"],
                number=int(given["--try"]),
                token=given["--token"],
                spec_key=given["--spec-key"],
                slots=int(given["--slots"]),
                detached=detached,
            )
        )
        asking.job = JobIdentity(base_id(copy.job_id), copy.job_id, index, copy.restart)
        asking.wid = worker_id(given["--token"], index, copy.restart)
        told = asyncio.ensure_future(copy.term.wait())
        told.add_done_callback(lambda done: done.cancelled() or asking._on_signal("SIGTERM"))
        try:
            await asking._see_store()
            await asking._ask_admission()
            await asking._settings()
        except _End as end:
            return end.code
        finally:
            told.cancel()
        return await self._pilot(copy, given, asking.wid, detached)


def _compute(item: Any) -> int:
    COMPUTED[item.number] += 1
    return int(item.number)


@dataclass
class Trial:
    """One store, one cluster, and what became of the calls there.

    Attributes:
        fails: the second node does not work the first time.
        report, error: of the last call.
        took: seconds that the last call took.
    """

    root: Path
    fails: bool = True
    report: RunReport | None = None
    error: FuruError | None = None
    took: float = 0.0

    def __post_init__(self) -> None:
        COMPUTED.clear()
        Once.fails = self.fails
        self.world = Careful(
            self.root,
            FakeExecutor({B: Computes(1.0), D: Computes(1.0)}, default=Returns(_compute)),
            infra_secs=60.0,
            lease_secs=LEASE_SECS,
            heartbeat_secs=LEASE_SECS / 8,
            heartbeat_grace_secs=LEASE_SECS,
        )

    def call(self, side: str = "controller", **options: Any) -> asyncio.Task[bool]:
        """Begin the call; whether it was not cancelled."""
        context = contextvars.copy_context()
        context.run(SIDE.set, side)
        loop = asyncio.get_running_loop()
        return loop.create_task(self._call(options), name="the call", context=context)

    async def _call(self, options: dict[str, Any]) -> bool:
        loop = asyncio.get_running_loop()
        began, self.report, self.error = loop.time(), None, None
        pool, config = self.world.pool(workers=WORKERS, idle=IDLE_SECS), self.world.config
        try:
            self.report = await run_dag(D, executor=pool, config=config, **options)
        except FuruError as error:
            self.error = error
        finally:
            self.took = loop.time() - began
        return True

    async def ended(self, call: asyncio.Task[bool]) -> bool:
        """Wait for the end of a call; False if it was cancelled. Nothing of it is left in this process."""
        await asyncio.wait([call])
        side: str = call.side  # type: ignore[attr-defined]
        searching = [task for task in tasks_of(side) if task.get_name().startswith("furu slurm submission")]
        if searching and side == "another":  # for a job that the dead one may have submitted
            await asyncio.wait(searching, timeout=SEARCH_SECS)
        left = [task.get_name() for task in tasks_of(side)]
        assert not left, f"tasks are left: {left}"
        return not call.cancelled() and call.result()

    def kill(self, side: str) -> list[asyncio.Task[Any]]:
        """SIGKILL to a controller, which is the only one: what is left of it, which can do nothing any more."""
        assert self.world.processes is not None
        self.world.processes.dead.add(side)
        for executor in self.world.executors:
            executor.held.keeper.die()  # type: ignore[attr-defined]
        left = tasks_of(side)
        for task in left:
            task.cancel()
        return left

    # -- what is always true ---------------------------------------------------------------------------------

    async def gone(self, counts: Counts, secs: float = GONE_SECS) -> None:
        """No job is left in Slurm after so many seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self.world.nothing_is_left()
        if loop.time() - began > secs:
            counts.harm("orphans")
            raise AssertionError(f"jobs were in Slurm for {loop.time() - began} s")

    def unclaimed(self, counts: Counts) -> None:
        """Nothing is claimed by anybody."""
        for item in ALL:
            if look(path_of(self.world.root, item)).verdict == "claimed":
                counts.harm("orphans")
                raise AssertionError(f"{item!r} is left claimed")
        for run in (self.root / "runs").glob("[!.]*"):
            paths = RunPaths(str(self.root), run.name)
            claims, ends = (
                {each.name for each in Path(folder).glob("[1-9]*")} for folder in (paths.claims, paths.ends)
            )
            if claims - ends:
                counts.harm("orphans")
                raise AssertionError(f"{run.name} is left claimed: {claims} {ends}")

    def there(self, counts: Counts) -> dict[Item, int]:
        """Which nodes have a result, and how often each was computed; no result is damaged, or there twice."""
        found = {}
        for item in ALL:
            paths = path_of(self.world.root, item)
            seen = look(paths)
            assert seen.verdict != "damaged", seen
            assert not seen.notes, seen.notes
            if seen.verdict == "published":
                found[item] = COMPUTED[item.number]
            ends = [int(each.name) for each in Path(paths.ends).glob("*") if each.name.isdigit()]
            good = [n for n in ends if read_end(paths, paths.end(n), n).status == "success"]
            if len(good) > 1:
                counts.harm("doubles")
                raise AssertionError(f"{item!r} was published in generations {good}")
        return found

    async def again(self, counts: Counts, before: dict[Item, int], side: str = "controller") -> None:
        """The same call works in time, and computes nothing that was there."""
        assert await self.ended(self.call(side))
        assert self.error is None, f"the same call afterwards: {self.error}"
        assert self.took < (AGAIN_SECS if side == "controller" else TAKEOVER_SECS), f"it took {self.took} s"
        after = self.there(counts)
        assert set(after) == set(ALL)
        if any(after[item] != times for item, times in before.items()):
            counts.harm("lost")
            raise AssertionError(f"what was there was made again: {before}, then {after}")

    async def outlived(
        self, counts: Counts, watch: Callable[[Callable[[], None]], None], pause: float
    ) -> None:
        """The controller is killed at some point; after a while the same call is made from another process.

        Args:
            watch: is given what kills it.
        """
        loop = asyncio.get_running_loop()
        dead: asyncio.Future[list[asyncio.Task[Any]]] = loop.create_future()
        self.world.processes = Processes()
        with self.world.processes.installed():
            watch(lambda: dead.set_result(self.kill("controller")))
            call = self.call()
            await asyncio.wait([call, dead], return_when=asyncio.FIRST_COMPLETED)
            watch(lambda: None)
            await asyncio.sleep(pause)
            known = list((self.root / "runs").glob(".unfinished/*/*")) or not dead.done()
            await self.again(counts, self.there(counts), "another")
            await self.gone(counts)
            assert all(times == 1 for times in COMPUTED.values()), COMPUTED
            assert self.world.most <= WORKERS or not known, f"{self.world.most} workers at once"
            if known:  # a run that died before it was entered there is nobody's
                self.unclaimed(counts)
                assert len(list((self.root / "runs").glob("[!.]*"))) == 1, "it goes on with that run"
            zombies = await dead if dead.done() else []
            for zombie in zombies:
                zombie.cancel()
            await asyncio.gather(*zombies, return_exceptions=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, the library says nothing."""
    logger = logging.getLogger("furu_async")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
