"""What a run on real processes makes of nodes that work, fail, crash, hang or lie."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from local_artifacts import (
    ANum,
    ASleeps,
    Chain,
    Counted,
    Extra,
    Fails,
    Files,
    Flaky,
    Inline,
    Judged,
    Leaves,
    Limited,
    Misnamed,
    Needs,
    Num,
    Raises,
    Segfaults,
    Sleeps,
    Stoppable,
    Sum,
    Threaded,
    Undeclared,
)

from furu_async import Furu, Local, RunEvent, RunReport, run_dag
from furu_async.errors import FuruDefinitionError, FuruMissingArtifact, FuruRunFailed, FuruRunTimeout

pytestmark = pytest.mark.usefixtures("furu_tmp_root")
TWO = Local(workers=2)


async def run(*targets: Furu[Any], **options: Any) -> RunReport:
    """A run that gives its report whatever happens."""
    return await run_dag(targets, **{"executor": TWO, "check": False, "progress": False, **options})


async def test_a_dag_is_computed_once_and_loaded_ever_after(tmp_path: Path) -> None:
    top = Sum(parts=(Num(n=1), ANum(n=2), Counted(path=str(tmp_path / "calls"))))
    first = await run(top)
    assert first.ok
    assert first.counts == {"created": 4, "cached": 0, "failed": 0, "skipped": 0, "cancelled": 0}
    assert await first.load(top) == 4
    second = await run(top)
    assert second.counts["cached"] == 1
    assert len(second.nodes) == 1, "what lies below a cached node is not looked at"
    assert await top.aget() == 4
    assert (tmp_path / "calls").read_text() == "x"


async def test_files_stay_where_create_wrote_them() -> None:
    obj = Files(text="hello")
    report = await run(obj)
    assert report.ok
    assert await obj.aget() == "hello"
    assert (obj.furu_dir / "out.txt").read_text() == "hello"
    assert str(obj.furu_dir) == report[obj].directory


@pytest.mark.fault("F94")
@pytest.mark.parametrize(
    ("retries", "times", "status"), [(0, 1, "failed"), (1, 1, "created"), (3, 3, "created"), (3, 4, "failed")]
)
async def test_attempts_are_one_plus_retries(retries: int, times: int, status: str, tmp_path: Path) -> None:
    obj = Flaky(path=str(tmp_path / "calls"), times=times)
    events: list[RunEvent] = []
    report = await run(obj, retries=retries, on_event=events.append)
    assert report[obj].status == status
    assert report[obj].attempts == min(times, retries) + 1
    assert len(report[obj].history) == report[obj].attempts - 1
    assert len([e for e in events if e.kind == "node_retry"]) == report[obj].attempts - 1
    assert len((tmp_path / "calls").read_text()) == report[obj].attempts


async def test_what_a_retry_cannot_cure_is_not_retried(tmp_path: Path) -> None:
    obj = Misnamed(path=str(tmp_path / "calls"))
    report = await run(obj)
    assert report[obj].attempts == 1


@pytest.mark.fault("F94")
async def test_a_stored_failure_is_tried_again_or_refused(tmp_path: Path) -> None:
    obj, other = Flaky(path=str(tmp_path / "calls"), times=1), Counted(path=str(tmp_path / "other"))
    await run(obj, retries=0)
    with pytest.raises(Exception, match="flaky") as caught:
        await run_dag([obj, other], executor=TWO, retry_failed=False, progress=False)
    assert "Flaky" in str(caught.value)
    assert not (tmp_path / "other").exists(), "nothing may start before the refusal"
    assert (await run(obj, other)).ok


async def test_continue_runs_everything_that_does_not_depend_on_the_failure() -> None:
    bad, good = Fails(n=1), Num(n=5)
    above = Sum(parts=(bad, good))
    top = Sum(parts=(above,))
    with pytest.raises(FuruRunFailed) as caught:
        await run_dag([top, good, Num(n=6)], executor=TWO, progress=False)
    report = caught.value.report
    assert report is not None
    assert report.counts == {"created": 2, "cached": 0, "failed": 1, "skipped": 2, "cancelled": 0}
    assert report[top].because == "dependency"
    assert report[top].root == bad.furu_hash
    text = str(caught.value)
    assert "cannot do 1" in text
    assert "working on 1" in text, "the last line of the log belongs into the message"
    assert [node.hash for node in caught.value.failures] == [bad.furu_hash]


async def test_drain_starts_nothing_new_and_lets_run_what_runs() -> None:
    events: list[RunEvent] = []
    report = await run(
        *(Fails(n=1), Sleeps(n=1, secs=0.5), *(Num(n=k) for k in range(50))),
        on_failure="drain",
        executor=TWO,
        on_event=events.append,
    )
    began = {event.hash for event in events if event.kind == "node_started"}
    assert {node.status for node in report if node.hash in began} <= {"created", "failed"}
    assert all(node.hash in began for node in report if node.status == "created")
    assert report.counts["skipped"] > 20
    assert {node.because for node in report if node.status == "skipped"} == {"drain"}


async def test_cancel_ends_what_runs_too() -> None:
    begin = time.monotonic()
    report = await run(ASleeps(n=1), Fails(n=1), on_failure="cancel")
    assert time.monotonic() - begin < 20
    assert report[Fails(n=1)].status == "failed"
    assert report[ASleeps(n=1)].status in ("cancelled", "skipped")


async def test_max_failures_drains() -> None:
    report = await run(*(Fails(n=k) for k in range(40)), max_failures=2, executor=Local(workers=1))
    assert 2 <= report.counts["failed"] < 40
    assert report.counts["skipped"] == 40 - report.counts["failed"]


@pytest.mark.fault("F16")
async def test_a_time_limit_ends_the_attempt_and_is_not_tried_again() -> None:
    report = await run(Limited(n=1), Num(n=1))
    failure = report[Limited(n=1)].failure
    assert failure is not None
    assert failure.kind == "timeout"
    assert "_time_limit" in failure.message
    assert report[Limited(n=1)].attempts == 1
    assert report[Num(n=1)].status == "created"


@pytest.mark.fault("F10", "F12")
async def test_a_segfault_harms_only_its_node() -> None:
    report = await run(Segfaults(n=1), *(Num(n=k) for k in range(20)))
    failure = report[Segfaults(n=1)].failure
    assert failure is not None
    assert failure.kind == "killed"
    assert "SIGSEGV" in failure.message
    assert report[Segfaults(n=1)].attempts == 4
    assert report.counts["created"] == 20
    assert all(node.attempts == 1 for node in report if node.status == "created")


@pytest.mark.fault("F10")
@pytest.mark.parametrize("code", [0, 7])
async def test_leaving_the_process_is_no_success(code: int) -> None:
    report = await run(Leaves(code=code), Num(n=1), retries=0)
    assert report[Leaves(code=code)].status == "failed"
    assert report[Num(n=1)].status == "created"


@pytest.mark.fault("F85")
@pytest.mark.parametrize("what", ["SystemExit", "KeyboardInterrupt", "CancelledError", "ExceptionGroup"])
@pytest.mark.parametrize("mode", ["process", "thread", "inline"])
async def test_whatever_create_raises_is_a_compute_failure(what: str, mode: Any) -> None:
    report = await run(Raises(what=what), Num(n=1), executor=Local(workers=1, mode=mode))
    failure = report[Raises(what=what)].failure
    assert failure is not None
    assert failure.kind == "compute"
    assert what in failure.error_type
    assert report[Num(n=1)].status == "created"


@pytest.mark.fault("F92")
async def test_an_undeclared_dependency_is_named() -> None:
    report = await run(Undeclared(n=41))
    failure = report[Undeclared(n=41)].failure
    assert failure is not None
    assert failure.kind == "protocol"
    assert "Num(n=41)" in failure.message
    assert "Undeclared" in failure.message
    assert report[Undeclared(n=41)].attempts == 1


async def test_a_dependency_method_is_a_dependency() -> None:
    report = await run(Extra(n=3))
    assert report.counts["created"] == 2
    assert await Extra(n=3).aget() == 4


@pytest.mark.fault("F87")
@pytest.mark.parametrize(
    ("verdict", "status"), [("yes", "cached"), ("no", "failed"), ("invalid", "failed"), ("raise", "failed")]
)
async def test_a_stored_result_that_is_not_valid_is_computed_again(
    verdict: str, status: str, tmp_path: Path
) -> None:
    file = tmp_path / "verdict"
    file.write_text("yes")
    obj = Judged(verdict=str(file))
    assert (await run(obj)).ok
    file.write_text(verdict)
    report = await run(obj, retries=0)
    assert report[obj].status == status, "computed again, and still not valid: an error, no endless loop"
    if status == "failed":
        file.write_text("yes")
        assert (await run(obj))[obj].status == "created"
    if verdict == "raise":
        assert any("ZeroDivisionError" in note for note in report.notes)


@pytest.mark.fault("F29")
async def test_a_result_with_a_missing_file_is_found_when_it_is_loaded_and_made_again() -> None:
    obj = Files(text="x")
    await run(obj)
    (obj.furu_dir / "out.txt").unlink()
    with pytest.raises(FuruMissingArtifact, match=r"out\.txt"):
        await obj.aload()
    assert await obj.aexists() is False
    assert await obj.aget() == "x"


@pytest.mark.fault("F29", "F76")
async def test_a_dependency_with_a_missing_file_is_made_again_when_it_is_used() -> None:
    low = Files(text="low")
    await run(low)
    (low.furu_dir / "out.txt").unlink()
    top = Reader(source=low)
    report = await run(top)
    assert report.ok, report[top]
    assert report[low].status == "created"


async def test_timeout_of_a_run() -> None:
    begin = time.monotonic()
    with pytest.raises(FuruRunTimeout) as caught:
        await run_dag([ASleeps(n=1), Num(n=1)], executor=TWO, timeout=1.5, progress=False)
    assert isinstance(caught.value, TimeoutError)
    assert time.monotonic() - begin < 15
    assert caught.value.report is not None
    assert caught.value.report[Num(n=1)].status == "created"
    assert caught.value.report[ASleeps(n=1)].status == "cancelled"


async def test_cancelling_the_awaiter_ends_the_work(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    task = asyncio.create_task(run_dag([Stoppable(path=str(flag))], executor=TWO, progress=False))
    async with asyncio.timeout(20):
        while not flag.exists():
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert flag.read_text() == "stopped"


@pytest.mark.fault("F93")
async def test_cancelling_ends_sync_work_that_does_not_listen(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    obj = Sleeps(n=1, path=str(flag))
    task = asyncio.create_task(run_dag([obj], executor=TWO, progress=False))
    async with asyncio.timeout(20):
        while not flag.exists():
            await asyncio.sleep(0.01)
    begin = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - begin < 20
    assert obj.get_state()["status"] == "failed"
    assert obj.get_state()["failure"]["kind"] == "cancelled"


async def test_rerun_once_per_run(tmp_path: Path) -> None:
    obj = Counted(path=str(tmp_path / "calls"))
    await run(obj)
    report = await run(obj, rerun=["local_artifacts.Counted"])
    assert report.counts["created"] == 1
    assert await obj.aget() == 2
    top = Sum(parts=(obj, Num(n=1)))
    report = await run(top, rerun=["ALL"])
    assert report.counts["created"] == 3
    assert (await run(top)).counts["cached"] == 1


@pytest.mark.parametrize("mode", ["thread", "inline"])
async def test_light_modes(mode: Any) -> None:
    top = Sum(parts=(Num(n=1), ANum(n=2)))
    report = await run(top, Sleeps(n=1, secs=0.05), executor=Local(workers=2, mode=mode))
    assert report.counts["created"] == 4
    assert await top.aget() == 3


async def test_a_class_chooses_its_own_mode() -> None:
    import os

    report = await run(Threaded(n=1), Inline(n=1), Num(n=1))
    assert report.ok
    assert await Threaded(n=1).aget() == os.getpid()
    assert await Inline(n=1).aget() == os.getpid()


async def test_a_thread_over_its_limit_fails_and_is_left_behind() -> None:
    report = await run(ASleeps(n=1, secs=0.01), LimitedAsync(n=1), executor=Local(workers=2, mode="inline"))
    assert report[LimitedAsync(n=1)].failure is not None
    assert report[LimitedAsync(n=1)].failure.kind == "timeout"  # type: ignore[union-attr]


async def test_resources_are_held(tmp_path: Path) -> None:
    log = tmp_path / "log"
    nodes = [Needs(n=k, cpus=2, path=str(log)) for k in range(4)]
    report = await run(*nodes, executor=Local(workers=4, cpus=4))
    assert report.ok
    running = most = 0
    for sign in log.read_text():
        running += 1 if sign == "+" else -1
        most = max(most, running)
    assert most <= 2


async def test_each_child_sees_its_own_gpus() -> None:
    report = await run(*(Needs(n=k, gpus=1) for k in range(4)), executor=Local(workers=2, gpus=2))
    assert report.ok
    seen = {await Needs(n=k, gpus=1).aget() for k in range(4)}
    assert seen <= {"0", "1"}


async def test_a_node_that_can_never_fit_is_refused_before_anything_runs(tmp_path: Path) -> None:
    fits = Needs(n=1, path=str(tmp_path / "calls"))
    with pytest.raises(FuruDefinitionError, match="9 cpus"):
        await run(fits, Needs(n=1, cpus=9), executor=Local(workers=1, cpus=2))
    assert not (tmp_path / "calls").exists()


async def test_a_deep_chain_and_a_diamond_run() -> None:
    last: Chain | None = None
    for k in range(300):
        last = Chain(n=k, before=last)
    assert last is not None
    assert (await run(last)).counts["created"] == 300
    layer: tuple[Furu[int], ...] = (Num(n=1), Num(n=2))
    for _ in range(60):
        layer = (Pair(n=0, parts=layer), Pair(n=1, parts=layer))
    report = await run(*layer)
    assert report.counts["created"] == 122


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"workers": True},
        {"mode": "fork"},
        {"mem_gb": float("nan")},
        {"cpus": -1},
        {"max_inline": 0},
    ],
)
def test_nonsense_in_local_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FuruDefinitionError, match=next(iter(wrong))):
        Local(**wrong)


@pytest.mark.fault("F83")
@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": float("nan")},
        {"timeout": -1},
        {"on_failure": "stop"},
        {"max_failures": 0},
        {"retries": -1},
        {"on_cancel": "detach"},
        {"executor": 3},
    ],
)
async def test_nonsense_in_run_dag_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FuruDefinitionError, match=next(iter(wrong))):
        await run(Num(n=1), **wrong)


@pytest.mark.parametrize("targets", [3, [3], [Num], "abc"])
async def test_targets_must_be_artifacts(targets: Any) -> None:
    with pytest.raises(FuruDefinitionError, match="targets"):
        await run_dag(targets, progress=False)


async def test_no_targets_is_an_empty_report() -> None:
    report = await run_dag([], progress=False)
    assert report.ok
    assert report.counts["created"] == 0


class Reader(Furu[str]):
    """Reads its source's text."""

    source: Files

    def _create(self) -> str:
        return self.source.get()


class Pair(Furu[int]):
    """A node of a diamond."""

    n: int
    parts: tuple[Furu[int], ...]

    def _create(self) -> int:
        return self.n


class LimitedAsync(Furu[int]):
    """Over its limit, in the caller's loop."""

    n: int
    _time_limit = 0.2

    async def _create(self) -> int:
        await asyncio.sleep(60)
        return 1


class Tidies(Furu[int]):
    """Cleans up when it is cancelled, which takes a moment."""

    path: str

    async def _create(self) -> int:
        Path(self.path).write_text("begun")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.3)
            Path(self.path).write_text("tidy")
        return 1


@pytest.mark.parametrize("mode", ["process", "inline"])
async def test_a_cancelled_create_may_clean_up_before_its_claim_ends(mode: Any, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    task = asyncio.create_task(
        run_dag(Tidies(path=str(flag)), executor=Local(workers=1, mode=mode), progress=False)
    )
    async with asyncio.timeout(20):
        while not flag.exists():
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert flag.read_text() == "tidy"
