"""The phases of a node, and the one table of the transitions between them.

What may live here: the table and what is derived from it. `docs/states.md` is printed from it
(``python -m furu_async._plan.diagram``), and every change of a phase is checked against it.
"""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """Where a node of a run is. Phases from `CREATED` on are final."""

    UNKNOWN = 0
    PROBING = 1
    WAITING = 2
    READY = 3
    RUNNING = 4
    ELSEWHERE = 5
    BACKOFF = 6
    CREATED = 7
    CACHED = 8
    FAILED = 9
    SKIPPED = 10
    CANCELLED = 11


FIRST_FINAL = Phase.CREATED
FIRST_BLOCKING = Phase.FAILED

SENTENCES: dict[Phase, str] = {
    Phase.UNKNOWN: "Nobody has asked about it yet; what lies below a valid node stays here and is not in the run.",
    Phase.PROBING: "The store has been asked whether its result is there, and has not answered.",
    Phase.WAITING: "Its result is missing, and a dependency's too (or the plan, which may still refuse the run).",
    Phase.READY: "Handed to the executor, not begun: it waits for a worker.",
    Phase.RUNNING: "A process of this run computes it.",
    Phase.ELSEWHERE: "Somebody else holds its claim; the watcher follows it.",
    Phase.BACKOFF: "It failed, or the store did not answer; a timer brings it back.",
    Phase.CREATED: "Final: this run computed it.",
    Phase.CACHED: "Final: its result was there, or somebody else published it.",
    Phase.FAILED: "Final: it failed for good.",
    Phase.SKIPPED: "Final: not computed, because a dependency failed or the run drained or stopped.",
    Phase.CANCELLED: "Final: begun and stopped, with the run.",
}

_STOPPED = {
    Phase.SKIPPED: "a dependency failed for good, or the run drains or stops before it began",
    Phase.CANCELLED: "the run stops after an attempt of it had begun",
}
_SUCCESS = {
    Phase.CREATED: "the success of an attempt was read back",
    Phase.CACHED: "somebody else published it",
}

TRANSITIONS: dict[Phase, dict[Phase, str]] = {
    Phase.UNKNOWN: {Phase.PROBING: "it is a target, or a node that must be computed depends on it"},
    Phase.PROBING: {
        Phase.WAITING: "absent, and a dependency is not there yet",
        Phase.READY: "absent, and all dependencies are there",
        Phase.ELSEWHERE: "somebody else holds its claim",
        Phase.BACKOFF: "the store gave no answer",
        Phase.CREATED: "a created result that a dependent missed is there after all",
        Phase.CACHED: "valid",
        Phase.FAILED: "its stored failure stays, or the store gave no answer for too long",
        Phase.SKIPPED: _STOPPED[Phase.SKIPPED],
    },
    Phase.WAITING: {
        Phase.READY: "the last dependency became available",
        **_SUCCESS,
        Phase.FAILED: "an attempt had failed, and the run drains",
        **_STOPPED,
    },
    Phase.READY: {
        Phase.READY: "returned unbegun, or its worker vanished: asked for again at once",
        Phase.RUNNING: "a process began it",
        Phase.WAITING: "an input was not there: its dependencies are probed again",
        Phase.ELSEWHERE: "the executor found a claim of somebody else",
        Phase.BACKOFF: "the attempt failed, and is tried again later",
        **_SUCCESS,
        Phase.FAILED: "the attempt failed, and nothing is left to try",
        **_STOPPED,
    },
    Phase.RUNNING: {
        Phase.READY: "preempted, lost, or to be tried with the next specification: again at once",
        Phase.WAITING: "an input was not there: its dependencies are probed again",
        Phase.ELSEWHERE: "somebody else took the claim over",
        Phase.BACKOFF: "the attempt failed, and is tried again later",
        **_SUCCESS,
        Phase.FAILED: "the attempt failed, and nothing is left to try",
        **_STOPPED,
    },
    Phase.ELSEWHERE: {
        Phase.WAITING: "their attempt ended without a result, and a dependency is not there yet",
        Phase.READY: "their attempt ended without a result, and all dependencies are there",
        **_SUCCESS,
        Phase.FAILED: "their failure stays, or it was waited for too long",
        **_STOPPED,
    },
    Phase.BACKOFF: {
        Phase.PROBING: "time to ask the store again",
        Phase.READY: "time for the next attempt",
        Phase.WAITING: "time for the next attempt, but a dependency is gone",
        **_SUCCESS,
        Phase.FAILED: "an attempt had failed, and the run drains",
        **_STOPPED,
    },
    Phase.CREATED: {Phase.PROBING: "a dependent did not find its result"},
    Phase.CACHED: {Phase.PROBING: "a dependent did not find its result"},
    Phase.FAILED: {},
    Phase.SKIPPED: {},
    Phase.CANCELLED: {},
}

# One bit mask per phase: bit p of ALLOWED[old] says whether old -> p is legal. The check costs 50 ns this way.
ALLOWED: tuple[int, ...] = tuple(sum(1 << new for new in TRANSITIONS[old]) for old in Phase)
