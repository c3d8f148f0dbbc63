"""One small run of a pool on virtual time, made to go wrong at some point, and what has to be true afterwards.

Controller, workers and cluster share one loop, so a place in the course of all of them is a number.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
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

from furu_async import RunReport, run_dag
from furu_async._pool.entries import worker_id
from furu_async._pool.worker_main import _End, _Worker
from furu_async._slurm.admission import JobIdentity
from furu_async._slurm.port import base_id
from furu_async._store.artifacts import look
from furu_async._store.layout import RunPaths
from furu_async._store.marker import read_end
from furu_async._testing.slurm import Copy
from furu_async.errors import FuruError
from furu_async.testing import Computes, FakeExecutor, Returns, VirtualLoop

LEASE_SECS = 40.0

GONE_SECS = 10.0
"""Within so many seconds after the end of a call no job of it is in Slurm."""

IDLE_SECS = 20.0
"""A worker with nothing to do ends after so many; of a run that was detached nobody else ends it."""

AGAIN_SECS = 30.0
"""A call in which nothing happens any more ends within so many: it waits for nobody's lease."""

SIDE: contextvars.ContextVar[str] = contextvars.ContextVar("side", default="")
"""Whose a task is: ``controller`` or ``job``."""


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


class Turns(VirtualLoop):
    """Does something at the n-th turn of the loop since `watch`, and knows whose its tasks are."""

    turns = 0
    _at = 0
    _do: Callable[[], object] | None = None

    def watch(self, at: int, do: Callable[[], object]) -> None:
        """Count turns from now on; at turn ``at`` call ``do``, once."""
        self.turns, self._at, self._do = 0, at, do

    def rest(self) -> None:
        """Count no more."""
        self._do = None

    def _select(self, timeout: float | None, select: Callable[[float | None], Any]) -> Any:
        if self._do is not None:
            self.turns += 1
            if self.turns == self._at:
                self._do()
        return super()._select(timeout, select)

    def create_task(self, coro: Any, **options: Any) -> Any:
        """As of any loop."""
        task = super().create_task(coro, **options)
        context = options.get("context")
        task.side = SIDE.get() if context is None else context.get(SIDE, "")
        return task


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
    with steady(), asyncio.Runner(loop_factory=lambda: Turns(0)) as runner:
        return runner.run(main)


class Careful(World):
    """Jobs ask whether they may act as the library's own do: with patience for a store that gives errors."""

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

    def call(self, **options: Any) -> asyncio.Task[bool]:
        """Begin the call; whether it was not cancelled."""
        context = contextvars.copy_context()
        context.run(SIDE.set, "controller")
        loop = asyncio.get_running_loop()
        return loop.create_task(self._call(options), name="the call", context=context)

    async def _call(self, options: dict[str, Any]) -> bool:
        loop = asyncio.get_running_loop()
        began, self.report, self.error = loop.time(), None, None
        pool, config = self.world.pool(workers=2, idle=IDLE_SECS), self.world.config
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
        mine = [task for task in asyncio.all_tasks() if getattr(task, "side", "") == "controller"]
        left = [name for name in (task.get_name() for task in mine) if not name.startswith("simulated job")]
        assert not left, f"tasks are left: {left}"
        return not call.cancelled() and call.result()

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
                raise AssertionError(f"{run.name} is left claimed")

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

    async def again(self, counts: Counts, before: dict[Item, int]) -> None:
        """The same call works in time, and computes nothing that was there."""
        assert await self.ended(self.call())
        assert self.error is None, f"the same call afterwards: {self.error}"
        assert self.took < AGAIN_SECS, f"the same call took {self.took} s"
        after = self.there(counts)
        assert set(after) == set(ALL)
        if any(after[item] != times for item, times in before.items()):
            counts.harm("lost")
            raise AssertionError(f"what was there was made again: {before}, then {after}")


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
