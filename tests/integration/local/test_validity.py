"""``_validate`` is user code: it runs off the loop, in a child, with a limit, and all it does ends in a verdict."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from local_artifacts import Files, Num, Sum

from furu_async import Furu, Local, RunEvent, run_dag
from furu_async._runtime.config import active_config
from furu_async.errors import FuruRunFailed
from furu_async.testing import override_results

pytestmark = pytest.mark.usefixtures("furu_tmp_root")
ONE = Local(workers=1)


class Checked(Furu[int]):
    """What ``_validate`` does is in a file."""

    script: str
    log: str

    def _create(self) -> int:
        return 1

    def _validate(self) -> bool:
        with open(self.log, "a") as log:
            log.write(f"{os.getpid()}\n")
        todo = Path(self.script).read_text()
        if todo == "crash":
            os._exit(9)
        if todo == "hang":
            time.sleep(60)
        if todo == "unreadable":
            raise PermissionError(13, "not for you", "/somewhere")
        return True


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    (tmp_path / "script").write_text("")
    return Checked(script=str(tmp_path / "script"), log=str(tmp_path / "log"))


async def test_it_runs_in_a_child_and_never_here(checked: Checked) -> None:
    await run_dag(checked, executor=ONE, progress=False)
    report = await run_dag(checked, executor=ONE, progress=False)
    assert report[checked].status == "cached"
    pids = {int(line) for line in Path(checked.log).read_text().split()}
    assert os.getpid() not in pids


@pytest.mark.fault("F87")
async def test_one_that_kills_its_process_twice_counts_as_not_there(checked: Checked) -> None:
    await run_dag(checked, executor=ONE, progress=False)
    Path(checked.script).write_text("crash")
    report = await run_dag([checked, Num(n=1)], executor=ONE, progress=False, retries=0, check=False)
    assert report[checked].status == "failed"
    assert report[Num(n=1)].status == "created"
    assert any("ended its process" in note for note in report.notes)
    Path(checked.script).write_text("")
    assert (await run_dag(checked, executor=ONE, progress=False))[checked].status == "created"


@pytest.mark.fault("F87", "F19")
@pytest.mark.parametrize("todo", ["hang", "unreadable"])
async def test_no_answer_is_waited_out_and_never_computed_again(
    todo: str, checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_dag(checked, executor=ONE, progress=False)
    Path(checked.script).write_text(todo)
    monkeypatch.setattr("furu_async._executors.checks.VALIDATE_SECS", 0.3)
    events: list[RunEvent] = []
    config = replace(active_config(), infra_secs=1.0)
    with pytest.raises(FuruRunFailed, match="infrastructure") as caught:
        await run_dag(checked, executor=ONE, progress=False, config=config, on_event=events.append)
    assert caught.value.report is not None
    assert caught.value.report[checked].attempts == 0
    assert [event for event in events if event.kind == "node_retry"], "the reason of the wait is told"
    assert checked.get_state()["status"] == "published"


@pytest.mark.fault("F87")
async def test_exists_quiet_never_raises_and_exists_does(checked: Checked) -> None:
    await run_dag(checked, executor=ONE, progress=False)
    Path(checked.script).write_text("unreadable")
    assert checked._exists_quiet() is False
    assert await checked._aexists_quiet() is False
    with pytest.raises(PermissionError):
        checked.exists()
    with pytest.raises(PermissionError):
        await checked.aexists()


async def test_overridden_results_count_as_there_and_reach_create() -> None:
    low = Num(n=5)
    top = Sum(parts=(low, Files(text="7")))  # type: ignore[arg-type]
    with override_results({low: 50, Files(text="7"): 7}):
        assert await low.aget() == 50
        report = await run_dag(top, executor=ONE, progress=False)
        assert report[low].status == "cached"
        assert await top.aget() == 57
    assert not await low.aexists()
