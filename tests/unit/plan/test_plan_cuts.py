"""Attempts that were cut short by the end of their worker's walltime: what they cost, and that they come to an end."""

from __future__ import annotations

import pytest

from furu_async._plan.commands import Ended, Start
from furu_async._plan.events import Cuts, NodeRules
from furu_async._plan.retry import MOST_CUTS


def cut(env, **more):
    env.fail_when_running("a", "preempted", **more)


@pytest.mark.fault("F44")
def test_a_planned_end_costs_nothing_and_the_next_worker_is_a_fresh_one(run_of):
    env = run_of("a", preempt_max=0)
    env.plan(absent="a")
    assert not env.last(Start).whole
    cut(env, planned=True)
    env.expect("retry a preempted", "start a #2")
    assert env.last(Start).whole
    env.begin("a")
    env.succeed("a")
    env.expect("a created", "end ok")


@pytest.mark.fault("F44")
def test_planned_ends_in_a_row_become_a_timeout(run_of):
    env = run_of("a")
    env.plan(absent="a")
    for _ in range(MOST_CUTS):
        cut(env, planned=True, message="no time")
    env.inbox.clear()
    cut(env, planned=True, message="no time")
    env.expect("a failed timeout", "end not ok")
    failure = env.last(Ended).failure
    assert not failure.planned
    assert failure.message == f"no time; {MOST_CUTS + 1} workers in a row had too little time left for it"


def test_then_the_next_specification_is_tried_afresh(run_of):
    env = run_of("a")
    env.rules["a"] = NodeRules(specs=2)
    env.plan(absent="a")
    for _ in range(MOST_CUTS):
        cut(env, planned=True)
    env.inbox.clear()
    cut(env, planned=True)
    env.expect("retry a timeout", f"start a #{MOST_CUTS + 2} spec 1")
    assert not env.last(Start).whole
    for _ in range(MOST_CUTS):
        cut(env, planned=True)
    env.inbox.clear()
    cut(env, planned=True)
    env.expect("a failed timeout", "end not ok")


@pytest.mark.fault("F44")
def test_as_long_as_the_checkpoint_changes_it_goes_on(run_of):
    env = run_of("a", preempt_max=1)
    env.plan(absent="a")
    for k in range(50):
        cut(env, checkpoint=f"saved {k}")
        assert env.last(Start).attempt == k + 2
        assert env.last(Start).whole
    env.inbox.clear()
    cut(env, checkpoint="saved 49")
    env.expect("retry a preempted", "start a #52")
    cut(env, checkpoint="saved 49")
    env.expect("a failed preempted", "end not ok")


@pytest.mark.parametrize("saved", ["", "the same"])
def test_without_a_change_it_is_a_preemption_like_others(run_of, saved):
    env = run_of("a", preempt_max=2)
    env.plan(absent="a")
    if saved:
        cut(env, checkpoint=saved)
    for _ in range(2):
        cut(env, checkpoint=saved)
    env.inbox.clear()
    cut(env, checkpoint=saved)
    env.expect("a failed preempted", "end not ok")


def test_progress_between_planned_ends_begins_the_row_again(run_of):
    env = run_of("a", preempt_max=0)
    env.plan(absent="a")
    for k in range(3):
        for _ in range(MOST_CUTS - 1):
            cut(env, planned=True)
        cut(env, checkpoint=f"saved {k}")
    assert env.state.phase("a").name == "READY"
    env.inbox.clear()


def test_other_preemptions_count_as_before(run_of):
    env = run_of("a", preempt_max=1)
    env.plan(absent="a")
    cut(env, planned=True)
    cut(env)
    cut(env, planned=True)
    env.inbox.clear()
    cut(env)
    env.expect("a failed preempted", "end not ok")


def test_a_controller_that_goes_on_with_the_run_goes_on_counting(run_of):
    env = run_of("a")
    env.want()
    cuts = Cuts(free=4, row=MOST_CUTS, checkpoint="saved")
    env.probed("a", "absent", spent={}, last=None, cuts=cuts)
    env.expect("probe a", "start a #5", "planned")
    assert env.last(Start).whole
    cut(env, planned=True)
    env.expect("a failed timeout", "end not ok")
