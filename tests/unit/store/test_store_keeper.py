"""The keeper: batches, several runs, and what it does when its supervisor is gone."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from store_env import (
    HASH,
    every_call,
    failure,
    owner_card,
    paths_at,
    python,
    recover,
    success,
    value,
    write_result,
)

from furu_async._store import artifacts, fs, keeper
from furu_async._store.beat import Beat
from furu_async._store.keeper import Keeper
from furu_async._store.layout import ArtifactPaths, RunPaths, beat_path
from furu_async._store.liveness import TOKEN_VARIABLE, known_dead, start_time, this_owner
from furu_async._store.records import Claim, End, Owner, decode, encode
from furu_async._store.runs import look_run
from furu_async.testing import faulty_storage

NAME = "pkg.Train"


def claim_json(run_id: str = "r1", wid: str = "w1", token: str = "tok", owner: Owner | None = None) -> bytes:
    return encode(
        Claim(
            token=token,
            backend="local",
            run_id=run_id,
            owner=owner if owner is not None else this_owner(),
            beat=beat_path(run_id, wid),
        )
    )


class Client:
    """A supervisor's end of a keeper process."""

    def __init__(self, heartbeat: float = 15.0) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(20)
        self.process = keeper.spawn(theirs, heartbeat)
        theirs.close()

    def send(self, *ops: Any) -> None:
        body = msgspec.msgpack.encode(ops)
        self.socket.sendall(len(body).to_bytes(4, "big") + body)

    def receive(self) -> list[Any]:
        head = self._read(4)
        found: list[Any] = msgspec.msgpack.decode(self._read(int.from_bytes(head, "big")))
        return found

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            assert part, "the keeper has gone"
            data += part
        return data

    def ask(self, *ops: Any) -> list[Any]:
        self.send(*ops)
        return self.receive()

    def close(self) -> None:
        self.socket.close()
        assert self.process.wait(20) == 0


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def settle(condition: Any, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def end_json(paths: ArtifactPaths, n: int, token: str = "tok", status: str = "success") -> bytes:
    card = owner_card(paths.root, "x")
    card.token = token
    return encode(success(paths, n, card) if status == "success" else failure(paths, n, card))


def opened(root: str, run_id: str = "r1", token: str = "tok") -> Keeper:
    made = Keeper(15.0)
    assert made.handle(["open", root, run_id, "w1", claim_json(run_id, token=token)]) == {"r": "ok"}
    return made


# -- the process ---------------------------------------------------------------------------------------------


def test_a_batch_is_answered_in_order(root: str, client: Client) -> None:
    hashes = [f"{i:032x}" for i in range(40)]
    first, *replies = client.ask(
        ("open", root, "r1", "w1", claim_json()), *(("claim", root, "r1", NAME, hash) for hash in hashes)
    )
    assert first == {"r": "ok"}
    assert replies == [{"r": "claimed", "n": 1}] * 40
    many = [paths_at(root, hash) for hash in hashes]
    for paths in many:
        write_result(paths, 1, "x")
    replies = client.ask(
        *(
            ("publish", root, NAME, paths.hash, 1, end_json(paths, 1), i % 2 == 0)
            for i, paths in enumerate(many)
        )
    )
    assert [reply["r"] for reply in replies] == ["published"] * 40
    assert all(value(paths) == "x" for paths in many)
    assert client.ask(("claim", root, "r1", NAME, hashes[0])) == [{"r": "published", "n": 1}]


def test_frames_may_come_in_pieces_and_together(root: str, client: Client) -> None:
    frames = b""
    for op in [("open", root, "r1", "w1", claim_json()), ("claim", root, "r1", NAME, HASH)]:
        body = msgspec.msgpack.encode([op])
        frames += len(body).to_bytes(4, "big") + body
    for i in range(0, len(frames), 7):
        client.socket.sendall(frames[i : i + 7])
        if i < 100:
            time.sleep(0.001)
    assert client.receive() == [{"r": "ok"}]
    assert client.receive() == [{"r": "claimed", "n": 1}]


def test_it_ignores_the_signals_of_a_terminal_and_has_its_own_session(root: str, client: Client) -> None:
    client.ask(("open", root, "r1", "w1", claim_json()))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2):
        client.process.send_signal(number)
    assert client.ask(("claim", root, "r1", NAME, HASH)) == [{"r": "claimed", "n": 1}]
    assert os.getsid(client.process.pid) == client.process.pid


