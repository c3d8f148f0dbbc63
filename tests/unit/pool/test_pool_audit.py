"""Entries that are nowhere, and workers that nobody follows."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pool_artifacts import Leaf
from pool_env import HOME, Home

from furu_async._plan.leases import LeaseRules
from furu_async._pool import audit, queue
from furu_async._pool.audit import Auditor, Sight
from furu_async._pool.wanted import Stage
from furu_async._store import fs

RULES = LeaseRules(lease=80.0, grace=60.0)
BEAT = f"runs/{HOME}/workers/{{}}/beat"


class Known:
    """A task, as far as the auditor looks at it."""

    def __init__(self, written: bool = True, stage: Stage = Stage.OUT) -> None:
        self.written = written
        self.stage = stage


def judge(auditor: Auditor, sight: Sight, tasks: dict[str, Any], now: float) -> tuple[list[Any], list[str]]:
    return auditor.judge(sight, tasks, now)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_an_entry_is_seen_wherever_it_is(home: Home) -> None:
    names = [home.put(Leaf(n=n)) for n in range(4)]
    taker = home.taker("w1")
    first, second, third = (taker.take()[0].name for _ in range(3))
    assert queue.finish(home.paths, "w1", first)
    Path(home.paths.failed).mkdir(exist_ok=True)
    Path(f"{home.paths.running_of('w1')}/{second}").rename(f"{home.paths.failed}/{second}")
    home.beat("7", BEAT.format("w1"))
    sight = audit.look(home.paths, set())
    assert sight.names == set(names)
    assert sight.strangers == {"w1": b"7"}
    assert third in sight.names
    assert audit.look(home.paths, {"w1"}).strangers == {}


def test_a_missing_entry_counts_when_it_is_missing_twice() -> None:
    auditor = Auditor(RULES)
    task: Any = Known()
    tasks = {"a": task, "new": Known(written=False), "over": Known(stage=Stage.OVER)}
    assert judge(auditor, Sight(), tasks, 0.0) == ([], [])
    assert judge(auditor, Sight({"a"}), tasks, 1.0) == ([], [])
    assert judge(auditor, Sight(), tasks, 2.0) == ([], [])
    assert judge(auditor, Sight(), tasks, 3.0) == ([task], [])
    assert judge(auditor, Sight(), tasks, 4.0) == ([], [])


@pytest.mark.fault("F42")
def test_a_stranger_is_lost_when_its_beat_is_silent_for_a_lease() -> None:
    auditor = Auditor(RULES)
    now, told = 0.0, []
    while now < 300 and not told:
        beat = b"%d" % min(now, 100.0)
        _, told = judge(auditor, Sight(strangers={"w1": beat}), {}, now)
        now += auditor.interval
    assert told == ["w1"]
    assert 100 + RULES.lease <= now <= 100 + RULES.lease + 3 * auditor.interval


@pytest.mark.fault("F19")
def test_a_beat_that_cannot_be_read_is_no_silence(home: Home) -> None:
    """The look has failed; how long it may is its caller's to say."""
    home.put(Leaf(n=1))
    home.taker("w1").take()
    home.beat("7", BEAT.format("w1"))

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: str, *rest: Any) -> Any:
            if path.endswith("/beat"):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
            return real(path, *rest)

        return call if name == "open" else real

    fs.install(wrap)
    try:
        with pytest.raises(OSError, match="w1/beat"):
            audit.look(home.paths, set())
    finally:
        fs.restore()


@pytest.mark.fault("F63")
def test_an_auditor_that_was_asleep_begins_again() -> None:
    auditor = Auditor(RULES)
    for now in (0.0, 7.5, 15.0, 1000.0, 1007.5):
        assert judge(auditor, Sight(strangers={"w1": b"1"}), {}, now) == ([], [])
