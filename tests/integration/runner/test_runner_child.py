"""What a child does with tasks that behave: results, files, order, taking back, logs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runner_artifacts import (
    Chain,
    Checkpoint,
    Double,
    Files,
    Floods,
    Leaks,
    Number,
    OwnStdout,
    Prints,
    Slow,
    SlowAsync,
    Unstorable,
    Validates,
)
from runner_bench import Bench, lives

from furu_async._runner.messages import Forget, TaskBegun, TaskResult
from furu_async._store import results


async def test_result_is_stored_and_listed(bench: Bench) -> None:
    child = await bench.child()
    task = bench.give(child, Number(n=7))
    result = await bench.result(task)
    assert (result.ok, result.failure, result.dirty, result.logged) == (True, None, False, False)
    assert results.load(task.directory, result.result, result.value) == 7
    assert (result.result, result.manifest) == ("inline", [])
    assert not os.path.exists(os.path.dirname(task.directory)), "it had nothing to put into a folder"
    assert result.rss_mb > 5
    assert 0 <= result.duration < 5
    assert child.tasks == {}
    assert child.running is None


async def test_async_create_and_nested_artifact(bench: Bench) -> None:
    child = await bench.child()
    task = bench.give(child, Double(below=Number(n=4)))
    assert [entry.hash for entry in task.entries] == [Number(n=4).furu_hash, task.hash]
    result = await bench.result(task)
    assert results.load(task.directory, result.result, result.value) == 8
    again = bench.task(child, Double(below=Number(n=4)))
    assert again.entries == [], "each entry goes to a child once"


async def test_deep_chain_arrives(bench: Bench) -> None:
    deep: Chain | None = None
    for _ in range(3000):
        deep = Chain(below=deep)
        assert deep.furu_hash
    assert deep is not None
    child = await bench.child()
    result = await bench.run(child, deep)
    assert result.ok, result.failure


async def test_class_with_load_stores_nothing_itself(bench: Bench) -> None:
    child = await bench.child()
    task = bench.give(child, Files())
    result = await bench.result(task)
    assert result.result == "load"
    assert [(entry.path, entry.size) for entry in result.manifest] == [("sub/a.txt", 5)]
    assert result.manifest[0].checksum == ""
    powered = bench.give(child, Files(), attempt=2, power="power")
    assert (await bench.result(powered)).manifest[0].checksum


@pytest.mark.fault("F02")
async def test_attempt_starts_in_an_empty_folder(bench: Bench) -> None:
    child = await bench.child()
    obj = Number(n=1)
    task = bench.task(child, obj)
    Path(task.directory).mkdir(parents=True)
    (Path(task.directory) / "partial").write_text("of an attempt that died")
    child.give(task)
    result = await bench.result(task)
    assert result.ok
    assert os.listdir(os.path.dirname(task.directory)) == []


async def test_checkpoint_folder(bench: Bench) -> None:
    child = await bench.child()
    task = bench.give(child, Checkpoint())
    assert (await bench.result(task)).ok
    assert (Path(task.checkpoint or "") / "state").read_text() == "1"


@pytest.mark.fault("F87")
@pytest.mark.parametrize(
    ("answer", "words"),
    [("false", "returned False"), ("none", "neither"), ("raise", "broken check"), ("invalid", "good enough")],
)
async def test_result_that_does_not_validate_is_a_compute_failure(
    bench: Bench, answer: str, words: str
) -> None:
    child = await bench.child()
    result = await bench.run(child, Validates(answer=answer))
    assert result.failure is not None
    assert result.failure.kind == "compute"
    assert "_validate" in result.failure.message
    assert words in result.failure.message
    assert (await bench.run(child, Validates(answer="true"))).ok


async def test_result_without_a_stored_form_says_what_to_do(bench: Bench) -> None:
    result = await bench.run(await bench.child(), Unstorable())
    assert result.failure is not None
    assert result.failure.kind == "compute"
    assert "_load" in result.failure.message
    assert result.failure.retryable is False


async def test_tasks_run_in_order_and_begin_one_by_one(bench: Bench) -> None:
    child = await bench.child()
    tasks = [bench.task(child, Number(n=n)) for n in range(50)]
    child.give(*tasks)
    await bench.result(tasks[-1])
    begun = [m.id for m in bench.messages if isinstance(m, TaskBegun)]
    ended = [m.id for m in bench.messages if isinstance(m, TaskResult)]
    assert begun == ended == [task.id for task in tasks]


async def test_take_back_what_has_not_begun(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = await bench.child()
    first = bench.give(child, Slow(release=tmp_path / "go"))
    await bench.begun(first)
    later = [bench.task(child, Number(n=n)) for n in range(5)]
    child.give(*later)
    sent: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(child._link, "send", sent.extend)
        assert child.take_back(2) == later[:2:-1], "the newest first"
    assert sent == [Forget([later[4].id, later[3].id])], "their bodies need not be kept"
    last = bench.give(child, Number(n=9))
    (tmp_path / "go").touch()
    await bench.result(last)
    ended = [m.id for m in bench.messages if isinstance(m, TaskResult)]
    assert ended == [first.id, *(task.id for task in later[:3]), last.id]
    assert child.take_back() == []


async def test_more_tasks_than_the_queue_holds(bench: Bench, tmp_path: Path) -> None:
    child = await bench.child()
    first = bench.give(child, Slow(release=tmp_path / "go"))
    await bench.begun(first)
    later = [bench.task(child, Number(n=n)) for n in range(2000)]
    child.give(*later)
    back = child.take_back(500)
    assert back == later[:1499:-1]
    (tmp_path / "go").touch()
    await bench.result(later[1499])
    assert [m.id for m in bench.messages if isinstance(m, TaskResult)] == [
        first.id,
        *(t.id for t in later[:1500]),
    ]


async def test_entries_of_a_task_that_was_taken_back_stay_known(bench: Bench, tmp_path: Path) -> None:
    child = await bench.child()
    first = bench.give(child, Slow(release=tmp_path / "go"))
    await bench.begun(first)
    bench.give(child, Number(n=3))
    child.take_back()
    (tmp_path / "go").touch()
    assert (await bench.run(child, Double(below=Number(n=3)))).ok


async def test_silent_attempt_has_no_logs(bench: Bench) -> None:
    child = await bench.child()
    task = bench.give(child, Number(n=1))
    await bench.result(task)
    assert not os.path.exists(task.directory)


@pytest.mark.parametrize("how", ["out", "err", "log"])
async def test_attempt_that_says_something_has_a_folder(bench: Bench, how: str) -> None:
    child = await bench.child()
    task = bench.give(child, Prints(**{how: "said"}))
    result = await bench.result(task)
    assert result.logged
    assert result.manifest == []
    assert os.listdir(task.directory) == [{"out": "stdout", "err": "stderr"}.get(how, how)]


@pytest.mark.fault("F116")
async def test_output_goes_to_the_attempt(bench: Bench) -> None:
    child = await bench.child()
    first = bench.give(child, Prints(out="printed\n", err="warned\n", log="line\x1b[2J\none"))
    second = bench.give(child, Prints(out="other"))
    result = await bench.result(first)
    await bench.result(second)
    assert result.logged
    folder = Path(first.directory)
    assert (folder / "stdout").read_text() == "printed\n"
    assert (folder / "stderr").read_text() == "warned\n"
    (line,) = (folder / "log").read_text().splitlines()
    assert line.endswith(" INFO w0 mine: line\\x1b[2J\\none")
    assert not {"log", "stdout", "stderr"} & {entry.path for entry in result.manifest}
    assert (Path(second.directory) / "stdout").read_text() == "other"
    assert not (Path(second.directory) / "stderr").exists()


async def test_log_level_is_the_callers(bench: Bench) -> None:
    child = await bench.child(log_level="WARNING")
    assert not (await bench.run(child, Prints(log="not kept"))).logged


async def test_files_of_the_user_are_never_replaced_by_logs(bench: Bench) -> None:
    child = await bench.child()
    task = bench.give(child, OwnStdout())
    result = await bench.result(task)
    folder = Path(task.directory)
    assert (folder / "stdout").read_text() == "mine"
    assert (folder / "log").read_text() == "mine"
    assert (folder / "stdout-1").read_text() == "printed\n"
    assert {"stdout", "log"} <= {entry.path for entry in result.manifest}
    assert not {"stdout-1", "log-1"} & {entry.path for entry in result.manifest}


@pytest.mark.fault("F91")
async def test_much_output_is_kept_and_only_its_end_is_shown(bench: Bench) -> None:
    child = await bench.child()
    task = bench.give(child, Floods(megabytes=50))
    result = await bench.result(task)
    assert result.failure is not None
    assert result.failure.log_tail.splitlines()[-1] == "the last line"
    assert len(result.failure.log_tail) <= 4096
    assert result.failure.log_path == task.directory
    assert (Path(task.directory) / "stdout").stat().st_size > 50 << 20
    assert result.rss_mb < 200


async def test_output_can_be_followed_while_it_runs(bench: Bench, tmp_path: Path) -> None:
    child = await bench.child()
    loud = bench.give(child, Slow(release=tmp_path / "go", text="so far"))
    silent = bench.give(child, Slow(release=tmp_path / "go2"))
    await bench.begun(loud)
    assert not child.expose_logs(silent), "it does not run yet"
    shown = Path(loud.directory) / "stdout"
    await bench.until(lambda: asyncio.get_running_loop().time() - child.running_since > 0.25)
    assert child.expose_logs(loud)
    await bench.until(lambda: shown.read_text() == "so far")
    (tmp_path / "go").touch()
    await bench.begun(silent)
    await bench.until(lambda: asyncio.get_running_loop().time() - child.running_since > 0.25)
    assert child.expose_logs(silent)
    assert (Path(silent.directory) / "stdout").exists()
    (tmp_path / "go2").touch()
    result = await bench.result(silent)
    assert not result.logged
    assert shown.read_text() == "so far"
    assert not (Path(loud.directory) / "stderr").exists()
    assert not Path(silent.directory).exists(), "made to show what it prints, and it printed nothing"
    assert not child.expose_logs(loud), "too late"


async def test_warned_sync_attempt_sees_it_and_its_child_ends(bench: Bench, tmp_path: Path) -> None:
    child = await bench.child()
    task = bench.give(child, Slow(release=tmp_path / "never", text="x"))
    later = bench.give(child, Number(n=1))
    await bench.begun(task)
    await bench.printed()
    child.warn()
    result = await bench.result(task)
    assert result.ok
    assert results.load(task.directory, result.result, result.value) == 2
    gone = await bench.gone(child)
    assert gone.expected
    assert gone.not_begun == (later,)


async def test_what_a_child_said_before_it_exited_is_heard(bench: Bench, tmp_path: Path) -> None:
    """Also where its exit is seen first: its result counts, and no attempt was running."""
    child = await bench.child()
    task = bench.give(child, Slow(release=tmp_path / "never", text="x"))
    await bench.begun(task)
    await bench.printed()
    child.warn()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # meanwhile this loop sees and hears nothing
    child._on_exit()
    gone = await bench.gone(child)
    assert (gone.running, gone.not_begun) == (None, ())
    assert (await bench.result(task)).ok


async def test_what_has_not_begun_when_a_child_is_closed_does_not_begin(bench: Bench, tmp_path: Path) -> None:
    child = await bench.child()
    os.kill(child.pid, signal.SIGSTOP)
    task = bench.give(child, Slow(release=tmp_path / "never"))
    closing = asyncio.create_task(child.aclose())
    await asyncio.sleep(0)
    os.kill(child.pid, signal.SIGCONT)
    await closing
    gone = await bench.gone(child)
    assert gone.expected
    assert (gone.running, gone.not_begun) == (None, (task,))


async def test_a_child_that_is_to_be_replaced_begins_nothing_more(bench: Bench) -> None:
    child, other = await bench.child(), await bench.child()
    first = bench.task(child, Number(n=1), fresh=True)
    second = bench.task(child, Number(n=2))
    child.give(first, second)
    assert (await bench.result(first)).dirty
    await bench.run(other, Number(n=3))  # meanwhile it would have begun
    assert child.take_back() == [second]
    await child.aclose()
    assert (await bench.gone(child)).running is None
    assert not any(isinstance(said, TaskBegun) and said.id == second.id for said in bench.messages)


async def test_warned_async_attempt_is_cancelled(bench: Bench, tmp_path: Path) -> None:
    child = await bench.child()
    task = bench.give(child, SlowAsync(note=tmp_path / "note"))
    await bench.begun(task)
    await bench.printed()
    child.warn()
    result = await bench.result(task)
    assert result.failure is not None
    assert result.failure.kind == "cancelled"
    assert (tmp_path / "note").read_text() == "cancelled"


async def test_idle_child_ends_when_warned_and_when_closed(bench: Bench) -> None:
    first, second = await asyncio.gather(bench.child(), bench.child())
    first.warn()
    gone = await bench.gone(first)
    assert (gone.expected, gone.returncode, gone.running) == (True, 0, None)
    await second.aclose()
    assert not lives(second.pid)
    assert not second.alive


async def test_closed_child_gives_back_what_it_had_not_begun(bench: Bench) -> None:
    child = await bench.child()
    tasks = [bench.task(child, Number(n=n)) for n in range(40)]
    for task in tasks:
        child.give(task)
    await child.aclose()
    gone = await bench.gone(child)
    done = [m.id for m in bench.messages if isinstance(m, TaskResult)]
    back = [task.id for task in gone.not_begun]
    begun = [gone.running.id] if gone.running is not None else []
    assert done + begun + back == [task.id for task in tasks]
    assert back


async def test_a_thousand_tasks_through_two_children(
    bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    first, second = await asyncio.gather(bench.child(), bench.child())
    objs = [Number(n=n) for n in range(1000)]
    began = time.perf_counter()
    tasks = [bench.give(child, obj) for child, obj in zip([first, second] * 500, objs, strict=True)]
    await bench.said(lambda m: isinstance(m, TaskResult) and m.id == tasks[-2].id)
    await bench.said(lambda m: isinstance(m, TaskResult) and m.id == tasks[-1].id)
    record_property("us_per_task", (time.perf_counter() - began) * 1000)
    answers = {m.id: m for m in bench.messages if isinstance(m, TaskResult)}
    assert len(answers) == 1000
    assert all(answer.ok for answer in answers.values())
    assert first.tasks == second.tasks == {}


@pytest.mark.fault("F95")
async def test_memory_is_reported(bench: Bench) -> None:
    child = await bench.child()
    before = (await bench.run(child, Number(n=1))).rss_mb
    after = (await bench.run(child, Leaks(megabytes=64))).rss_mb
    assert after - before > 48
    assert child.rss_mb == after


@pytest.mark.fault("F114")
@pytest.mark.fault("F115")
async def test_secrets_stay_out_of_command_lines_and_records(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from runner_artifacts import Raises

    monkeypatch.setattr(sys, "argv", ["prog", "--password", "canary-in-argv"])
    monkeypatch.setenv("SECRET", "canary-in-env")
    child = await bench.child()
    shown = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    assert b"canary" not in shown
    result = await bench.run(child, Raises(what="ValueError"))
    assert "canary-in" not in repr(result).replace('secret = "canary-in-a-local"', "")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"canary" in path.read_bytes() for path in files)
