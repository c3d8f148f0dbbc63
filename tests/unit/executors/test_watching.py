"""What the claim watcher makes of a store that fails, hangs, or comes back, and of waits one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from furu_async import Furu, FuruConfig
from furu_async._executors import watcher
from furu_async._executors.base import Node
from furu_async._executors.watcher import Watcher
from furu_async._model.artifact import class_info
from furu_async._plan.events import WatchEnded
from furu_async._store.look import Look
from furu_async._store.records import Claim, Owner
from furu_async.testing import VirtualLoop, run_virtual

Sights = Callable[[float], watcher._Sight]

THEIRS = Claim(
    run_id="q",
    token="theirs",
    backend="local",
    owner=Owner(host="elsewhere", boot_id="b", pid_ns="1", pid=7, start_time=5),
    beat="runs/q/workers/w/beat",
)


class Item(Furu[int]):
    def _create(self) -> int:
        return 1


def beating(at: float) -> watcher._Sight:
    """Its owner beats every ten seconds."""
    return watcher._Sight(Look("claimed", 1, THEIRS), beat=b"%d" % (at // 10))


def free(at: float) -> watcher._Sight:
    """Its owner has given it back."""
    return watcher._Sight(Look("free", 1))


def no_answer(at: float) -> watcher._Sight:
    return watcher._Sight(error="Input/output error: claims")


@pytest.fixture
def config(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    yield FuruConfig(path=tmp_path, record_git="off", poll_interval_secs=1.0, infra_secs=300.0)
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


class Watching:
    """A run that watches one item.

    Attributes:
        sights: what a look at a time finds.
        ended: waits that have ended, and when.
    """

    def __init__(self, config: FuruConfig, sights: Sights, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sights = sights
        self.ended: list[tuple[WatchEnded, float]] = []
        self.node = Node(Item(), Item().furu_hash, class_info(Item).name, class_info(Item))
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr(watcher, "_see", self._see)
        self.watcher = Watcher(str(config.path), config, self._end, lambda *_: None)
        self._task = self._loop.create_task(self.watcher.run())
        self.watcher.watch(self.node)

    def _see(self, root: str, items: Sequence[tuple[str, str, int]]) -> list[watcher._Sight]:
        return [self.sights(self._loop.time()) for _ in items]

    def _end(self, event: WatchEnded) -> None:
        self.ended.append((event, self._loop.time()))

    async def until(self, at: float) -> list[tuple[str, float]]:
        """How waits have ended until then, and when."""
        await asyncio.sleep(at - self._loop.time())
        return [(event.how, time) for event, time in self.ended]

    async def close(self) -> None:
        self.watcher.close()
        await self._task


@pytest.mark.fault("F19", "F33")
def test_time_in_which_the_store_gave_no_answer_is_no_silence(
    config: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner could not write its beat there either, and needs a moment to beat again."""
    quiet = (100.0, 240.0)

    def sights(at: float) -> watcher._Sight:
        if 130 <= at < 185:
            return no_answer(at)
        return beating(quiet[0] if quiet[0] <= at < quiet[1] else at)

    async def main() -> None:
        wait = Watching(config, sights, monkeypatch)
        assert quiet[1] - quiet[0] > config.lease_secs
        assert await wait.until(1000) == []
        wait.sights = lambda at: beating(1000)
        ((how, at),) = await wait.until(1000 + 2 * config.lease_secs)
        assert how == "lost"
        assert 1000 + config.lease_secs - 10 <= at <= 1000 + config.lease_secs + 10
        await wait.close()

    run_virtual(main(), seed=1)


@pytest.mark.fault("F19")
def test_troubles_of_the_store_that_pass_do_not_add_up(
    config: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sights(at: float) -> watcher._Sight:
        return no_answer(at) if at % 300 < 200 else beating(at)

    async def main() -> None:
        wait = Watching(config, sights, monkeypatch)
        assert await wait.until(3000) == []
        wait.sights = no_answer
        ((how, at),) = await wait.until(4000)
        assert how == "timeout"
        assert wait.ended[0][0].failure is not None
        assert wait.ended[0][0].failure.kind == "infrastructure"
        assert 3000 + config.infra_secs <= at <= 3000 + config.infra_secs + 10
        await wait.close()

    run_virtual(main(), seed=1)


@pytest.mark.fault("F33")
@pytest.mark.parametrize("secs", [200.0, 100_000.0])
def test_a_store_that_hangs_is_waited_for_and_not_for_ever(
    secs: float, config: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        wait = Watching(config, beating, monkeypatch)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await wait.until(100)
        loop.hang("probe", secs)
        ended = await wait.until(1000)
        assert [how for how, _ in ended] == ([] if secs < config.infra_secs else ["timeout"])
        if ended:
            assert "does not answer" in wait.ended[0][0].detail
            assert ended[0][1] <= 100 + config.infra_secs + 2 * 60 + 10
        await wait.close()

    run_virtual(main(), seed=1)


def test_the_longest_wait_counts_earlier_waits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever an owner gives up, the next one is quicker than this run."""
    config = FuruConfig(path=tmp_path, record_git="off", poll_interval_secs=1.0, max_wait_secs=350.0)

    async def main() -> None:
        wait = Watching(config, beating, monkeypatch)
        for number in range(1, 4):
            await wait.until(number * 100)
            wait.sights = free
            assert len(await wait.until(number * 100 + 5)) == number
            wait.sights = beating
            wait.watcher.watch(wait.node)
        *others, (how, at) = await wait.until(1000)
        assert [each for each, _ in others] == ["lost"] * 3
        assert how == "timeout"
        assert 350 <= at <= 370
        await wait.close()

    run_virtual(main(), seed=1)


@pytest.mark.parametrize("again", [False, True], ids=["unwatched", "watched again"])
def test_a_look_that_was_under_way_says_nothing_of_another_wait(
    again: bool, config: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is not waited for any more, or again, may have been claimed since by somebody else."""

    async def main() -> None:
        wait = Watching(config, beating, monkeypatch)
        await wait.until(10)
        looking = asyncio.Event()

        def unwatched_meanwhile(at: float) -> watcher._Sight:
            wait.watcher.unwatch(wait.node.hash)
            if again:
                wait.watcher.watch(wait.node)
            wait.sights = beating
            looking.set()
            return free(at)

        wait.sights = unwatched_meanwhile
        await looking.wait()
        assert await wait.until(100) == []
        await wait.close()

    run_virtual(main(), seed=1)
