"""One suite over all ways to reach the store: the functions, a keeper's operations, a keeper's process; and the first
two from two hosts of a shared file system, whose views are stale and whose replies get lost.

Whoever adds another (a memory store, a remote one) adds it to ``WAYS``.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import msgspec
import pytest

from furu_async._store import artifacts, keeper
from furu_async._store.card import Card
from furu_async._store.keeper import Keeper
from furu_async._store.layout import ArtifactPaths, RunPaths, beat_path
from furu_async._store.liveness import this_owner
from furu_async._store.manifest import manifest_of
from furu_async._store.records import Claim, End, decode, encode
from furu_async._testing.storage import SimulatedStorage, StorageFaults
from furu_async.report import Failure

NAME = "pkg.Train"
HASH = "0123456789abcdef" * 2


class Store(Protocol):
    """What one supervisor can do."""

    def claim(self, hash: str = HASH) -> tuple[str, int]: ...
    def publish(self, n: int, end: End) -> str: ...
    def finish(self, n: int, end: End) -> str: ...
    def takeover(self, n: int) -> tuple[str, int]: ...
    def invalidate(self, n: int) -> bool: ...
    def close(self) -> None: ...


def record(name: str) -> Claim:
    return Claim(
        token=f"tok-{name}",
        backend="local",
        run_id=f"r-{name}",
        owner=this_owner(),
        beat=beat_path(f"r-{name}", "w"),
    )


class _Error(Exception):
    """What an operation answered."""


class Functions:
    def __init__(self, root: str, name: str) -> None:
        self.root = root
        self.card = Card(RunPaths(root, f"r-{name}").worker("w"), record(name))
        self.card.write()
        self.paths = ArtifactPaths(root, NAME, HASH)
        self.held: set[str] = set()

    def claim(self, hash: str = HASH) -> tuple[str, int]:
        paths = ArtifactPaths(self.root, NAME, hash)
        seen = artifacts.look(paths)
        if seen.verdict == "free":
            return self._answer(hash, artifacts.claim(paths, seen.next_generation, self.card))
        if seen.claim is not None and seen.claim.token == self.card.token and hash not in self.held:
            return self._answer(hash, artifacts.claim(paths, seen.generation, self.card))
        return ("published" if seen.verdict == "published" else "taken"), seen.generation

    def _answer(self, hash: str, reply: artifacts.ClaimReply) -> tuple[str, int]:
        if reply.r == "claimed":
            self.held.add(hash)
        return reply.r, reply.look.generation if reply.look is not None else reply.generation

    def publish(self, n: int, end: End) -> str:
        return artifacts.publish(self.paths, n, end).r

    def finish(self, n: int, end: End) -> str:
        return artifacts.finish(self.paths, n, end).r

    def takeover(self, n: int) -> tuple[str, int]:
        return self._answer(HASH, artifacts.takeover(self.paths, n, self.card, "silent"))

    def invalidate(self, n: int) -> bool:
        return artifacts.invalidate(self.paths, n, "again")

    def close(self) -> None:
        pass


class Operations:
    def __init__(self, root: str, name: str) -> None:
        self.root, self.run_id = root, f"r-{name}"
        self._start()
        self._ask("open", root, self.run_id, "w", encode(record(name)))

    def _start(self) -> None:
        self.keeper = Keeper(15.0)
        self.keeper._start_beat = lambda beat: None  # type: ignore[method-assign]

    def _ask(self, *op: Any) -> Any:
        reply = self.keeper.handle(list(op))
        if reply["r"] == "error":
            raise _Error(reply)
        return reply

    def claim(self, hash: str = HASH) -> tuple[str, int]:
        reply = self._ask("claim", self.root, self.run_id, NAME, hash)
        return reply["r"], reply["n"]

    def publish(self, n: int, end: End) -> str:
        return str(self._ask("publish", self.root, NAME, HASH, n, encode(end), False)["r"])

    def finish(self, n: int, end: End) -> str:
        return str(self._ask("finish", self.root, NAME, HASH, n, encode(end))["r"])

    def takeover(self, n: int) -> tuple[str, int]:
        reply = self._ask("takeover", self.root, self.run_id, NAME, HASH, n, "silent")
        return reply["r"], reply["n"]

    def invalidate(self, n: int) -> bool:
        return bool(self._ask("invalidate", self.root, NAME, HASH, n, "again", self.run_id)["done"])

    def close(self) -> None:
        self._ask("close")


class Process(Operations):
    def _start(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(20)
        self.process = keeper.spawn(theirs, 15.0)
        theirs.close()

    def _ask(self, *op: Any) -> Any:
        body = msgspec.msgpack.encode([op])
        self.socket.sendall(len(body).to_bytes(4, "big") + body)
        with self.socket.makefile("rb") as file:
            size = int.from_bytes(file.read(4), "big")
            (reply,) = msgspec.msgpack.decode(file.read(size))
        return reply

    def close(self) -> None:
        self._ask("close")
        self.process.wait(20)
        self.socket.close()


class OnHost:
    """A store as one host sees it; asks again after an error, and where its view may be stale, as a run does."""

    host = ""
    now = 0.0

    def __init__(self, way: type[Store], root: str, name: str) -> None:
        self.name = name
        self.paths = ArtifactPaths(root, NAME, HASH)
        self.store: Store = self._ask(way, root, name)

    def _ask(self, what: Callable[..., Any], *args: Any) -> Any:
        for _ in range(100):
            before, OnHost.host = OnHost.host, self.name
            try:
                return what(*args)
            except (OSError, _Error):
                OnHost.now += STALE_SECS / 10
            finally:
                OnHost.host = before
        raise AssertionError("no answer after a hundred tries")

    def _ask_twice(self, what: Callable[..., Any], *args: Any) -> Any:
        answer = self._ask(what, *args)
        if answer in ("broken", False) or (isinstance(answer, tuple) and answer[0] == "taken"):
            OnHost.now += STALE_SECS
            return self._ask(what, *args)
        return answer

    def claim(self, hash: str = HASH) -> tuple[str, int]:
        answer: tuple[str, int] = self._ask_twice(self.store.claim, hash)
        return answer

    def publish(self, n: int, end: End) -> str:
        return str(self._ask_twice(self.store.publish, n, end))

    def finish(self, n: int, end: End) -> str:
        return str(self._ask(self.store.finish, n, end))

    def takeover(self, n: int) -> tuple[str, int]:
        answer: tuple[str, int] = self._ask_twice(self.store.takeover, n)
        return answer

    def invalidate(self, n: int) -> bool:
        there = os.path.exists(self.paths.invalid(n))
        # What an earlier try did is not known to a later one as its own.
        done = bool(self._ask_twice(self.store.invalidate, n))
        return done or os.path.exists(self.paths.invalid(n)) != there

    def close(self) -> None:
        self._ask(self.store.close)


WAYS: dict[str, Any] = {"functions": Functions, "operations": Operations, "process": Process}
STALE_SECS = 60.0
TROUBLES: dict[str, StorageFaults] = {
    "stale views": StorageFaults(stale_secs=STALE_SECS),
    "lost replies": StorageFaults(lost_reply=0.3),
    "errors": StorageFaults(errors={errno.EIO: 0.05, errno.ENOSPC: 0.05, errno.ESTALE: 0.05}),
    "all of it": StorageFaults(stale_secs=STALE_SECS, lost_reply=0.1, errors={errno.EIO: 0.05}),
}
SEEDS = 4
SHARED = [
    (way, trouble, seed)
    for way in ("functions", "operations")
    for trouble in TROUBLES
    for seed in range(1 if trouble == "stale views" else SEEDS)
]


@pytest.fixture(params=[*WAYS, *SHARED], ids=str)
def two(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[tuple[Store, Store]]:
    """Two supervisors at one store."""
    root = str(tmp_path)
    with ExitStack() as stack:
        if isinstance(request.param, str):
            made = [WAYS[request.param](root, name) for name in ("a", "b")]
        else:
            way, trouble, seed = request.param
            rng, faults = random.Random(seed), TROUBLES[trouble]
            stack.enter_context(SimulatedStorage(root, lambda: OnHost.now, rng, lambda: OnHost.host, faults))
            made = [OnHost(WAYS[way], root, name) for name in ("a", "b")]
        yield made[0], made[1]
        for store in made:
            store.close()


@pytest.fixture
def paths(tmp_path: Any) -> ArtifactPaths:
    return ArtifactPaths(str(tmp_path), NAME, HASH)


def compute(paths: ArtifactPaths, n: int, text: str, name: str) -> End:
    os.makedirs(paths.attempt(n), exist_ok=True)
    with open(f"{paths.attempt(n)}/value", "w") as file:
        file.write(text)
    return End(
        generation=n, token=f"tok-{name}", status="success", hash=HASH, manifest=manifest_of(paths.attempt(n))
    )


def failed(n: int, name: str) -> End:
    return End(generation=n, token=f"tok-{name}", status="failure", failure=Failure(kind="compute"))


def published(paths: ArtifactPaths) -> str | None:
    found = artifacts.read_success(paths)
    if found is None:
        return None
    assert artifacts.verify_manifest(paths, *found) == []
    with open(f"{paths.attempt(found[0])}/value") as file:
        return file.read()


Two = tuple[Store, Store]


def test_claim_compute_publish(two: Two, paths: ArtifactPaths) -> None:
    a, b = two
    assert a.claim() == ("claimed", 1)
    assert b.claim() == ("taken", 1)
    end = compute(paths, 1, "x", "a")
    assert published(paths) is None
    assert a.publish(1, end) == "published"
    assert b.claim() == ("published", 1)
    assert published(paths) == "x"
    assert artifacts.is_marked(paths)


def test_failure_frees_the_next_generation(two: Two, paths: ArtifactPaths) -> None:
    a, b = two
    a.claim()
    assert a.finish(1, failed(1, "a")) == "published"
    assert b.claim() == ("claimed", 2)
    assert a.claim() == ("taken", 2)
    assert b.publish(2, compute(paths, 2, "y", "b")) == "published"
    assert published(paths) == "y"


@pytest.mark.fault("F67")
def test_a_replaced_owner_is_fenced(two: Two, paths: ArtifactPaths) -> None:
    a, b = two
    a.claim()
    late = compute(paths, 1, "late", "a")
    assert b.takeover(1) == ("claimed", 2)
    assert a.publish(1, late) == "fenced"
    assert a.finish(1, failed(1, "a")) == "fenced"
    assert b.publish(2, compute(paths, 2, "y", "b")) == "published"
    assert a.publish(1, late) == "fenced"
    assert published(paths) == "y"


def test_a_takeover_that_is_too_late(two: Two, paths: ArtifactPaths) -> None:
    a, b = two
    a.claim()
    a.publish(1, compute(paths, 1, "x", "a"))
    assert b.takeover(1) == ("published", 1)
    assert published(paths) == "x"


def test_a_takeover_of_what_was_taken_over(two: Two, paths: ArtifactPaths) -> None:
    a, b = two
    Functions(paths.root, "dead").claim()
    assert a.takeover(1) == ("claimed", 2)
    assert b.takeover(1) == ("taken", 2)


def test_invalidation_is_of_one_generation(two: Two, paths: ArtifactPaths) -> None:
    a, b = two
    a.claim()
    assert not b.invalidate(1)
    a.publish(1, compute(paths, 1, "x", "a"))
    assert b.invalidate(1)
    assert not a.invalidate(1)
    assert not artifacts.is_marked(paths)
    assert b.claim() == ("claimed", 2)
    b.publish(2, compute(paths, 2, "y", "b"))
    assert not a.invalidate(1)
    assert published(paths) == "y"


@pytest.mark.fault("F29")
def test_what_is_not_there_is_not_published(two: Two, paths: ArtifactPaths) -> None:
    a, _ = two
    a.claim()
    end = compute(paths, 1, "x", "a")
    os.unlink(f"{paths.attempt(1)}/value")
    assert a.publish(1, end) == "broken"
    assert a.publish(1, compute(paths, 1, "x", "a")) == "published"


@pytest.mark.fault("F20")
def test_damage_concerns_one_artifact(two: Two, paths: ArtifactPaths) -> None:
    a, b = two
    a.claim()
    os.unlink(paths.claim(1))
    with open(paths.claim(1), "wb") as file:
        file.write(b"{torn")
    assert b.claim() == ("taken", 1)
    assert b.claim("e" * 32) == ("claimed", 1)
    assert b.takeover(1) == ("claimed", 2)


def test_claims_say_who(two: Two, paths: ArtifactPaths) -> None:
    two[0].claim()
    with open(paths.claim(1), "rb") as file:
        assert decode(Claim, file.read(), "x") == record("a")
