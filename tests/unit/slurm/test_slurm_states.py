"""Every word that Slurm has for a job or for why it waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from furu_async._slurm.states import (
    ALIVE,
    COMPACT,
    ENDED,
    KINDS,
    REASONS,
    Alive,
    Ended,
    NoInformation,
    judge,
    reason_of,
    state_word,
)

DOCUMENTED = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "CONFIGURING",
    "COMPLETING",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PENDING",
    "PREEMPTED",
    "RUNNING",
    "RESV_DEL_HOLD",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "REQUEUED",
    "RESIZING",
    "REVOKED",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
    "TIMEOUT",
    "LAUNCH_FAILED",
    "RECONFIG_FAIL",
    "POWER_UP_NODE",
    "EXPEDITING",
    "UPDATE_DB",
]


def test_every_documented_state_is_alive_or_ended_and_never_both():
    assert set(ALIVE) | set(ENDED) == set(DOCUMENTED)
    assert not set(ALIVE) & set(ENDED)
    assert set(COMPACT.values()) <= set(DOCUMENTED)
    assert set(ENDED.values()) | {"unknown"} == set(KINDS)


@pytest.mark.fault("F47")
@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("SUSPENDED", "suspended"),
        ("STOPPED", "suspended"),
        ("CONFIGURING", "starting"),
        ("RESIZING", "running"),
        ("STAGE_OUT", "ending"),
        ("SIGNALING", "running"),
        ("COMPLETING", "ending"),
        ("REQUEUED", "requeued"),
    ],
)
def test_a_job_that_may_still_have_processes_has_not_ended(state, phase):
    verdict = judge(state, restarts=2, node="n1")
    assert isinstance(verdict, Alive)
    assert (verdict.phase, verdict.restarts, verdict.node) == (phase, 2, "n1")


@pytest.mark.fault("F49")
@pytest.mark.parametrize("state", ["BOOT_FAIL", "DEADLINE", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"])
def test_what_is_nobodys_fault_is_infrastructure(state):
    verdict = judge(state)
    assert isinstance(verdict, Ended)
    assert verdict.kind == "infrastructure"


@pytest.mark.fault("F49", "F48")
@pytest.mark.parametrize("state", ["RESV_DEL_HOLD", "SPECIAL_EXIT", "REQUEUE_HOLD"])
def test_a_held_state_waits_for_a_person(state):
    verdict = judge(state)
    assert isinstance(verdict, Alive)
    assert verdict.phase == "held"
    assert verdict.reason is not None
    assert verdict.reason.warn
    assert "release" in verdict.reason.advice


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("CANCELLED by 0", "CANCELLED"),
        ("CANCELLED+", "CANCELLED"),
        ("OUT_OF_ME+", "OUT_OF_MEMORY"),
        ("  running ", "RUNNING"),
        ("PD", "PENDING"),
        ("ca", "CANCELLED"),
        ("COMPLETING,REQUEUED", "COMPLETING"),
        ("REQUEUE+", ""),
        ("+", ""),
        ("", ""),
        ("UNKNOWN", ""),
        ("READY", ""),
    ],
)
def test_suffixes_and_abbreviations(text, word):
    assert state_word(text) == word


def test_a_word_that_is_not_known_is_no_information():
    verdict = judge("HIBERNATING")
    assert isinstance(verdict, NoInformation)
    assert "HIBERNATING" in verdict.why
    assert not verdict.silent


@pytest.mark.fault("F48")
@pytest.mark.parametrize(
    ("text", "kind", "warn"),
    [
        ("Resources", "waiting", False),
        ("Priority", "waiting", False),
        ("BeginTime", "waiting", False),
        ("Dependency", "waiting", False),
        ("DependencyNeverSatisfied", "dependency", True),
        ("JobHeldUser", "held", True),
        ("JobHeldAdmin", "held", True),
        ("launch failed requeued held", "held", True),
        ("launch_failed_requeued_held", "held", True),
        ("JobHoldMaxRequeue", "held", True),
        ("BadConstraints", "never", True),
        ("PartitionTimeLimit", "never", True),
        ("InvalidQOS", "never", True),
        ("QOSMaxWallDurationPerJobLimit", "never", True),
        ("AssocMaxCpuPerJobLimit", "never", True),
        ("MaxMemPerLimit", "never", True),
        ("PartitionDown", "waiting", True),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "waiting", True),
        ("Nodes required for job are DOWN, DRAINED or reserved", "waiting", True),
        ("QOSMaxJobsPerUserLimit", "limit", False),
        ("QOSGrpCpuLimit", "limit", False),
        ("AssocGrpMemLimit", "limit", False),
        ("MaxJobsPerAccount", "limit", False),
        ("JobArrayTaskLimit", "limit", False),
        ("Licenses", "limit", False),
        ("SomethingOfNextYear", "waiting", False),
    ],
)
def test_reasons(text, kind, warn):
    reason = reason_of(text)
    assert reason is not None
    assert (reason.kind, reason.warn, reason.text) == (kind, warn, text)
    assert reason.advice or not warn


def test_no_reason_yet():
    assert all(reason_of(text) is None for text in ("", "None", "(null)", "N/A", "WaitingForScheduling"))


def test_no_line_of_the_reasons_is_hidden_by_one_before_it():
    for number, (pattern, *_rest) in enumerate(REASONS):
        plain = pattern.replace("*", "")
        first = next(n for n, line in enumerate(REASONS) if __import__("fnmatch").fnmatchcase(plain, line[0]))
        assert first == number, (pattern, REASONS[first][0])


@pytest.mark.fault("F48")
def test_pending_with_a_reason_to_hold_is_held():
    verdict = judge("PENDING", "launch failed requeued held")
    assert isinstance(verdict, Alive)
    assert verdict.phase == "held"


@given(st.text(max_size=60), st.text(max_size=80))
def test_nothing_that_is_printed_raises(state, reason):
    verdict = judge(state, reason)
    assert isinstance(verdict, Alive | Ended | NoInformation)
    if isinstance(verdict, NoInformation):
        assert state_word(state) == ""
