"""Who is lost, judged from looks at a counter on the observer's own clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from furu_async._plan.leases import LeaseRules, begin, limit, next_decision, observe

RULES = LeaseRules(lease=12.0, grace=9.0, stale=60.0)


def looks(times: list[float], counters: list[bytes | None], can_beat: bool = True) -> list[str]:
    """The verdicts of looks at these times; the first is the first sight."""
    seen = begin("1-a", counters[0], can_beat, times[0])
    return [observe(seen, each, now, RULES) for now, each in zip(times[1:], counters[1:], strict=True)]


@pytest.mark.fault("F01", "F06")
def test_a_beat_that_stands_still_for_a_lease_is_lost_and_not_before() -> None:
    times = [0.0, 4.0, 8.0, 11.9, 12.0]
    assert looks(times, [b"7"] * 5) == ["waiting", "waiting", "waiting", "lost"]


@pytest.mark.fault("F01")
def test_a_beat_that_was_never_seen_has_the_grace_period() -> None:
    assert looks([0.0, 4.0, 8.0, 9.0], [None] * 4) == ["waiting", "waiting", "lost"]
    assert (
        looks([0.0, 4.0, 8.0, 9.0, 13.0, 17.0, 20.0], [None, None, b"1", b"1", b"1", b"1", b"1"])[-1]
        == "lost"
    )


def test_what_has_no_beat_waits_for_the_longest_time() -> None:
    times = [float(t) for t in range(0, 61, 20)]
    assert looks(times, [None] * 4, can_beat=False) == ["waiting", "waiting", "lost"]


@pytest.mark.fault("F14", "F67")
def test_an_observer_that_slept_starts_again() -> None:
    """However long it was away: what it did not see proves nothing."""
    for away in (6.1, 100.0, 1e6):
        times = [0.0, 4.0, 4.0 + away]
        counters: list[bytes | None] = [b"7"] * 3
        assert looks(times, counters) == ["waiting", "waiting"]
        times += [times[-1] + 4.0, times[-1] + 8.0]
        assert looks(times, [b"7"] * 5)[-1] == "waiting"
        assert looks([*times, times[-1] + 4.0], [b"7"] * 6)[-1] == "lost"


def test_what_was_seen_after_a_sleep_is_what_has_to_change() -> None:
    seen = begin("1-a", b"7", True, 0.0)
    observe(seen, b"9", 50.0, RULES)
    assert seen.counter == b"9"
    assert [observe(seen, b"9", t, RULES) for t in (54.0, 58.0, 62.0)][-1] == "lost"


def test_a_beat_that_cannot_be_read_for_a_while_is_no_change() -> None:
    assert looks([0.0, 4.0, 8.0, 12.0], [b"7", None, None, None])[-1] == "lost"


def test_when_it_is_decided_is_told_beforehand() -> None:
    seen = begin("1-a", None, True, 100.0)
    assert (limit(seen, RULES), next_decision(seen, RULES)) == (9.0, 109.0)
    observe(seen, b"1", 103.0, RULES)
    assert (limit(seen, RULES), next_decision(seen, RULES)) == (12.0, 115.0)


@pytest.mark.fault("F14")
@given(
    steps=st.lists(st.tuples(st.floats(0.01, 40.0), st.booleans()), min_size=1, max_size=60),
    can_beat=st.booleans(),
    beats=st.booleans(),
)
def test_lost_means_a_lease_of_silence_seen_in_close_looks(
    steps: list[tuple[float, bool]], can_beat: bool, beats: bool
) -> None:
    """Whatever the looks: no change within the limit, and no two looks of that time were far apart."""
    counter, now = (b"0" if beats else None), 0.0
    seen = begin("1-a", counter, can_beat, now)
    changed, times = now, [now]
    for k, (gap, beat) in enumerate(steps):
        now += gap
        if beat and beats:
            counter, changed = b"%d" % (k + 1), now
        verdict = observe(seen, counter, now, RULES)
        times.append(now)
        if verdict == "lost":
            silence = limit(seen, RULES)
            assert now - changed >= silence or not beats
            inside = [each for each in times if each >= now - silence] or [now]
            before = [each for each in times if each < inside[0]][-1:]
            close = [
                later - earlier
                for earlier, later in zip([*before, *inside], [*before, *inside][1:], strict=False)
            ]
            assert all(each <= silence / 2 for each in close)
            return
