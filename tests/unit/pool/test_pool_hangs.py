"""A pool's worker whose looks at the queue get no answer, on virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pool_artifacts import Leaf
from pool_env import Home

from furu_async._pool import pilot as module
from furu_async._pool.round import Answer, Round
from furu_async._pool.walltime import Walltime
from furu_async._runtime.blocking import DOOR
from furu_async.errors import FuruExecutorError
from furu_async.testing import FakeExecutor, Hangs, Returns

pytestmark = [pytest.mark.virtual_time, pytest.mark.fault("F19")]
FOR_EVER = 1e6


class Hung:
    """From a moment on no round is answered until another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, since: float, until: float) -> None:
        hung, loop = self, asyncio.get_running_loop()
        self.since, self.until = since, until
        self.at_once = 0

        class Slow(Round):
            def __init__(self, desk: Any, ask: Any) -> None:
                self.ask = ask
                self._call = asyncio.ensure_future(self._late(desk, ask))

            async def _late(self, desk: Any, ask: Any) -> Answer:
                hung.at_once += 1
                assert hung.at_once == 1, "one after the other"
                try:
                    if loop.time() >= hung.since:
                        await asyncio.sleep(max(0.0, hung.until - loop.time()))
                    answer: Answer = await DOOR.files.run(desk.round, ask)
                finally:
                    hung.at_once -= 1
                return answer

        monkeypatch.setattr(module, "Round", Slow)


def script(secs: float) -> FakeExecutor:
    return FakeExecutor(default=Returns(0, after=secs))


async def test_one_that_hangs_for_long_ends_its_worker_with_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, infra_secs=100.0)
    home.put(Leaf(n=1))
    Hung(monkeypatch, 0.0, FOR_EVER)
    with pytest.raises(FuruExecutorError, match=f"cannot be used for 100 s: {tmp_path} gives no answer"):
        await home.worker(script=script(0.0), detached=True).run()
    assert 100.0 < asyncio.get_running_loop().time() < 125.0
    assert len(home.todo()) == 1


async def test_what_runs_may_end_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path, infra_secs=100.0)
    home.put(Leaf(n=1))
    Hung(monkeypatch, 10.0, FOR_EVER)
    with pytest.raises(FuruExecutorError, match="gives no answer"):
        await home.worker(script=script(200.0), detached=True).run()
    assert 200.0 < asyncio.get_running_loop().time() < 225.0
    assert home.generations(Leaf(n=1)) == 1


async def test_one_that_is_answered_after_a_while_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the time in which nobody knew whether there is anything to do."""
    home = Home(tmp_path, infra_secs=100.0)
    names = [home.put(Leaf(n=n)) for n in range(2)]
    Hung(monkeypatch, 3.0, 60.0)
    assert await home.worker(script=script(5.0), idle=20.0, detached=True).run() == "nothing to do for 20 s"
    assert home.done() == sorted(names)
    assert 80.0 < asyncio.get_running_loop().time() < 90.0
    assert [home.generations(Leaf(n=n)) for n in range(2)] == [1, 1]


async def test_what_a_round_takes_that_is_answered_at_the_end_waits_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, infra_secs=100.0)
    name = home.put(Leaf(n=1))
    Hung(monkeypatch, 0.0, 101.0)
    loop = asyncio.get_running_loop()
    pilot = home.worker(script=script(5.0), detached=True)
    loop.call_later(100.0, pilot.signal, "SIGTERM")
    assert await pilot.run() == "SIGTERM"
    assert home.todo() == [name]
    assert home.running() == []
    assert home.status().stage == "ended"
    assert loop.time() < 105.0


async def test_a_signal_and_the_end_of_the_walltime_do_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, infra_secs=1000.0)
    home.put(Leaf(n=1))
    hung = Hung(monkeypatch, 10.0, FOR_EVER)
    loop = asyncio.get_running_loop()
    pilot = home.worker(script=FakeExecutor(default=Hangs()), detached=True)
    loop.call_later(50.0, pilot.signal, "SIGTERM")
    assert await pilot.run() == "SIGTERM"
    assert loop.time() < 50.0 + 2 * (pilot.plan.grace + 10.0)

    hung.since = loop.time() + 10.0
    began = loop.time()
    home.put(Leaf(n=2))
    pilot = home.worker("w2", FakeExecutor(default=Hangs()), walltime=Walltime(began + 100.0, 100.0))
    assert "walltime" in await pilot.run()
    assert loop.time() - began < 100.0 + pilot.plan.grace
