"""The supervisor's side of its keeper, where the process hangs or dies."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from furu_async._runner import keeper_client
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runner.messages import FrameBuffer


class Hung:
    """A keeper that has closed its socket and does not go."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def wait(self, timeout: float | None = None) -> int:
        self.release.wait(timeout)
        return 0

    def kill(self) -> None: ...


@pytest.mark.fault("F33")
async def test_closing_leaves_no_restart_behind() -> None:
    client, process = KeeperClient(1.0), Hung()
    hung: Any = process
    client._process = hung
    try:
        client._ended()
        assert client._restart is not None
        await asyncio.sleep(0)
        await client.aclose(0.05)
        assert client._restart.done()
    finally:
        process.release.set()


# -- a keeper that dies ----------------------------------------------------------------------------------------

OPEN = ("open", "/store", "r", "card")
CLAIM = ("claim", "/store", "r", "pkg.A", "h1")
HOLD = ("hold", "/store", "r", "pkg.A", "h1", 2)
PUBLISH = ("publish", "/store", "pkg.A", "h1", 2, b"", False)
OK, CLAIMED = {"r": "ok"}, {"r": "claimed", "n": 2}


class Keepers:
    """Keepers that are not processes: the test reads what each is asked, and answers.

    Attributes:
        ends: the far ends of their sockets, in the order in which they were started.
    """

    pid = 1

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ends: list[socket.socket] = []
        self.answers: list[Any] = []
        monkeypatch.setattr(keeper_client, "_start", self._start)

    def _start(self, end: socket.socket, heartbeat: float) -> Keepers:
        self.ends.append(end.dup())
        self.ends[-1].setblocking(False)
        self._frames = FrameBuffer()
        return self

    def wait(self, timeout: float | None = None) -> int:
        return 0

    def poll(self) -> int:
        return 0

    async def asked(self) -> list[tuple[Any, ...]]:
        """What the newest one is asked by the next frame."""
        async with asyncio.timeout(20):
            while True:
                for payload in self._frames.payloads():
                    return [tuple(op) for op in msgspec.msgpack.decode(payload)]
                try:
                    self._frames.feed(self.ends[-1].recv(1 << 20))
                except BlockingIOError:
                    await asyncio.sleep(0.001)

    def answer(self, *replies: dict[str, Any], cut: int | None = None) -> None:
        """Answer in one frame, or with its beginning only."""
        body = msgspec.msgpack.encode(replies)
        self.ends[-1].send((len(body).to_bytes(4, "big") + body)[:cut])

    async def die(self) -> None:
        """The newest one dies; returns when there is another."""
        many = len(self.ends)
        self.ends[-1].close()
        async with asyncio.timeout(20):
            while len(self.ends) == many:
                await asyncio.sleep(0.001)


@pytest.fixture
async def keepers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Keepers]:
    made = Keepers(monkeypatch)
    yield made
    for end in made.ends:
        end.close()


async def started(keepers: Keepers, *steps: tuple[tuple[Any, ...], dict[str, Any]]) -> KeeperClient:
    """A client whose keeper has been asked this and has answered so."""
    client = KeeperClient(1.0)
    await client.start()
    for op, reply in steps:
        answer = asyncio.create_task(client.ask(op))
        assert await keepers.asked() == [op]
        keepers.answer(reply)
        assert await answer == reply
    return client


async def test_a_successor_is_told_what_is_held_before_it_is_asked_again(keepers: Keepers) -> None:
    client = await started(keepers, (OPEN, OK), (CLAIM, CLAIMED))
    answer = asyncio.create_task(client.ask(PUBLISH))
    assert await keepers.asked() == [PUBLISH]
    await keepers.die()
    assert await keepers.asked() == [OPEN, HOLD, PUBLISH]
    keepers.answer(OK, OK, {"r": "published"})
    assert await answer == {"r": "published"}
    assert client.waiting == 0
    await client.aclose()


@pytest.mark.parametrize(
    ("op", "reply", "again"),
    [
        (PUBLISH, {"r": "published"}, [OPEN]),
        (PUBLISH, {"r": "fenced"}, [OPEN]),
        (PUBLISH, {"r": "error", "errno": 5}, [OPEN, HOLD]),
        (("close_run", "/store", "r", "ok", {}, 0.0, True), OK, []),
        (("child", "w", 77, 1, "t"), OK, [OPEN, ("child", "w", 77, 1, "t"), HOLD]),
    ],
)
async def test_a_successor_is_told_what_is_still_held_and_no_more(
    keepers: Keepers, op: tuple[Any, ...], reply: dict[str, Any], again: list[tuple[Any, ...]]
) -> None:
    client = await started(keepers, (OPEN, OK), (CLAIM, CLAIMED), (op, reply))
    await keepers.die()
    if again:
        assert await keepers.asked() == again
        keepers.answer(*[OK] * len(again))
    answer = asyncio.create_task(client.ask(("child_gone", 5)))
    assert await keepers.asked() == [("child_gone", 5)]
    keepers.answer(OK)
    assert await answer == OK
    await client.aclose()


