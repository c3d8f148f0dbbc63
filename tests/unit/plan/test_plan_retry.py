"""Budgets, kind by kind; backoff; what ends a run."""

from __future__ import annotations

import pytest
from plan_env import failure

from furu_async._plan.commands import EndRun, Retrying, Start
from furu_async._plan.events import NodeRules, Policy, Probed
from furu_async._plan.retry import Again, Counters, GiveUp, backoff, budget, decide
from furu_async.report import FailureKind


def attempts_until_failed(env, kind: FailureKind, **more) -> int:
    """Let the only node fail with a kind until it is given up; how often it was started."""
    env.want()
    env.absent("a")
    while not env.state.finished:
        if env.state.phase("a").name == "BACKOFF":
            env.wait()
        env.fail_when_running("a", kind, **more)
    assert env.state.phase("a").name == "FAILED"
    env.inbox.clear()
    assert env.state.attempts("a") == env.last(Start).attempt
    return env.last(Start).attempt


@pytest.mark.fault("F94")
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_attempts_are_one_more_than_retries(run_of, retries):
    assert attempts_until_failed(run_of("a", compute_retries=retries), "compute") == 1 + retries


@pytest.mark.fault("F94")
def test_with_three_retries_a_node_that_fails_three_times_is_created_by_the_fourth(run_of):
    env = run_of("a")
    env.plan(absent="a")
    for _ in range(3):
        env.fail_when_running("a")
        env.expect("retry a compute")
        env.wait()
        env.inbox.clear()
    env.begin("a")
    env.succeed("a")
    env.expect("a created", "end ok")
    assert env.state.attempts("a") == 4


@pytest.mark.fault("F12")
def test_a_node_that_kills_its_worker_each_time_fails_and_the_rest_goes_on(run_of):
    env = run_of("a: b, c")
    env.want("a", "c")
    env.absent("a", "b", "c")
    for _ in range(4):
        env.inbox.clear()
        env.fail_when_running("b", "killed")
        if env.state.phase("b").name == "BACKOFF":
            env.wait()
    env.expect("b failed killed", "a skipped dependency b")
    assert env.last(Start).attempt == 4
    env.succeed("c")
    env.expect("c created", "end not ok")


@pytest.mark.parametrize(
    ("kind", "attempts"),
    [("compute", 4), ("killed", 4), ("lost", 4), ("inputs", 4), ("preempted", 6), ("protocol", 1),
     ("cancelled", 1), ("timeout", 1), ("oom", 1)],
)  # fmt: skip
def test_each_kind_has_its_own_budget(run_of, kind, attempts):
    assert attempts_until_failed(run_of("a"), kind) == attempts


def test_budgets_do_not_mix(run_of):
    env = run_of("a", compute_retries=1)
    env.plan(absent="a")
    for kind in ("preempted", "lost", "killed", "compute", "inputs"):
        env.fail_when_running("a", kind)
        if env.state.phase("a").name == "BACKOFF":
            env.wait()
    assert env.last(Start).attempt == 6
    env.inbox.clear()
    env.fail_when_running("a")
    env.expect("a failed compute", "end not ok")
    assert len(env.state.history("a")) == 6


def test_the_class_says_how_often_and_how_soon(run_of):
    env = run_of("a")
    env.rules["a"] = NodeRules(retries=1, backoff=7.0)
    env.plan(absent="a")
    env.fail_when_running("a")
    assert env.wait() == 7.0
    env.fail_when_running("a")
    env.expect("retry a compute", "start a #2", "a failed compute", "end not ok")


def test_what_the_class_will_not_retry_is_final(run_of):
    env = run_of("a")
    env.plan(absent="a")
    env.fail_when_running("a", retryable=False)
    env.expect("a failed compute", "end not ok")


@pytest.mark.fault("F94")
def test_without_retry_failed_a_compute_failure_is_final_whatever_the_class_says(run_of):
    env = run_of("a", retry_failed=False)
    env.rules["a"] = NodeRules(retries=5)
    assert attempts_until_failed(env, "compute", retryable=True) == 1


