"""What becomes of a node that another run has claimed, by what the store and Slurm say one after the other."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from furu_async._dag import foreign
from furu_async._dag.units import Item
from furu_async._dag.wiring import Wiring
from furu_async._plan.events import WatchEnded
from furu_async._slurm.port import JobRow, Rows, Silence
from furu_async._store import artifacts, fs
from furu_async._store.card import PlainCard
from furu_async._store.layout import ArtifactPaths, RunPaths
from furu_async._store.look import Look
from furu_async._store.records import Claim
from furu_async.testing import run_virtual

JOB = "47"
BEAT = b"12"
CLAIM = Claim(token="0123456789abcdef-0", backend="dag", run_id="other")


class Core:
    """As much of a run as is asked; what store and Slurm say is given look by look, the last one for ever.

    A state that is None: Slurm does not answer.
    """

    def __init__(self, looks: list[Look], states: Sequence[str | None]) -> None:
        self.looks, self.states = looks, list(states)
        self.job, self.name = JOB, "name"
        self.blind = 0
        self.told_at = 0.0
        self.posted: list[Any] = []
        self.failed: list[Any] = []
        self.wiring = Wiring()
        self.wiring.plan([Item("p", (), 0, "k", "foreign"), Item("c", ("p",), 0, "k")])
        self.config = SimpleNamespace(infra_secs=600.0, poll_interval_secs=10.0)
        self.policy = SimpleNamespace(retry_failed=True)
        self.shared = SimpleNamespace(poller=self, config=self.config)
        self.run = SimpleNamespace(root="/root", post=self.post, fail=self.failed.append)
        node = SimpleNamespace(name="m.A", hash="p", takeover=0, silent_at=None, obj="p")
        self.track: Any = SimpleNamespace(node=node, foreign="")

    def post(self, event: Any) -> None:
        self.posted.append(event)
        self.told_at = asyncio.get_running_loop().time()
        if isinstance(event, WatchEnded):
            self.wiring.again("p", 0, "k")

    async def patiently(self, _: Callable[..., Any], *args: Any) -> Any:
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        self.blind -= 1
        return foreign._Seen(look, self.job, ("name",), BEAT if self.blind < 0 else None, self.blind >= 0)

    async def snapshot(self) -> Rows | Silence:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state is None:
            return Silence("no answer")
        return Rows((JobRow(id=JOB, name=self.name, state=state),) if state else ())

    def do(self, commands: object) -> None: ...

    def resolve(self) -> None:
        run_virtual(foreign.resolve(self, self.track))  # type: ignore[arg-type]


def claimed() -> Look:
    return Look("claimed", 1, CLAIM)


def looks_within(secs: float) -> int:
    """How often a node is looked at in this time, at the least."""
    pauses = (min(foreign._PAUSE * foreign._GROWTH**n, 10.0) for n in itertools.count())
    return sum(1 for at in itertools.takewhile(lambda at: at < secs, itertools.accumulate(pauses)))


@pytest.mark.fault("F70")
@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", ""])
def test_a_result_that_comes_between_the_two_looks_is_seen(state: str) -> None:
    """The store was asked first: when Slurm says that the job has ended, its word is not the newest."""
    core = Core([claimed(), Look("published", 1)], [state])
    core.resolve()
    assert core.wiring.items["p"].phase == "done"
    assert core.posted == core.failed == []


@pytest.mark.fault("F70")
@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", ""])
def test_a_claim_whose_job_is_gone_without_a_result_is_left_behind(state: str) -> None:
    core = Core([claimed()], [state])
    core.resolve()
    (event,) = core.posted
    assert (event.how, event.failure.kind) == ("lost", "lost")
    assert core.track.node.takeover == 1
    assert core.track.node.silent_at == BEAT, "one that goes on beating is not replaced"
    assert core.wiring.items["p"].phase != "foreign"


@pytest.mark.fault("F19", "F70")
def test_a_claim_is_not_left_behind_while_its_beat_cannot_be_read() -> None:
    core = Core([claimed()], ["FAILED"])
    core.blind = looks_within(100)
    core.resolve()
    (event,) = core.posted
    assert event.how == "lost"
    assert core.told_at > 90
    assert core.track.node.silent_at == BEAT


@pytest.mark.fault("F19")
def test_a_beat_that_cannot_be_read_is_not_one_that_is_not_there(tmp_path: Path) -> None:
    paths = ArtifactPaths(str(tmp_path), "m.A", "0123456789abcdef" * 2)
    beat = "runs/other/workers/w/beat"
    card = PlainCard(RunPaths(str(tmp_path), "other").worker("w"), msgspec.structs.replace(CLAIM, beat=beat))
    card.write()
    assert artifacts.claim(paths, 1, card).r == "claimed"

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: str, *rest: Any) -> Any:
            if path.endswith("/beat"):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return real(path, *rest)

        return call if name == "open" else real

    assert not foreign._see(str(tmp_path), "m.A", paths.hash).blind
    fs.install(wrap)
    try:
        assert foreign._see(str(tmp_path), "m.A", paths.hash).blind
    finally:
        fs.restore()


@pytest.mark.parametrize("look", [claimed(), Look("free", 1)], ids=["its job is gone", "it has ended"])
@pytest.mark.parametrize("retry_failed", [True, False])
def test_a_node_of_which_the_core_was_not_told_is_taken_as_the_policy_says(
    look: Look, retry_failed: bool
) -> None:
    core = Core([look] * 20 + [Look("published", 2)], ["FAILED"])
    core.policy.retry_failed = retry_failed
    core.track.foreign = "somebody"
    core.resolve()
    assert core.posted == core.failed == []
    assert core.wiring.items["p"].phase == ("done" if not retry_failed else "unit")


@pytest.mark.fault("F70")
def test_a_result_that_is_seen_after_the_job_was_given_up_counts() -> None:
    core = Core([claimed()] * 80 + [Look("published", 1)], ["COMPLETED"])
    core.run.post = core.posted.append  # the core knows better already
    core.resolve()
    assert len(core.posted) == 1
    assert core.wiring.items["p"].phase == "done"


def test_a_living_job_is_wired_to() -> None:
    core = Core([claimed()], ["", "RUNNING"])
    core.resolve()
    assert core.wiring.job_of("p") == JOB
    assert core.posted == core.failed == []


@pytest.mark.fault("F70")
@pytest.mark.parametrize("state", ["COMPLETED", ""])
def test_a_result_of_another_host_may_take_its_time_to_be_seen(state: str) -> None:
    core = Core([claimed()] * looks_within(20) + [Look("published", 1)], [state])
    core.resolve()
    assert core.posted == core.failed == []
    assert core.wiring.items["p"].phase == "done"


@pytest.mark.fault("F36", "F70")
def test_a_slurm_that_does_not_answer_says_nothing_of_a_job() -> None:
    core = Core([claimed()], [*[None] * looks_within(500), "RUNNING"])
    core.resolve()
    assert core.wiring.job_of("p") == JOB
    assert core.posted == core.failed == []


@pytest.mark.fault("F70")
def test_an_id_that_slurm_has_given_to_another_job_is_not_wired_to() -> None:
    core = Core([claimed()], ["RUNNING"])
    core.name = "somebody else's"
    core.resolve()
    assert [event.how for event in core.posted] == ["lost"]
    assert core.wiring.items["p"].phase != "foreign"


@pytest.mark.fault("F70")
def test_a_job_whose_id_nobody_has_written_yet_is_waited_for() -> None:
    """Whoever has the claim is just submitting: in Slurm there is nothing of that name."""
    core = Core([claimed()], [*[""] * looks_within(foreign.ID_SECS), "PENDING"])
    core.job = ""
    snapshot = core.snapshot

    async def with_id() -> Rows | Silence:
        answer = await snapshot()
        core.job = JOB if len(core.states) == 1 else ""
        return answer

    core.snapshot = with_id  # type: ignore[method-assign]
    core.resolve()
    assert core.wiring.job_of("p") == JOB
    assert core.posted == core.failed == []


@pytest.mark.fault("F70")
def test_a_job_that_was_there_in_between_is_not_given_up_for_its_absence_before() -> None:
    """Its id is not known for long: it is seen by its name only, after it had not been seen."""
    absent, there = looks_within(foreign.ID_SECS + 15), looks_within(60 + foreign.ID_SECS + 15)
    core = Core([claimed()], [*[""] * absent, *["PENDING"] * (there - absent), ""])
    core.job = ""
    core.resolve()
    assert [event.how for event in core.posted] == ["lost"]
    assert core.told_at >= 60 + foreign.ID_SECS + 15 + foreign._GONE_SECS - 10


@pytest.mark.parametrize(
    "look",
    [
        Look("claimed", 1, Claim(token="t", backend="local", run_id="other")),
        Look("free", 1),
        Look("published", 1),
    ],
    ids=["by another", "free", "published"],
)
def test_what_was_looked_at_counts_only_while_the_node_is_somebody_elses(look: Look) -> None:
    """The core has taken it for a job of this run meanwhile."""
    core = Core([look], [""])
    core.track.foreign = "somebody"
    patiently = core.patiently

    async def meanwhile(fn: Callable[..., Any], *args: Any) -> Any:
        seen = await patiently(fn, *args)
        core.wiring.again("p", 0, "k")
        return seen

    core.patiently = meanwhile  # type: ignore[method-assign]
    core.resolve()
    assert core.posted == core.failed == []
    assert core.wiring.items["p"].phase == "unit"
    assert sorted(unit.nodes for unit in core.wiring.units.values()) == [["c"], ["p"]]
    assert core.track.foreign == "somebody"


def test_a_node_that_nobody_has_for_now_is_waited_for_like_any_other() -> None:
    """The core follows it, and decides: that it is without a claim for long is no reason to end the run."""
    core = Core([*[Look("free", 1)] * looks_within(2000), Look("published", 1)], ["FAILED"])
    core.resolve()
    assert core.posted == core.failed == []
    assert core.wiring.items["p"].phase == "done"
