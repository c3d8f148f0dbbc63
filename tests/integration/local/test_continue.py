"""The same call goes on with the run of a controller that was killed, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from local_artifacts import Counted, Num, lives
from test_takeover import Contender, HeldFiles, Start, kill, until
from test_takeover import held as held
from test_takeover import start as start

from furu_async import Local, run_dag
from furu_async._executors.implicit import close_implicit

ROUNDS = 2 if float(os.environ.get("FURU_TEST_SCALE", "1")) <= 1 else 10


@pytest.fixture
def runs(furu_tmp_root: Path) -> Path:
    """The folder of all runs."""
    return furu_tmp_root / "runs"


def names(runs: Path) -> list[str]:
    """The runs there are."""
    return sorted(entry.name for entry in runs.iterdir() if entry.name != ".unfinished")


def entries(runs: Path) -> list[str]:
    """What the index of unfinished runs names."""
    return [name for _, _, found in os.walk(runs / ".unfinished") for name in found]


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_bytes().splitlines()]


def begun(run: Path, name: str) -> list[dict[str, Any]]:
    """The attempts of a class that the journal says have begun."""
    if not (run / "journal.jsonl").exists():
        return []
    lines = (run / "journal.jsonl").read_bytes().split(b"\n")[:-1]
    events = [json.loads(line) for line in lines]
    return [e for e in events if e["kind"] == "node_started" and e["name"].endswith(name)]


class Life:
    """One life of a controller that makes a sum of one that is done quickly and one that is held."""

    def __init__(self, start: Start, held: HeldFiles, folder: Path, **wanted: Any) -> None:
        self.calls = folder / "calls"
        self.text = f"Sum(parts=(Counted(path={str(self.calls)!r}), {held.text}))"
        self.contender: Contender = start(self.text, workers=2, **wanted)


def finish(contender: Contender) -> dict[str, Any]:
    (report,) = contender.finish()
    return report


def _kill_in_the_middle(life: Life, held: HeldFiles, runs: Path, times: int, keeper: bool) -> Path:
    """Kill it when the quick one is done and the journal says that the held one has begun; the run's folder."""
    until(lambda: life.calls.exists())
    child = held.begun(times)
    (name,) = names(runs)
    until(lambda: len(begun(runs / name, "Held")) == times)
    until(lambda: times > 1 or any(e["kind"] == "node_done" for e in journal(runs / name)))
    doomed = life.contender.keeper()
    kill(*([doomed] if keeper else []), life.contender.pid)
    life.contender.process.wait(10)
    if not keeper:
        until(lambda: not lives(doomed) and not lives(child))
    return runs / name


@pytest.mark.fault("F07", "F32", "F94")
@pytest.mark.parametrize("keeper", [False, True], ids=["alone", "with its keeper"])
def test_the_same_call_goes_on_with_the_run_of_a_killed_controller(
    keeper: bool, held: HeldFiles, start: Start, runs: Path, tmp_path: Path
) -> None:
    first = Life(start, held, tmp_path)
    run = _kill_in_the_middle(first, held, runs, 1, keeper)
    record = (run / "run.json").read_bytes()
    assert entries(runs) == [run.name]
    held.hold.unlink()
    second = Life(start, held, tmp_path)
    report = finish(second.contender)
    assert report["run_id"] == run.name
    assert report["ok"]
    assert report["counts"] == {"created": 2, "cached": 1, "failed": 0, "skipped": 0, "cancelled": 0}
    assert (first.calls.read_text(), held.signs("!")) == ("x", []), "what is published is not computed again"
    (note,) = [note for note in report["notes"] if "whose controller is gone" in note]
    started = [e for e in journal(run) if e["kind"] == "run_started"]
    assert len(started) == 2, "the journal goes on"
    assert note in started[1]["message"]
    assert (run / "run.json").read_bytes() == record
    assert [e["attempt"] for e in begun(run, "Held")] == [1, 2]
    assert any(line.startswith("lost") for line in report["history"])
    assert sorted(os.listdir(run)) == ["claims", "ends", "journal.jsonl", "run.json"]
    assert sorted(os.listdir(run / "ends")) == ["1", "2"]
    assert (names(runs), entries(runs)) == ([run.name], [])


@pytest.mark.fault("F07", "F94")
def test_a_run_is_gone_on_with_again_and_again(
    held: HeldFiles, start: Start, runs: Path, tmp_path: Path
) -> None:
    for times in (1, 2, 3):
        run = _kill_in_the_middle(Life(start, held, tmp_path), held, runs, times, times == 2)
    held.hold.unlink()
    report = finish(Life(start, held, tmp_path).contender)
    assert (report["ok"], report["run_id"]) == (True, run.name)
    assert [e["attempt"] for e in begun(run, "Held")] == [1, 2, 3, 4]
    assert [line.partition(":")[0] for line in report["history"]] == ["lost"] * 3
    assert sorted(os.listdir(run / "claims")) == ["1", "2", "3", "4"]
    assert finish(Life(start, held, tmp_path).contender)["run_id"] != run.name, "a finished run is finished"