def test_it_starts_fast_and_loads_little() -> None:
    code = (
        "import sys; import furu_async._store.keeper_main; "
        "heavy = {'asyncio', 'anyio', 'psutil', 'numpy', 'subprocess', 'rich', 'click'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def test_it_does_not_carry_the_token_of_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever ends that child's descendants would end the keeper before it could end its own."""
    monkeypatch.setenv(TOKEN_VARIABLE, "outer")
    client = Client()
    try:
        client.ask(("child_gone", 1))
        environment = Path(f"/proc/{client.process.pid}/environ").read_bytes()
        assert TOKEN_VARIABLE.encode() not in environment
    finally:
        client.close()


@pytest.mark.fault("F15")
def test_the_beat_is_there_first_and_changes(root: str) -> None:
    client = Client(heartbeat=0.02)
    try:
        client.ask(("open", root, "r1", "w1", claim_json()))
        beat = Path(RunPaths(root, "r1").worker("w1").beat)
        seen = {beat.read_bytes()}
        assert settle(lambda: len(seen | {beat.read_bytes()}) > 1)
        assert {len(content) for content in seen} == {21}
    finally:
        client.close()


@pytest.mark.fault("F05")
def test_a_killed_keeper_is_replaced_and_repeats_what_was_not_answered(
    root: str, paths: ArtifactPaths
) -> None:
    first = Client()
    first.ask(("open", root, "r1", "w1", claim_json()), ("claim", root, "r1", NAME, HASH))
    first.process.kill()
    first.process.wait()
    first.socket.close()
    beat = Path(RunPaths(root, "r1").worker("w1").beat)
    before = beat.read_bytes()
    second = Client()
    try:
        replies = second.ask(("open", root, "r1", "w1", claim_json()), ("claim", root, "r1", NAME, HASH))
        assert replies == [{"r": "ok"}, {"r": "claimed", "n": 1}]
        assert beat.read_bytes() > before
        write_result(paths, 1, "x")
        ops = [("publish", root, NAME, HASH, 1, end_json(paths, 1), False)] * 2
        assert second.ask(*ops) == [{"r": "published", "n": 1}] * 2
    finally:
        second.close()


SUPERVISOR = """
import os, signal, subprocess, time
from test_store_keeper import *
root, how = sys.argv[1:]
client = Client()
assert client.ask(("open", root, "r1", "w1", claim_json()))[0]["r"] == "ok"
child = subprocess.Popen(
    [sys.executable, "-S", "-c", "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-S', '-c', "
     "'import time; time.sleep(100)']); print(p.pid, flush=True); time.sleep(100)"],
    env={**os.environ, TOKEN_VARIABLE: "tok-child"}, start_new_session=True, stdout=subprocess.PIPE, text=True)
grandchild = int(child.stdout.readline())
replies = client.ask(("child", "w0", child.pid, start_time(child.pid), "tok-child"), ("claim", root, "r1", NAME, HASH),
    ("claim", root, "r1", NAME, "e" * 32))
assert [r["r"] for r in replies] == ["ok", "claimed", "claimed"], replies
paths = paths_at(root, "e" * 32)
write_result(paths, 1, "x")
assert client.ask(("publish", root, NAME, paths.hash, 1, end_json(paths, 1), False))[0]["r"] == "published"
if how == "fork" and os.fork() == 0:
    time.sleep(100)
    os._exit(0)
print(client.process.pid, child.pid, grandchild, flush=True)
time.sleep(100)
"""


@pytest.mark.fault("F01", "F02", "F06", "F103")
@pytest.mark.parametrize("how", ["plain", "fork"])
def test_when_its_supervisor_is_killed_it_ends_children_then_claims(
    root: str, paths: ArtifactPaths, how: str
) -> None:
    supervisor = python(SUPERVISOR, root, how, stdout=subprocess.PIPE, start_new_session=True)
    assert supervisor.stdout is not None
    try:
        pids = list(map(int, supervisor.stdout.readline().split()))
        assert len(pids) == 3
        assert all(start_time(pid) is not None for pid in pids)
        supervisor.kill()
        supervisor.wait()
        # Even where a fork of the supervisor holds the socket open.
        assert settle(lambda: all(start_time(pid) is None for pid in pids)), [start_time(pid) for pid in pids]
    finally:
        supervisor.stdout.close()
        os.killpg(supervisor.pid, signal.SIGKILL) if how == "fork" else None
    seen = artifacts.look(paths)
    assert (seen.verdict, seen.next_generation) == ("free", 2)
    assert seen.end is not None
    assert seen.end.failure is not None
    assert seen.end.failure.kind == "lost"
    assert value(paths_at(root, "e" * 32)) == "x"
    assert not os.path.exists(RunPaths(root, "r1").worker("w1").base)
    assert recover(paths, owner_card(root, "next")) == 2


@pytest.mark.fault("F01", "F103")
def test_when_both_are_killed_the_next_one_knows_and_ends_what_they_left(
    root: str, paths: ArtifactPaths
) -> None:
    supervisor = python(SUPERVISOR, root, "plain", stdout=subprocess.PIPE, start_new_session=True)
    assert supervisor.stdout is not None
    keeper_pid, child, grandchild = map(int, supervisor.stdout.readline().split())
    os.kill(keeper_pid, signal.SIGKILL)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    seen = artifacts.look(paths)
    assert seen.verdict == "claimed"
    assert seen.claim is not None
    assert known_dead(seen.claim.owner) is True
    assert start_time(child)
    made = opened(root, "r2", "tok2")
    reply = made.handle(["takeover", root, "r2", NAME, HASH, 1, "its owner is dead"])
    assert reply == {"r": "claimed", "n": 2}
    assert start_time(child) is None
    assert settle(lambda: start_time(grandchild) is None)
    made.handle(["close"])


@pytest.mark.fault("F14", "F63")
def test_an_owner_that_beats_again_before_it_is_replaced_keeps_its_claim(root: str) -> None:
    owner, taker = opened(root), opened(root, "r2", "tok2")
    assert owner.handle(["claim", root, "r1", NAME, HASH])["n"] == 1
    beat = RunPaths(root, "r1").worker("w1").beat
    judged = Path(beat).read_bytes()
    replace = ["takeover", root, "r2", NAME, HASH, 1, "silent", judged]
    Path(beat).write_bytes(b"%020d\n" % (int(judged) + 1))  # it was paused, and goes on
    assert taker.handle(replace)["r"] == "taken"
    assert not Path(ArtifactPaths(root, NAME, HASH).end(1)).exists()
    Path(beat).write_bytes(judged)
    assert taker.handle(replace) == {"r": "claimed", "n": 2}
    for each in (owner, taker):
        each.handle(["close"])


@pytest.mark.fault("F63")
def test_an_owner_whose_beat_is_gone_is_not_back(root: str) -> None:
    """It left in order but for the end of its claim, which could not be written."""
    owner, taker = opened(root), opened(root, "r2", "tok2")
    owner.handle(["claim", root, "r1", NAME, HASH])
    beat = Path(RunPaths(root, "r1").worker("w1").beat)
    judged = beat.read_bytes()
    beat.unlink()
    replace = ["takeover", root, "r2", NAME, HASH, 1, "silent", judged]
    assert taker.handle(replace) == {"r": "claimed", "n": 2}
    for each in (owner, taker):
        each.handle(["close"])


@pytest.mark.fault("F19", "F22")
def test_a_claim_that_failed_after_it_was_made_is_ended_for_others(
    root: str, paths: ArtifactPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, other = opened(root), opened(root, "r2", "tok2")
    os.makedirs(paths.claims)  # it is not the first that wants it: there may be an end
    real = fs.lstat

    def fails(path: str) -> os.stat_result:
        if path == paths.end(1) and os.path.lexists(paths.claim(1)):
            raise OSError(errno.ESTALE, "no", path)
        return real(path)

    disclaim = ["disclaim", root, "r1", NAME, HASH]
    with monkeypatch.context() as patch:
        patch.setattr(fs, "lstat", fails)
        assert owner.handle(["claim", root, "r1", NAME, HASH])["r"] == "error"
    assert other.handle(["claim", root, "r2", NAME, HASH])["r"] == "taken"
    assert other.handle(["disclaim", root, "r2", NAME, HASH]) == {"r": "ok"}, "it is not its own"
    assert not os.path.exists(paths.end(1))
    assert owner.handle(disclaim) == {"r": "ok"}
    assert other.handle(["claim", root, "r2", NAME, HASH]) == {"r": "claimed", "n": 2}
    assert owner.handle(disclaim) == {"r": "ok"}
    assert other.handle(["disclaim", root, "r2", NAME, HASH]) == {"r": "ok"}, "what it knows of it keeps"
    assert not os.path.exists(paths.end(2))
    for each in (owner, other):
        each.handle(["close"])


@pytest.mark.fault("F30")
@pytest.mark.parametrize("silent", [True, False])
def test_the_fence_of_an_owner_that_may_live_is_synced(
    root: str, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    """One that is known to be dead cannot publish, whatever becomes of its fence."""
    owner, taker = opened(root), opened(root, "r2", "tok2")
    owner.handle(["claim", root, "r1", NAME, HASH])
    synced: list[str] = []

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(fs, "fsync", fsync)
    judged = [Path(RunPaths(root, "r1").worker("w1").beat).read_bytes()] if silent else []
    assert taker.handle(["takeover", root, "r2", NAME, HASH, 1, "silent", *judged])["r"] == "claimed"
    assert (ArtifactPaths(root, NAME, HASH).ends in synced) == silent
    for each in (owner, taker):
        each.handle(["close"])


# -- operations ----------------------------------------------------------------------------------------------


def test_the_card_and_beat_are_there_before_the_answer(root: str) -> None:
    opened(root)
    worker = RunPaths(root, "r1").worker("w1")
    assert sorted(os.listdir(worker.base)) == ["beat", "card-1"]
    assert decode(Claim, Path(worker.card(1)).read_bytes(), "x").token == "tok"


def test_two_supervisors_at_one_artifact(root: str, paths: ArtifactPaths) -> None:
    one, two = opened(root, "r1", "tok1"), opened(root, "r2", "tok2")
    assert one.handle(["claim", root, "r1", NAME, HASH]) == {"r": "claimed", "n": 1}
    write_result(paths, 1, "x")
    slow = end_json(paths, 1, "tok1")
    reply = two.handle(["claim", root, "r2", NAME, HASH])
    assert (reply["r"], reply["n"], decode(Claim, reply["claim"], "x").run_id) == ("taken", 1, "r1")
    assert (
        one.handle(["finish", root, NAME, HASH, 1, end_json(paths, 1, "tok1", "failure")])["r"] == "published"
    )
    assert two.handle(["claim", root, "r2", NAME, HASH]) == {"r": "claimed", "n": 2}
    late = one.handle(["publish", root, NAME, HASH, 1, slow, False])
    assert late["r"] == "fenced"
    assert decode(End, late["end"], "x").status == "failure"


def test_a_claim_of_ones_own_that_is_held_is_taken(root: str) -> None:
    made = opened(root)
    made.handle(["claim", root, "r1", NAME, HASH])
    assert made.handle(["claim", root, "r1", NAME, HASH])["r"] == "taken"


@pytest.mark.fault("F17", "F22")
def test_a_claim_that_failed_half_way_is_finished_by_the_next_try(root: str, paths: ArtifactPaths) -> None:
    made = opened(root)
    os.makedirs(os.path.dirname(paths.base))

    def refuse(k: int, name: str, operation: Any, args: Any, kwargs: Any) -> Any:
        if args[0] == paths.ends:
            raise OSError(28, "No space left on device", args[0])
        return operation(*args, **kwargs)

    with every_call(refuse):
        reply = made.handle(["claim", root, "r1", NAME, HASH])
    assert reply == {"r": "error", "errno": 28, "path": paths.ends, "text": "No space left on device"}
    assert os.path.exists(paths.claim(1))
    assert made.handle(["claim", root, "r1", NAME, HASH]) == {"r": "claimed", "n": 1}
    assert not os.path.lexists(paths.attempt(1))


@pytest.mark.parametrize(
    "op",
    [
        ["nonsense"],
        [],
        ["claim"],
        ["claim", 1, 2, 3, 4],
        ["claim", "ROOT", "r1", "../x", HASH],
        ["claim", "ROOT", "r1", NAME, "../../x"],
        ["claim", "ROOT", "unopened", NAME, HASH],
        ["open", "ROOT", "../r", "w", claim_json()],
        ["open", "ROOT", "r", "w/../..", claim_json()],
        ["open", "ROOT", "r", "w", b"{"],
        ["open", "ROOT", "r1", "w1", claim_json(token="another")],
        ["publish", "ROOT", NAME, HASH, 1, b"", False],
        ["publish", "ROOT", NAME, HASH, 2, encode(End(generation=1, token="t", status="success")), False],
        ["publish", "ROOT", NAME, HASH, 1, encode(End(generation=1, token="t", status="failure")), False],
        ["finish", "ROOT", NAME, HASH, 1, encode(End(generation=1, token="t", status="success"))],
        ["child", "w", "pid", 1, "t"],
    ],
    ids=lambda op: "-".join(map(str, op))[:50],
)
@pytest.mark.fault("F111")
def test_a_bad_operation_harms_no_other(root: str, op: list[Any]) -> None:
    made = opened(root)
    before = sorted(os.walk(root))
    reply = made.handle([root if part == "ROOT" else part for part in op])
    assert reply["r"] == "error", reply
    assert reply["text"]
    assert sorted(os.walk(root)) == before
    assert made.handle(["claim", root, "r1", NAME, HASH]) == {"r": "claimed", "n": 1}


def test_a_damaged_artifact_is_an_error_that_says_so(root: str, paths: ArtifactPaths) -> None:
    made = opened(root)
    os.makedirs(paths.base)
    Path(paths.furu).touch()
    reply = made.handle(["claim", root, "r1", NAME, HASH])
    assert (reply["r"], reply["path"]) == ("error", paths.base)
    assert "a person" in reply["text"]


def test_closing_a_run_ends_what_it_still_holds(root: str, paths: ArtifactPaths) -> None:
    made = opened(root)
    assert made.handle(["open", root, "r2", "w1", claim_json("r2", token="tok2")]) == {"r": "ok"}
    made.handle(["child", "seat", os.getpid(), 1, "t"])
    made.handle(["claim", root, "r1", NAME, HASH])
    made.handle(["claim", root, "r2", NAME, "e" * 32])
    assert os.listdir(RunPaths(root, "r2").worker("w1").children) == [str(os.getpid())]
    assert made.handle(["close_run", root, "r1"]) == {"r": "ok"}
    end = artifacts.look(paths).end
    assert end is not None
    assert end.failure is not None
    assert end.failure.kind == "cancelled"
    assert not os.path.exists(RunPaths(root, "r1").workers)
    assert artifacts.look(paths_at(root, "e" * 32)).verdict == "claimed"
    assert made.handle(["child_gone", os.getpid()]) == {"r": "ok"}
    assert os.listdir(RunPaths(root, "r2").worker("w1").children) == []
    assert made.handle(["close"]) == {"r": "ok"}
    assert made.closing
    assert not os.path.exists(RunPaths(root, "r2").workers)


@pytest.mark.fault("F19")
def test_the_end_of_a_run_outlives_an_error(root: str) -> None:
    made = opened(root)
    with faulty_storage(errno.EIO, path="*/runs/r1/ends*", times=1) as faulty:
        assert made.handle(["close_run", root, "r1", "ok"]) == {"r": "ok"}
    assert faulty.hits
    assert look_run(RunPaths(root, "r1")).verdict == "over"


def test_a_run_opened_later_knows_the_children_that_are_there(root: str) -> None:
    made = opened(root)
    made.handle(["child", "seat", 77, 5, "t"])
    made.handle(["open", root, "r2", "w1", claim_json("r2", token="tok2")])
    assert os.listdir(RunPaths(root, "r2").worker("w1").children) == ["77"]
    made.handle(["close"])


def test_a_keeper_that_replaces_another_ends_its_children_too(root: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(100)"], start_new_session=True
    )
    try:
        opened(root).handle(["child", "seat", child.pid, start_time(child.pid), "t"])
        opened(root).supervisor_died()
        assert start_time(child.pid) is None
    finally:
        child.kill()
        child.wait()


def test_claims_stay_open_while_a_child_cannot_be_killed(
    root: str, paths: ArtifactPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs in the kernel, and may still be at work."""
    made = opened(root)
    made.handle(["child", "seat", 77, 5, "t"])
    made.handle(["claim", root, "r1", NAME, HASH])
    monkeypatch.setattr(keeper, "end_children", lambda children: False)
    made.supervisor_died()
    assert artifacts.look(paths).verdict == "claimed"
    assert os.listdir(RunPaths(root, "r1").claims) == ["1"]
    assert not os.path.exists(RunPaths(root, "r1").end(1))


def test_invalidating_and_computing_again(root: str, paths: ArtifactPaths) -> None:
    made = opened(root)
    made.handle(["claim", root, "r1", NAME, HASH])
    write_result(paths, 1, "old")
    assert made.handle(["publish", root, NAME, HASH, 1, end_json(paths, 1), False])["r"] == "published"
    assert made.handle(["invalidate", root, NAME, HASH, 1, "again", "r1"]) == {"r": "ok", "done": True}
    assert made.handle(["invalidate", root, NAME, HASH, 1, "again", "r1"]) == {"r": "ok", "done": False}
    assert made.handle(["claim", root, "r1", NAME, HASH]) == {"r": "claimed", "n": 2}


@pytest.mark.fault("F32")
def test_what_failed_attempts_left_is_collected_in_the_background(root: str, paths: ArtifactPaths) -> None:
    made = opened(root)
    made.handle(["claim", root, "r1", NAME, HASH])
    write_result(paths, 1, "partial")
    made.handle(["finish", root, NAME, HASH, 1, end_json(paths, 1, status="failure")])
    made.handle(["claim", root, "r1", NAME, HASH])
    write_result(paths, 2, "new")
    assert settle(lambda: not os.path.exists(paths.attempt(1)))
    assert os.path.exists(paths.attempt(2))


@pytest.mark.fault("F15", "F17", "F18", "F19")
@pytest.mark.parametrize("number", [5, 13, 28, 116])
def test_a_beat_outlives_errors(tmp_path: Path, number: int) -> None:
    path = tmp_path / "beat"
    beat = Beat(str(path), 0.01)
    beat.first()
    failing = True

    def refuse(k: int, name: str, operation: Any, args: Any, kwargs: Any) -> Any:
        if failing and args and args[0] == str(path):
            raise OSError(number, os.strerror(number), args[0])
        return operation(*args, **kwargs)

    with every_call(refuse) as count:
        beat.start()
        assert settle(lambda: count[0] > 3)
        before = path.read_bytes()
        failing = False
        assert settle(lambda: path.read_bytes() > before)
        beat.stop()
        time.sleep(0.03)
    assert Beat(str(path), 1).path
    again = Beat(str(path), 1)
    last = path.read_bytes()
    again.first()
    assert path.read_bytes() > last
    path.write_bytes(b"torn")
    again.first()
