"""How many workers there are to be."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from furu_async._pool.sizing import Cancel, SpecView, Submit, View, WorkerView, decide, needed

KEYS = ("a", "b", "c")


@st.composite
def views(draw: st.DrawFn) -> View:
    """A pool in any state."""
    specs = [
        SpecView(
            key,
            draw(st.integers(0, 12)),
            draw(st.integers(0, 6)),
            draw(st.integers(0, 6)),
            draw(st.booleans()),
        )
        for key in KEYS
    ]
    phases: Any = st.sampled_from(("pending", "starting", "idle", "working", "ending"))
    workers = [
        WorkerView(f"w{n}", draw(st.sampled_from(KEYS)), draw(phases))
        for n in range(draw(st.integers(0, 10)))
    ]
    return View(specs, workers, draw(st.integers(1, 4)), draw(st.none() | st.integers(1, 8)))


def alive(view: View, key: str) -> int:
    return sum(each.spec_key == key and each.phase != "ending" for each in view.workers)


@given(views())
def test_limits_are_held(view: View) -> None:
    specs = {spec.key: spec for spec in view.specs}
    submitted = 0
    for step in decide(view):
        if isinstance(step, Submit):
            spec = specs[step.spec_key]
            assert step.count > 0
            assert spec.open
            assert spec.queued
            assert alive(view, spec.key) + step.count <= needed(spec, view.slots) <= spec.limit
            submitted += step.count
    if view.total is not None and submitted:
        assert len(view.workers) + submitted <= view.total


@given(views())
def test_only_workers_that_nobody_needs_are_cancelled(view: View) -> None:
    by_wid = {each.wid: each for each in view.workers}
    specs = {spec.key: spec for spec in view.specs}
    cancelled = [wid for step in decide(view) if isinstance(step, Cancel) for wid in step.wids]
    assert len(set(cancelled)) == len(cancelled)
    if cancelled:
        assert view.total is not None, "without a limit of all nobody has to make room"
    for key in KEYS:
        taken = [by_wid[wid] for wid in cancelled if by_wid[wid].spec_key == key]
        assert all(each.phase in ("pending", "idle") for each in taken)
        if taken:
            assert alive(view, key) - len(taken) >= needed(specs[key], view.slots)


@given(views())
def test_there_is_progress_wherever_there_may_be(view: View) -> None:
    """A spec with tasks and without a worker gets one, or room is made, or is being made, or there is none to make."""
    steps = decide(view)
    for spec in view.specs:
        if not (spec.open and spec.queued and spec.limit) or alive(view, spec.key):
            continue
        got = any(isinstance(step, Submit) and step.spec_key == spec.key for step in steps)
        room = view.total is None or len(view.workers) < view.total
        if room:
            assert got or any(isinstance(step, Submit) for step in steps)
            continue
        useless = [
            each
            for each in view.workers
            if each.phase in ("idle", "pending")
            and not any(other.key == each.spec_key and needed(other, view.slots) for other in view.specs)
        ]
        ending = any(each.phase == "ending" for each in view.workers)
        assert not useless or ending or any(isinstance(step, Cancel) for step in steps)


def test_workers_fill_their_slots() -> None:
    view = View([SpecView("a", 9, 0, 100)], [WorkerView("w", "a", "pending")], slots=4)
    assert decide(view) == [Submit("a", 2)]


def test_a_task_that_runs_is_no_reason_for_another_worker() -> None:
    assert decide(View([SpecView("a", 0, 1, 4)], [])) == []


def test_room_is_shared_among_specs() -> None:
    view = View([SpecView("a", 50, 0, 50), SpecView("b", 50, 0, 50)], [], total=5)
    assert decide(view) == [Submit("a", 3), Submit("b", 2)]


def test_an_idle_worker_makes_room_for_another_spec() -> None:
    workers = [WorkerView("idle", "a", "idle"), WorkerView("busy", "b", "working")]
    view = View([SpecView("b", 0, 1, 4), SpecView("c", 3, 0, 4)], workers, total=2)
    assert decide(view) == [Cancel(("idle",))]
    ending = [WorkerView("idle", "a", "ending"), workers[1]]
    assert decide(View(view.specs, ending, total=2)) == []
    assert decide(View(view.specs, workers[1:], total=2)) == [Submit("c", 1)]


def test_a_worker_that_ends_is_replaced_before_it_is_gone() -> None:
    view = View([SpecView("a", 1, 0, 4)], [WorkerView("w", "a", "ending")])
    assert decide(view) == [Submit("a", 1)]
