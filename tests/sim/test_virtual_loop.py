"""The virtual-time loop: what time waits for, what it does not wait for, and what is said when nothing can happen."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from pathlib import Path

import aiofiles
import anyio
import anyio.to_thread
import pytest

from furu_async._runtime.blocking import DOOR, BlockingTimeout, Lane
from furu_async.testing import VirtualDeadlock, VirtualLoop, run_virtual


def loop_now() -> float:
    return asyncio.get_running_loop().time()


def test_a_day_with_fifty_sleepers_takes_no_time() -> None:
    async def sleeper(seconds: float) -> None:
        while loop_now() < 86_400:
            await asyncio.sleep(seconds)

    async def day() -> float:
        await asyncio.gather(*(sleeper(300 + i) for i in range(50)))
        return loop_now()

    began = time.process_time()
    assert 86_400 <= run_virtual(day()) < 86_800
    assert time.process_time() - began < 1.0


def test_timers_are_exact_and_in_order() -> None:
    async def main() -> list[tuple[float, str]]:
        seen: list[tuple[float, str]] = []
        loop = asyncio.get_running_loop()
        for delay, name in ((3.0, "c"), (0.1, "a"), (2e6, "d"), (0.1, "b")):
            loop.call_later(delay, lambda name=name: seen.append((loop.time(), name)))
        await asyncio.sleep(3e6)
        return seen

    assert run_virtual(main()) == [(0.1, "a"), (0.1, "b"), (3.0, "c"), (2e6, "d")]


@pytest.mark.parametrize("how", ["lane", "executor", "anyio", "aiofiles", "fire and forget"])
def test_time_stands_still_while_a_thread_works(how: str, tmp_path: Path) -> None:
    async def work() -> None:
        if how == "lane":
            await DOOR.files.run(time.sleep, 0.05)
        elif how == "executor":
            await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)
        elif how == "anyio":
            await anyio.to_thread.run_sync(time.sleep, 0.05)
        elif how == "aiofiles":
            async with aiofiles.open(tmp_path / "file", "wb", executor=DOOR.logs) as file:
                for _ in range(20):
                    await file.write(b"x")
        else:
            DOOR.files.submit(time.sleep, 0.05)

    async def main() -> float:
        async with asyncio.timeout(0.001):
            await work()
        return loop_now()

    assert run_virtual(main()) == 0.0


def test_an_error_of_a_call_that_nobody_awaits_any_more_is_dropped() -> None:
    complaints: list[object] = []
    lane = Lane("other", 1)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        call = asyncio.create_task(lane.run(lambda: 1 // 0, deadline=60.0))
        await asyncio.sleep(1e-6)
        assert lane.pending == 1
        call.cancel()
        await asyncio.sleep(1)
        del call
        gc.collect()

    run_virtual(main(), seed=1)
    assert complaints == []


def test_a_lane_outside_of_the_door_counts_too() -> None:
    lane = Lane("other", 1)

    async def main() -> float:
        await lane.run(time.sleep, 0.02, deadline=0.001)
        return loop_now()

    assert run_virtual(main()) == 0.0


def test_with_patience_a_hung_thread_does_not_hold_time_and_deadlines_pass() -> None:
    release = threading.Event()

    async def main() -> float:
        with pytest.raises(BlockingTimeout):
            await DOOR.probe.run(release.wait, 20.0, deadline=60.0)
        return loop_now()

    try:
        assert run_virtual(main(), patience=0.05) == 60.0
    finally:
        release.set()


def test_a_deadlock_names_the_tasks_and_where_they_wait() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(forever(), name="the one")

    with pytest.raises(VirtualDeadlock) as caught:
        run_virtual(main())
    text = str(caught.value)
    assert "2 pending" in text
    assert "- the one: " in text
    assert "forever (test_virtual_loop.py:" in text
    assert "Event.wait" in text
    assert ", for the one" in text


def test_a_timer_at_infinity_is_none_and_eternal_timers_end_at_the_horizon() -> None:
    async def never() -> None:
        await asyncio.sleep(float("inf"))

    async def ticking() -> None:
        while True:
            await asyncio.sleep(60)

    with pytest.raises(VirtualDeadlock, match="nothing can happen"):
        run_virtual(never())
    with pytest.raises(VirtualDeadlock, match="3600 s of virtual time"):
        run_virtual(ticking(), horizon=3600)


def test_somebody_elses_socket_is_no_deadlock() -> None:
    async def main() -> bytes:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            threading.Timer(0.05, theirs.send, (b"x",)).start()
            return await asyncio.get_running_loop().sock_recv(ours, 1)

    assert run_virtual(main()) == b"x"


def test_the_end_of_the_default_executor_is_waited_for() -> None:
    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)

    run_virtual(main())


def test_time_that_passes_while_nothing_runs_makes_timers_late() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.call_later(1.0, loop.sleep_through, 600.0)
        await asyncio.sleep(2.0)
        return loop.time()

    assert run_virtual(main()) == 601.0


def _order(seed: int | None) -> list[int]:
    order: list[int] = []

    async def one(number: int) -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            await DOOR.files.run(int)
            order.append(number)

    async def main() -> None:
        await asyncio.gather(*(one(i) for i in range(4)))

    run_virtual(main(), seed=seed)
    return order


def test_a_seed_is_an_interleaving() -> None:
    orders = [_order(seed) for seed in range(10)]
    assert orders == [_order(seed) for seed in range(10)]
    assert len({tuple(order) for order in orders}) > 5


def test_with_a_seed_lanes_work_on_the_loop_and_can_be_made_to_hang() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        assert await DOOR.files.run(threading.get_ident) == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await DOOR.files.run(lambda: 1 // 0)
        loop.hang("probe", 100.0)
        with pytest.raises(BlockingTimeout):
            await DOOR.probe.run(int, deadline=60.0)
        return loop.time()

    assert 60.0 < run_virtual(main(), seed=1) < 60.1
    assert Lane.stand_in is None
    assert DOOR.pending == 0  # what still hung was done when the loop was closed


def test_a_cancellation_can_arrive_at_every_step() -> None:
    reached: list[int] = []

    async def main() -> str:
        for step in range(5):
            reached.append(step)
            await asyncio.sleep(1)
        return "done"

    ends = []
    for step in range(1, 40):
        reached.clear()
        try:
            ends.append((len(reached), run_virtual(main(), cancel_at=step)))
        except asyncio.CancelledError:
            ends.append((len(reached), "cancelled"))
    assert {how for _, how in ends} == {"done", "cancelled"}
    assert {count for count, how in ends if how == "cancelled"} == {0, 1, 2, 3, 4, 5}


@pytest.mark.virtual_time
async def test_the_marker_gives_the_loop() -> None:
    assert isinstance(asyncio.get_running_loop(), VirtualLoop)
    began = time.monotonic()
    await anyio.sleep(3600)
    assert time.monotonic() - began < 60


@pytest.mark.virtual_time(seed=3)
async def test_the_marker_takes_a_seed() -> None:
    assert await DOOR.files.run(threading.get_ident) == threading.get_ident()


async def test_without_the_marker_time_is_real() -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
