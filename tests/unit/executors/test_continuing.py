"""Going on with a dead controller's run: what counts, what is told, and what a store costs that does not play along."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from furu_async import Furu, FuruConfig, RunEvent, RunReport, Scheduler
from furu_async._executors import continuing, held_runs
from furu_async._model.artifact import class_info
from furu_async._store import artifacts, fs, runs
from furu_async._store.keeper import Keeper
from furu_async._store.layout import ArtifactPaths, RunPaths, beat_path
from furu_async._store.liveness import start_time, this_owner
from furu_async._store.records import Claim, End, Owner, RunRecord, encode
from furu_async.report import Failure
from furu_async.testing import Fails, FakeExecutor, Returns, run_virtual, tmp_root

RUN = "20260101-000000-1-aaaaaa"


class Item(Furu[int]):
    n: int = 0
    below: tuple[Item, ...] = ()

    def _create(self) -> int:
        return self.n


@pytest.fixture(scope="module")
def dead() -> Owner:
    """The owner record of a process that is gone."""
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    owner = msgspec.structs.replace(this_owner(), pid=child.pid, start_time=start_time(child.pid) or 0)
    child.communicate(b"\n")
    return owner


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.ERROR)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


class Left:
    """What a controller that is dead now left of a run on ``targets``."""

    def __init__(self, root: str, owner: Owner, *targets: Item, run_id: str = RUN) -> None:
        self.root, self.run_id = root, run_id
        self.paths = RunPaths(root, run_id)
        self.keeper = Keeper(15.0)
        self.keeper._start_beat = lambda beat: None  # type: ignore[method-assign]
        self.token = f"token of {run_id}"
        claim = Claim(
            token=self.token, backend="local", run_id=run_id, owner=owner, beat=beat_path(run_id, "w")
        )
        self.key = runs.call_key("fake", [target.furu_hash for target in targets])
        assert self._ask("open", root, run_id, "w", encode(claim), self.key, 0) == {"r": "ok"}

    def _ask(self, *op: Any) -> Any:
        return self.keeper.handle(list(op))

    def record(self) -> None:
        Path(self.paths.record).write_bytes(
            encode(RunRecord(run_id=self.run_id, key=self.key, created_at=86400.0))
        )

    def attempt(
        self, obj: Item, kind: str | None, begun: bool = True, message: str = "before", **more: Any
    ) -> int:
        """One attempt that ended so (None: it did not)."""
        name = class_info(type(obj)).name
        paths = ArtifactPaths(self.root, name, obj.furu_hash)
        n = int(self._ask("claim", self.root, self.run_id, name, obj.furu_hash)["n"])
        if begun:
            line = {"at": 1.0, "kind": "node_started", "hash": obj.furu_hash, "generation": n, "attempt": n}
            self.journal(json.dumps(line, separators=(",", ":")) + "\n")
        if kind is not None:
            end = End(
                generation=n,
                token=self.token,
                status="success" if kind == "ok" else "failure",
                run_id=self.run_id,
                hash=obj.furu_hash,
                result="inline" if kind == "ok" else "",
                **({"value": msgspec.Raw(b"1")} if kind == "ok" else {}),  # type: ignore[arg-type]
                failure=None if kind == "ok" else Failure(kind=kind, message=message, **more),  # type: ignore[arg-type]
            )
            verb = "publish" if kind == "ok" else "finish"
            more = (False,) if kind == "ok" else ()
            reply = self._ask(verb, self.root, name, obj.furu_hash, n, encode(end), *more)
            assert reply["r"] == "published", reply
        assert paths
        return n

    def journal(self, text: str) -> None:
        with open(self.paths.journal, "a") as file:
            file.write(text)


def go_on(
    *targets: Item, script: Any = None, events: list[RunEvent] | None = None, **options: Any
) -> RunReport:
    """The same call, in another life."""

    async def main() -> RunReport:
        async with Scheduler(FakeExecutor(script or {})) as scheduler:
            listen = events.append if events is not None else None
            return await scheduler.start(targets, check=False, on_event=listen, **options)

    report: RunReport = run_virtual(main())
    return report


# -- what counts ---------------------------------------------------------------------------------------------


@pytest.mark.fault("F94")
@pytest.mark.parametrize(
    ("ends", "counts", "last"),
    [
        ([], {}, None),
        ([("compute", True), ("compute", True)], {"compute": 2}, "compute"),
        ([("compute", False)], {"compute": 1}, "compute"),
        ([("lost", True)], {"lost": 1}, "lost"),
        ([("lost", False)], {}, None),
        ([("preempted", False), ("preempted", True)], {"preempted": 1}, "preempted"),
        ([("cancelled", True)], {}, None),
        ([("oom", True), ("timeout", True), ("lost", False)], {"oom": 1, "timeout": 1}, "timeout"),
        ([("compute", True), (None, True)], {"compute": 1, "lost": 1}, "lost"),
        ([("compute", True), (None, False)], {"compute": 1}, "compute"),
        ([("infrastructure", True), ("inputs", True)], {"infrastructure": 1, "inputs": 1}, "inputs"),
    ],
)
def test_ends_of_the_run_count_and_a_lost_one_only_if_it_had_begun(
    ends: list[tuple[str | None, bool]],
    counts: dict[str, int],
    last: str | None,
    config: FuruConfig,
    dead: Owner,
) -> None:
    item = Item()
    left = Left(str(config.path), dead, item)
    for kind, begun in ends:
        left.attempt(item, kind, begun)
    paths = ArtifactPaths(str(config.path), class_info(Item).name, item.furu_hash)
    started, torn = continuing._read_journal(left.paths.journal)
    found = continuing.spent(
        paths, artifacts.look(paths), continuing.Earlier(run_id=RUN, started=started, torn=torn)
    )
    assert found.counts == counts
    assert (found.last.kind if found.last is not None else None) == last
    assert len(found.lines) == sum(counts.values())
    assert found.newest is bool(ends)


@pytest.mark.fault("F44")
def test_attempts_that_were_cut_short_cost_nothing_here_either(config: FuruConfig, dead: Owner) -> None:
    item = Item()
    left = Left(str(config.path), dead, item)
    for saved in ("one", "two", "two"):
        left.attempt(item, "preempted", begun=False, checkpoint=saved)
    left.attempt(item, "compute")
    for _ in range(2):
        left.attempt(item, "preempted", begun=False, planned=True)
    paths = ArtifactPaths(str(config.path), class_info(Item).name, item.furu_hash)
    found = continuing.spent(paths, artifacts.look(paths), continuing.Earlier(run_id=RUN))
    assert found.counts == {"preempted": 1, "compute": 1}
    assert (found.cuts.free, found.cuts.row, found.cuts.checkpoint) == (4, 3, "two")
    left.attempt(item, "preempted", begun=False, planned=True)
    found = continuing.spent(paths, artifacts.look(paths), continuing.Earlier(run_id=RUN))
    assert found.counts == {"preempted": 1, "compute": 1, "timeout": 1}
    report = go_on(item)
    assert report[item].status == "failed"
    assert report[item].failure is not None
    assert "too little time left" in report[item].failure.message


def test_attempts_of_other_runs_in_between_do_not_count(config: FuruConfig, dead: Owner) -> None:
    item = Item()
    left = Left(str(config.path), dead, item)
    other = Left(str(config.path), dead, Item(n=9), run_id="20260102-000000-1-bbbbbb")
    left.attempt(item, "compute")
    other.attempt(item, "compute")
    paths = ArtifactPaths(str(config.path), class_info(Item).name, item.furu_hash)
    found = continuing.spent(paths, artifacts.look(paths), continuing.Earlier(run_id=RUN))
    assert (found.counts, found.newest) == ({"compute": 1}, False)
    left.attempt(item, "killed")
    found = continuing.spent(paths, artifacts.look(paths), continuing.Earlier(run_id=RUN))
    assert (found.counts, found.newest) == ({"compute": 1, "killed": 1}, True)
    # A third takes over from the run: its `lost` is about an attempt of ours, whoever wrote it.
    n = left.attempt(item, None)
    assert other._ask(
        "takeover", other.root, other.run_id, class_info(Item).name, item.furu_hash, n, "silent"
    )
    started, _ = continuing._read_journal(left.paths.journal)
    ours = continuing.spent(paths, artifacts.look(paths), continuing.Earlier(run_id=RUN, started=started))
    assert ours.counts == {"compute": 1, "killed": 1, "lost": 1}
    theirs = continuing.spent(
        paths, artifacts.look(paths), continuing.Earlier(run_id=other.run_id, started=started)
    )
    assert theirs.counts == {"compute": 1}


# -- whole runs ----------------------------------------------------------------------------------------------


@pytest.mark.fault("F07", "F94")
def test_a_run_goes_on_with_counts_history_and_attempt_numbers(config: FuruConfig, dead: Owner) -> None:
    item = Item(below=(Item(n=1), Item(n=2)))
    left = Left(str(config.path), dead, item)
    left.record()
    left.attempt(item.below[0], "ok")
    left.attempt(item.below[1], "compute", message="first")
    left.attempt(item.below[1], "compute", message="second")
    events: list[RunEvent] = []
    report = go_on(item, item, script={item.below[1]: Fails("compute", "again")}, events=events, retries=3)
    assert report.run_id == RUN
    assert events[0].kind == "run_started"
    assert events[0].message.endswith(
        "continues the run begun at 1970-01-02 00:00:00 UTC, whose controller is gone"
    )
    assert any("whose controller is gone" in note for note in report.notes)
    outcome = report[item.below[1]]
    assert (outcome.status, outcome.attempts) == ("failed", 4)
    assert outcome.history == (
        "compute: first",
        "compute: second",
        "compute: again",
    )
    assert report.counts == {"created": 0, "cached": 1, "failed": 1, "skipped": 1, "cancelled": 0}
    started = [event.attempt for event in events if event.kind == "node_started"]
    assert started == [3, 4]
    assert runs.look_run(left.paths) == runs.RunLook("over", 2)


def test_what_had_failed_for_good_is_failed_at_once_with_what_was_stored(
    config: FuruConfig, dead: Owner
) -> None:
    item = Item(below=(Item(n=1),))
    left = Left(str(config.path), dead, item)
    for k in range(2):
        left.attempt(item.below[0], "compute", message=f"no {k}")
    report = go_on(item, retries=1)
    outcome = report[item.below[0]]
    assert (report.run_id, outcome.status, outcome.attempts) == (RUN, "failed", 2)
    assert outcome.failure is not None
    assert outcome.failure.message == "no 1"
    assert outcome.history == ("compute: no 0",)
    again = go_on(item, retries=1)
    assert again.run_id != RUN
    assert again.ok, "a new run tries it afresh"


def test_a_failure_of_the_run_itself_is_no_reason_to_refuse_it(config: FuruConfig, dead: Owner) -> None:
    """With ``retry_failed=False`` its failed node stays failed, and what does not need it is computed."""
    one, two = Item(n=1), Item(n=2)
    Left(str(config.path), dead, one, two).attempt(one, "compute")
    report = go_on(one, two, retry_failed=False)
    assert (report.run_id, report[one].status, report[two].status) == (RUN, "failed", "created")


def test_a_run_without_record_or_with_a_torn_journal_is_gone_on_with(config: FuruConfig, dead: Owner) -> None:
    item = Item()
    left = Left(str(config.path), dead, item)
    left.journal('{"at":1.0,"kind":"run_started"}\n{"at":2.0,"ki')
    report = go_on(item)
    assert (report.run_id, report.ok) == (RUN, True)
    lines = Path(left.paths.journal).read_text().splitlines()
    assert lines[1] == '{"at":2.0,"ki'
    assert json.loads(lines[2])["kind"] == "run_started"
    assert json.loads(Path(left.paths.record).read_bytes())["key"] == left.key


def test_the_name_is_final_when_it_is_told(config: FuruConfig, dead: Owner) -> None:
    item = Item()
    Left(str(config.path), dead, item)

    async def main() -> None:
        async with Scheduler(FakeExecutor()) as scheduler:
            said: list[str] = []
            run = scheduler.start(item, on_event=lambda event: said.append(run.run_id))
            assert run.run_id != RUN
            await run.settled()
            assert said == []
            assert run.run_id == RUN
            second = scheduler.start(item)
            await asyncio.gather(run, second)
            assert second.run_id != RUN
            assert run.run_dir.endswith(RUN)
            assert set(said) == {RUN}

    run_virtual(main())


# -- a store that does not play along --------------------------------------------------------------------------


def _runs_at(config: FuruConfig) -> set[str]:
    return {entry.name for entry in (config.path / "runs").iterdir()} - {".unfinished"}


@pytest.mark.fault("F33")
@pytest.mark.parametrize("how", ["hangs", "fails"])
def test_a_store_that_does_not_say_costs_a_new_run(
    how: str, config: FuruConfig, dead: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Item()
    Left(str(config.path), dead, item)
    answer = threading.Event()

    def silent(root: str, key: str) -> None:
        if how == "hangs":
            answer.wait(30)
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(runs, "find_unfinished", silent)
    monkeypatch.setattr(continuing, "FIND_SECS", 0.05)

    async def main() -> RunReport:
        async with Scheduler(FakeExecutor(default=Returns(after=0.0))) as scheduler:
            report = await scheduler.start(item)
            answer.set()
            return report

    report = asyncio.run(main())
    assert report.ok
    assert report.run_id != RUN


def test_a_claim_that_comes_too_late_is_given_back(
    config: FuruConfig, dead: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Item()
    left = Left(str(config.path), dead, item)
    answer = threading.Event()
    real = runs.claim_run

    def slow(paths: RunPaths, after: int, card: Any) -> int:
        if after:
            answer.wait(30)
        return real(paths, after, card)

    monkeypatch.setattr(runs, "claim_run", slow)
    monkeypatch.setattr(held_runs, "_ADOPT_SECS", 0.05)

    async def main() -> RunReport:
        async with Scheduler(FakeExecutor(default=Returns(after=0.0))) as scheduler:
            run = scheduler.start(item)
            await run.settled()
            answer.set()
            return await run

    report = asyncio.run(main())
    assert report.ok
    assert report.run_id != RUN
    assert runs.look_run(left.paths) == runs.RunLook("lost", 2), "others may go on with it"
    assert go_on(item).run_id == RUN


@pytest.mark.fault("F17", "F19")
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_an_error_at_any_call_below_runs_ends_in_one_run_or_the_other(
    number: int, tmp_path: Path, dead: Owner
) -> None:
    k = 0
    seen = set()
    while True:
        with tmp_root(tmp_path / f"store-{k}", record_git="off") as config:
            item = Item()
            left = Left(str(config.path), dead, item)
            left.record()
            with _error_at(k, number, f"{config.path}/runs/") as met:
                report = go_on(item)
            assert report.ok, k
            seen.add(report.run_id == RUN)
            ended = {name: runs.look_run(RunPaths(left.root, name)).verdict for name in _runs_at(config)}
            assert ended[report.run_id] in ("over", "held"), "its end could not be written, but it went well"
            assert go_on(item).ok
            if not met:
                break
        k += 1
    assert k > 10
    assert seen == {True, False}


def _error_at(k: int, number: int, below: str) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def block() -> Iterator[list[str]]:
        met: list[str] = []
        count = [0]
        lock = threading.Lock()

        def wrap(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                path = str(args[1 if name in ("link", "rename", "replace") else 0])
                if path.startswith(below):
                    with lock:
                        mine = count[0]
                        count[0] += 1
                    if mine == k:
                        met.append(f"{name} {path}")
                        raise OSError(number, os.strerror(number), path)
                return operation(*args, **kwargs)

            return call

        fs.install(wrap)
        try:
            yield met
        finally:
            fs.restore()

    return block()
