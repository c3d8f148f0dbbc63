"""When workers die young."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from furu_async._pool.breaker import LONGEST_PAUSE, MOST_REPLACED, MOST_YOUNG, YOUNG_SECS, Breaker, Death

DEATHS = st.builds(
    Death,
    lived=st.floats(0, 2 * YOUNG_SECS),
    finished=st.integers(0, 2),
    cancelled=st.booleans(),
    text=st.just("its log"),
    unable=st.booleans(),
)


@given(st.lists(DEATHS, max_size=30))
def test_a_spec_is_stopped_exactly_by_what_says_that_there_is_no_sense(deaths: list[Death]) -> None:
    breaker = Breaker()
    young = cancelled = 0
    for death in deaths:
        was_open = breaker.open
        tripped = breaker.died(death)
        assert tripped == (was_open and not breaker.open)
        if not was_open:
            continue
        if death.cancelled:
            cancelled += 1
        elif death.finished or (death.lived > YOUNG_SECS and not death.unable):
            young = 0
        else:
            young += 1
        assert breaker.open == (young < MOST_YOUNG and cancelled <= MOST_REPLACED)


def test_the_reason_has_the_end_of_the_last_log() -> None:
    breaker = Breaker()
    for _ in range(MOST_YOUNG):
        assert breaker.open
        breaker.died(Death(1.0, 0, text="ImportError: no module named x"))
    assert "ImportError: no module named x" in breaker.why


def test_one_that_works_clears_the_count() -> None:
    breaker = Breaker()
    for _ in range(20):
        for _ in range(MOST_YOUNG - 1):
            assert not breaker.died(Death(1.0, 0))
        breaker.worked()
    assert breaker.open


def test_a_rejected_spec_stays_rejected() -> None:
    breaker = Breaker()
    breaker.reject("invalid partition specified: nowhere")
    breaker.worked()
    assert not breaker.open
    assert not breaker.died(Death(0.0, 0))
    assert "nowhere" in breaker.why


def test_it_opens_again_when_another_worker_works() -> None:
    breaker = Breaker()
    for _ in range(MOST_YOUNG):
        breaker.died(Death(1.0, 0))
    assert not breaker.open
    breaker.worked()
    assert breaker.open
    assert not breaker.died(Death(1.0, 0))


def test_what_dies_young_is_sent_again_ever_more_slowly() -> None:
    breaker = Breaker()
    pauses = []
    for k in range(12):
        breaker.died(Death(1.0, 0), now=100.0 * k)
        breaker.worked()
        pauses.append(max(0.0, breaker.not_before - 100.0 * k))
    assert pauses[:5] == [0.0, 0.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE
