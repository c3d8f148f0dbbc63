"""Nodes that others compute; events that are late, repeated, contradictory, or about nobody."""

from __future__ import annotations

import pytest
from plan_env import failure

from furu_async._plan.commands import Ended
from furu_async._plan.events import Elsewhere, Failed, Probed, Started, Succeeded, TakenBack, Tick, WatchEnded


class TestElsewhere:
    """Nodes shared with other people."""

    def test_what_they_publish_is_cached(self, run_of):
        env = run_of("a: b")
        env.plan(absent="a")
        env.probed("b", "busy", detail="host1 pid 4")
        env.expect("watch b", "planned")
        assert env.state.why("b") == "is computed elsewhere: host1 pid 4"
        env.watch_ended("b", "published")
        env.expect("b cached", "start a")

    def test_below_a_busy_node_nothing_is_asked_until_its_owner_is_gone(self, run_of):
        env = run_of("a: b")
        env.want()
        env.probed("a", "busy")
        env.expect("probe a", "watch a", "planned")
        assert env.state.why("a") == "is computed elsewhere"
        env.watch_ended("a", "lost", detail="no beat for 120 s")
        env.expect("probe b")
        env.valid("b")
        env.expect("b cached", "start a")
        assert env.state.history("a") == ("elsewhere: its owner is gone no beat for 120 s",)

    def test_their_failure_leaves_us_the_first_attempt(self, run_of):
        env = run_of("a", compute_retries=0)
        env.want()
        env.probed("a", "busy")
        env.watch_ended("a", "ended", failure())
        env.expect("probe a", "watch a", "planned", "retry a compute", "start a")
        env.fail_when_running("a")
        env.expect("a failed compute", "end not ok")

    def test_their_failure_stays_where_failures_stay(self, run_of):
        env = run_of("a: b", retry_failed=False)
        env.plan(absent="a")
        env.probed("b", "busy")
        env.watch_ended("b", "ended", failure())
        env.expect("watch b", "planned", "b failed compute", "a skipped dependency b", "end not ok")

    def test_an_owner_that_left_it_unfinished_is_not_replaced_where_failures_stay(self, run_of):
        env = run_of("a: b", retry_failed=False)
        env.plan(absent="a")
        env.probed("b", "busy")
        env.watch_ended("b", "lost", failure("lost"))
        env.expect("watch b", "planned", "b failed lost", "a skipped dependency b", "end not ok")

    def test_their_cancellation_is_no_failure_of_the_node(self, run_of):
        env = run_of("a", retry_failed=False)
        env.want()
        env.probed("a", "busy")
        env.watch_ended("a", "ended", failure("cancelled"))
        env.expect("probe a", "watch a", "planned", "retry a cancelled", "start a")

    def test_waiting_too_long_fails_the_node(self, run_of):
        env = run_of("a: b, c")
        env.want("a", "c")
        env.absent("a", "c")
        env.probed("b", "busy")
        env.inbox.clear()
        env.watch_ended("b", "timeout")
        env.expect("b failed timeout", "a skipped dependency b")
        ended = next(c for c in env.log if isinstance(c, Ended) and c.node == "b")
        assert ended.failure.error_type == "FuruWaitTimeout"
        assert "FURU_MAX_WAIT_SECS" in ended.failure.message

    @pytest.mark.fault("F70")
    def test_the_executor_finds_a_claim_instead_of_starting(self, run_of):
        env = run_of("a")
        env.plan(absent="a")
        env.elsewhere("a", "run-7")
        env.expect("watch a")
        env.watch_ended("a", "lost")
        env.expect("start a")
        env.begin("a")
        env.elsewhere("a")
        env.watch_ended("a", "ended")
        env.expect("watch a", "retry a compute", "start a")
        assert env.state.attempts("a") == 0

    def test_a_success_of_ours_ends_the_watch(self, run_of):
        env = run_of("a")
        env.plan(absent="a")
        env.elsewhere("a")
        env.succeed("a", created=False)
        env.expect("watch a", "unwatch a", "a cached", "end ok")


