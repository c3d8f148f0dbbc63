"""Several real processes at one artifact, at the same moment."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_env import (
    create,
    failure,
    owner_card,
    paths_at,
    python,
    recover,
    scaled,
    success,
    value,
    write_result,
)

from furu_async._store import artifacts

WORKER = """
import json, time
from store_env import *
from furu_async._store import artifacts
root, name = sys.argv[1:]
card = owner_card(root, name)
for line in sys.stdin:
    what, hash, at = json.loads(line)
    paths = paths_at(root, hash)
    while (left := at - time.monotonic()) > 0:
        time.sleep(left if left > 0.002 else 0)
    if what == "claim":
        seen = artifacts.look(paths)
        answer = f"saw {seen.verdict}"
        if seen.verdict == "free":
            answer = artifacts.claim(paths, seen.next_generation, card).r
    elif what == "takeover":
        answer = artifacts.takeover(paths, 1, card, "silent").r
    elif what == "publish":
        answer = artifacts.publish(paths, 1, success(paths, 1, owner_card(root, "owner"))).r
    elif what == "invalidate":
        answer = artifacts.invalidate(paths, 1, "again")
    elif what == "rerun":
        artifacts.invalidate(paths, 1, "again")
        seen = artifacts.look(paths)
        answer = f"saw {seen.verdict}"
        if seen.verdict == "free":
            answer = artifacts.claim(paths, seen.next_generation, card).r
            if answer == "claimed":
                write_result(paths, seen.next_generation, name)
                artifacts.publish(paths, seen.next_generation, success(paths, seen.next_generation, card))
    elif what == "read":
        seen = [value(paths) for _ in range(30)]
        answer = sorted(set(map(str, seen)))
    print(json.dumps(answer), flush=True)
"""


class Crowd:
    """Processes that do something at the same time."""

    def __init__(self, root: str, size: int) -> None:
        self.root = root
        self.workers = [
            python(WORKER, root, f"w{i}", stdin=subprocess.PIPE, stdout=subprocess.PIPE) for i in range(size)
        ]
        self.race(["claim"] * size, "d" * 32)

    def race(self, whats: list[str], hash: str) -> list[object]:
        at = time.monotonic() + 0.003
        for worker, what in zip(self.workers, whats, strict=True):
            assert worker.stdin is not None
            worker.stdin.write(json.dumps([what, hash, at]) + "\n")
            worker.stdin.flush()
        answers = []
        for worker in self.workers:
            assert worker.stdout is not None
            line = worker.stdout.readline()
            assert line, "a worker died"
            answers.append(json.loads(line))
        return answers

    def close(self) -> None:
        for worker in self.workers:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.close()
            worker.stdout.close()
            worker.wait(10)


@pytest.fixture(scope="module", params=[2, 8])
def crowd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    crowd = Crowd(str(tmp_path_factory.mktemp("store")), request.param)
    yield crowd
    crowd.close()


_fresh = itertools.count()


def hashes(count: int) -> list[str]:
    return [f"{next(_fresh):032x}" for _ in range(scaled(count))]


@pytest.mark.fault("F65")
def test_exactly_one_of_several_claims(crowd: Crowd) -> None:
    for hash in hashes(30):
        answers = crowd.race(["claim"] * len(crowd.workers), hash)
        assert answers.count("claimed") == 1, answers
        paths = paths_at(crowd.root, hash)
        assert os.listdir(paths.claims) == ["1"]
        assert not os.path.lexists(paths.attempts)


@pytest.mark.fault("F66")
def test_exactly_one_of_several_takes_over(crowd: Crowd) -> None:
    owner = owner_card(crowd.root, "owner")
    for hash in hashes(20):
        paths = paths_at(crowd.root, hash)
        artifacts.claim(paths, 1, owner)
        answers = crowd.race(["takeover"] * len(crowd.workers), hash)
        assert answers.count("claimed") == 1, answers
        assert sorted(os.listdir(paths.claims)) == ["1", "2"]


@pytest.mark.fault("F14", "F67", "F68")
def test_publishing_against_takers_has_one_outcome(crowd: Crowd) -> None:
    owner = owner_card(crowd.root, "owner")
    outcomes = set()
    for hash in hashes(20):
        paths = paths_at(crowd.root, hash)
        artifacts.claim(paths, 1, owner)
        write_result(paths, 1, "x")
        answers = crowd.race(["publish"] + ["takeover"] * (len(crowd.workers) - 1), hash)
        outcomes.add(answers[0])
        if answers[0] == "published":
            assert set(answers) == {"published"}, answers
            assert value(paths) == "x"
            assert not os.path.exists(paths.claim(2))
        else:
            assert answers[0] == "fenced"
            assert answers.count("claimed") == 1, answers
            assert not artifacts.is_marked(paths)


@pytest.mark.fault("F71")
def test_readers_see_whole_results_while_others_invalidate_and_compute(crowd: Crowd) -> None:
    owner = owner_card(crowd.root, "owner")
    for hash in hashes(8):
        paths = paths_at(crowd.root, hash)
        create(paths, owner, "old")
        readers = len(crowd.workers) // 2
        answers = crowd.race(["rerun"] * (len(crowd.workers) - readers) + ["read"] * readers, hash)
        assert answers[: len(crowd.workers) - readers].count("claimed") <= 1
        for seen in answers[-readers:]:
            assert isinstance(seen, list)
            assert set(seen) <= {"old", "None", *(f"w{i}" for i in range(8))}
        if os.path.exists(paths.claim(2)):
            assert artifacts.look(paths).generation == 2
            assert (value(paths) or "").startswith("w")


@pytest.mark.fault("F71", "F13")
def test_publisher_and_invalidator_leave_no_marker_of_an_invalid_result(crowd: Crowd) -> None:
    owner = owner_card(crowd.root, "owner")
    for hash in hashes(20):
        paths = paths_at(crowd.root, hash)
        artifacts.claim(paths, 1, owner)
        write_result(paths, 1, "x")
        crowd.race(["publish"] + ["invalidate"] * (len(crowd.workers) - 1), hash)
        invalid = os.path.exists(paths.invalid(1))
        assert artifacts.is_marked(paths) is not invalid
        assert value(paths) == (None if invalid else "x")


LOOP = """
import random, time
from store_env import *
from furu_async._store import artifacts
from furu_async._store.liveness import known_dead, this_owner
root, name = sys.argv[1:]
card = owner_card(root, name, this_owner())
rng = random.Random(name)
open(f"{root}/{name}.up", "w").close()
while True:
    paths = paths_at(root, f"{rng.randrange(12):032x}")
    seen = artifacts.look(paths)
    reply = None
    if seen.verdict == "free" and seen.generation < 40:
        reply = artifacts.claim(paths, seen.next_generation, card)
    elif seen.verdict == "claimed" and seen.claim is not None and known_dead(seen.claim.owner):
        reply = artifacts.takeover(paths, seen.generation, card, "dead")
    elif seen.verdict == "published" and rng.random() < 0.3:
        artifacts.invalidate(paths, seen.generation, "again")
    elif seen.verdict == "claimed" and seen.claim is None:
        raise SystemExit(f"torn claim: {seen.notes}")
    assert seen.notes == [], seen.notes
    if reply is not None and reply.r == "claimed":
        n = reply.generation
        assert not os.path.lexists(paths.attempt(n))
        write_result(paths, n, f"{name} {n}")
        with open(f"{root}/creates", "a") as log:
            log.write(f"{paths.hash} {n}\\n")
        if rng.random() < 0.2:
            artifacts.finish(paths, n, failure(paths, n, card))
        else:
            artifacts.publish(paths, n, success(paths, n, card))
