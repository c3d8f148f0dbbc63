"""Failures for good and what they do to a run; stopping; late, repeated and contradictory events."""

from __future__ import annotations

import pytest

from furu_async._plan.commands import EndRun


class TestContinue:
    def test_exactly_the_descendants_are_skipped_and_the_rest_goes_on(self, run_of):
        env = run_of("a: b c, b: d, c: e, d: f", compute_retries=0)
        env.plan(absent="a b c d e f")
        env.fail_when_running("f")
        env.expect(
            "f failed compute", "d skipped dependency f", "b skipped dependency f", "a skipped dependency f"
        )
        env.succeed("e")
        env.expect("e created", "start c")
        env.succeed("c")
        env.expect("c created", "end not ok")
        assert env.counts() == {"created": 2, "failed": 1, "skipped": 3}

    def test_up_to_max_failures_then_it_drains(self, run_of):
        env = run_of("a, b, c, d", compute_retries=0, max_failures=2)
        env.want("a", "b", "c", "d")
        env.absent("a", "b", "c", "d")
        env.inbox.clear()
        env.fail_when_running("a")
        env.expect("a failed compute")
        env.begin("c")
        env.fail_when_running("b")
        env.expect("b failed compute", "take d")
        env.taken_back("d")
        env.expect("d skipped drain")
        env.succeed("c")
        env.expect("c created", "end not ok")

    def test_a_node_that_somebody_cancelled_has_failed(self, run_of):
        env = run_of("a: b")
        env.plan(absent="a b")
        env.fail_when_running("b", "cancelled")
        env.expect("b failed cancelled", "a skipped dependency b", "end not ok")


class TestDrain:
    def make(self, run_of, **policy):
        """bad fails for good; run runs, queued is queued, later waits, retry is in backoff, other is elsewhere."""
        env = run_of("a: bad run queued, later: queued, retry, other, slow", on_failure="drain", **policy)
        env.want("a", "later", "retry", "other", "slow")
        env.absent("a", "bad", "run", "queued", "later", "retry")
        env.probed("other", "busy")
        env.begin("bad", "run")
        return env

    def test_nothing_new_begins_and_what_runs_ends(self, run_of):
        env = self.make(run_of)
        env.inbox.clear()
        env.fail_when_running("retry", "killed")
        env.fail("bad", retryable=False)
        env.expect(
            "retry retry killed",
            "bad failed compute",
            "a skipped dependency bad",
            "later skipped drain",
            "retry failed killed",  # not tried again, so its failure is its end
            "unwatch other",
            "other skipped drain",
            "slow skipped drain",
            "take queued",
        )
        env.taken_back("queued")
        env.expect("queued skipped drain")
        env.succeed("run")
        env.expect("run created", "end not ok")

    def test_what_could_not_be_taken_back_runs_to_its_end(self, run_of):
        env = self.make(run_of)
        env.fail("bad", retryable=False)
        env.begin("queued")
        env.inbox.clear()
        env.succeed("queued", "run")
        env.taken_back("retry")
        env.expect("queued created", "run created", "retry skipped drain", "end not ok")

    def test_a_failure_while_draining_is_not_retried(self, run_of):
        env = self.make(run_of)
        env.fail("bad", retryable=False)
        env.taken_back("queued", "retry")
        env.inbox.clear()
        env.fail("run")
        env.expect("run failed compute", "end not ok")

    def test_a_circumstance_while_draining_leaves_the_node_skipped(self, run_of):
        env = self.make(run_of)
        env.fail("bad", retryable=False)
        env.taken_back("retry")
        env.inbox.clear()
        env.fail("run", "lost")
        env.elsewhere("queued")
        env.expect("run skipped drain", "queued skipped drain", "end not ok")

    def test_a_stop_while_draining_kills(self, run_of):
        env = self.make(run_of)
        env.fail("bad", retryable=False)
        env.inbox.clear()
        env.stop("timeout")
        env.expect("kill retry", "kill run", "kill queued")
        env.taken_back("queued", "retry", "run")
        env.expect(
            "queued skipped cancel", "retry skipped cancel", "run skipped cancel", "end not ok timeout"
        )

    def test_what_concerns_the_run_ends_a_drain_too(self, run_of):
        env = self.make(run_of)
        env.fail("bad", retryable=False)
        env.taken_back("queued", "retry")
        env.inbox.clear()
        env.fail("run", "protocol", run_wide=True)
        env.expect("run failed protocol", "end not ok error")

    def test_a_node_that_waits_again_after_a_failure_shows_it(self, run_of):
        env = run_of("a: b, c: b, bad", on_failure="drain")
        env.want("a", "c", "bad")
        env.absent("a", "c", "bad")
        env.valid("b")
        env.begin("a")
        env.fail("a")
        env.fail_when_running("c", "inputs")
        env.absent("b")
        env.wait()
        assert env.phases()["a"] == "waiting"
        env.inbox.clear()
        env.fail("bad", retryable=False)
        env.expect("bad failed compute", "a failed compute", "c skipped drain", "take b")
        env.taken_back("b")
        env.expect("b skipped drain", "end not ok")


