"""Workers whose job Slurm started again, deaths, and jobs that never start: what follows from looks at them. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from furu_async._executors.crew import patience
from furu_async._pool import crew, deaths
from furu_async._pool.breaker import MOST_YOUNG, Breaker
from furu_async._pool.copies import PATIENCE_SECS, Copies
from furu_async._pool.crew import STARTED_AGAIN, Glance, Remains, Worker
from furu_async._pool.entries import WorkerStatus
from furu_async._runtime import exit_codes
from furu_async._slurm.states import Ended, Verdict, judge


class Seen:
    """Stands for a watch: Slurm's word alone."""

    def __init__(self, verdict: Verdict | None) -> None:
        self.verdict = verdict


def status(stage: Any = "working", **more: Any) -> WorkerStatus:
    return WorkerStatus(wid="w", spec_key="s", job_id="1", stage=stage, **more)


def worker(verdict: Verdict | None = None, **more: Any) -> Worker:
    made = Worker("0001.1.s", "s", -1, "w", "furu-x", "1", **more)
    watch: Any = Seen(verdict)
    made.watch = watch
    return made


# -- the run before ------------------------------------------------------------------------------------------------


@pytest.mark.fault("F41")
def test_what_a_restarted_worker_left_is_looked_at_when_it_has_reported() -> None:
    copies = Copies()
    copies.add(worker(status=status()), 0.0)
    assert copies.wids() == ["w"]
    assert copies.judge([Glance(status("draining"), b"1")], 0.2) == []
    (over,) = copies.judge([Glance(status("ended"), b"1")], 2.1)
    assert over.wid == "w"
    assert over.gone
    assert copies.wids() == []


def test_one_that_never_began_is_over_at_once() -> None:
    copies = Copies()
    copies.add(worker(), 0.0)
    assert len(copies.judge([Glance(None, None)], 0.2)) == 1


@pytest.mark.fault("F19")
def test_one_whose_beat_cannot_be_read_is_waited_for() -> None:
    """Neither that it never began, nor that it has stopped, can be said of it."""
    copies = Copies()
    copies.add(worker(), 0.0)
    blind = Glance(None, None, "Input/output error")
    for now in range(50):
        assert copies.judge([blind], float(now)) == []
        assert copies.wids() == ["w"]
    assert copies.judge([Glance(status(), b"8")], 50.0) == []
    assert copies.judge([Glance(status(), b"8")], 51.0) == []
    assert len(copies.judge([Glance(status(), b"8")], 50.0 + PATIENCE_SECS)) == 1


def test_one_that_says_nothing_any_more_is_waited_for_only_so_long() -> None:
    copies = Copies()
    copies.add(worker(), 0.0)
    still = Glance(status("draining"), b"7")
    assert copies.judge([still], 0.2) == []
    assert copies.judge([still], PATIENCE_SECS - 0.1) == []
    assert len(copies.judge([still], PATIENCE_SECS)) == 1


@pytest.mark.fault("F42")
def test_one_that_lives_on_keeps_its_task() -> None:
    copies = Copies()
    copies.add(worker(), 0.0)
    assert copies.judge([Glance(status(), b"7")], 0.2) == []
    assert copies.judge([Glance(status(), b"8")], PATIENCE_SECS) == []
    assert copies.wids() == []


@pytest.mark.fault("F41", "F43")
def test_a_requeue_is_no_proof_and_counts_as_preempted() -> None:
    assert crew.kind_of(STARTED_AGAIN) == "preempted"
    assert not crew.is_proof(STARTED_AGAIN)
    assert crew.kind_of(Ended("revoked", "REVOKED")) == "lost"


@pytest.mark.fault("F41")
def test_a_worker_that_waits_to_be_started_again_gives_its_place_to_another() -> None:
    assert crew.is_back_in_queue(worker(judge("PENDING", "BeginTime")))
    assert crew.is_back_in_queue(worker(judge("REQUEUE_HOLD", "JobHeldAdmin")))
    assert not crew.is_back_in_queue(worker(judge("RUNNING")))  # it was started already
    assert not crew.is_back_in_queue(worker(judge("COMPLETING")))
    assert not crew.is_back_in_queue(worker(judge("PENDING"), intent="its pool was closed"))


@pytest.mark.fault("F43")
def test_a_worker_whose_job_is_being_requeued_is_none_that_is_on_its_way() -> None:
    """Slurm counts the restart when the signals go out; then the run before takes its time to end."""
    assert worker(judge("COMPLETING", restarts=1)).phase == "ending"
    assert worker(judge("RUNNING")).phase == "starting"
    assert worker(judge("PENDING")).phase == "pending"