@pytest.mark.fault("F94")
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_failures_of_both_lives_are_one_budget(
    retries: int, held: HeldFiles, start: Start, runs: Path, tmp_path: Path
) -> None:
    calls = tmp_path / "stubborn"
    make = [held.text, f"Stubborn(path={str(calls)!r})"]
    options = {"retries": retries}
    first = start(*make, workers=2, options=options, env={"STUBBORN_BACKOFF": "100"})
    held.begun()
    until(lambda: first.saw("node_done" if retries == 0 else "node_retry"))
    (name,) = names(runs)
    kill(first.pid)
    first.process.wait(10)
    held.hold.unlink()
    second = start(*reversed(make), workers=2, options=options)
    report = finish(second)
    assert report["run_id"] == name
    assert report["counts"]["failed"] == 1
    assert calls.read_text() == "x" * (1 + retries)
    assert report["failures"] == [f"compute: RuntimeError: no ({1 + retries})"], (
        "also where it was not tried again"
    )
    assert sum(line.startswith("compute") for line in report["history"]) == retries
    third = finish(start(*make, workers=2, options=options))
    assert third["run_id"] != name, "a run that failed has ended"
    assert calls.read_text() == "x" * 2 * (1 + retries), "a new run tries it afresh"


def test_a_node_is_computed_again_once_in_both_lives(
    held: HeldFiles, start: Start, runs: Path, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    asyncio.run(run_dag(Counted(path=str(calls)), executor=Local(mode="thread"), progress=False))
    (before,) = names(runs)
    make = (f"Counted(path={str(calls)!r})", held.text)
    rerun = {"options": {"rerun": ["local_artifacts.Counted"]}, "workers": 2}
    first = start(*make, **rerun)
    held.begun()
    (name,) = [name for name in names(runs) if name != before]
    until(lambda: calls.read_text() == "xx")
    until(lambda: any(e["kind"] == "node_done" for e in journal(runs / name)))
    kill(first.pid)
    held.hold.unlink()
    report = finish(start(*make, **rerun))
    assert report["run_id"] == name
    assert calls.read_text() == "xx"
    assert finish(start(*make, **rerun))["ok"]
    assert calls.read_text() == "xxx", "a run of its own does it again"


def test_another_call_is_a_new_run(held: HeldFiles, start: Start, runs: Path, tmp_path: Path) -> None:
    run = _kill_in_the_middle(Life(start, held, tmp_path), held, runs, 1, False)
    held.hold.unlink()
    other = finish(start(held.text))
    assert other["ok"]
    assert other["run_id"] != run.name
    assert entries(runs) == [run.name], "the unfinished one is left for who wants all of it"
    assert finish(Life(start, held, tmp_path).contender)["run_id"] == run.name
    assert entries(runs) == []


@pytest.mark.fault("F66")
@pytest.mark.parametrize("k", range(ROUNDS))
def test_of_two_that_go_on_at_once_one_does(
    k: int, held: HeldFiles, start: Start, runs: Path, tmp_path: Path
) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    run = _kill_in_the_middle(Life(start, held, tmp_path), held, runs, 1, True)
    held.hold.unlink()
    both = [Life(start, held, tmp_path, meet=[str(meeting), str(i), 2]) for i in range(2)]
    reports = [finish(life.contender) for life in both]
    assert [report["ok"] for report in reports] == [True, True]
    assert sum(report["run_id"] == run.name for report in reports) == 1
    assert sum(report["counts"]["created"] for report in reports) == 2
    assert (len(held.signs("+")), held.signs("!")) == (2, [])
    assert entries(runs) == []


def test_the_run_of_a_living_controller_is_not_gone_on_with(
    held: HeldFiles, start: Start, runs: Path
) -> None:
    first = start(held.text)
    held.begun()
    second = start(held.text)
    until(lambda: second.saw("node_waiting"))
    os.kill(first.pid, signal.SIGSTOP)  # nor that of one that is merely stopped
    third = start(held.text)
    until(lambda: third.saw("node_waiting"))
    os.kill(first.pid, signal.SIGCONT)
    held.hold.unlink()
    reports = [finish(each) for each in (first, second, third)]
    assert len({report["run_id"] for report in reports}) == 3
    assert sum(report["counts"]["created"] for report in reports) == 1
    assert entries(runs) == []


def test_runs_of_one_process_with_the_same_call_are_two(runs: Path) -> None:
    async def main() -> list[str]:
        one, two = [run_dag(Num(n=1), executor=Local(mode="inline"), progress=False) for _ in range(2)]
        return [report.run_id for report in await asyncio.gather(one, two)]

    assert len(set(asyncio.run(main()))) == 2


async def test_loading_what_is_missing_leaves_no_runs(runs: Path) -> None:
    assert await asyncio.gather(*(Num(n=n).aget() for n in range(20))) == list(range(20))
    await close_implicit()
    assert names(runs) == []
    assert entries(runs) == []


async def test_a_cached_run_makes_nothing(runs: Path) -> None:
    report = await run_dag(Num(n=1), executor=Local(mode="inline"), progress=False)
    assert names(runs) == [report.run_id]
    again = await run_dag(Num(n=1), executor=Local(mode="inline"), progress=False)
    assert again.counts["cached"] == 1
    assert names(runs) == [report.run_id]
