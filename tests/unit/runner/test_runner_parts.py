"""Frames, spools, what a child restores, and the supervisor's end of the transport."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import msgspec
import pytest

from furu_async._runner import burial, capture, messages, processes, restore, spools
from furu_async._runner.capture import AttemptLog, open_spool, place, spool_path
from furu_async._runner.channel import Channel, ChannelLost
from furu_async._runner.link import Link
from furu_async._runner.messages import Forget, FrameBuffer, Hello, Ready, TaskBegun, TaskResult, TaskSpec
from furu_async._store.records import ManifestEntry
from furu_async.report import Failure

SPEC = TaskSpec(id=2**40, hash="a" * 32, name="n", generation=3, root="/r", directory="/r/x")


def test_messages_survive_the_trip() -> None:
    down = [SPEC, Hello(argv=["a"], spool_base="/b", worker="w"), Forget([1, 2])]
    assert messages.to_child_decoder.decode(messages.frame(down)[4:]) == down
    failure = Failure(kind="compute", message="m", retryable=False)
    result = TaskResult(id=1, ok=False, failure=failure, manifest=[ManifestEntry("p", 1)])
    up = [Ready(1), TaskBegun(1, 2), result]
    assert messages.to_supervisor_decoder.decode(messages.frame(up)[4:]) == up


def test_frames_come_out_whole_however_they_arrive() -> None:
    sent = [bytes([n % 256]) * (n * 37 % 5000) for n in range(200)]
    stream = b"".join(len(one).to_bytes(4, "big") + one for one in sent)
    rng = random.Random(1)
    buffer, got, at = FrameBuffer(), [], 0
    while at < len(stream):
        step = rng.choice([1, 2, 3, 5, 1000, 9000])
        buffer.feed(stream[at : at + step])
        at += step
        got += list(buffer.payloads())
    assert got == sent


# -- spools and logs -----------------------------------------------------------------------------------------------


def _spool(base: str, number: int, extension: str, content: bytes) -> str:
    path = spool_path(base, number, extension)
    fd = open_spool(path)
    os.write(fd, content)
    os.close(fd)
    return path


def test_spool_is_placed_beside_a_file_of_the_same_name(tmp_path: Path) -> None:
    base = str(tmp_path / "w")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/stdout").write_text("the user's")
    source = _spool(base, 0, "out", b"ours")
    assert place(source, str(tmp_path / "a"), "stdout") == "stdout-1"
    assert (tmp_path / "a/stdout").read_text() == "the user's"
    assert (tmp_path / "a/stdout-1").read_text() == "ours"
    assert not os.path.exists(source)


def test_spool_on_another_file_system_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _spool(str(tmp_path / "w"), 0, "out", b"ours")
    (tmp_path / "a").mkdir()

    def refuse(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert place(source, str(tmp_path / "a"), "stdout") == "stdout"
    assert (tmp_path / "a/stdout").read_text() == "ours"
    assert not os.path.exists(source)


@pytest.mark.parametrize("shown", [False, True])
def test_spools_of_a_dead_child_are_collected_once(tmp_path: Path, shown: bool) -> None:
    base, folder = str(tmp_path / "w"), str(tmp_path / "a")
    os.mkdir(folder)
    _spool(base, 4, "out", b"said\n")
    _spool(base, 4, "err", b"")
    if shown:
        assert spools.expose(base, 4, folder)
    Path(folder, "log").write_text("logged\n")
    for _ in range(2):
        assert spools.collect(base, 4, folder) == ("said\nlogged", True)
    assert sorted(os.listdir(folder)) == ["log", "stdout"]
    assert os.listdir(tmp_path) == ["a"]


def test_showing_spools_that_are_gone_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert not spools.expose(str(tmp_path / "w"), 0, str(tmp_path / "a"))
    assert os.listdir(tmp_path / "a") == []
    assert spools.collect(str(tmp_path / "w"), 0, str(tmp_path / "a")) == ("", False)
    assert not spools.expose(str(tmp_path / "w"), 0, str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_showing_what_ends_meanwhile_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folder = str(tmp_path / "w"), str(tmp_path / "attempts" / "1")
    sources = [_spool(base, 0, extension, b"") for extension in ("out", "err")]
    make = os.makedirs

    def end_then_make(path: str, *, exist_ok: bool) -> None:
        for source in sources:
            Path(source).unlink(missing_ok=True)
        make(path, exist_ok=exist_ok)

    monkeypatch.setattr(os, "makedirs", end_then_make)
    assert not spools.expose(base, 0, folder)
    assert not os.path.exists(folder)


def test_shown_spools_of_a_silent_dead_child_leave_no_folder(tmp_path: Path) -> None:
    base, folder = str(tmp_path / "w"), str(tmp_path / "attempts" / "1")
    for extension in ("out", "err"):
        _spool(base, 0, extension, b"")
    assert spools.expose(base, 0, folder)
    assert sorted(os.listdir(folder)) == ["stderr", "stdout"]
    assert spools.collect(base, 0, folder) == ("", False)
    assert not os.path.exists(folder)


@pytest.mark.fault("F116")
def test_log_is_made_by_the_first_record_and_has_one_line_each(tmp_path: Path) -> None:
    log = AttemptLog(str(tmp_path), "w1")
    assert log.tail() == ""
    assert not log.close()
    assert os.listdir(tmp_path) == []
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        record = logging.LogRecord(
            "na\nme", logging.ERROR, "f", 1, "%s\x00\r\n", ("x" * 100_000,), sys.exc_info()
        )
    log.write(record)
    log.write(logging.LogRecord("name", logging.INFO, "f", 1, "lone \udc80", (), None))
    assert log.close()
    first, second = (tmp_path / "log").read_bytes().decode().splitlines()
    assert " ERROR w1 na\\nme: x" in first
    assert first.endswith("ValueError: bad\\nvalue")
    assert len(first) < 20_000
    assert second.endswith("INFO w1 name: lone \\udc80")


# -- restoring -----------------------------------------------------------------------------------------------------


def test_nothing_changed_is_nothing_restored() -> None:
    snapshot = restore.Snapshot()
    assert snapshot.restore() == []
    os.close(snapshot.stdin)


@pytest.mark.fault("F90")
def test_everything_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snapshot = restore.Snapshot()
    before = (os.getcwd(), dict(os.environ), list(sys.path), list(warnings.filters), logging.root.level)
    usr2 = signal.getsignal(signal.SIGUSR2)
    (tmp_path / "x").mkdir()
    os.chdir("x")
    os.umask(0o123)
    environ = os.environ
    os.environ["NEW"] = "1"
    os.environ.pop("HOME", None)
    os.environ = {}  # type: ignore[assignment]  # noqa: B003
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.alarm(100)
    sys.path = ["/other"]
    sys.excepthook = print  # type: ignore[assignment]
    warnings.simplefilter("always")
    handler = logging.FileHandler(tmp_path / "handler")
    logging.root.addHandler(handler)
    logging.root.setLevel(1)
    logging.disable(50)
    changed = snapshot.restore()
    assert changed == [
        "working directory",
        "umask",
        "environment",
        "signal handlers",
        "interpreter settings",
        "warnings filters",
        "logging",
    ]
    assert before == (
        os.getcwd(),
        dict(os.environ),
        list(sys.path),
        list(warnings.filters),
        logging.root.level,
    )
    assert os.environ is environ
    assert signal.getsignal(signal.SIGUSR2) == usr2
    assert signal.alarm(0) == 0
    assert sys.excepthook is sys.__excepthook__
    assert handler not in logging.root.handlers
    assert logging.root.manager.disable == 0
    assert snapshot.restore() == []
    os.close(snapshot.stdin)


def test_filters_of_a_module_that_was_imported_stay() -> None:
    snapshot = restore.Snapshot()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "of a module that was just imported")
        sys.modules["furu_test_imported"] = sys
        assert "warnings filters" not in snapshot.restore()
        del sys.modules["furu_test_imported"]
        assert "of a module" in str(warnings.filters[0])
    os.close(snapshot.stdin)


def test_what_cannot_be_restored_does_not_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    snapshot = restore.Snapshot()
    os.chdir(tmp_path)
    (tmp_path / "x").rmdir()
    assert snapshot.restore() == ["working directory (FileNotFoundError)"]
    os.close(snapshot.stdin)


@pytest.mark.fault("F95")
def test_threads_left_behind() -> None:
    snapshot = restore.Snapshot()
    done = threading.Event()
    threads = [threading.Thread(target=done.wait, daemon=True) for _ in range(restore.MANY_THREADS + 1)]
    try:
        threads[0].start()
        assert snapshot.left_threads() == "", "a daemon thread or two is what libraries do"
        for thread in threads[1:]:
            thread.start()
        assert "daemon threads" in snapshot.left_threads()
    finally:
        done.set()
        for thread in threads:
            if thread.ident:
                thread.join()
        os.close(snapshot.stdin)


def test_descendants() -> None:
    seen = {1: (0, 10), 2: (1, 20), 3: (2, 30), 4: (1, 40), 5: (9, 50)}
    assert processes.descendants_of(2, seen) == {3: 30}
    assert processes.descendants_of(1, seen) == {2: 20, 3: 30, 4: 40}
    assert processes.descendants_of(7, seen) == {}


def test_process_is_only_ended_with_its_start_time() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        born = processes.start_time(process.pid)
        assert born
        assert process.pid in processes.children_of(os.getpid())
        assert processes.end_each({process.pid: born + 1}) == []
        assert process.poll() is None
        assert processes.end_each({process.pid: born}) == [process.pid]
        assert process.wait() == -9
        assert processes.start_time(process.pid) == 0
    finally:
        process.kill()
        process.wait()


# -- the supervisor's end of the transport ---------------------------------------------------------------------------


class Ends:
    """A link and the other ends of its sockets."""

    def __init__(self) -> None:
        self.stream, self.far = socket.socketpair()
        self.ids, self.ids_back = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.stream.setblocking(False)
        self.ids.setblocking(False)
        self.ids_back.setblocking(False)
        self.got: list[messages.ToSupervisor] = []
        self.ended = 0
        self.link = Link(self.stream, self.ids, self.ids_back, self.got.extend, self._end)

    def _end(self) -> None:
        self.ended += 1

    def take(self) -> int:
        return int.from_bytes(self.ids_back.recv(8), "big")

    def close(self) -> None:
        self.link.close()
        self.far.close()


async def test_ids_are_taken_from_both_ends_exactly_once() -> None:
    ends = Ends()
    ends.link.put_ids(range(1000))
    taken = [ends.take() for _ in range(100)]
    back = ends.link.take_ids(300)
    assert taken == list(range(100))
    assert back == list(range(999, 699, -1))
    ends.link.put_ids([5000])
    rest = []
    while len(rest) < 601:
        ends.link._send_ids()
        rest.append(ends.take())
    assert rest == [*range(100, 700), 5000]
    assert ends.link.take_ids(10) == []
    ends.close()


async def test_what_is_not_taken_back_goes_to_the_child_without_a_word_from_it() -> None:
    """It may sleep until there is something for it."""
    ends = Ends()
    ends.link.put_ids(range(5))
    assert ends.link.take_ids(2) == [4, 3]
    assert [ends.take() for _ in range(3)] == [0, 1, 2]
    ends.close()


async def test_a_slow_reader_gets_everything() -> None:
    ends = Ends()
    ends.far.setblocking(False)
    big = [Hello(argv=["x" * 100_000], spool_base=str(n), worker="w") for n in range(50)]
    for one in big:
        ends.link.send([one])
    buffer, got = FrameBuffer(), []
    async with asyncio.timeout(10):
        while len(got) < len(big):
            try:
                buffer.feed(ends.far.recv(1 << 20))
            except BlockingIOError:
                await asyncio.sleep(0)
            for payload in buffer.payloads():
                got += messages.to_child_decoder.decode(payload)
    assert got == big
    ends.close()


async def test_a_burst_is_one_frame_and_one_message_does_not_wait() -> None:
    ends = Ends()
    ends.far.setblocking(False)
    buffer = FrameBuffer()

    def frames() -> list[list[messages.ToChild]]:
        try:
            buffer.feed(ends.far.recv(1 << 20))
        except BlockingIOError:
            pass
        return [messages.to_child_decoder.decode(payload) for payload in buffer.payloads()]

    for n in range(5):
        ends.link.send([Forget([n])])
        ends.link.put_ids([n])
    assert frames() == [[Forget([0])]]
    assert ends.take() == 0
    with pytest.raises(BlockingIOError):
        ends.take()
    await asyncio.sleep(0)
    assert frames() == [[Forget([n]) for n in range(1, 5)]]
    assert [ends.take() for _ in range(4)] == [1, 2, 3, 4]
    ends.link.send([Forget([5])])
    ends.link.send([Forget([6])])
    ends.link.put_ids([5, 6])
    assert ends.link.take_ids(1) == [6], "held ids can be taken back, too"
    await asyncio.sleep(0)
    assert len(frames()) == 2
    await asyncio.sleep(0)
    ends.link.send([Forget([9])])
    assert frames() == [[Forget([9])]]
    ends.link.send([Forget([10])])
    ends.close()
    await asyncio.sleep(0)


async def test_what_was_sent_before_the_end_is_read() -> None:
    ends = Ends()
    ends.far.send(messages.frame([Ready(1)]) + messages.frame([TaskBegun(1, 0)])[:5])
    ends.far.close()
    ends.link.drain()
    assert ends.got == [Ready(1)]
    assert ends.ended == 1
    ends.link.drain()
    ends.link.send([Forget([1])])
    assert ends.ended == 1
    ends.close()
    ends.link.close()


def test_an_attempt_that_can_be_shown_always_ends_its_spools() -> None:
    assert capture.LONG_SECS < spools.EXPOSE_SECS


def test_bodies_of_tasks_taken_back_are_dropped_and_their_entries_stay() -> None:
    near, far = socket.socketpair()
    ids, ids_back = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ids_back.setblocking(False)
    channel = Channel(far.fileno(), ids_back.fileno())
    other = msgspec.structs.replace(SPEC, id=7)
    near.send(messages.frame([SPEC, other]) + messages.frame([Forget([SPEC.id])]))
    assert channel.body(7) == other
    assert channel.arrived() == [SPEC, other]
    assert channel._bodies == {}
    assert channel.poll_id() is None
    ids.close()
    with pytest.raises(ChannelLost) as caught:
        channel.poll_id()
    assert not caught.value.closed_here
    ids_back.close()
    with pytest.raises(ChannelLost) as caught:
        channel.poll_id()
    assert caught.value.closed_here
    near.close()
    with pytest.raises(ChannelLost):
        channel.send([Ready(1)])
    far.close()


def test_a_child_that_sleeps_wakes_up_for_a_task_and_for_the_end_of_its_supervisor() -> None:
    near, far = socket.socketpair()
    ids, ids_back = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ids_back.setblocking(False)
    channel = Channel(far.fileno(), ids_back.fileno())
    ids.send((7).to_bytes(messages.ID_BYTES, "big"))
    assert channel.wait()
    assert channel.poll_id() == 7
    near.close()
    with pytest.raises(ChannelLost) as caught:
        channel.wait()
    assert not caught.value.closed_here
    channel.await_end()
    for end in (ids, ids_back, far):
        end.close()


# -- ends --------------------------------------------------------------------------------------------------------------


class _AlwaysOom:
    def take(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("command", "asked", "returncode", "oom"),
    [("kill -9 $$", False, -9, True), ("kill -9 $$", True, -9, False), ("exit 3", False, 3, False)],
)
def test_memory_is_asked_about_after_a_sigkill_that_was_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, asked: bool, returncode: int, oom: bool
) -> None:
    monkeypatch.setattr(burial, "oom_counter", _AlwaysOom)
    process = subprocess.Popen(["sh", "-c", command], start_new_session=True)
    base = str(tmp_path / "w")
    _spool(base, 0, "out", b"said\n")
    _spool(base, 1, "out", b"")
    case = burial.Case(process.pid, 0, "no-such-token", base, 0, str(tmp_path / "a"), True, asked)
    remains = burial.bury(case)
    assert (remains.returncode, remains.oom, remains.log_tail) == (returncode, oom, "said")
    assert process.wait() == returncode
    assert burial.exit_status(process.pid) is None
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_process_forked_while_it_was_looked_for_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    token, look = "0123456789abcdef", processes.processes
    env = {**os.environ, processes.TOKEN_VARIABLE: token}
    leader = subprocess.Popen(["true"], start_new_session=True)
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    below = [subprocess.Popen(["sleep", "60"], env=env, start_new_session=True) for _ in range(2)]
    unseen = [below[1].pid]

    def late() -> dict[int, tuple[int, int]]:
        seen = look()
        while unseen:
            del seen[unseen.pop()]
        return seen

    monkeypatch.setattr(processes, "processes", late)
    try:
        assert processes.sweep(leader.pid, token, 0) == [process.pid for process in below]
        assert [process.wait(10) for process in below] == [-signal.SIGKILL] * 2
    finally:
        for process in (leader, *below):
            process.kill()
            process.wait()


@pytest.mark.fault("F103")
@pytest.mark.parametrize(("number", "how"), [("lifeline._F_SETSIG", "kernel"), ("9999", "thread")])
def test_lifeline(number: str, how: str) -> None:
    code = (
        "import sys, time\n"
        "from furu_async._runner import lifeline\n"
        f"lifeline._F_SETSIG = {number}\n"
        "print(lifeline.bind(int(sys.argv[1])), flush=True)\n"
        "time.sleep(60)\n"
    )
    near, far = os.pipe()
    command = [sys.executable, "-c", code, str(near)]
    process = subprocess.Popen(
        command, pass_fds=[near], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    os.close(near)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == how
        os.close(far)
        assert process.wait(5) == -9
    finally:
        process.kill()
        process.communicate()


@pytest.mark.fault("F103")
def test_a_supervisor_that_died_before_the_lifeline_was_bound() -> None:
    near, far = os.pipe()
    os.close(far)
    code = (
        "import sys; from furu_async._runner import lifeline; lifeline.bind(int(sys.argv[1])); print('lives')"
    )
    command = [sys.executable, "-c", code, str(near)]
    done = subprocess.run(
        command, pass_fds=[near], start_new_session=True, stdout=subprocess.PIPE, check=False
    )
    os.close(near)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
