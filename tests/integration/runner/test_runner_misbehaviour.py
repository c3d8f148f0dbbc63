"""What user code may do to a child, and that only its own attempt pays for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runner_artifacts import (
    Dies,
    Forks,
    Group,
    LeavesProcess,
    LeavesThread,
    Messy,
    Number,
    Raises,
    RaisesAsync,
    Recursion,
    Slow,
    Stubborn,
)
from runner_bench import Bench, lives

from furu_async._runner.supervisor import Child
from furu_async.errors import FuruExecutorError
from furu_async.report import Failure

PLAIN = "from furu_async import Furu\nclass {}(Furu[int]):\n    def _create(self):\n        return 1\n"


def failure(answer: Failure | None) -> Failure:
    assert answer is not None
    return answer


@pytest.mark.fault("F85")
@pytest.mark.parametrize("cls", [Raises, RaisesAsync])
@pytest.mark.parametrize(
    "what",
    [
        "SystemExit",
        "KeyboardInterrupt",
        "CancelledError",
        "GeneratorExit",
        "ExceptionGroup",
        "BaseExceptionGroup",
        "ValueError",
    ],
)
async def test_whatever_is_raised_is_a_compute_failure(bench: Bench, cls: type[Raises], what: str) -> None:
    child = await bench.child()
    found = failure((await bench.run(child, cls(what=what))).failure)
    assert found.kind == "compute"
    assert found.error_type.rpartition(".")[2] == what
    assert found.retryable is True
    assert "in _create" in found.traceback
    assert "_runner" not in found.traceback
    assert "asyncio/runners.py" not in found.traceback
    assert "canary-in-a-local" not in found.traceback.replace('secret = "canary-in-a-local"', "")
    assert (await bench.run(child, Number(n=1))).ok, "the child goes on"


@pytest.mark.fault("F86")
@pytest.mark.parametrize(
    ("what", "words"),
    [("odd", "odd"), ("mute", "raised ValueError"), ("nasty", "first\\x1b[2J\\udcff\nsecond")],
)
async def test_exception_that_cannot_be_sent_is_sent_as_text(bench: Bench, what: str, words: str) -> None:
    child = await bench.child()
    found = failure((await bench.run(child, Raises(what=what))).failure)
    assert found.kind == "compute"
    assert words in found.message
    assert len(found.message.encode()) <= 8192 + 64
    assert len(found.traceback.encode()) <= 32768 + 64
    assert "\n" not in found.line()


@pytest.mark.parametrize(
    ("what", "kind", "retryable"),
    [
        ("MemoryError", "oom", None),
        ("TypeError", "compute", False),
        ("full", "infrastructure", None),
        ("missing", "protocol", None),
        ("declared", "inputs", None),
    ],
)
async def test_kinds(bench: Bench, what: str, kind: str, retryable: bool | None) -> None:
    found = failure((await bench.run(await bench.child(), Raises(what=what))).failure)
    assert (found.kind, found.retryable, found.run_wide) == (kind, retryable, False)


async def test_groups_and_deep_recursion(bench: Bench) -> None:
    child = await bench.child()
    assert failure((await bench.run(child, Group())).failure).kind == "oom"
    found = failure((await bench.run(child, Recursion())).failure)
    assert (found.kind, found.error_type) == ("compute", "RecursionError")
    assert len(found.traceback) < 33000


@pytest.mark.fault("F10")
@pytest.mark.fault("F12")
@pytest.mark.parametrize(
    ("how", "words", "tail"),
    [
        (
            "segfault",
            "SIGSEGV in the middle of a task (segmentation fault",
            "Fatal Python error: Segmentation fault",
        ),
        ("exit", "exited with code 0 in the middle of a task", "last words"),
        ("kill", "SIGKILL in the middle of a task", "last words"),
    ],
)
async def test_death_harms_only_the_running_task(bench: Bench, how: str, words: str, tail: str) -> None:
    victim, sibling = await asyncio.gather(bench.child(), bench.child())
    task = bench.task(victim, Dies(how=how))
    later = bench.task(victim, Number(n=1))
    victim.give(task, later)
    gone = await bench.gone(victim)
    assert gone.running == task
    assert gone.not_begun == (later,)
    assert not gone.expected
    assert gone.kind == "killed"
    assert words in gone.text
    assert tail in gone.log_tail
    assert "last words" in (Path(task.directory) / "stdout").read_text()
    assert gone.failure().log_path == task.directory
    assert not lives(victim.pid)
    assert (await bench.run(sibling, Number(n=2))).ok


@pytest.mark.fault("F90")
async def test_closed_descriptors_end_the_child_alone(bench: Bench) -> None:
    child = await bench.child()
    task = bench.task(child, Dies(how="close"))
    later = bench.task(child, Number(n=1))
    child.give(task, later)
    gone = await bench.gone(child)
    assert "closed its control channel" in gone.text
    assert (gone.running, gone.not_begun) == (task, (later,))
    assert "last words" in gone.log_tail


@pytest.mark.fault("F90")
async def test_process_is_put_in_order_between_attempts(bench: Bench, tmp_path: Path) -> None:
    from furu_async._store import results

    child = await bench.child()
    found = []
    for number, change in enumerate([False, True, False, False]):
        task = bench.give(child, Messy(change=change, scratch=tmp_path, n=number))
        result = await bench.result(task)
        assert result.ok, result.failure
        found.append(results.load(task.directory, result.result, result.value))
    assert found[0] == found[2] == found[3]
    assert (await bench.run(child, Number(n=1))).ok
    task = bench.give(child, Slow(release=tmp_path / "never", text="x"))
    await bench.printed()
    child.warn()
    assert (await bench.result(task)).ok, "SIGTERM is heard again"


@pytest.mark.fault("F89")
@pytest.mark.parametrize(("daemon", "bare"), [(False, False), (True, False), (True, True)])
async def test_processes_left_behind_are_found_and_ended(
    bench: Bench, tmp_path: Path, daemon: bool, bare: bool
) -> None:
    child = await bench.child()
    task = bench.task(child, LeavesProcess(daemon=daemon, bare=bare, pid_file=tmp_path / "pid"))
    later = bench.task(child, Number(n=1))
    child.give(task, later)
    result = await bench.result(task)
    left = int((tmp_path / "pid").read_text())
    assert result.ok
    assert result.dirty
    assert f"pid {left}" in result.why_dirty
    assert lives(left)
    assert child.take_back() == [later], "a dirty child takes nothing more"
    await child.aclose()
    await bench.until(lambda: not lives(left))


@pytest.mark.fault("F89")
async def test_daemon_of_a_killed_attempt_is_ended(bench: Bench, tmp_path: Path) -> None:
    child = await bench.child()
    bench.give(child, LeavesProcess(daemon=True, stay=True, pid_file=tmp_path / "pid"))
    left = int(await bench.until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    os.kill(child.pid, signal.SIGKILL)
    gone = await bench.gone(child)
    assert gone.returncode == -9
    assert gone.escaped == (left,)
    await bench.until(lambda: not lives(left))


async def test_process_that_ended_in_time_is_not_held_against_it(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mod_ended.py").write_text(
        "import subprocess\nfrom furu_async import Furu\n"
        "class Ended(Furu[int]):\n    def _create(self):\n"
        "        p = subprocess.Popen(['true'])\n"
        "        import os; os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT)\n        return 1\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        from mod_ended import Ended

        child = await bench.child()
        result = await bench.run(child, Ended())
    finally:
        sys.path.remove(str(tmp_path))
    assert result.ok
    assert not result.dirty


@pytest.mark.parametrize("how", ["raises", "returns"])
async def test_a_fork_that_returns_from_create_reports_nothing(bench: Bench, how: str) -> None:
    from furu_async._runner.messages import TaskResult
    from furu_async._store import results

    child = await bench.child()
    task = bench.give(child, Forks(how=how))
    result = await bench.result(task)
    assert result.ok, result.failure
    assert results.load(task.directory, result.result, result.value) == 1
    assert (await bench.run(child, Number(n=1))).ok
    assert sum(isinstance(message, TaskResult) for message in bench.messages) == 2


@pytest.mark.fault("F95")
async def test_modules_taken_away_make_the_child_unfit(bench: Bench, tmp_path: Path) -> None:
    """What is imported again has other classes than what is there, and may not work at all."""
    (tmp_path / "mod_clears.py").write_text(
        "import sys\nfrom furu_async import Furu\n"
        "class Clears(Furu[int]):\n    def _create(self):\n        sys.modules.clear()\n        return 1\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        from mod_clears import Clears

        child = await bench.child()
        result = await bench.run(child, Clears())
    finally:
        sys.path.remove(str(tmp_path))
    assert result.ok
    assert result.dirty
    assert "removed from sys.modules" in result.why_dirty


@pytest.mark.fault("F95")
async def test_thread_left_behind_makes_the_child_unfit(bench: Bench) -> None:
    child = await bench.child()
    result = await bench.run(child, LeavesThread())
    assert result.dirty
    assert "stubborn" in result.why_dirty
    await child.aclose()
    assert not lives(child.pid)


@pytest.mark.fault("F93")
@pytest.mark.fault("F16")
async def test_attempt_that_ignores_everything_is_killed_after_the_grace_period(
    bench: Bench, tmp_path: Path
) -> None:
    child = await bench.child()
    task = bench.give(child, Stubborn(ready=tmp_path / "ready"))
    await bench.until(lambda: (tmp_path / "ready").exists())
    loop = asyncio.get_running_loop()
    began = loop.time()
    await child.kill(0.3)
    assert 0.3 <= loop.time() - began < 10
    gone = await bench.gone(child)
    assert (gone.expected, gone.returncode, gone.running) == (True, -9, task)


async def test_kill_gives_a_willing_attempt_its_time(bench: Bench, tmp_path: Path) -> None:
    child = await bench.child()
    task = bench.give(child, Slow(release=tmp_path / "never", text="x"))
    await bench.printed()
    await child.kill(30)
    assert (await bench.result(task)).ok
    assert (await bench.gone(child)).running is None


_PARENT = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from runner_artifacts import HoldsGil, LeavesProcess, Number
from runner_bench import Bench

async def main():
    root = Path(sys.argv[2])
    bench = Bench(root)
    busy, idle = await asyncio.gather(bench.child(), bench.child())
    bench.give(busy, HoldsGil(ready=root / "ready"))
    (root / "idle.tmp").write_text(str(idle.pid))
    (root / "idle.tmp").rename(root / "idle")
    if sys.argv[3] == "fork" and os.fork() == 0:
        import time
        time.sleep(60)
        os._exit(0)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.fault("F103")
@pytest.mark.parametrize("fork", ["plain", "fork"])
async def test_children_end_with_their_parent_even_while_holding_the_gil(
    bench: Bench, tmp_path: Path, fork: str
) -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _PARENT, here, str(tmp_path), fork], start_new_session=True
    )
    try:
        for name in ("ready", "idle"):
            await bench.until(lambda name=name: (tmp_path / name).exists() and (tmp_path / name).read_text())
        pids = [int((tmp_path / name).read_text()) for name in ("ready", "idle")]
        assert all(map(lives, pids))
        parent.kill()
        parent.wait()
        await bench.until(lambda: not any(map(lives, pids)), patience=5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        for name in (tmp_path / "spools").glob("*"):
            name.unlink()


@pytest.mark.fault("F79")
async def test_other_code_in_the_child_is_a_protocol_failure_of_the_run(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "mod_skew.py"
    body = PLAIN.format("Skewed").replace("]", "], version={!r}")
    source.write_text(body.format("1"))
    sys.path.insert(0, str(tmp_path))
    try:
        from mod_skew import Skewed

        obj = Skewed()
        assert obj.furu_hash
        source.write_text(body.format("2, newer"))
        child = await bench.child()
        found = failure((await bench.run(child, obj)).failure)
        assert (found.kind, found.run_wide) == ("protocol", True)
        assert "'1'" in found.message
        assert "'2, newer'" in found.message
        assert (await bench.run(child, Number(n=1))).ok
    finally:
        sys.path.remove(str(tmp_path))


@pytest.mark.fault("F79")
async def test_module_that_cannot_be_imported_is_named(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "mod_broken.py"
    source.write_text(PLAIN.format("Broken"))
    sys.path.insert(0, str(tmp_path))
    try:
        from mod_broken import Broken

        obj = Broken()
        assert obj.furu_hash
        for text, words in (
            ("import nothing_of_that_name\n", "nothing_of_that_name"),
            ("raise SystemExit(4)\n", "4"),
        ):
            source.write_text(text)
            child = await bench.child()
            found = failure((await bench.run(child, obj)).failure)
            assert (found.kind, found.run_wide) == ("protocol", True)
            assert "mod_broken" in found.message + found.traceback
            assert words in found.message
    finally:
        sys.path.remove(str(tmp_path))


async def test_missing_main_guard_is_named(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "mod_guard.py"
    source.write_text(PLAIN.format("Guarded"))
    sys.path.insert(0, str(tmp_path))
    try:
        from mod_guard import Guarded

        obj = Guarded()
        assert obj.furu_hash
        with source.open("a") as file:
            file.write(
                "from furu_async._model import context\n"
                "context.refuse_while_importing('run_dag()')  # what run_dag does first\n"
            )
        found = failure((await bench.run(await bench.child(), obj)).failure)
        assert (found.kind, found.run_wide) == ("protocol", True)
        assert 'if __name__ == "__main__"' in found.message
    finally:
        sys.path.remove(str(tmp_path))


async def test_child_that_cannot_start_says_why(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.stderr.write('broken site\\n'); import os; os._exit(3)\n"
    )
    with pytest.raises(FuruExecutorError, match=r"exited with code 3[\s\S]*broken site"):
        await bench.child(env={"PYTHONPATH": str(tmp_path)})


@pytest.mark.fault("F104")
async def test_no_descriptors_left_is_an_error_that_says_so(bench: Bench) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, hard))
    try:
        with pytest.raises(FuruExecutorError, match="ulimit -n"):
            await bench.child()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) <= used + 2
    assert (await bench.run(await bench.child(), Number(n=1))).ok


@pytest.mark.fault("F105")
async def test_no_processes_left_is_an_error_that_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(FuruExecutorError, match="ulimit -u"):
        await bench.child()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_cancelled_start_leaves_no_process(bench: Bench, tmp_path: Path) -> None:
    from furu_async._runtime.blocking import DOOR

    for turns in (1, 2, 5, 20):
        start = asyncio.ensure_future(bench.child(env={"FURU_TEST_MARK": str(tmp_path)}))
        for _ in range(turns):
            await asyncio.sleep(0)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    await bench.until(lambda: DOOR.process.pending == 0)
    mark = f"FURU_TEST_MARK={tmp_path}".encode()

    def found() -> bool:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if lives(int(pid)) and mark in Path(f"/proc/{pid}/environ").read_bytes():
                    return True
            except OSError:
                continue
        return False

    await bench.until(lambda: not found())
    await bench.until(lambda: not list((tmp_path / "spools").glob("*")))


async def test_uvloop(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        bench = Bench(tmp_path)
        child = await bench.child()
        tasks = [bench.task(child, Number(n=n)) for n in range(600)]
        child.give(*tasks)
        assert (await bench.result(tasks[-1])).ok
        bench.give(child, Dies(how="segfault"))
        assert "SIGSEGV" in (await bench.gone(child)).text

    def whole() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    await asyncio.get_running_loop().run_in_executor(None, whole)


def test_wid_is_checked() -> None:
    async def main() -> None:
        await Child.start(wid="../x", spool_dir="/tmp", on_message=lambda _: None)

    with pytest.raises(FuruExecutorError, match="name"):
        asyncio.run(main())