def test_without_retry_failed_circumstances_are_still_retried(run_of):
    assert attempts_until_failed(run_of("a", retry_failed=False), "lost") == 4


def test_compute_failures_back_off_twice_as_long_each_time(run_of):
    env = run_of("a", compute_retries=9, backoff_base=2.0, backoff_max=10.0)
    env.plan(absent="a")
    waits = []
    for _ in range(4):
        env.fail_when_running("a")
        waits.append(env.wait())
    assert waits == [2.0, 4.0, 8.0, 10.0]
    env.fail_when_running("a", jitter=0.5)
    assert env.wait() == 7.5
    env.inbox.clear()


def test_backoff_is_finite_however_many_tries():
    assert backoff(1.0, 60.0, 10**9, 0.0) == 60.0
    assert 30.0 < backoff(1.0, 60.0, 10**9, 0.999) < 31.0


def test_preempted_and_lost_start_again_at_once(run_of):
    env = run_of("a")
    env.plan(absent="a")
    env.fail_when_running("a", "preempted")
    env.expect("retry a preempted", "start a #2")
    env.fail_when_running("a", "lost")
    env.expect("retry a lost", "start a #3")
    assert env.last(Retrying).at == env.now


@pytest.mark.parametrize("kinds", [("timeout", "oom"), ("oom", "timeout"), ("oom", "oom")])
def test_timeout_and_oom_go_to_the_next_specification_then_fail(run_of, kinds):
    env = run_of("a")
    env.rules["a"] = NodeRules(specs=3)
    env.plan(absent="a")
    env.fail_when_running("a", kinds[0])
    env.expect(f"retry a {kinds[0]}", "start a #2 spec 1")
    env.fail_when_running("a", "killed")
    env.wait()
    env.expect("retry a killed", "start a #3 spec 1")
    env.fail_when_running("a", kinds[1])
    env.expect(f"retry a {kinds[1]}", "start a #4 spec 2")
    env.fail_when_running("a", kinds[0])
    env.expect(f"a failed {kinds[0]}", "end not ok")


def test_a_protocol_failure_of_one_node_fails_that_node(run_of):
    env = run_of("a: b, c")
    env.want("a", "c")
    env.absent("a", "b", "c")
    env.inbox.clear()
    env.fail_when_running("b", "protocol")
    env.expect("b failed protocol", "a skipped dependency b")
    env.stop()
    env.inbox.clear()


def test_a_protocol_failure_of_the_run_ends_it(run_of):
    env = run_of("a: b, c, d")
    env.want("a", "c", "d")
    env.absent("a", "b", "c")
    env.begin("c")
    env.inbox.clear()
    env.fail_when_running("b", "protocol", message="other code version", run_wide=True)
    env.expect("b failed protocol", "a skipped dependency b", "kill c", "d skipped cancel")
    env.fail("c", "cancelled")
    env.expect("c cancelled cancelled", "end not ok error")
    assert env.last(EndRun).detail == "b: protocol: ValueError: other code version"


