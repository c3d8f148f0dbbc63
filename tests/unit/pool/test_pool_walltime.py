"""What is left of an allocation, and what fits into it; and whether the controller is still there."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from furu_async._plan.leases import LeaseRules
from furu_async._pool.guardian import Guardian, Sighting
from furu_async._pool.walltime import Walltime, find, fits
from furu_async._runtime import clock

SECS = st.floats(0, 1e6)


@given(st.none() | SECS, st.none() | SECS, SECS)
def test_a_task_fits_if_limit_and_grace_do(left: float | None, limit: float | None, grace: float) -> None:
    if left is None or limit is None:
        assert fits(left, limit, grace)
    else:
        assert fits(left, limit, grace) == (limit + grace <= left)
        assert fits(left, limit, grace) <= fits(left + 1, limit, grace)


@given(SECS, SECS, SECS)
def test_it_takes_nothing_before_it_ends_what_runs(total: float, now: float, grace: float) -> None:
    walltime = Walltime(total, total)
    assert walltime.over(now, grace) <= walltime.closing(now, grace)
    assert not Walltime().closing(now, grace)
    assert Walltime().left(now) is None


@pytest.mark.virtual_time
async def test_the_environment_is_asked_first_and_scontrol_once() -> None:
    asked = []

    async def ask(job_id: str) -> str:
        asked.append(job_id)
        return f"JobId={job_id} EndTime={int(clock.wall()) + 500} TimeLimit=01:00:00"

    now = asyncio.get_running_loop().time()
    told = await find({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(clock.wall()) + 900)}, ask)
    assert told.left(now) == pytest.approx(900, abs=3)
    assert asked == []
    found = await find({"SLURM_JOB_ID": "7"}, ask)
    assert found.left(now) == pytest.approx(500, abs=3)
    assert found.total == pytest.approx(500, abs=3)
    assert asked == ["7"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("answer", ["", "EndTime=Unknown", "slurm_load_jobs error"])
async def test_without_an_answer_there_is_no_end(answer: str) -> None:
    async def ask(job_id: str) -> str:
        return answer

    assert await find({"SLURM_JOB_ID": "7"}, ask) == Walltime()
    assert await find({}, ask) == Walltime()
    assert await find({"SLURM_JOB_END_TIME": "tomorrow"}, ask) == Walltime()


# -- the controller --------------------------------------------------------------------------------------------

RULES = LeaseRules(lease=80.0, grace=40.0, stale=1000.0)


def _watch(guardian: Guardian, seconds: float, sighting: Sighting, start: float = 0.0) -> float:
    """Look every ``interval`` for a while, at the same; when it first was not ``there``, or infinity."""
    now, first = start, float("inf")
    while now <= start + seconds:
        if guardian.see(sighting, now) != "there":
            first = min(first, now)
        now += guardian.interval
    return first


def test_silence_counts_from_the_first_sight() -> None:
    beating = Sighting("held", "1.a", b"5")
    assert 1080 <= _watch(Guardian(RULES), 200, beating, 1000.0) <= 1090
    assert 40 <= _watch(Guardian(RULES), 200, Sighting("held", "1.a", None)) <= 50
    assert 40 <= _watch(Guardian(RULES), 200, Sighting("missing")) <= 50
    assert _watch(Guardian(RULES), 900, Sighting("held", "1.a", None, can_beat=False)) == float("inf")


def test_a_beat_that_changes_is_life() -> None:
    guardian = Guardian(RULES)
    for k in range(1000):
        assert guardian.see(Sighting("held", "1.a", str(k // 10).encode()), 5.0 * k) == "there"


def test_its_own_pause_is_not_the_controllers_silence() -> None:
    guardian = Guardian(RULES)
    seen = Sighting("held", "1.a", b"5")
    guardian.see(seen, 0.0)
    assert guardian.see(seen, 5000.0) == "there"
    assert guardian.see(seen, 5005.0) == "there"


def test_a_controller_that_is_back_in_time_is_there_again() -> None:
    guardian = Guardian(RULES)
    assert _watch(guardian, 200, Sighting("held", "1.a", b"5")) < 100
    assert guardian.state == "silent"
    assert guardian.see(Sighting("held", "1.a", b"6"), 205.0) == "there"


def test_another_controller_begins_a_new_observation() -> None:
    guardian = Guardian(RULES)
    guardian.see(Sighting("held", "1.a", b"5"), 0.0)
    _watch(guardian, 60, Sighting("lost"), 5.0)
    assert guardian.state == "there"
    assert _watch(guardian, 60, Sighting("held", "2.b", b"5"), 70.0) == float("inf")


def test_an_end_is_final() -> None:
    guardian = Guardian(RULES)
    guardian.see(Sighting("held", "1.a", b"5"), 0.0)
    assert guardian.see(Sighting("over", how="cancelled"), 5.0) == "over"
    assert guardian.how == "cancelled"


def test_a_run_whose_folder_is_gone_is_over() -> None:
    guardian = Guardian(RULES)
    guardian.see(Sighting("held", "1.a", b"5"), 0.0)
    assert guardian.see(Sighting("missing"), 5.0) == "over"
