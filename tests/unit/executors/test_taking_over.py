"""What a job asks of its keeper when somebody else has the claim: who is dead, silent, itself, or alive."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from furu_async._executors.jobs import Job, Steps
from furu_async._plan.events import Elsewhere, Failed, Succeeded
from furu_async._runner.messages import TaskResult
from furu_async._store.liveness import this_owner
from furu_async._store.records import Claim, End, Owner, encode
from furu_async.report import Failure
from furu_async.testing import run_virtual

OTHER_HOST = Owner(host="elsewhere", boot_id="b", pid_ns="1", pid=7, start_time=5)


class Desk:
    """Stands for the keeper: keeps what it is asked, with the callbacks that take the answers."""

    broken = None

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[Any, ...], Callable[[Any], None]]] = []
        self.events: list[Any] = []
        self.node = SimpleNamespace(hash="a" * 32, name="pkg.Train", supersede=0, takeover=0, silent_at=None)
        self.node.obj, self.node.history, self.node.generation, self.node.held = None, (), 0, 0
        self.run = SimpleNamespace(
            root="/store", run_id="r", token="ours", post=self.events.append, jitter=lambda: 0.0
        )
        self.run.config = SimpleNamespace(durability="process")
        self.job = Job(self._request(), 1)
        self.steps = Steps(self, lambda job: None, lambda job, step: None)  # type: ignore[arg-type]
        self.steps.claim(self.job)

    def _request(self) -> Any:
        return SimpleNamespace(node=self.node, run=self.run, priority=0, ticket=1, spec=0, share="")

    def request(self, op: tuple[Any, ...], reply: Callable[[Any], None]) -> None:
        self.asked.append((op, reply))

    def answer(self, **reply: Any) -> None:
        self.asked[-1][1](reply)

    def taken_by(self, owner: Owner, token: str = "theirs") -> None:
        claim = Claim(run_id="q", token=token, owner=owner, backend="local", beat="runs/q/workers/w/beat")
        self.answer(r="taken", n=3, claim=encode(claim))

    @property
    def last(self) -> tuple[Any, ...]:
        return self.asked[-1][0]


@pytest.mark.fault("F14")
def test_who_was_silent_is_replaced_only_if_its_beat_still_says_the_same() -> None:
    """The keeper compares it: since the owner was judged, hours may have passed."""
    desk = Desk()
    desk.node.takeover, desk.node.silent_at = 3, b"17"
    desk.taken_by(OTHER_HOST)
    assert (desk.last[0], desk.last[5], desk.last[7:]) == ("takeover", 3, (b"17",))


def test_who_is_dead_is_replaced_whatever_its_beat_says() -> None:
    desk = Desk()
    me = this_owner()
    dead = Owner(host=me.host, boot_id=me.boot_id, pid_ns=me.pid_ns, pid=me.pid, start_time=me.start_time + 1)
    desk.taken_by(dead)
    assert (desk.last[0], desk.last[5], desk.last[7:]) == ("takeover", 3, ())


@pytest.mark.parametrize("judged", [0, 2])
def test_who_may_live_is_waited_for(judged: int) -> None:
    """What was judged of an earlier generation's owner says nothing of this one."""
    desk = Desk()
    desk.node.takeover = judged
    desk.taken_by(OTHER_HOST)
    assert [op[0] for op, _ in desk.asked] == ["claim"]
    assert [type(event) for event in desk.events] == [Elsewhere]
    assert desk.node.held == 3


def test_who_beats_again_is_not_replaced_without_another_judgement() -> None:
    desk = Desk()
    desk.node.takeover, desk.node.silent_at = 3, b"17"
    desk.taken_by(OTHER_HOST)
    desk.taken_by(OTHER_HOST)
    assert [op[0] for op, _ in desk.asked] == ["claim", "takeover"]
    assert [type(event) for event in desk.events] == [Elsewhere]


def test_what_the_run_itself_still_holds_is_ended_first() -> None:
    desk = Desk()
    desk.taken_by(this_owner(), token="ours")
    assert (desk.last[0], desk.last[4]) == ("finish", 3)
    desk.answer(r="published", n=3)
    assert desk.last[0] == "claim"
    assert not desk.events


@pytest.mark.fault("F67")
@pytest.mark.parametrize("published", [True, False])
def test_who_was_replaced_hears_what_the_store_says(published: bool) -> None:
    """Whatever became of its own attempt: a result that is there is a success."""
    desk = Desk()
    desk.answer(r="claimed", n=1)
    lost = Failure(kind="lost", message="gone")
    desk.steps.conclude(desk.job, TaskResult(id=1, ok=False, failure=lost), "")
    status = "success" if published else "failure"
    end = End(generation=1, token="theirs", status=status, failure=None if published else lost)
    desk.answer(r="fenced", n=1, end=encode(end))
    assert [type(event) for event in desk.events] == [Succeeded if published else Failed]


@pytest.mark.fault("F19")
@pytest.mark.parametrize("again", [True, False])
def test_a_generation_that_is_claimed_again_is_not_ended_by_what_could_not_be_written_before(
    again: bool,
) -> None:
    """A keeper that is started again while the store fails does not hold what the one before it held."""

    async def main() -> None:
        desk = Desk()
        desk.answer(r="claimed", n=1)
        desk.steps.conclude(desk.job, TaskResult(id=1, ok=False, failure=Failure(kind="killed")), "")
        desk.answer(r="error", errno=errno.EIO, text="Input/output error", path="/store/ends")
        assert [op[0] for op, _ in desk.asked] == ["claim", "finish"]
        desk.steps.claim(Job(desk._request(), 2))
        desk.answer(r="claimed", n=1 if again else 2)
        await asyncio.sleep(60)
        assert [op[0] for op, _ in desk.asked] == ["claim", "finish", "claim", *([] if again else ["finish"])]

    run_virtual(main(), seed=1)