"""


@pytest.mark.fault("F01", "F02", "F03", "F04", "F13", "F65", "F66")
def test_a_campaign_of_kills_leaves_whole_results_and_one_create_a_generation(root: str) -> None:
    rng = random.Random(1)
    workers = [python(LOOP, root, f"w{i}", stderr=subprocess.PIPE) for i in range(4)]
    for kill in range(scaled(12)):
        victim = rng.randrange(len(workers))
        name = workers[victim].args[-1]  # type: ignore[index]
        deadline = time.monotonic() + 20
        while not os.path.exists(f"{root}/{name}.up"):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.random() * 0.05)
        assert workers[victim].poll() is None, workers[victim].stderr.read()  # type: ignore[union-attr]
        workers[victim].kill()
        workers[victim].communicate()
        workers[victim] = python(LOOP, root, f"w{kill}-again", stderr=subprocess.PIPE)
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
        _, said = worker.communicate()
        assert "Error" not in (said or ""), said
    creates = Path(root, "creates").read_text().splitlines()
    assert len(creates) == len(set(creates)), "a generation was computed twice"
    for i in range(12):
        paths = paths_at(root, f"{i:032x}")
        recover(paths, owner_card(root, f"last{i}"))
        assert value(paths) is not None
        assert artifacts.is_marked(paths)


def test_a_late_owner_finds_its_end_there_however_it_ended(root: str) -> None:
    paths = paths_at(root)
    a, b = owner_card(root, "a"), owner_card(root, "b")
    artifacts.claim(paths, 1, a)
    write_result(paths, 1, "x")
    end = success(paths, 1, a)
    artifacts.takeover(paths, 1, b, "silent")
    artifacts.finish(paths, 2, failure(paths, 2, b))
    assert artifacts.publish(paths, 1, end).r == "fenced"
    assert artifacts.look(paths).next_generation == 3
