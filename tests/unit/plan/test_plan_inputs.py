"""Inputs that are not there when a node starts, and runs that a dead controller began."""

from __future__ import annotations

import pytest
from plan_env import failure

from furu_async._plan.events import NodeRules


class TestInputs:
    """A declared input is not there when the node starts."""

    @pytest.mark.fault("F76")
    def test_dependencies_are_asked_about_again_and_those_gone_are_made_again(self, run_of):
        env = run_of("a: b c")
        env.plan(absent="a b", valid="c")
        env.begin("b")
        env.succeed("b")
        env.expect("b created", "start a")
        env.fail_when_running("a", "inputs")
        env.expect("retry a inputs", "probe b carefully", "probe c carefully")
        assert env.state.why("a") == "waits for 2 of 2 dependencies: b (probing), c (probing)"
        env.valid("c")
        env.expect()  # it was there all along: nothing new to say
        env.absent("b")
        env.expect("start b #2")
        env.succeed("b")
        env.expect("b created", "start a #2")
        env.succeed("a")
        env.expect("a created", "end ok")

    @pytest.mark.fault("F76")
    def test_a_cached_dependency_that_is_gone_is_expanded_then(self, run_of):
        env = run_of("a: b, b: c")
        env.plan(absent="a", valid="b")
        env.fail_when_running("a", "inputs")
        env.expect("retry a inputs", "probe b carefully")
        env.absent("b")
        env.expect("probe c")
        env.valid("c")
        env.expect("c cached", "start b")
        env.succeed("b")
        env.expect("b created", "start a #2")

    def test_all_there_after_all_starts_the_node_again(self, run_of):
        env = run_of("a: b")
        env.plan(absent="a", valid="b")
        for attempt in (2, 3, 4):
            env.fail_when_running("a", "inputs")
            env.valid("b")
            env.expect("retry a inputs", "probe b carefully", f"start a #{attempt}")
        env.fail_when_running("a", "inputs")
        env.expect("a failed inputs", "end not ok")
        assert env.counts() == {"cached": 1, "failed": 1}

    def test_a_node_without_dependencies_starts_again_until_the_budget_is_spent(self, run_of):
        env = run_of("a")
        env.plan(absent="a")
        env.fail_when_running("a", "inputs")
        env.expect("retry a inputs", "start a #2")

    def test_two_that_miss_the_same_ask_once(self, run_of):
        env = run_of("a: c, b: c")
        env.want("a", "b")
        env.absent("a", "b")
        env.valid("c")
        env.inbox.clear()
        env.fail_when_running("a", "inputs")
        env.fail_when_running("b", "inputs")
        env.expect("retry a inputs", "probe c carefully", "retry b inputs")
        env.absent("c")
        env.succeed("c")
        env.expect("start c", "c created", "start a #2", "start b #2")

    def test_a_result_that_is_gone_again_and_again_fails_its_node(self, run_of):
        env = run_of("a: b c, d: b", inputs_retries=1)
        env.want("a", "d")
        env.absent("a", "d", "b", "c")
        env.succeed("b", "c")
        env.inbox.clear()
        env.fail_when_running("a", "inputs")
        env.valid("c")
        env.absent("b")
        env.succeed("b")
        env.expect(
            "retry a inputs",
            "probe b carefully",
            "probe c carefully",
            "start b #2",
            "b created",
            "start a #2",
        )
        env.fail_when_running("d", "inputs")
        env.absent("b")
        env.expect("retry d inputs", "probe b carefully", "b failed inputs", "d skipped dependency b")
        env.fail_when_running("a", "inputs")
        env.expect("a failed inputs", "end not ok")

    def test_a_careful_look_stays_careful_when_the_store_does_not_answer(self, run_of):
        env = run_of("a: b")
        env.plan(absent="a", valid="b")
        env.fail_when_running("a", "inputs")
        env.probed("b", "unknown")
        env.wait()
        env.expect("retry a inputs", "probe b carefully", "retry b infrastructure", "probe b carefully")

    def test_a_dependency_that_failed_when_made_again_blocks_whoever_comes_for_it(self, run_of):
        env = run_of("a: b c, d: b", compute_retries=0)
        env.want("a", "d")
        env.absent("a", "d")
        env.valid("b")
        env.inbox.clear()
        env.fail_when_running("d", "inputs")
        env.absent("b")
        env.fail_when_running("b")
        env.expect(
            "retry d inputs", "probe b carefully", "start b", "b failed compute", "d skipped dependency b"
        )
        env.absent("c")
        env.succeed("c")  # a waited for c only; what it had counted on is gone
        env.expect("start c", "planned", "c created", "a skipped dependency b", "end not ok")

    def test_a_retry_waits_for_a_dependency_that_is_being_made_again(self, run_of):
        env = run_of("a: b, d: b")
        env.want("a", "d")
        env.absent("a", "d")
        env.valid("b")
        env.begin("a")
        env.fail("a")
        env.inbox.clear()
        env.fail_when_running("d", "inputs")
        env.absent("b")
        env.expect("retry d inputs", "probe b carefully", "start b")
        env.wait()
        env.expect()
        assert env.state.phase("a").name == "WAITING"
        env.succeed("b")
        env.expect("b created", "start d #2", "start a #2")

    def test_a_reopened_node_is_what_it_was_when_the_run_stops(self, run_of):
        env = run_of("a: b c")
        env.plan(absent="a b", valid="c")
        env.succeed("b")
        env.fail_when_running("a", "inputs")
        env.inbox.clear()
        env.probed("c", "unknown")
        env.stop()
        env.expect("retry c infrastructure", "a cancelled inputs", "end not ok cancel")
        assert env.phases() == {"a": "cancelled", "b": "created", "c": "cached"}


