"""A run that is cancelled at the n-th turn of its loop, for every n: it stops in time, leaves nothing, and the same
call goes on from what is there.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.laboratory import Counts, counting, repeatable
from tests.sim.sim_artifacts import Item, Stubborn
from tests.sim.simulate import path_of
from tests.sim.test_sim_runs import Inline

from furu_async import FuruConfig, run_dag
from furu_async._executors.base import ExecutorLike
from furu_async._executors.runs import CANCEL_SECS
from furu_async._store import liveness
from furu_async._store.artifacts import look
from furu_async._store.layout import RunPaths
from furu_async._store.records import ChildRecord
from furu_async.testing import Computes, Elsewhere, FakeExecutor, Raises, Returns, VirtualLoop

HOST = ("node", "boot", "namespace")


class Awaits(Item):
    """Computes on the loop of its run, and takes a moment to clean up when it is cancelled."""

    _mode = "inline"

    async def _create(self) -> int:  # type: ignore[override]
        try:
            await asyncio.sleep(2.0)
            values = [await each.aget() for each in self.inputs]
        finally:
            await asyncio.sleep(0.5)
        return self.number + sum(values)


class Fails(Awaits):
    """The same, and it does not work the first time."""

    failed = False

    async def _create(self) -> int:  # type: ignore[override]
        await asyncio.sleep(1.0)
        if not Fails.failed:
            Fails.failed = True
            raise ConnectionError("once")
        return await super()._create()


A = Item(number=1)
B = Stubborn(number=2, inputs=(A,))
C = Item(number=3, inputs=(A,))
D = Awaits(number=4, inputs=(A, B))
E = Fails(number=5, inputs=(D,))

NUMBER = Returns(lambda item: item.number)
FAKE = FakeExecutor(
    {
        B: [Raises(ValueError("once")), Returns(2)],
        C: Elsewhere("published", 3.0, value=3),
        D: Computes(),
        E: Computes(),
    },
    default=NUMBER,
    workers=2,
)
AFTERWARDS = FakeExecutor({C: Elsewhere("published", 3.0, value=3)}, default=NUMBER)
CALM = FakeExecutor({D: Computes(), E: Computes()}, default=NUMBER)
CALLS: dict[str, tuple[tuple[Item, ...], ExecutorLike]] = {
    "elsewhere and backoff": ((B, C), FAKE),
    "async attempts": ((D,), FAKE),
    "inline": ((E,), Inline()),
}


class Loop(VirtualLoop):
    """Notes when it cancelled its main task."""

    cancelled_at: float | None = None

    def _select(self, timeout: float | None, select: Callable[[float | None], Any]) -> Any:
        if self.steps + 1 == self._cancel_at:
            self.cancelled_at = self.time()
        return super()._select(timeout, select)


@dataclass
class System:
    """One host, of which one process lives at a time."""

    pid: int = 1
    ended: list[ChildRecord] = field(default_factory=list)

    def this_host(self) -> tuple[str, str, str]:
        return HOST

    def this_pid(self) -> int:
        return self.pid

    def start_time(self, pid: int) -> int | None:
        return 1000 + pid if pid == self.pid else None

    def end_children(self, children: list[ChildRecord]) -> bool:
        self.ended += children
        return True


@pytest.fixture(autouse=True)
def system() -> Iterator[System]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    liveness.stand_in = System()
    Fails.failed = False
    yield liveness.stand_in
    liveness.stand_in = None
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def live(
    root: Path, targets: tuple[Item, ...], executor: ExecutorLike, step: int | None = None, at: float = 0.0
) -> tuple[bool, Loop]:
    """A process that makes one call; whether it was not cancelled before its end.

    Args:
        step: it is cancelled at this turn of its loop.
        at: it is killed at this time: copies of what was on disk then are in ``<root>-killed``.
    """
    config = FuruConfig(
        path=root,
        record_git="off",
        infra_secs=60.0,
        lease_secs=8.0,
        heartbeat_secs=1.0,
        heartbeat_grace_secs=8.0,
    )
    loops: list[Loop] = []

    def make() -> Loop:
        loops.append(Loop(0, cancel_at=step))
        return loops[0]

    async def main() -> bool:
        me = asyncio.current_task()
        assert me is not None
        if at:
            asyncio.get_running_loop().call_later(at, shutil.copytree, root, f"{root}-killed")
        try:
            report = await run_dag(targets, executor=executor, config=config)
        except asyncio.CancelledError:
            me.uncancel()
            return False
        else:
            assert report.ok
            return True
        finally:
            left = [task.get_name() for task in asyncio.all_tasks() if task is not me]
            assert not left, f"tasks are left: {left}"

    with asyncio.Runner(loop_factory=make) as runner:
        whole = runner.run(main())
        cancelled = loops[0].cancelled_at
        if not whole:
            assert cancelled is not None
            assert loops[0].time() - cancelled <= CANCEL_SECS
    return whole, loops[0]


def check_claims(root: Path, system: System, counts: Counts) -> None:
    """Nothing is claimed by the living; a run that was begun here has ended."""
    for item in (A, B, C, D, E):
        seen = look(path_of(str(root), item))
        owner = seen.claim.owner if seen.verdict == "claimed" and seen.claim is not None else None
        if owner is not None and (owner.host, owner.pid) == (HOST[0], system.pid):
            counts.harm("orphans")
            raise AssertionError(f"{item!r} is left claimed")
    for run in (root / "runs").glob("[!.]*"):
        paths = RunPaths(str(root), run.name)
        claims, ends = (
            {each.name for each in Path(folder).glob("[1-9]*")} for folder in (paths.claims, paths.ends)
        )
        mine = f'"pid":{system.pid},'.encode()
        for name in claims - ends:
            if mine in Path(paths.claim(int(name))).read_bytes():
                counts.harm("orphans")
                raise AssertionError(f"{run.name} is left claimed by the living")


def at_every_turn(
    root: Path, system: System, targets: tuple[Item, ...], executor: ExecutorLike, start: Path | None = None
) -> int:
    """Cancel a call at each turn of its loop, in a fresh store or a copy of ``start`` each time; how many there are."""
    with counting("nth-await") as counts:
        step = 1
        while True:
            step += 1
            store = root / str(step)
            if start is not None:
                shutil.copytree(start, store)
            Fails.failed = False
            with repeatable(f"cancelled at turn {step}"):
                system.pid = 2
                whole, _ = live(store, targets, executor, step)
                check_claims(store, system, counts)
                if whole:
                    return step
                counts.trials += 1
                system.pid = 3
                whole, loop = live(store, targets, CALM)
                assert whole
                assert loop.time() < 60.0, f"cancelled at {step}, the same call took {loop.time()} s"
                check_claims(store, system, counts)
            shutil.rmtree(store)


@pytest.mark.fault("F96", "F98")
@pytest.mark.parametrize("name", CALLS)
def test_a_cancellation_at_any_turn_ends_in_time_and_leaves_nothing(
    name: str, system: System, tmp_path: Path
) -> None:
    assert at_every_turn(tmp_path, system, *CALLS[name]) > 50


@pytest.mark.fault("F07", "F96", "F98")
def test_a_cancellation_at_any_turn_of_a_run_that_goes_on_with_another(
    system: System, tmp_path: Path
) -> None:
    """The first controller is killed while one node waits to be tried again and somebody else is at another."""
    first = tmp_path / "first"
    live(first, (B, C), FAKE, at=2.5)
    start = Path(f"{first}-killed")
    (dead,) = (run.name for run in (start / "runs").glob("[!.e]*"))
    system.pid = 2
    shutil.copytree(start, tmp_path / "whole")
    live(tmp_path / "whole", (B, C), CALM)
    assert [run.name for run in (tmp_path / "whole" / "runs").glob("[!.e]*")] == [dead], "it is continued"
    assert at_every_turn(tmp_path, system, (B, C), AFTERWARDS, start) > 50