async def test_what_a_dying_keeper_answered_last_is_not_asked_again(keepers: Keepers) -> None:
    """Its answers are handed over a few at a time, and the end of its socket may be seen in between."""
    client = await started(keepers)
    order: list[int] = []
    for number in range(8):

        def slowly(reply: Any, number: int = number) -> None:
            time.sleep(0.005)
            order.append(reply["number"] if reply["number"] == number else -1)

        client.request(("child_gone", number), slowly)
    assert len(await keepers.asked()) == 8
    keepers.answer(*({"r": "ok", "number": number} for number in range(8)))
    await keepers.die()
    assert order == list(range(8))
    answer = asyncio.create_task(client.ask(OPEN))
    assert await keepers.asked() == [OPEN]
    keepers.answer(OK)
    assert await answer == OK
    await client.aclose()


@pytest.mark.parametrize("half", ["an answer", "a question"])
async def test_halves_of_what_a_keeper_said_or_heard_do_not_reach_its_successor(
    keepers: Keepers, half: str
) -> None:
    client = await started(keepers, (OPEN, OK))
    large = ("publish", "/store", "pkg.A", "h1", 2, b"x" * 8_000_000, False)
    op = PUBLISH if half == "an answer" else large
    answer = asyncio.create_task(client.ask(op))
    if half == "an answer":
        assert await keepers.asked() == [op]
        keepers.answer({"r": "published"}, cut=-3)
    else:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert client._unsent
    await keepers.die()
    assert await keepers.asked() == [OPEN, op]
    keepers.answer(OK, {"r": "fenced"})
    assert await answer == {"r": "fenced"}
    await client.aclose()


@pytest.mark.parametrize("steady", [True, False])
async def test_a_keeper_that_dies_again_and_again_is_given_up_unless_long_times_lie_between(
    keepers: Keepers, monkeypatch: pytest.MonkeyPatch, steady: bool
) -> None:
    monkeypatch.setattr(keeper_client, "_STEADY_SECS", -1.0 if steady else 60.0)
    client = await started(keepers, (OPEN, OK))
    given_up: list[Any] = []
    client.on_broken = given_up.append
    for _ in range(keeper_client._MOST_RESTARTS):
        await keepers.die()
        assert await keepers.asked() == [OPEN]
        keepers.answer(OK)
    answer = asyncio.create_task(client.ask(CLAIM))
    assert await keepers.asked() == [CLAIM]
    if steady:
        await keepers.die()
        assert await keepers.asked() == [OPEN, CLAIM]
        keepers.answer(OK, CLAIMED)
        assert await answer == CLAIMED
        assert given_up == []
    else:
        keepers.ends[-1].close()
        assert (await answer)["r"] == "error"
        assert given_up == [client.broken]
        assert "out-of-memory" in str(client.broken)
        assert (await client.ask(OPEN))["r"] == "error"
    await client.aclose()


@pytest.mark.parametrize("times", [2, 1000])
async def test_a_keeper_that_cannot_be_started_again_is_tried_a_few_times(
    keepers: Keepers, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(keeper_client, "_RESTART_PAUSE", 0.001)
    client = await started(keepers, (OPEN, OK))
    tries: list[int] = []

    def start(end: socket.socket, heartbeat: float) -> Keepers:
        tries.append(1)
        if len(tries) <= times:
            raise OSError(errno.EAGAIN, "no more processes")
        return keepers._start(end, heartbeat)

    monkeypatch.setattr(keeper_client, "_start", start)
    answer = asyncio.create_task(client.ask(CLAIM))
    assert await keepers.asked() == [CLAIM]
    keepers.ends[-1].close()
    if times == 2:
        async with asyncio.timeout(20):
            while len(keepers.ends) == 1:
                await asyncio.sleep(0.001)
        assert await keepers.asked() == [OPEN, CLAIM]
        keepers.answer(OK, CLAIMED)
        assert await answer == CLAIMED
    else:
        async with asyncio.timeout(20):
            assert (await answer)["r"] == "error"
        assert len(tries) <= keeper_client._MOST_RESTARTS
        assert "ulimit -u" in str(client.broken)
    await client.aclose()