class TestGoneOnWith:
    """A controller that goes on with a dead one's run goes on counting."""

    @pytest.mark.fault("F94")
    def test_failures_before_count(self, run_of):
        env = run_of("a")
        env.want()
        env.probed("a", "absent", spent={"compute": 3, "preempted": 1}, last=failure())
        env.expect("probe a", "start a #5", "planned")
        assert env.state.attempts("a") == 4
        env.fail_when_running("a")
        env.expect("a failed compute", "end not ok")

    @pytest.mark.fault("F94")
    def test_a_node_that_had_failed_for_good_stays_failed(self, run_of):
        env = run_of("a: b")
        env.want()
        env.absent("a")
        env.probed("b", "absent", spent={"compute": 4}, last=failure())
        env.expect(
            "probe a", "probe b", "b failed compute", "a skipped dependency b", "planned", "end not ok"
        )
        assert env.state.history("b") == ("before: compute: ValueError: boom",)

    @pytest.mark.parametrize("verdict", ["busy", "failed"])
    def test_it_stays_failed_whatever_others_do_with_it(self, run_of, verdict):
        env = run_of("a")
        env.want()
        env.probed("a", verdict, failure("killed"), spent={"compute": 4}, last=failure())
        env.expect("probe a", "a failed compute", "planned", "end not ok")

    def test_what_is_not_worth_a_retry_is_not_tried_again(self, run_of):
        env = run_of("a")
        env.want()
        env.probed("a", "absent", spent={"compute": 1}, last=failure(retryable=False))
        env.expect("probe a", "a failed compute", "planned", "end not ok")

    def test_failures_of_others_do_not_count(self, run_of):
        env = run_of("a", compute_retries=0)
        env.want()
        env.probed("a", "failed", failure())
        env.expect("probe a", "start a", "planned")

    def test_a_failure_of_this_run_is_no_reason_to_refuse_it(self, run_of):
        env = run_of("a: b c", retry_failed=False)
        env.want()
        env.absent("a", "c")
        env.probed("b", "absent", spent={"compute": 1}, last=failure())
        env.expect(
            "probe a",
            "probe b",
            "probe c",
            "b failed compute",
            "a skipped dependency b",
            "planned",
            "start c",
        )

    def test_trouble_is_no_reason_to_stay_failed(self, run_of):
        env = run_of("a")
        env.want()
        env.probed("a", "absent", spent={"infrastructure": 4}, last=failure("infrastructure"))
        env.expect("probe a", "start a #5", "planned")

    def test_the_specification_goes_on_where_it_was(self, run_of):
        env = run_of("a")
        env.rules["a"] = NodeRules(specs=3)
        env.want()
        env.probed("a", "absent", spent={"timeout": 1}, last=failure("timeout"))
        env.expect("probe a", "start a #2 spec 1", "planned")
        env.fail_when_running("a", "oom")
        env.expect("retry a oom", "start a #3 spec 2")

    def test_a_node_that_had_begun_is_cancelled_not_skipped(self, run_of):
        env = run_of("a: b")
        env.want()
        env.probed("a", "absent", spent={"lost": 1}, last=failure("lost"))
        env.stop()
        env.expect("probe a", "probe b", "a cancelled lost", "b skipped cancel", "end not ok cancel")

    def test_counts_are_heard_once(self, run_of):
        env = run_of("a")
        env.want()
        env.probed("a", "busy", spent={"compute": 1}, last=failure())
        env.watch_ended("a", "published")
        env.probed("a", "busy", spent={"compute": 1}, last=failure())
        env.expect("probe a", "watch a", "planned", "a cached", "end ok")
        assert env.state.attempts("a") == 1