class TestInfrastructure:
    @pytest.mark.fault("F19")
    def test_a_store_that_gives_no_answer_is_asked_again(self, run_of):
        env = run_of("a")
        env.want()
        env.probed("a", "unknown", detail="EIO on /x")
        env.expect("probe a", "retry a infrastructure")
        assert env.last(Retrying).failure.message == "EIO on /x"
        assert env.state.why("a", env.now) == "goes on in 1 s, after infrastructure: EIO on /x"
        assert env.wait() == 1.0
        env.expect("probe a")
        env.probed("a", "unknown")
        assert env.wait() == 2.0
        env.valid("a")
        env.expect("retry a infrastructure", "probe a", "a cached", "planned", "end ok")

    @pytest.mark.fault("F19")
    def test_it_is_waited_out_for_a_bounded_time_then_ends_the_run(self, run_of):
        env = run_of("a: b, c", infra_secs=10.0)
        env.want("a", "c")
        env.absent("a", "c")
        env.inbox.clear()
        waits = []
        for _ in range(4):
            env.probed("b", "unknown", failure("infrastructure", "EIO on /x"))
            waits.append(env.wait())
        assert waits == [1.0, 2.0, 4.0, 3.0]  # a last try when the time is over
        env.inbox.clear()
        env.probed("b", "unknown", failure("infrastructure", "EIO on /x"))
        env.expect("b failed infrastructure", "a skipped dependency b", "kill c")
        env.taken_back("c")
        env.expect("c skipped cancel", "end not ok error")
        wanted = "b: infrastructure trouble for 10 s (5 tries): infrastructure: ValueError: EIO on /x"
        assert env.last(EndRun).detail == wanted

    @pytest.mark.fault("F17")
    def test_a_disk_full_under_an_attempt_costs_no_strike(self, run_of):
        env = run_of("a", compute_retries=1)
        env.plan(absent="a")
        for _ in range(5):
            env.fail_when_running("a", "infrastructure", message="ENOSPC")
            env.wait()
        env.inbox.clear()
        env.fail_when_running("a")
        env.expect("retry a compute")
        env.wait()
        env.inbox.clear()

    def test_the_time_starts_again_after_something_else_happened(self, run_of):
        env = run_of("a", infra_secs=2.5)
        env.plan(absent="a")
        for kind in ("infrastructure", "infrastructure", "compute", "infrastructure", "infrastructure"):
            env.fail_when_running("a", kind)
            env.wait()
        env.inbox.clear()
        env.fail_when_running("a", "infrastructure")
        env.expect("a failed infrastructure", "end not ok error")

    def test_the_time_starts_again_after_the_store_answered(self, run_of):
        env = run_of("a", infra_secs=2.5)
        env.want()
        for _ in range(2):
            env.probed("a", "unknown")
            env.wait()
        env.absent("a")
        env.inbox.clear()
        for _ in range(2):
            env.fail_when_running("a", "infrastructure")
            env.wait()
        env.expect("retry a infrastructure", "start a #2", "retry a infrastructure", "start a #3")

    def test_no_time_at_all_means_at_once(self, run_of):
        env = run_of("a", infra_secs=0.0)
        env.plan(absent="a")
        env.fail_when_running("a", "infrastructure")
        env.expect("a failed infrastructure", "end not ok error")

    def test_a_rest_too_small_to_move_the_clock_is_no_reason_to_go_on(self):
        counters = Counters(trouble_secs=900.0 - 1e-10, troubles=9)
        decision = decide(failure("infrastructure"), counters, Policy(), NodeRules())
        assert type(decision).__name__ == "EndAll"


def test_every_kind_has_a_budget():
    kinds: dict[FailureKind, int | None] = {
        "compute": 3, "protocol": 0, "inputs": 3, "timeout": 0, "oom": 0, "killed": 3, "lost": 3,
        "preempted": 5, "infrastructure": None, "cancelled": 0,
    }  # fmt: skip
    assert {kind: budget(kind, Policy(), NodeRules()) for kind in kinds} == kinds


def test_the_present_failure_is_counted_already():
    used: dict[FailureKind, int] = {"lost": 4}
    assert decide(failure("lost"), Counters(used=used), Policy(), NodeRules()) == GiveUp()


@pytest.mark.fault("F10")
def test_work_whose_process_was_killed_is_tried_again_within_a_second():
    once = Counters(used={"killed": 1, "compute": 1})
    assert decide(failure("killed"), once, Policy(), NodeRules()) == Again(0.25, 0)
    assert decide(failure("compute"), once, Policy(), NodeRules()) == Again(1.0, 0)
    assert decide(failure("killed"), once, Policy(), NodeRules(backoff=3.0)) == Again(3.0, 0)


def test_the_story_of_a_node_is_bounded_and_keeps_its_beginning(run_of):
    env = run_of("a", infra_secs=1e9)
    env.want()
    env.feed(Probed("a", "unknown", detail="first"))
    for number in range(50):
        env.wait()
        env.feed(Probed("a", "unknown", detail=f"number {number}"))
    env.inbox.clear()
    history = env.state.history("a")
    assert len(history) == 10
    assert history[0].endswith("first")
    assert history[-1].endswith("number 49")
