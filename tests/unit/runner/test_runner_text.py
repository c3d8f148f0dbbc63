"""Bounding and escaping; failures from exceptions; exit statuses in words."""

from __future__ import annotations

import asyncio
import errno
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from furu_async._model.resources import Retry
from furu_async._runner import exits, failures, text
from furu_async.errors import (
    FuruComputeError,
    FuruMissingArtifact,
    FuruProtocolError,
    FuruSpecMismatch,
    FuruStoreError,
)


@pytest.mark.fault("F116")
@given(st.text(st.characters()))
def test_one_line_is_one_line_and_encodable(value: str) -> None:
    made = text.one_line(value)
    made.encode()
    assert len(made.splitlines()) <= 1
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in made)


@given(st.text(st.characters()), st.integers(200, 400))
def test_bounded_keeps_to_the_limit(value: str, limit: int) -> None:
    assert len(text.bounded(value, limit).encode("utf-8", "backslashreplace")) <= limit


def test_bounded_keeps_the_beginning_and_the_end() -> None:
    made = text.bounded("a" * 5000 + "b" * 5000, 1000)
    assert made.startswith("a")
    assert made.endswith("b")
    assert "left out" in made


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", ""),
        (b"one\ntwo\n", "one\ntwo"),
        (b"10%\r20%\r30%\ndone\r\n", "30%\ndone"),
        (b"\xff\x1b[2J", "\ufffd\\x1b[2J"),
        ("\n".join(map(str, range(100))).encode(), "\n".join(map(str, range(80, 100)))),
    ],
)
def test_tail(data: bytes, wanted: str) -> None:
    assert text.tail(data) == wanted


def test_tail_starts_with_a_whole_line() -> None:
    made = text.tail(b"x" * 3000 + b"\n" + b"y" * 3000 + b"\nend\n")
    assert made == "y" * 3000 + "\nend"


class _Worst(Exception):
    __module__ = "mod\nule"

    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.fault("F86")
def test_message_and_name_of_the_worst_exception() -> None:
    assert "raised SystemExit" in failures.message_of(_Worst())
    assert failures.type_name(_Worst()) == "mod\\nule._Worst"
    assert failures.message_of(ValueError()) == "ValueError without a message"


@pytest.mark.parametrize(
    ("error", "phase", "kind", "run_wide"),
    [
        (ValueError("x"), "create", "compute", False),
        (SystemExit(1), "create", "compute", False),
        (MemoryError(), "create", "oom", False),
        (MemoryError(), "build", "oom", False),
        (OSError(errno.ENOSPC, "full"), "create", "infrastructure", False),
        (OSError(errno.EACCES, "no"), "create", "compute", False),
        (OSError(errno.EACCES, "no"), "prepare", "infrastructure", False),
        (OSError(errno.EACCES, "no"), "publish", "infrastructure", False),
        (FuruStoreError("x"), "create", "infrastructure", False),
        (FuruComputeError("x"), "save", "compute", False),
        (FuruProtocolError("x"), "create", "protocol", False),
        (FuruSpecMismatch("x"), "create", "protocol", True),
        (FuruMissingArtifact("x", "", "aa", "bb", False), "create", "protocol", False),
        (FuruMissingArtifact("x", "", "aa", "bb", True), "create", "inputs", False),
        (ImportError("x"), "build", "protocol", True),
        (SystemExit("x"), "build", "protocol", True),
        (ExceptionGroup("g", [FuruMissingArtifact("x", "", "aa", "bb", True)]), "create", "inputs", False),
        (ExceptionGroup("g", [ExceptionGroup("h", [MemoryError()])]), "create", "oom", False),
        (ExceptionGroup("g", [MemoryError(), ValueError()]), "create", "oom", False),
        (ExceptionGroup("g", [ValueError(), KeyError()]), "create", "compute", False),
        (BaseExceptionGroup("g", [asyncio.CancelledError(), KeyError()]), "create", "compute", False),
    ],
)
def test_kind(error: BaseException, phase: failures.Phase, kind: str, run_wide: bool) -> None:
    found = failures.failure_of(error, phase)
    assert (found.kind, found.run_wide) == (kind, run_wide)
    stopped = failures.failure_of(error, phase, stopped=True)
    assert (stopped.kind == "cancelled") == (phase in ("create", "save", "validate"))


def test_missing_artifact_is_looked_up_among_the_declared() -> None:
    error = FuruMissingArtifact("x", "", "aa" * 16, "bb" * 16, False)
    assert failures.failure_of(error, "create", declared=["aa" * 16]).kind == "inputs"
    assert failures.failure_of(error, "create", declared=["cc" * 16]).kind == "protocol"