class TestCancel:
    def test_a_failure_stops_everything_else(self, run_of):
        env = run_of("a: b c d, c: e, d", on_failure="cancel", compute_retries=0)
        env.plan(absent="a b c d e")
        env.begin("d")
        env.fail_when_running("b")
        env.expect("b failed compute", "a skipped dependency b", "c skipped cancel", "kill d", "kill e")
        env.fail("d", "killed")
        env.expect("d cancelled killed")
        env.taken_back("e")
        env.expect("e skipped cancel", "end not ok")

    def test_failures_while_stopping_change_nothing_more(self, run_of):
        env = run_of("a, b", on_failure="cancel")
        env.want("a", "b")
        env.absent("a", "b")
        env.begin("b")
        env.inbox.clear()
        env.fail("a", retryable=False)
        env.fail("b", "protocol", run_wide=True)
        env.expect("a failed compute", "kill b", "b cancelled protocol", "end not ok")


class TestStop:
    @pytest.mark.fault("F96")
    @pytest.mark.parametrize("why", ["cancel", "timeout", "error"])
    def test_everything_ends_and_the_reason_is_told(self, run_of, why):
        env = run_of("a: b c d e f g")
        env.plan(absent="a b c d", valid="e")
        env.begin("b")
        env.elsewhere("c")
        env.fail_when_running("d")
        env.probed("f", "unknown")
        env.inbox.clear()
        env.stop(why, "told to")
        env.expect(
            "a skipped cancel", "kill b", "unwatch c", "c skipped cancel", "d cancelled compute",
            "f skipped cancel", "g skipped cancel",
        )  # fmt: skip
        assert env.state.next_wakeup() is None
        env.fail("b", "cancelled")
        env.expect("b cancelled cancelled", f"end not ok {why}")
        assert env.last(EndRun).detail == "told to"

    @pytest.mark.fault("F96")
    def test_the_first_reason_stays_and_nothing_is_killed_twice(self, run_of):
        env = run_of("a")
        env.plan(absent="a")
        env.stop("timeout", "first")
        env.stop("cancel", "second")
        env.expect("kill a")
        env.elsewhere("a")
        env.expect("a skipped cancel", "end not ok timeout")
        assert env.last(EndRun).detail == "first"

    @pytest.mark.fault("F68")
    def test_a_success_wins_while_stopping(self, run_of):
        env = run_of("a")
        env.plan(absent="a")
        env.begin("a")
        env.stop()
        env.succeed("a")
        env.expect("kill a", "a created", "end ok cancel")

    def test_a_killed_node_that_began_meanwhile_is_cancelled(self, run_of):
        env = run_of("a")
        env.plan(absent="a")
        env.stop()
        env.begin("a")
        env.fail("a", "cancelled")
        env.expect("kill a", "a cancelled cancelled", "end not ok cancel")


def test_why_says_what_a_node_waits_for(run_of):
    env = run_of("a: b c d e")
    state = env.state
    assert state.why("a") == "not part of the run"
    assert state.story("a") == "a: not part of the run"
    assert state.history("a") == ()
    assert state.attempts("a") == 0
    env.want()
    assert state.why("a") == "waits for the store to tell about its result"
    env.absent("a")
    assert state.why("a") == (
        "waits for 4 of 4 dependencies: b (probing), c (probing), d (probing) and 1 more"
    )
    env.absent("b")
    assert state.why("b") == "waits for a free worker"
    env.begin("b")
    assert state.why("b") == "runs (attempt 1)"
    env.fail("b")
    assert state.why("b") == "goes on later, after compute: ValueError: boom"
    env.valid("c")
    assert state.why("c") == "is final: cached"
    assert state.history("c") == ()
    env.inbox.clear()
