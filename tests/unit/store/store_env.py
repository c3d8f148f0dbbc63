"""Words for tests of the store: owners, results, and faults at the n-th system call."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from furu_async._store import artifacts, fs
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths, RunPaths, beat_path
from furu_async._store.manifest import manifest_of, sync_tree
from furu_async._store.records import Claim, End, Owner
from furu_async.report import Failure

HASH = "0123456789abcdef" * 2
OTHER_HASH = "f" * 32
SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))


def scaled(count: int) -> int:
    """How often to repeat something random."""
    return max(1, round(count * SCALE))


def paths_at(root: Any, hash: str = HASH, name: str = "pkg.Train") -> ArtifactPaths:
    return ArtifactPaths(str(root), name, hash)


def owner_card(root: Any, name: str, owner: Owner | None = None) -> Card:
    """The card of an owner called ``name``."""
    worker = RunPaths(str(root), f"run-{name}").worker("w")
    card = Card(
        worker,
        Claim(
            token=f"token-{name}",
            backend="local",
            run_id=f"run-{name}",
            owner=owner or Owner(),
            beat=beat_path(f"run-{name}", "w"),
        ),
    )
    card.write()
    return card


def write_result(paths: ArtifactPaths, n: int, text: str) -> None:
    """Write a result's file, making the attempt's folder for it as a runner does."""
    os.makedirs(paths.attempt(n), exist_ok=True)
    with open(f"{paths.attempt(n)}/value.txt", "w") as file:
        file.write(text)


def success(paths: ArtifactPaths, n: int, card: Card, power: bool = False) -> End:
    directory = paths.attempt(n)
    manifest = sync_tree(directory) if power else manifest_of(directory)
    return End(
        generation=n,
        token=card.token,
        status="success",
        run_id=card.record.run_id,
        hash=paths.hash,
        manifest=manifest,
        result="load",
    )


def failure(paths: ArtifactPaths, n: int, card: Card, kind: Any = "compute") -> End:
    return End(
        generation=n,
        token=card.token,
        status="failure",
        hash=paths.hash,
        failure=Failure(kind=kind, message="no"),
    )


def create(paths: ArtifactPaths, card: Card, text: str, power: bool = False) -> int:
    """Claim what is free, compute, publish; the generation."""
    seen = artifacts.look(paths)
    assert seen.verdict == "free", seen
    reply = artifacts.claim(paths, seen.next_generation, card)
    assert reply.r == "claimed", reply
    write_result(paths, reply.generation, text)
    published = artifacts.publish(
        paths, reply.generation, success(paths, reply.generation, card, power), power
    )
    assert published.r == "published", published
    return reply.generation


def fail(paths: ArtifactPaths, card: Card) -> int:
    """Claim what is free and end it as a failure."""
    seen = artifacts.look(paths)
    reply = artifacts.claim(paths, seen.next_generation, card)
    assert reply.r == "claimed"
    assert artifacts.finish(paths, reply.generation, failure(paths, reply.generation, card)).r == "published"
    return reply.generation


def recover(paths: ArtifactPaths, card: Card, text: str = "recovered") -> int:
    """What the next one does, whatever it finds, the earlier owner being dead; the published generation."""
    for _ in range(5):
        seen = artifacts.look(paths)
        if seen.verdict == "published":
            return seen.generation
        assert seen.verdict in ("free", "claimed"), seen
        if seen.verdict == "free":
            reply = artifacts.claim(paths, seen.next_generation, card)
        else:
            reply = artifacts.takeover(paths, seen.generation, card, "its owner is gone")
        if reply.r == "claimed":
            assert not os.path.lexists(paths.attempt(reply.generation))
            write_result(paths, reply.generation, text)
            end = success(paths, reply.generation, card)
            assert artifacts.publish(paths, reply.generation, end).r == "published"
    raise AssertionError("no progress")


def value(paths: ArtifactPaths) -> str | None:
    """The published value, read as a reader reads it; None if there is none. Fails if the result is not whole."""
    found = artifacts.read_success(paths)
    if found is None:
        return None
    n, end = found
    assert artifacts.verify_manifest(paths, n, end) == []
    with open(f"{paths.attempt(n)}/value.txt") as file:
        return file.read()


class Crash(BaseException):
    """The process died here: nothing after this point is carried out, no ``finally`` either."""


def _label(name: str, args: tuple[Any, ...]) -> str:
    """``create`` for an open that makes a new file, else the call's name."""
    return "create" if name == "open" and args[1] & os.O_EXCL else name


@contextmanager
def every_call(
    decide: Callable[[int, str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any],
) -> Iterator[Any]:
    """Let ``decide(k, name, operation, args, kwargs)`` carry out the k-th changing call, k from 0."""
    count = [0]

    def wrap(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        if name not in fs.CHANGING:
            return operation

        def call(*args: Any, **kwargs: Any) -> Any:
            k = count[0]
            count[0] += 1
            return decide(k, _label(name, args), operation, args, kwargs)

        return call

    fs.install(wrap)
    try:
        yield count
    finally:
        fs.restore()


def calls_of(action: Callable[[], object]) -> list[str]:
    """The changing calls that an action makes, by name."""
    names: list[str] = []

    def note(k: int, name: str, operation: Any, args: Any, kwargs: Any) -> Any:
        names.append(name)
        return operation(*args, **kwargs)

    with every_call(note):
        action()
    return names


def crash_before(k: int, action: Callable[[], object]) -> bool:
    """Run an action and let its process die before the k-th changing call; False if it made fewer."""

    def die(at: int, name: str, operation: Any, args: Any, kwargs: Any) -> Any:
        if at >= k:
            raise Crash
        return operation(*args, **kwargs)

    with every_call(die):
        try:
            action()
        except Crash:
            return True
    return False


def with_error(k: int, number: int, action: Callable[[], Any], done: bool = False) -> Any:
    """Run an action whose k-th changing call fails; with ``done``, after having been carried out."""

    def refuse(at: int, name: str, operation: Any, args: Any, kwargs: Any) -> Any:
        if at != k:
            return operation(*args, **kwargs)
        if done:
            result = operation(*args, **kwargs)
            if name in ("open", "create"):
                os.close(result)
        raise OSError(number, os.strerror(number), str(args[0]))

    with every_call(refuse):
        return action()


#: What a server's repeated answer looks like when the first one was lost.
LOST_REPLY = {
    "link": errno.EEXIST,
    "mkdir": errno.EEXIST,
    "rename": errno.ENOENT,
    "replace": errno.ENOENT,
    "unlink": errno.ENOENT,
    "rmdir": errno.ENOENT,
    "create": errno.EEXIST,
}


def python(code: str, *args: str, **options: Any) -> subprocess.Popen[str]:
    """Start Python on a piece of code that can import these words."""
    here = os.path.dirname(os.path.abspath(__file__))
    preamble = f"import sys; sys.path.insert(0, {here!r})\n"
    return subprocess.Popen([sys.executable, "-c", preamble + code, *args], text=True, **options)