def test_retryable_is_what_the_class_says() -> None:
    assert failures.failure_of(TypeError(), "create", wants=Retry()).retryable is False
    assert failures.failure_of(SystemExit(), "create", wants=Retry()).retryable is True
    assert failures.failure_of(KeyError(), "create", wants=Retry(on=(OSError,))).retryable is False
    assert failures.failure_of(KeyError(), "create").retryable is None
    assert failures.failure_of(FuruComputeError("type"), "save", wants=Retry()).retryable is False


def test_traceback_has_causes_and_no_locals() -> None:
    def inner() -> None:
        canary = "in" + "local"
        raise KeyError("deep") from None if not canary else ValueError("the cause")

    try:
        inner()
    except KeyError as error:
        made = failures.traceback_of(error)
    assert "ValueError: the cause" in made
    assert "in inner" in made
    assert "inlocal" not in made


def test_traceback_of_a_long_chain_of_contexts() -> None:
    error: BaseException = ValueError(0)
    for n in range(3000):
        above = ValueError(n)
        above.__context__ = error
        error = above
    assert len(failures.traceback_of(error).encode()) <= text.TRACEBACK_BYTES + 64


def test_our_own_frames_are_cut_but_never_all() -> None:
    with pytest.raises(TypeError) as caught:
        failures.failure_of(ValueError(), "create", declared=None)  # type: ignore[arg-type]
    error = caught.value
    assert "test_runner_text" in failures.traceback_of(error)
    assert error.__traceback__ is not None
    assert "failures.py" in failures.traceback_of(error.with_traceback(error.__traceback__.tb_next))


# -- exits -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("F10")
@pytest.mark.parametrize(
    ("returncode", "options", "kind", "words"),
    [
        (-signal.SIGSEGV, {}, "killed", "SIGSEGV in the middle of a task (segmentation fault"),
        (-signal.SIGKILL, {}, "killed", "kernel short of memory"),
        (-signal.SIGKILL, {"oom_evidence": True}, "oom", "out-of-memory counter"),
        (-signal.SIGSEGV, {"oom_evidence": True}, "killed", "SIGSEGV"),
        (-signal.SIGTERM, {"busy": False}, "killed", "while no task was running"),
        (-40, {}, "killed", "signal 40"),
        (0, {}, "killed", "exited with code 0 in the middle of a task (os._exit"),
        (exits.CHANNEL_LOST, {}, "killed", "closed its control channel"),
        (-9, {"closed": True}, "killed", "closed its control channel"),
        (None, {}, "killed", "could not be read"),
        (0, {"busy": False, "asked": True}, "killed", "by its supervisor"),
        (-9, {"asked": True}, "killed", "SIGKILL"),
    ],
)
def test_exit_in_words(returncode: int | None, options: dict[str, bool], kind: str, words: str) -> None:
    made = exits.explain(returncode, **{"busy": True, **options})
    assert made.kind == kind
    assert words in made.text
    assert "\n" not in made.text


def _cgroup(root: Path, line: str, file: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(line)
    counter = root / "sys/fs/cgroup" / file
    counter.parent.mkdir(parents=True)
    return counter


@pytest.mark.parametrize(
    ("line", "file", "content"),
    [
        ("0::/job/step\n", "job/step/memory.events", "low 0\noom 5\noom_kill {}\n"),
        ("7:memory:/job\n0::/\n", "memory/job/memory.oom_control", "under_oom 0\noom_kill {}\n"),
        ("7:memory:/not-mounted-here\n", "memory/memory.oom_control", "oom_kill_disable 0\noom_kill {}\n"),
    ],
)
def test_each_oom_kill_explains_one_death(tmp_path: Path, line: str, file: str, content: str) -> None:
    counter = _cgroup(tmp_path, line, file)
    counter.write_text(content.format(3))
    oom = exits.OomCounter(tmp_path)
    assert not oom.take()
    counter.write_text(content.format(5))
    assert [oom.take(), oom.take(), oom.take()] == [True, True, False]
    counter.write_text("garbage")
    assert not oom.take()
    counter.unlink()
    assert not oom.take()


def test_without_a_counter_there_is_no_evidence(tmp_path: Path) -> None:
    assert not exits.OomCounter(tmp_path).take()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/vmstat").write_text("nr_free 1\noom_kill 1\n")
    oom = exits.OomCounter(tmp_path)
    (tmp_path / "proc/vmstat").write_text("nr_free 1\noom_kill 2\n")
    assert oom.take()
