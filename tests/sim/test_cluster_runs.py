"""Simulated clusters: several hosts, controllers and keepers on one store, killed, paused and cut off at any step."""

from __future__ import annotations

import gc
import logging
import os
import random
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.laboratory import Counts, counting, split
from tests.sim.cluster import simulate
from tests.sim.processes import Host
from tests.sim.witness import Broken

from furu_async._model import definition
from furu_async._store import atomic

# What is killed in the middle of its work leaves files open and coroutines that were never begun.
pytestmark = pytest.mark.filterwarnings("ignore:.*unclosed file.*", "ignore:.*was never awaited.*")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """That is thrown away here, where nobody minds, and not in the middle of another test."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("furu_async").setLevel(logging.ERROR)
    yield
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


@pytest.mark.fault(
    "F05", "F06", "F07", "F14", "F15", "F21", "F22", "F32", "F33", "F61", "F62", "F63", "F65", "F67"
)
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("first", "runs"), split("cluster-runs", 10))
def test_clusters_keep_every_promise(first: int, runs: int) -> None:
    with counting("cluster-runs") as counts:
        for seed in range(first, first + runs):
            _live(seed, counts)


@pytest.mark.fault("F13", "F30")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("first", "runs"), split("cluster-outages", 4))
def test_clusters_whose_hosts_lose_their_power_keep_every_promise(first: int, runs: int) -> None:
    with counting("cluster-outages") as counts:
        for seed in range(first, first + runs):
            _live(seed, counts, outages=True)


def _live(seed: int, counts: Counts, outages: bool = False) -> None:
    try:
        cluster = simulate(seed, outages=outages)
    except BaseException as error:
        counts.harm(error.harm if isinstance(error, Broken) else "endless")
        mode = " --outages" if outages else ""
        error.add_note(f"again with: python tests/sim/cluster.py --runs 1 --seed {seed}{mode} --trace")
        raise
    finally:
        counts.trials += 1
    counts.most("controllers in a run", cluster.lives)
    counts.most("seconds at most", cluster.loop.now)


def test_hosts_lose_their_power_and_a_part_of_what_they_wrote() -> None:
    crashes = results = 0
    for seed in range(60):
        cluster = simulate(seed, outages=True)
        crashes += sum(entry[2:4] == ("crisis", "crash host") for entry in cluster.watch.trace)
        assert cluster.storage is not None
        lost = {path.rpartition("/")[2] for _, what, path, _ in cluster.storage.log if what == "crash"}
        results += "SUCCESS.json" in lost
    assert crashes > 40
    assert results > 4


@pytest.mark.parametrize("seed", range(0, 100, 9))
def test_a_seed_is_one_course_of_events(seed: int) -> None:
    assert simulate(seed).digest() == simulate(seed).digest()


def test_another_seed_is_another_course_of_events() -> None:
    assert len({simulate(seed).digest() for seed in range(12)}) == 12


@pytest.mark.parametrize("seed", [8, 15, 49])
def test_a_seed_is_the_same_in_another_process(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition, "_declares_dependencies", ["of another test"])
    monkeypatch.setattr(atomic, "_count", 1 << 20)
    here = simulate(seed).digest()
    script = Path(__file__).with_name("cluster.py")
    done = subprocess.run(
        [sys.executable, str(script), "--runs", "1", "--seed", str(seed)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert done.stdout.splitlines()[0] == here


def test_the_faults_are_drawn_and_show() -> None:
    """A simulation in which nothing happens would keep every promise."""
    seen: set[str] = set()
    overlaps = lost = 0
    for seed in range(300):
        cluster = simulate(seed)
        seen |= {entry[3] for entry in cluster.watch.trace if entry[2] == "crisis"}
        overlaps += cluster.watch.overlaps
        lost += sum(not each.dead for each in cluster.watch.lost.values())
        if cluster.storage is not None:
            seen |= {what for _, _, _, what in cluster.storage.log}
        if lost > 5 and overlaps and len(seen) > 15:
            break
    assert {"kill controller", "kill both", "pause both", "crash host", "hang mount", "sleep"} <= seen
    assert overlaps >= 1
    assert lost >= 1


def test_nothing_of_a_simulation_stays_in_memory() -> None:
    """Campaigns live through many thousands of them in one process."""
    simulated = [weakref.ref(process) for seed in range(8) for process in simulate(seed).loop.processes]
    gc.collect()
    assert len(simulated) > 20
    assert not [each() for each in simulated if each() is not None]


def test_clocks_of_hosts_differ_and_are_converted() -> None:
    host = Host("a", random.Random(1), skewed=True)
    assert host.clock(100.0) != 100.0
    for true in (0.0, 1.0, 1e5):
        reached = host.true(host.clock(true))
        assert host.clock(reached) >= host.clock(true)
        assert reached == pytest.approx(true, abs=1e-6)
