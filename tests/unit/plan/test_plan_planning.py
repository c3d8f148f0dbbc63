"""What a run looks at, in which order things start, and what happens when the plan refuses to begin."""

from __future__ import annotations

from plan_env import failure

from furu_async._plan.commands import EndRun, Start
from furu_async._plan.events import Stop, Tick, Wanted


def test_a_valid_target_is_cached_and_nothing_below_it_is_looked_at(run_of):
    env = run_of("a: b")
    env.want()
    env.expect("probe a")
    env.valid("a")
    env.expect("a cached", "planned", "end ok")
    assert env.counts() == {"cached": 1}
    assert env.state.phase("b").name == "UNKNOWN"


def test_targets_may_come_in_parts(run_of):
    env = run_of("a: b, b, c")
    env.feed(Wanted(("a",), more=True))
    env.absent("a")
    env.valid("b")
    env.expect("probe a", "probe b", "b cached", "start a")
    env.succeed("a")
    env.expect("a created")
    assert not env.state.finished, "more targets are to come"
    env.feed(Wanted(("b", "c", "c")))
    env.valid("c")
    env.expect("probe c", "c cached", "planned", "end ok")


def test_an_absent_node_without_dependencies_starts_at_once(run_of):
    env = run_of("a")
    env.want()
    env.absent("a")
    env.expect("probe a", "start a", "planned")
    env.begin("a")
    env.succeed("a")
    env.expect("a created", "end ok")
    assert env.state.finished


def test_a_dependent_starts_when_its_last_dependency_is_there(run_of):
    env = run_of("a: b c")
    env.want()
    env.absent("a")
    env.expect("probe a", "probe b", "probe c")
    env.valid("b")
    env.expect("b cached")
    env.absent("c")
    env.expect("start c", "planned")
    env.succeed("c")
    env.expect("c created", "start a")
    env.succeed("a", created=False)
    env.expect("a cached", "end ok")


def test_what_is_ready_starts_while_the_rest_is_still_being_planned(run_of):
    env = run_of("a: b c")
    env.want()
    env.absent("a", "b")
    env.expect("probe a", "probe b", "probe c", "start b")
    env.stop()
    env.expect("a skipped cancel", "kill b", "c skipped cancel")
    env.taken_back("b")
    env.expect("b skipped cancel", "end not ok cancel")


def test_a_shared_dependency_is_asked_about_once(run_of):
    env = run_of("a: b c, b: d, c: d")
    env.plan(absent="a b c")
    env.absent("d")
    env.expect("start d", "planned")
    env.succeed("d")
    env.expect("d created", "start b", "start c")
    env.succeed("b", "c")
    env.expect("b created", "c created", "start a")
    env.succeed("a")
    env.expect("a created", "end ok")


def test_a_dependency_that_is_there_already_is_not_waited_for(run_of):
    env = run_of("a: c, b: c")
    env.want("a", "b")
    env.absent("a")
    env.valid("c")
    env.expect("probe a", "probe b", "probe c", "c cached", "start a")
    env.absent("b")
    env.expect("start b", "planned")
    env.succeed("a", "b")
    env.expect("a created", "b created", "end ok")


def test_targets_are_wanted_once_and_repeated_targets_are_one(run_of):
    env = run_of("a")
    env.want("a", "a")
    env.want("b")
    env.expect("probe a")
    env.valid("a")
    env.expect("a cached", "planned", "end ok")


def test_a_run_of_nothing_ends_well(run_of):
    env = run_of()
    env.feed(Tick())
    env.expect()
    assert not env.state.finished
    env.feed(Wanted(()))
    env.expect("planned", "end ok")


def test_a_run_stopped_before_it_began_ends_without_result(run_of):
    env = run_of()
    env.feed(Stop("timeout"))
    env.expect("end not ok timeout")
    env.want("a")
    env.expect()


def test_priorities_are_the_longest_path_to_a_target(run_of):
    # f is met first right below the target, and later at the end of a chain
    env = run_of("a: f b, b: c, c: d, d: f e, f: g")
    env.want()
    env.absent("a", "f", "g")
    assert env.last(Start).priority == 2  # as far as was known; the executor keeps what it was told
    env.absent("b", "c", "d", "e")
    assert env.last(Start) == Start("e", 1, 4, 0, 1)
    levels = {node.id: node.level for node in env.state.nodes.values()}
    assert levels == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 4, "g": 5}
    env.inbox.clear()
    env.succeed("g")
    assert env.last(Start) == Start("f", 1, 4, 0, 1)
    env.expect("g created", "start f")


def test_a_node_met_again_further_down_gets_the_greater_priority_at_once(run_of):
    env = run_of("a: b d, b: c, c: d, e")
    env.want("a", "e")  # e is not answered, so planning goes on
    env.absent("a", "b", "c", "d")
    assert env.last(Start) == Start("d", 1, 3, 0, 1)
    env.inbox.clear()