# -- deaths ----------------------------------------------------------------------------------------------------------


def died(breaker: Breaker, ended: Ended, **more: Any) -> bool:
    deaths.count(breaker, worker(**more), ended, Remains(tail="last words"), now=1.0, ours=False)
    return not breaker.open


@pytest.mark.fault("F49")
@pytest.mark.parametrize("how", ["boot_fail", "deadline", "revoked", "launch_failed", "node_fail"])
def test_jobs_that_cannot_start_stop_their_spec(how: Any) -> None:
    breaker = Breaker()
    stopped = [died(breaker, Ended(how, how.upper())) for _ in range(MOST_YOUNG)]
    assert stopped == [False] * (MOST_YOUNG - 1) + [True]
    assert how.upper() in breaker.why
    assert "last words" in breaker.why


@pytest.mark.fault("F19", "F56")
@pytest.mark.parametrize("taken", [None, 0])
def test_those_that_could_not_work_stop_their_spec_however_long_they_tried(taken: int | None) -> None:
    breaker = Breaker()
    said = (
        status("ended", taken=taken, why="its queue cannot be used: /the/path") if taken is not None else None
    )
    remains = Remains(said)
    unable = Ended("failed", "FAILED", exit_code=exit_codes.CANNOT_START)
    told = [
        deaths.count(breaker, worker(status=said, began_at=0.0), unable, remains, now=900.0, ours=False)
        for _ in range(MOST_YOUNG)
    ]
    assert all("died 900 s after its start" in text for text in told)
    assert not breaker.open
    if taken is not None:
        assert "/the/path" in breaker.why
        assert all("/the/path" in text for text in told)


@pytest.mark.fault("F19", "F56")
@pytest.mark.parametrize("finished", [0, 2])
def test_those_that_could_work_no_more_are_told_of_and_replaced(finished: int) -> None:
    breaker = Breaker()
    unable = Ended("failed", "FAILED", exit_code=exit_codes.CANNOT_START)
    for _ in range(2 * MOST_YOUNG):
        past = worker(status=status("ended", taken=3, finished=finished), began_at=0.0)
        assert "last words" in deaths.count(
            breaker, past, unable, Remains(tail="last words"), now=900.0, ours=False
        )
    assert breaker.open


@pytest.mark.parametrize("how", ["preempted", "timeout"])
def test_planned_ends_stop_nothing(how: Any) -> None:
    breaker = Breaker()
    assert not any(died(breaker, Ended(how)) for _ in range(20))
    assert breaker.open


@pytest.mark.fault("F46")
def test_those_that_may_have_been_cancelled_are_replaced_when_slurm_has_said_so() -> None:
    breaker = Breaker()
    told = [worker(status=status("draining", why="SIGTERM")) for _ in range(3)]
    assert deaths.may_replace(breaker, told[:2], 0.0)
    assert not deaths.may_replace(breaker, told, 0.0)
    told[0].intent = "its place was wanted for another spec"  # that was us
    assert deaths.may_replace(breaker, told, 0.0)
    breaker.cancelled = 1
    assert not deaths.may_replace(breaker, told, 0.0)
    told[1].status = status("draining", why="nothing to do for 60 s")
    assert deaths.may_replace(breaker, told, 0.0)
    told[1].gone = True  # and is being looked at
    assert not deaths.may_replace(breaker, told, 0.0)


# -- the time to end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "resumable", "secs"), [("preempted", False, 2), ("preempted", True, 5), ("timeout", False, 5)]
)
def test_what_has_nothing_to_save_ends_the_sooner(kind: str, resumable: bool, secs: float) -> None:
    assert patience(kind, resumable, 5.0) == secs
    assert patience(kind, resumable, 1.0) == 1.0


# -- never -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F48")
def test_a_job_never_starts_only_if_slurm_goes_on_saying_so() -> None:
    never = judge("PENDING", "PartitionTimeLimit")
    made = worker(never)
    assert not crew.never_starts(made, 10.0)
    assert not crew.never_starts(made, 12.0)
    made.watch.verdict = judge("PENDING", "Resources")  # type: ignore[union-attr, misc]
    assert not crew.never_starts(made, 14.0)
    made.watch.verdict = never  # type: ignore[union-attr, misc]
    assert not crew.never_starts(made, 20.0)
    assert crew.never_starts(made, 24.0)


@pytest.mark.parametrize("reason", ["Resources", "Priority", "JobHeldUser", "QOSMaxJobsPerUserLimit", "None"])
def test_other_reasons_are_waited_for(reason: str) -> None:
    made = worker(judge("PENDING", reason))
    assert not any(crew.never_starts(made, now) for now in (0.0, 100.0, 1000.0))
