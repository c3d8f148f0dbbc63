"""Waiting for a claim whose job is in Slurm's queue: nothing beats there, and Slurm is asked beside the looks."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from furu_async import Furu, FuruConfig
from furu_async._executors import queued
from furu_async._executors.base import Node
from furu_async._executors.watcher import Watcher
from furu_async._model.artifact import class_info
from furu_async._plan.events import WatchEnded
from furu_async._runtime.blocking import DOOR
from furu_async._slurm.port import Found, JobRow
from furu_async._store import artifacts, atomic, submissions
from furu_async._store.beat import Beat
from furu_async._store.card import PlainCard
from furu_async._store.layout import ArtifactPaths, RunPaths, WorkerPaths, beat_path
from furu_async._store.records import Claim, End
from furu_async.testing import run_virtual, tmp_root

WID = "s1-1"
RARELY = {"poll_interval_secs": 20.0, "stale_after_secs": 600.0}


class Item(Furu[int]):
    n: int = 0

    def _create(self) -> int:
        return self.n


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    with tmp_root(tmp_path / "store", record_git="off", **RARELY) as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


class Queued:
    """A controller elsewhere has claimed for a job of Slurm's; the job beats once it has begun."""

    def __init__(self, root: str, item: Item, number: int = 1) -> None:
        run_id, self.job = f"run-{number}", f"furu-{number}"
        self.paths = ArtifactPaths(root, class_info(Item).name, item.furu_hash)
        self._worker = WorkerPaths(root, run_id, WID)
        assert submissions.begin(RunPaths(root, run_id).submission("s1"), 1, "t", self.job)
        record = Claim(backend="dag", phase="queued", run_id=run_id, token=WID, beat=beat_path(run_id, WID))
        self._card = PlainCard(self._worker, record)
        self.generation = artifacts.look(self.paths).next_generation
        assert artifacts.claim(self.paths, self.generation, self._card).r == "claimed"
        self._beat = Beat(self._worker.beat, 1.0)

    def begin(self) -> None:
        """The job begins, and beats for the first time."""
        atomic.make_folders(self._worker.base)
        self._beat.first()

    def give_up(self) -> None:
        """End the claim."""
        end = End(generation=self.generation, token=WID, status="failure", hash=self.paths.hash)
        assert artifacts.finish(self.paths, self.generation, end).r == "published"


class Waiting:
    """A run that waits for one item.

    Attributes:
        state: of the job in Slurm; empty: Slurm has none; None: it does not answer.
        asked: names Slurm was asked for, and when.
    """

    def __init__(self, config: FuruConfig, item: Item) -> None:
        self.state: str | None = "PENDING"
        self.asked: list[tuple[str, float]] = []
        self.ended: list[tuple[WatchEnded, float]] = []
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self.node = Node(item, item.furu_hash, class_info(Item).name, class_info(Item))
        self.watcher = Watcher(str(config.path), config, self._end, lambda *_: None)
        self.watcher.find = self._find
        self._task = self._loop.create_task(self.watcher.run())
        self.watcher.watch(self.node)

    async def _find(self, name: str) -> Found:
        self.asked.append((name, self._loop.time()))
        await asyncio.sleep(5)
        if self.state is None:
            return Found(answered=False)
        if self.state == "raise":
            raise RuntimeError("a bug in here")
        return Found((JobRow(id="7", name=name, state=self.state),) if self.state else ())

    def _end(self, event: WatchEnded) -> None:
        self.ended.append((event, self._loop.time()))
        self._over.set()

    async def until_end(self, most: float) -> WatchEnded | None:
        """What the wait ends with; None if it lasts for longer."""
        try:
            async with asyncio.timeout(most):
                await self._over.wait()
        except TimeoutError:
            return None
        return self.ended[0][0]

    async def close(self) -> None:
        self.watcher.close()
        await self._task


def _asking() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "furu ask Slurm"]


def test_a_job_that_waits_in_slurm_is_waited_for(config: FuruConfig) -> None:
    async def main() -> None:
        item = Item(n=1)
        theirs = Queued(str(config.path), item)
        wait = Waiting(config, item)
        assert await wait.until_end(10 * config.stale_after_secs) is None
        assert {name for name, _ in wait.asked} == {theirs.job}
        pauses = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(wait.asked)]
        assert min(pauses) >= queued.FIRST_SECS
        await wait.close()

    run_virtual(main())


def test_a_job_that_slurm_does_not_have_is_lost(config: FuruConfig) -> None:
    async def main() -> None:
        item = Item(n=1)
        Queued(str(config.path), item)
        wait = Waiting(config, item)
        wait.state = ""
        ended = await wait.until_end(3 * queued.FIRST_SECS)
        assert ended is not None
        assert ended.how == "lost"
        assert wait.node.takeover == 1
        await wait.close()

    run_virtual(main())


@pytest.mark.parametrize("state", [None, "raise"])
def test_without_a_word_from_slurm_it_is_lost_after_the_longest_time_and_not_before(
    state: str | None, config: FuruConfig
) -> None:
    """What Slurm said before does not count for ever either, and no answer is not that it has no such job."""

    async def main() -> None:
        item = Item(n=1)
        Queued(str(config.path), item)
        wait = Waiting(config, item)
        assert await wait.until_end(3 * queued.FIRST_SECS) is None
        wait.state = state
        ended = await wait.until_end(2 * config.stale_after_secs)
        assert ended is not None
        assert ended.how == "lost"
        assert wait.ended[0][1] >= config.stale_after_secs
        await wait.close()

    run_virtual(main())


@pytest.mark.fault("F70")
def test_a_job_that_begins_and_falls_silent_is_lost_though_slurm_had_it(config: FuruConfig) -> None:
    """It had been asked for while it waited; the answer says nothing of the process that has begun since."""

    async def main() -> None:
        item = Item(n=1)
        theirs = Queued(str(config.path), item)
        wait = Waiting(config, item)
        assert await wait.until_end(3 * queued.FIRST_SECS) is None
        assert wait.asked
        await DOOR.files.run(theirs.begin)
        ended = await wait.until_end(2 * config.lease_secs + 2 * config.poll_interval_secs)
        assert ended is not None
        assert ended.how == "lost"
        await wait.close()

    run_virtual(main())


def test_what_slurm_says_of_one_claim_does_not_end_the_next(config: FuruConfig) -> None:
    async def main() -> None:
        item = Item(n=1)
        first = Queued(str(config.path), item)
        wait = Waiting(config, item)
        while not wait.asked:
            await asyncio.sleep(1)
        wait.state = ""  # the answer to come is that Slurm has no such job
        await DOOR.files.run(first.give_up)
        await DOOR.files.run(Queued, str(config.path), item, 2)
        ended = await wait.until_end(queued.FIRST_SECS - 10)
        assert ended is None, "the second claim has not been asked about yet"
        await wait.close()

    run_virtual(main())


@pytest.mark.parametrize("how", ["unwatch", "close"])
def test_nothing_is_asked_any_more_when_nobody_waits(how: str, config: FuruConfig) -> None:
    async def main() -> None:
        item = Item(n=1)
        Queued(str(config.path), item)
        wait = Waiting(config, item)
        while not wait.asked:
            await asyncio.sleep(1)
        assert _asking()
        if how == "unwatch":
            wait.watcher.unwatch(item.furu_hash)
            await asyncio.sleep(0)
        else:
            await wait.close()
            await asyncio.sleep(0)
        assert not _asking()
        await wait.close()

    run_virtual(main())
