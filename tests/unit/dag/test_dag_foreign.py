"""What becomes of a node that another run has claimed, by what the store and Slurm say one after the other."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from furu_async._dag import foreign
from furu_async._dag.units import Item
from furu_async._dag.wiring import Wiring
from furu_async._plan.events import WatchEnded
from furu_async._slurm.port import JobRow, Rows
from furu_async._store.look import Look
from furu_async._store.records import Claim
from furu_async.testing import run_virtual

JOB = "47"
BEAT = b"12"
CLAIM = Claim(token="0123456789abcdef-0", backend="dag", run_id="other")


class Core:
    """As much of a run as is asked; what store and Slurm say is given look by look, the last one for ever."""

    def __init__(self, looks: list[Look], states: list[str]) -> None:
        self.looks, self.states = looks, states
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
        if isinstance(event, WatchEnded):
            self.wiring.again("p", 0, "k")

    async def patiently(self, _: Callable[..., Any], *args: Any) -> Any:
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return foreign._Seen(look, JOB, ("name",), BEAT)

    async def snapshot(self) -> Rows:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return Rows((JobRow(id=JOB, name="name", state=state),) if state else ())

    def do(self, commands: object) -> None: ...

    def resolve(self) -> None:
        run_virtual(foreign.resolve(self, self.track))  # type: ignore[arg-type]


def claimed() -> Look:
    return Look("claimed", 1, CLAIM)


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