def test_dependents_of_what_failed_earlier_are_skipped_when_they_are_found(run_of):
    env = run_of("a: c, b: c, d: b", compute_retries=0)
    env.want("a", "d")
    env.absent("a", "c")
    env.fail("c")
    env.inbox.clear()
    env.absent("d", "b")
    env.expect("probe b", "b skipped dependency c", "d skipped dependency c", "planned", "end not ok")


def test_a_stored_failure_is_to_do(run_of):
    env = run_of("a: b")
    env.want()
    env.probed("a", "failed", failure())
    env.expect("probe a", "probe b")
    env.probed("b", "failed", failure("killed", "signal 11"))
    env.expect("start b", "planned")
    assert env.state.history("b") == ("stored: killed: ValueError: signal 11",)
    env.succeed("b")
    env.expect("b created", "start a")
    env.fail("a")
    env.expect("retry a compute")  # its budget is untouched by what is stored
    env.stop()
    env.expect("a cancelled compute", "end not ok cancel")


class TestStoredFailuresStay:
    """``retry_failed=False``."""

    def test_the_run_refuses_before_starting_and_lists_every_one(self, run_of):
        env = run_of("a: b c d, d: e", retry_failed=False, on_failure="cancel")
        env.want()
        env.absent("a", "b")
        env.expect("probe a", "probe b", "probe c", "probe d")  # b could start
        env.probed("c", "failed", failure(message="first"))
        env.expect("c failed compute", "a skipped dependency c")
        env.absent("d")
        env.probed("e", "failed")
        env.expect(
            "probe e",
            "e failed compute",
            "d skipped dependency e",
            "planned",
            "b skipped cancel",
            "end not ok error",
        )
        detail = env.last(EndRun).detail
        assert "c: stored: compute: ValueError: first" in detail
        assert "e: stored: compute" in detail

    def test_without_any_the_run_begins_when_it_is_planned(self, run_of):
        env = run_of("a: b c", retry_failed=False)
        env.want()
        env.absent("a", "b")
        env.expect("probe a", "probe b", "probe c")
        assert env.state.why("b") == "waits for the plan to be complete: it may still refuse the run"
        env.absent("c")
        env.expect("planned", "start b", "start c")
        env.succeed("b")
        env.fail("c")
        env.expect("b created", "c failed compute", "a skipped dependency c", "end not ok")

    def test_what_was_held_back_and_is_there_meanwhile_does_not_start(self, run_of):
        env = run_of("a: b c", retry_failed=False)
        env.want()
        env.absent("a", "b")
        env.succeed("b", created=False)
        env.inbox.clear()
        env.absent("c")
        env.expect("planned", "start c")
        env.succeed("c")
        env.expect("c created", "start a")
        env.stop()
        env.inbox.clear()

    def test_circumstances_are_no_stored_failure(self, run_of):
        env = run_of("a", retry_failed=False)
        env.want()
        env.probed("a", "failed", failure("cancelled"))
        env.expect("probe a", "planned", "start a")

    def test_found_after_planning_it_fails_its_node_only(self, run_of):
        env = run_of("a: b", retry_failed=False)
        env.want()
        env.probed("a", "busy")
        env.expect("probe a", "watch a", "planned")
        env.watch_ended("a", "lost")
        env.expect("probe b")
        env.probed("b", "failed", failure())
        env.expect("b failed compute", "a skipped dependency b", "end not ok")


def test_a_plan_that_may_find_mistakes_is_completed_first(run_of):
    env = run_of("a: b c", hold_starts=True)
    env.want()
    env.absent("a", "b")
    env.expect("probe a", "probe b", "probe c")
    env.stop("error", "c can never fit its executor")
    env.expect("a skipped cancel", "b skipped cancel", "c skipped cancel", "end not ok error")


def test_a_stored_failure_is_to_do_whatever_its_class_says_of_it(run_of):
    env = run_of("a")
    env.want()
    env.probed("a", "failed", failure(retryable=False))
    env.expect("probe a", "start a", "planned")


def test_a_cycle_ends_the_run_and_is_shown(run_of):
    env = run_of("a: b, b: c, c: b")
    env.want()
    env.absent("a", "b", "c")
    env.expect(
        "probe a", "probe b", "probe c", "planned", "a skipped cancel", "b skipped cancel", "c skipped cancel",
        "end not ok error",
    )  # fmt: skip
    assert env.last(EndRun).detail == "dependencies form a cycle of 2 nodes: b -> c -> b"


def test_counts_add_up_and_have_every_live_phase(run_of):
    env = run_of("a: b c d e f")
    env.plan(absent="a b c d")
    env.begin("b")
    env.elsewhere("d")
    env.probed("e", "unknown")
    env.inbox.clear()
    assert env.counts() == {
        "waiting": 1,
        "running": 1,
        "ready": 1,
        "elsewhere": 1,
        "backoff": 1,
        "probing": 1,
    }
    assert list(env.state.counts()) == [
        "probing", "waiting", "ready", "running", "elsewhere", "backoff",
        "created", "cached", "failed", "skipped", "cancelled",
    ]  # fmt: skip