class TestLateAndRepeated:
    @pytest.mark.fault("F67")
    def test_a_superseded_attempt_changes_nothing(self, run_of):
        env = run_of("a")
        env.plan(absent="a")
        env.fail_when_running("a", "lost")
        env.expect("retry a lost", "start a #2")
        story = env.state.story("a")
        for late in (
            Started("a", ticket=1),
            Failed("a", failure(), ticket=1),
            TakenBack("a", ticket=1),
            Elsewhere("a", ticket=1),
        ):
            env.feed(late)
        env.expect()
        assert env.state.story("a") == story
        env.feed(Started("a", ticket=2))
        assert env.phases() == {"a": "running"}

    @pytest.mark.fault("F67", "F68")
    def test_a_late_success_of_a_superseded_attempt_wins_and_the_new_one_is_killed(self, run_of):
        env = run_of("a")
        env.plan(absent="a")
        env.fail_when_running("a", "lost")
        env.begin("a")
        env.inbox.clear()
        env.feed(Succeeded("a", ticket=1))
        env.expect("kill a", "a created", "end ok")

    @pytest.mark.fault("F68")
    @pytest.mark.parametrize("phase", ["probing", "waiting", "backoff"])
    def test_success_wins_whatever_else_was_said(self, run_of, phase):
        env = run_of("a: b")
        env.want()
        if phase == "waiting":
            env.absent("a")
        if phase == "backoff":
            env.probed("a", "unknown")
        env.inbox.clear()
        assert env.phases()["a"] == phase
        env.succeed("a", created=False)
        if phase == "waiting":
            env.expect("a cached")
            env.valid("b")
            env.expect("b cached", "planned", "end ok")
        else:
            env.expect("a cached", "planned", "end ok")

    @pytest.mark.fault("F67", "F68")
    def test_a_final_node_stays_as_it_is(self, run_of):
        env = run_of("a, b", compute_retries=0)
        env.want("a", "b")
        env.absent("a", "b")
        env.succeed("a")
        env.inbox.clear()
        for late in (
            Probed("a", "absent"),
            Started("a"),
            Failed("a", failure()),
            Succeeded("a"),
            TakenBack("a"),
            Elsewhere("a"),
            WatchEnded("a", "lost"),
            Tick(),
        ):
            env.feed(late)
        env.expect()
        assert env.phases()["a"] == "created"
        env.fail_when_running("b")
        env.expect("b failed compute", "end not ok")
        env.succeed("b")
        env.expect()

    def test_events_about_strangers_are_ignored(self, run_of):
        env = run_of("a")
        env.want()
        env.inbox.clear()
        for event in (
            Probed("x", "absent"),
            Started("x"),
            Failed("x", failure()),
            Succeeded("x"),
            TakenBack("x"),
            Elsewhere("x"),
            WatchEnded("x", "lost"),
        ):
            env.feed(event)
        env.expect()
        assert env.phases() == {"a": "probing"}

    @pytest.mark.fault("F74")
    def test_a_task_returned_unbegun_starts_again_without_a_strike(self, run_of):
        env = run_of("a")
        env.plan(absent="a")
        env.taken_back("a")
        env.expect("start a")
        env.begin("a")
        env.taken_back("a")  # the executor took its word back
        env.expect("start a")
        env.begin("a")
        env.begin("a")
        assert env.state.attempts("a") == 1

    def test_a_failure_without_a_begin_counts_as_an_attempt(self, run_of):
        env = run_of("a", compute_retries=0)
        env.plan(absent="a")
        env.fail("a")
        env.expect("a failed compute", "end not ok")
        assert env.state.attempts("a") == 1

    def test_an_early_tick_does_nothing(self, run_of):
        env = run_of("a")
        env.plan(absent="a")
        env.fail_when_running("a")
        env.expect("retry a compute")
        env.feed(Tick())
        env.expect()
        env.wait()
        env.expect("start a #2")

    def test_an_old_timer_means_nothing(self, run_of):
        env = run_of("a, b")
        env.want("a", "b")
        env.absent("a", "b")
        env.fail_when_running("a")
        env.succeed("a")
        env.inbox.clear()
        env.now += 10
        env.feed(Tick())
        env.expect()
        assert env.state.next_wakeup() is None

    def test_the_run_ends_once_and_is_silent_then(self, run_of):
        env = run_of("a")
        env.want()
        env.valid("a")
        env.inbox.clear()
        env.stop()
        env.want("b")
        env.feed(Tick())
        env.expect()
        assert env.state.next_wakeup() is None
