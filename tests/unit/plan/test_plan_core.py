"""The table, the invariants, whole runs: random, huge, and written to JSON."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from core_campaign import campaign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_checks import Broken
from plan_choices import IDS, KINDS, POLICIES, RULES
from plan_env import Env, failure
from plan_world import World, explore

from furu_async._plan import diagram
from furu_async._plan.commands import Command, EndRun, Kill, Probe, Start
from furu_async._plan.events import (
    Elsewhere,
    Event,
    Failed,
    Probed,
    Started,
    Stop,
    Succeeded,
    TakenBack,
    Tick,
    Wanted,
    WatchEnded,
)
from furu_async._plan.invariants import check_invariants
from furu_async._plan.levels import find_cycle
from furu_async._plan.machine import State, advance
from furu_async._plan.states import ALLOWED, FIRST_FINAL, SENTENCES, TRANSITIONS, Phase
from furu_async.errors import FuruInternalError

ROOT = Path(__file__).parents[3]


# -- the table -------------------------------------------------------------------------------------


def test_every_phase_has_a_sentence_and_its_transitions():
    assert list(SENTENCES) == list(TRANSITIONS) == list(Phase)
    for old in Phase:
        for new in Phase:
            assert bool(ALLOWED[old] >> new & 1) == (new in TRANSITIONS[old])
        assert bool(TRANSITIONS[old]) == (old <= Phase.CACHED)


def test_docs_states_is_up_to_date():
    command = [sys.executable, "-m", "furu_async._plan.diagram"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert printed == diagram.document()
    assert (ROOT / "docs/states.md").read_text(encoding="utf-8") == printed, "run it: " + " ".join(
        command[1:]
    )


def test_an_illegal_transition_tells_the_story_and_changes_nothing():
    env = Env("a", infra_secs=1e9)
    env.plan(absent="a")
    env.fail_when_running("a", message="it was Tuesday")
    node = env.state.nodes["a"]
    before = env.state.counts()
    with pytest.raises(FuruInternalError) as error:
        env.state.move(node, Phase.RUNNING)
    text = str(error.value)
    assert "illegal transition backoff -> running" in text
    assert "probing -> ready -> running -> backoff" in text
    assert "it was Tuesday" in text
    assert env.state.counts() == before
    assert node.phase is Phase.BACKOFF


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase >= Phase.FAILED])
def test_no_way_leads_out_of_a_blocking_end(phase):
    assert ALLOWED[phase] == 0


# -- the invariants can fail -----------------------------------------------------------------------


def broken(env: Env, sentence: str) -> None:
    with pytest.raises(FuruInternalError, match=sentence):
        check_invariants(env.state)


def test_each_invariant_can_be_broken():
    def planned(dag: str = "a: b", **policy: object) -> Env:
        env = Env(dag, **policy)
        env.plan(absent="a b")
        return env

    env = planned()
    env.state.by_phase[Phase.CREATED] += 1
    broken(env, "counters add up")
    env = planned()
    env.state.live += 1
    broken(env, "unfinished nodes are counted")
    env = planned()
    env.state.unplanned += 1
    broken(env, "still unknown")
    env = planned()
    env.state.finished = True
    broken(env, "finished when")
    env = planned()
    env.state.nodes["a"].story = 0
    broken(env, "story ends")
    env = planned()
    env.state.nodes["a"].spec = 1
    broken(env, "specification")
    env = planned()
    env.state.nodes["b"].attempts = 2
    broken(env, "attempts are one more")
    env = planned()
    env.state.nodes["b"].troubled().used["killed"] = 5
    broken(env, "budget of killed")
    env = planned()
    env.state.mode = "drain"
    broken(env, "its own work")
    env = planned()
    env.state.nodes["b"].known = False
    env.state.unplanned = 1
    broken(env, "unknown node")
    env = planned()
    env.fail("b")
    env.state.timers.clear()
    broken(env, "has a timer")
    env = planned()
    env.state.nodes["b"].waiters = None
    broken(env, "somebody who will tell")
    env = planned()
    env.state.nodes["b"].deps = None
    broken(env, "looked below")
    env = planned(retry_failed=False)
    env.state.planned = False
    broken(env, "plan may refuse")
    env = planned()
    env.state.nodes["a"].waiting = 2
    broken(env, "nothing else")
    env = planned("a: b, b: c")
    env.valid("c")
    env.state.move(env.state.nodes["c"], Phase.PROBING)
    env.state.live += 1
    broken(env, "all its dependencies are done")
    env = planned("a: b c")
    env.state.close(env.state.nodes["c"], Phase.SKIPPED)
    broken(env, "blocking dependency")
    env = planned("a: b, c")
    env.state.close(env.state.nodes["a"], Phase.SKIPPED)
    broken(env, "nothing is put aside")
    env.state.nodes["a"].root = "b"
    broken(env, "because of a failed one")
    env = planned()
    env.state.by_phase[Phase.READY] -= 1
    env.state.by_phase[Phase.UNKNOWN] += 1
    env.state.nodes["b"].phase = Phase.UNKNOWN
    broken(env, "asked about")


def test_a_node_that_waits_for_nothing_is_our_bug():
    env = Env("a: b")
    env.plan(absent="a b")
    env.state.nodes["a"].deps = ()
    with pytest.raises(FuruInternalError, match="waits for nothing"):
        find_cycle(env.state)


# -- random runs -----------------------------------------------------------------------------------


def test_every_transition_of_the_table_happens(monkeypatch):
    """But for those that the unit tests show: they are too rare for few runs."""
    seen: set[tuple[Phase, Phase]] = set()
    move = State.move

    def watched(self: State, node: object, phase: Phase) -> None:
        seen.add((node.phase, phase))  # type: ignore[attr-defined]
        move(self, node, phase)  # type: ignore[arg-type]

    monkeypatch.setattr(State, "move", watched)
    for seed in range(4000):
        explore(seed, check_every=10_000)
    table = {(old, new) for old, ways in TRANSITIONS.items() for new in ways}
    rare = {
        (Phase.WAITING, Phase.FAILED),
        (Phase.WAITING, Phase.CACHED),
        (Phase.BACKOFF, Phase.WAITING),
        (Phase.BACKOFF, Phase.CACHED),
        (Phase.BACKOFF, Phase.CREATED),
        (Phase.BACKOFF, Phase.FAILED),
        (Phase.ELSEWHERE, Phase.CANCELLED),
        (Phase.ELSEWHERE, Phase.CREATED),
        (Phase.RUNNING, Phase.SKIPPED),
    }
    assert table - seen <= rare


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_any_run_ends(rng: random.Random):
    World(rng).run()


NODES = st.sampled_from([*IDS[:6], "stranger"])
TICKETS = st.integers(0, 3)
FAILURES = st.builds(failure, st.sampled_from(KINDS), retryable=st.sampled_from([None, False, True]))
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Started, NODES, TICKETS),
    st.builds(Succeeded, NODES, st.booleans(), TICKETS),
    st.builds(Failed, NODES, FAILURES, st.floats(0, 0.99), TICKETS),
    st.builds(Elsewhere, NODES, st.just(""), TICKETS),
    st.builds(TakenBack, NODES, TICKETS),
    st.builds(WatchEnded, NODES, st.sampled_from(["published", "ended", "lost", "timeout"]), FAILURES),
    st.just(Tick()),
    st.builds(Stop, st.sampled_from(["cancel", "timeout", "error"])),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_event_at_any_time_breaks_the_core(data: st.DataObject):
    """Any events, in any order; then the run is stopped, and ends when the executor has answered."""
    deps = {
        IDS[i]: tuple(data.draw(st.lists(st.sampled_from(IDS[i + 1 : 6]), unique=True))) if i < 5 else ()
        for i in range(6)
    }
    state = State(data.draw(st.sampled_from(POLICIES)))
    now = 0.0
    probed = st.builds(lambda node, verdict: Probed(node, verdict, deps.get(node, ()), RULES[1]), NODES,
                       st.sampled_from(["valid", "absent", "failed", "busy", "unknown"]))  # fmt: skip
    log = advance(state, Wanted((IDS[0],)), now)
    for event in data.draw(st.lists(st.one_of(EVENTS, probed, probed), max_size=60)):
        now += data.draw(st.sampled_from([0.0, 1.0, 100.0]))
        log += advance(state, event, now)
        check_invariants(state)
    log += advance(state, Stop(), now)
    for node in list(state.nodes):
        log += advance(state, TakenBack(node), now)
        check_invariants(state)
    assert state.finished
    assert [type(command) for command in log].count(EndRun) == 1
    assert type(log[-1]) is EndRun
    assert all(node.phase >= FIRST_FINAL for node in state.nodes.values())


def test_the_same_seed_is_the_same_run(capsys):
    explore(11, trace=True)
    first = capsys.readouterr().out
    explore(11, trace=True)
    assert capsys.readouterr().out == first
    assert "EndRun" in first


def test_a_broken_core_is_found_and_the_replay_is_printed(monkeypatch):
    monkeypatch.setattr("furu_async._plan.steps.await_deps", lambda state, node, out: True)
    _, failures = campaign(50, 0)
    assert len(failures) == 5
    assert "core_campaign.py --runs 1 --seed" in failures[0]
    seed = int(failures[0].split("--seed ")[1].split()[0])
    with pytest.raises((Broken, FuruInternalError)):
        explore(seed)


# -- size ------------------------------------------------------------------------------------------


def run_through(state: State, deps: dict[str, tuple[str, ...]], target: str) -> int:
    """Probe, start and finish every node; how many events that took."""
    todo: list[Command] = list(advance(state, Wanted((target,)), 0.0))
    events = 1
    for command in todo:  # grows while it is read
        if type(command) is Probe:
            todo += advance(state, Probed(command.node, "absent", deps[command.node]), 0.0)
            events += 1
        elif type(command) is Start:
            todo += advance(state, Started(command.node, command.ticket), 0.0)
            todo += advance(state, Succeeded(command.node, True, command.ticket), 0.0)
            events += 2
    return events


def chain(size: int) -> dict[str, tuple[str, ...]]:
    names = [f"{i:032x}" for i in range(size)]
    return {names[i]: tuple(names[i + 1 : i + 2]) for i in range(size)}


def wide(size: int) -> dict[str, tuple[str, ...]]:
    names = [f"{i:032x}" for i in range(size)]
    return {names[0]: tuple(names[1:]), **dict.fromkeys(names[1:], ())}


def layered(size: int) -> dict[str, tuple[str, ...]]:
    names = [f"{i:032x}" for i in range(size)]
    deps: dict[str, tuple[str, ...]] = {names[0]: tuple(names[1:101])}
    for i in range(1, size):
        layer = (i - 1) // 100 + 1
        below = range(layer * 100 + 1, min(size, layer * 100 + 101))
        deps[names[i]] = tuple(names[below[(i + k) % len(below)]] for k in range(3)) if below else ()
    return {node: tuple(dict.fromkeys(below)) for node, below in deps.items()}


@pytest.mark.fault("F77", "F106")
@pytest.mark.parametrize("shape", [chain, wide, layered])
def test_large_runs_are_linear_and_quick(shape):
    """10,000 nodes in 0.25 s on a quiet machine; the bounds here leave room for a busy one."""
    seconds = {}
    for size in (10_000, 100_000):
        deps = shape(size)
        state = State()
        start = time.process_time()
        run_through(state, deps, next(iter(deps)))
        seconds[size] = time.process_time() - start
        assert state.finished
        assert state.counts()["created"] == len(state.nodes) >= size - 200
    assert seconds[10_000] < 1.0
    assert seconds[100_000] < 50 * seconds[10_000]  # quadratic would be 100


@pytest.mark.fault("F106")
def test_a_node_costs_few_bytes():
    for shape in (chain, layered):
        deps = shape(2_000)
        tracemalloc.start()
        state = State()
        for node in deps:
            advance(state, Wanted((node,)), 0.0)
            advance(state, Probed(node, "absent", deps[node]), 0.0)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(state.nodes) == 2_000
        assert size / 2_000 < 600


def test_skipping_and_stopping_a_long_chain_does_not_recurse():
    deps = chain(20_000)
    names = list(deps)
    for failing in (True, False):
        state = State()
        advance(state, Wanted((names[0],)), 0.0)
        for node in names:
            out = advance(state, Probed(node, "absent", deps[node]), 0.0)
        assert Start(names[-1], 1, 19_999, 0, 1) in out or state.phase(names[-1]) is Phase.READY
        if failing:
            out = advance(state, Failed(names[-1], failure("protocol")), 0.0)
            assert state.counts()["skipped"] == 19_999
        else:
            out = advance(state, Stop(), 0.0)
            assert Kill(names[-1]) in out
            out = advance(state, TakenBack(names[-1]), 0.0)
        assert type(out[-1]) is EndRun


# -- JSON ------------------------------------------------------------------------------------------


def test_events_and_commands_survive_json():
    world = explore(5)
    events = msgspec.json.encode(world.past)
    assert msgspec.json.decode(events, type=list[Event]) == world.past
    commands: list[Command] = [Start("a", 1, 2, 0, 1), EndRun(True), Kill("a")]
    assert msgspec.json.decode(msgspec.json.encode(commands), type=list[Command]) == commands
