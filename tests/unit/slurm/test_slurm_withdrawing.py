"""What may be cancelled by its id: only what Slurm has under our name."""

from __future__ import annotations

import asyncio

import pytest

from furu_async._slurm.poller import LAST_LOOKS, Poller
from furu_async._slurm.port import JobRequest
from furu_async._slurm.states import Ended
from furu_async._slurm.withdrawing import RECENT_SECS, Target, is_there, still_ours
from furu_async._testing.slurm import SimulatedSlurm
from furu_async.testing import run_virtual


async def submitted(slurm: SimulatedSlurm, name: str) -> None:
    await slurm.submit(JobRequest(name=name, argv=("sh", "-c", "sleep 1000")))


def test_an_id_that_slurm_has_given_again() -> None:
    async def main() -> None:
        slurm = SimulatedSlurm()
        poller = Poller(slurm)
        for name in ("ours", "theirs", "ours"):
            await submitted(slurm, name)
        watch = poller.track("1", "ours")
        until = asyncio.get_running_loop().time() + 60
        assert is_there(watch) is None
        jobs = [Target("1", "ours", watch), Target("2", "ours"), Target("3", "ours"), Target("4", "ours")]
        assert await still_ours(poller, jobs, until) == ["1", "3"]
        assert is_there(watch) is True
        queries = poller.queries
        assert await still_ours(poller, [jobs[0]], until) == ["1"]  # known from the last answer
        assert poller.queries == queries
        slurm.forget_everything()
        await submitted(slurm, "theirs")
        await poller.snapshot()
        assert is_there(watch) is False
        assert await still_ours(poller, [jobs[0]], until) == []
        await poller.aclose()

    run_virtual(main(), seed=1)


def test_what_was_just_submitted_need_not_be_seen() -> None:
    async def main() -> None:
        slurm = SimulatedSlurm()
        poller = Poller(slurm)
        until = asyncio.get_running_loop().time() + 60
        watch = poller.track("7", "ours")
        await poller.snapshot()  # which shows it some seconds late
        assert await still_ours(poller, [Target("7", "ours", watch, fresh=True)], until) == ["7"]
        queries = poller.queries
        for _ in range(7):
            await submitted(slurm, "theirs")
        await asyncio.sleep(10)
        assert await still_ours(poller, [Target("7", "ours", watch, fresh=True)], until) == []
        assert poller.queries > queries
        await poller.aclose()

    run_virtual(main(), seed=1)


def test_what_the_queue_had_some_seconds_ago_is_not_relied_on() -> None:
    async def main() -> None:
        slurm = SimulatedSlurm()
        poller = Poller(slurm)
        await submitted(slurm, "ours")
        watch = poller.track("1", "ours")
        await asyncio.sleep(300)  # by now the queue is asked for seldom
        queries = poller.queries
        while poller.queries == queries:
            await asyncio.sleep(0.1)
        slurm.forget_everything()
        await submitted(slurm, "theirs")
        while asyncio.get_running_loop().time() - poller.answered_at <= RECENT_SECS:
            await asyncio.sleep(0.1)
        assert is_there(watch) is True, "as far as is known"
        until = asyncio.get_running_loop().time() + 60
        assert await still_ours(poller, [Target("1", "ours", watch)], until) == []
        await poller.aclose()

    run_virtual(main(), seed=1)


def test_what_was_just_submitted_may_be_missed_for_a_while() -> None:
    """It is followed, and no answer has shown it yet: it is there all the same, and would stay."""

    async def main() -> None:
        slurm = SimulatedSlurm()
        poller = Poller(slurm)
        watch = poller.track("7", "ours")
        while is_there(watch) is not False:
            await poller.snapshot()
        assert not isinstance(watch.verdict, Ended)
        until = asyncio.get_running_loop().time() + 60
        assert await still_ours(poller, [Target("7", "ours", watch)], until) == []
        assert await still_ours(poller, [Target("7", "ours", watch, fresh=True)], until) == ["7"]
        await poller.aclose()

    run_virtual(main(), seed=1)


@pytest.mark.parametrize("secs", [20.0, 200.0])
def test_a_slurm_that_does_not_answer_is_asked_again_until_the_time_is_over(secs: float) -> None:
    async def main() -> None:
        slurm = SimulatedSlurm()
        poller = Poller(slurm)
        await submitted(slurm, "ours")
        slurm.kill_controller()
        loop = asyncio.get_running_loop()
        loop.call_later(secs, slurm.start_controller)
        began = loop.time()
        found = await still_ours(poller, [Target("1", "ours")], began + 60)
        assert found == (["1"] if secs == 20 else [])
        assert loop.time() - began < 65
        await poller.aclose()

    run_virtual(main(), seed=1)


@pytest.mark.fault("F36")
@pytest.mark.parametrize("silent", [0.0, 300.0])
def test_what_the_queue_had_when_it_last_answered_may_be_cancelled_if_it_does_not_answer(
    silent: float,
) -> None:
    """However long it has been silent; what it did not have, or has never been seen there, is left alone."""

    async def main() -> None:
        slurm = SimulatedSlurm()
        poller = Poller(slurm)
        await submitted(slurm, "ours")
        seen, missed = poller.track("1", "ours"), poller.track("2", "ours")
        while is_there(missed) is not False:
            await poller.snapshot()
        slurm.kill_controller()
        await asyncio.sleep(silent)
        unheard = poller.track("3", "ours")
        targets = [Target(watch.job.id, "ours", watch) for watch in (seen, missed, unheard)]
        assert await still_ours(poller, targets, asyncio.get_running_loop().time() + 60) == ["1"]
        await poller.aclose()

    run_virtual(main(), seed=1)


def test_last_looks_are_quick_and_few() -> None:
    async def main() -> None:
        slurm = SimulatedSlurm()
        poller = Poller(slurm)
        loop = asyncio.get_running_loop()
        await poller.snapshot()
        began = loop.time()
        for _ in range(LAST_LOOKS):
            assert await poller.last_look() is not None
        assert loop.time() - began < 0.6
        assert await poller.last_look() is None
        await poller.snapshot()
        assert loop.time() - began > 1  # which keeps its distance
        await asyncio.sleep(31)
        assert await poller.last_look() is not None
        # One that comes while a query is under way need not wait for the next turn.
        asking = asyncio.create_task(poller.snapshot())
        await asyncio.sleep(1.005)
        began = loop.time()
        assert await poller.last_look() is not None
        assert loop.time() - began < 0.3
        await asking
        await poller.aclose()

    run_virtual(main(), seed=1)
