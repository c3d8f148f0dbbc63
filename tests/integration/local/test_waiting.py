"""Waiting for work that others do, clause by clause, on virtual time: who is told what, and how each wait ends."""

from __future__ import annotations

import asyncio
import errno
import io
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from tests.sim.sim_artifacts import Item

from furu_async import FuruConfig, RunEvent, RunReport, Scheduler, run_dag
from furu_async._cli.progress import PlainProgress, RichProgress
from furu_async._executors import watcher
from furu_async._executors.inspect import explain_dag
from furu_async._runtime import clock
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import active_config
from furu_async._store import artifacts, atomic, fs
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths, RunPaths, WorkerPaths
from furu_async._store.liveness import this_owner
from furu_async._store.records import Claim, Owner
from furu_async._testing.strangers import Stranger
from furu_async.errors import FuruRunFailed, FuruStoreError
from furu_async.report import Failure, FailureKind
from furu_async.testing import FakeExecutor, Returns, VirtualLoop, run_virtual, tmp_root

STANDING = ("compute", "timeout", "oom", "killed")
EPOCH = 1_700_000_000.0


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FuruConfig]:
    """A store, and a wall clock that goes with virtual time."""
    monkeypatch.setattr(clock, "wall", _wall)
    logging.getLogger("furu_async").setLevel(logging.ERROR)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def _wall() -> float:
    try:
        return EPOCH + asyncio.get_running_loop().time()
    except RuntimeError:
        return EPOCH


class Seen:
    """A run that has ended, what it told, and how many virtual seconds it took."""

    def __init__(self, report: RunReport, events: list[RunEvent], took: float) -> None:
        self.report = report
        self.events = events
        self.took = took

    def told(self, item: Item, kind: str = "node_waiting") -> list[RunEvent]:
        return [event for event in self.events if event.kind == kind and event.hash == item.furu_hash]


async def see(
    *targets: Item,
    others: Callable[[], Awaitable[None]] | None = None,
    script: Any = None,
    **options: Any,
) -> Seen:
    """Run the targets while ``others`` do what they do."""
    events: list[RunEvent] = []
    begin = asyncio.get_running_loop().time()
    beside = asyncio.ensure_future(others()) if others is not None else None
    try:
        executor = FakeExecutor(script if script is not None else {})
        also = options.pop("also", lambda _: None)

        def listen(event: RunEvent) -> None:
            events.append(event)
            also(event)

        report = await run_dag(targets, executor=executor, **{"check": False, "on_event": listen, **options})
    finally:
        took = asyncio.get_running_loop().time() - begin
        if beside is not None:
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)
    return Seen(report, events, took)


def claimed(*items: Item) -> list[Stranger]:
    """Somebody on another host has begun with these."""
    strangers = [Stranger(str(active_config().path), item) for item in items]
    assert all(stranger.claim() for stranger in strangers)
    return strangers


async def beats(stranger: Stranger, seconds: float) -> None:
    """Signs of life for so long."""
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        await asyncio.sleep(10)
        await DOOR.files.run(stranger.beat)


def paths_of(item: Item) -> ArtifactPaths:
    return ArtifactPaths(str(active_config().path), "tests.sim.sim_artifacts.Item", item.furu_hash)


def claim_by(item: Item, **fields: Any) -> None:
    """A claim with a record of one's own making."""
    worker = WorkerPaths(str(active_config().path), f"elsewhere-{item.number}", "1")
    card = Card(worker, Claim(**{"token": f"t{item.number}", "backend": "local", **fields}))
    card.write()
    assert artifacts.claim(paths_of(item), 1, card).r == "claimed"


def dead_owner() -> Owner:
    """A process of this host that is no more: its pid has been given to another one since."""
    return msgspec.structs.replace(this_owner(), start_time=1)


# -- what is told ----------------------------------------------------------------------------------------------


def test_a_wait_says_who_where_since_when_and_when_it_is_decided(root: FuruConfig) -> None:
    item = Item(number=1)
    (other,) = claimed(item)
    why: list[str] = []

    async def others() -> None:
        await beats(other, 500)
        await DOOR.files.run(other.publish, 7)

    async def main() -> tuple[Seen, int]:
        async with Scheduler(FakeExecutor()) as scheduler:
            events: list[RunEvent] = []
            beside = asyncio.ensure_future(others())
            run = scheduler.start(item, on_event=events.append)
            await asyncio.sleep(400)
            why.append(run.why(item))
            report = await run
            await beside
            return Seen(report, events, asyncio.get_running_loop().time()), await report.load(item)

    seen, value = run_virtual(main())
    assert (seen.report[item].status, seen.report[item].attempts, value) == ("cached", 0, 7)
    assert 500 <= seen.took <= 500 + root.poll_interval_secs + 1
    told = seen.told(item)
    owner = other._card.record.owner
    for event in told:
        assert f"pid {owner.pid} on elsewhere" in event.message
        assert f"taken over if silent for {root.lease_secs:g} s" in event.message
        assert event.message.startswith(f"waiting since {clock.of_day(EPOCH)}, ")
        assert event.since == pytest.approx(EPOCH, abs=1)
        assert event.until is not None
        assert f"next decision by {clock.of_day(event.until)}: " in event.message
    ends = [event.until or 0.0 for event in told]
    assert ends[0] == pytest.approx(EPOCH + root.lease_secs, abs=1)
    # The next one is told when the last one has passed: never out of date, and never more than once a lease.
    for earlier, later in itertools.pairwise(told):
        assert 0 <= later.at - (earlier.until or 0.0) <= root.poll_interval_secs + 1
    assert len(told) == 5
    assert why[0] == told[3].message
    assert f"local run {other._run_id}" in why[0]


def test_displays_and_journal_show_the_wait(root: FuruConfig) -> None:
    item, made = Item(number=1), Item(number=2)
    (other,) = claimed(item)
    text = io.StringIO()
    from rich.console import Console

    console = Console(file=io.StringIO(), width=250, force_terminal=True)

    async def main() -> Seen:
        now = asyncio.get_running_loop().time
        plain = PlainProgress(text, clock=now)
        rich = RichProgress(console, clock=now)

        async def others() -> None:
            await beats(other, 100)
            console.print(rich._render())
            await DOOR.files.run(other.publish, 7)

        return await see(item, made, others=others, progress=plain, also=rich.on_event)

    seen = run_virtual(main())
    assert seen.report.counts["cached"] == 1
    (line,) = [each for each in text.getvalue().splitlines() if "waits" in each]
    assert f"Item: waiting since {clock.of_day(EPOCH)}, next decision by" in line
    assert "(pid" in line
    assert "waiting for 1 min" in text.getvalue()
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "waiting" in drawn
    assert "holds the claim" in drawn
    lines = Path(RunPaths(str(root.path), seen.report.run_id).journal).read_text().splitlines()
    (noted,) = [each for each in map(json.loads, lines) if each["kind"] == "node_waiting"]
    assert noted["since"] == pytest.approx(EPOCH, abs=1)
    assert noted["until"] == pytest.approx(EPOCH + root.lease_secs, abs=1)


# -- how it ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_failed", [True, False])
@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_their_failure_follows_the_retry_policy(kind: FailureKind, retry_failed: bool) -> None:
    item = Item(number=1)
    (other,) = claimed(item)

    async def others() -> None:
        await beats(other, 30)
        await DOOR.files.run(other.fail, kind)

    seen = run_virtual(see(item, others=others, retry_failed=retry_failed))
    node = seen.report[item]
    stays = kind == "protocol" or (not retry_failed and kind in (*STANDING, "lost"))
    if stays:
        assert node.status == "failed"
        assert node.failure is not None
        assert (node.failure.kind, node.attempts) == (kind, 0)
    else:
        assert (node.status, node.attempts) == ("created", 1)
        assert node.history == (f"elsewhere: {kind}: as the script says, elsewhere",)
        (told,) = seen.told(item, "node_retry")
        assert kind in told.message
        assert told.until == pytest.approx(told.at, abs=1)


@pytest.mark.parametrize("retry_failed", [True, False])
@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_what_is_stored_follows_the_retry_policy(kind: FailureKind, retry_failed: bool) -> None:
    """Where they have ended before: like `lost` of a claim that is still open, one on record is let stand, too."""
    item, other = Item(number=1), Item(number=2)
    (before,) = claimed(item)
    before.fail(kind)
    (planned,) = asyncio.run(explain_dag(item, retry_failed=retry_failed))
    seen = run_virtual(see(item, other, retry_failed=retry_failed))
    node = seen.report[item]
    if retry_failed or kind not in (*STANDING, "protocol", "lost"):
        assert (node.status, node.attempts) == ("created", 1)
        assert planned.status == "create"
        return
    assert planned.status == "failed"
    assert node.failure is not None
    assert (node.status, node.failure.kind, node.attempts) == ("failed", kind, 0)
    assert seen.report[other].status == "skipped", "it refuses before it starts anything"


def test_what_their_class_will_not_retry_is_not_retried() -> None:
    item = Item(number=1)
    (other,) = claimed(item)
    failure = Failure(kind="compute", error_type="TypeError", message="no", retryable=False)

    async def others() -> None:
        await asyncio.sleep(10)
        end = other._end("failure", failure=failure)
        await DOOR.files.run(artifacts.finish, other.paths, other.generation, end)

    seen = run_virtual(see(item, others=others))
    node = seen.report[item]
    assert (node.status, node.attempts) == ("failed", 0)
    assert node.failure is not None
    assert node.failure.error_type == "TypeError"


@pytest.mark.parametrize(
    ("fields", "patience"),
    [
        ({"beat": "runs/gone/workers/1/beat"}, "heartbeat_grace_secs"),
        ({}, "stale_after_secs"),
        ({"beat": "runs/gone/workers/1/beat", "phase": "queued"}, "stale_after_secs"),
        ({"backend": "dag", "phase": "queued"}, "stale_after_secs"),
        ({"backend": "pool"}, "stale_after_secs"),
        ({"owner": Owner(host=os.uname().nodename, pid=1)}, "stale_after_secs"),
    ],
)
def test_silence_is_taken_over_in_its_time_and_not_before(
    fields: dict[str, Any], patience: str, root: FuruConfig
) -> None:
    item = Item(number=1)
    claim_by(item, **fields)
    seen = run_virtual(see(item))
    node = seen.report[item]
    assert (node.status, node.attempts) == ("created", 1)
    longest = getattr(root, patience)
    assert longest <= seen.took <= longest + 2 * root.poll_interval_secs + 2
    assert "gave no sign of life" in node.history[0]
    assert f"{longest:g} s" in seen.told(item)[0].message


@pytest.mark.parametrize("retry_failed", [True, False])
@pytest.mark.fault("F06")
def test_owners_known_to_be_dead_are_replaced_or_every_one_is_named(retry_failed: bool) -> None:
    stuck = [Item(number=k) for k in range(60)]
    fine = Item(number=100)
    for item in stuck:
        claim_by(item, owner=dead_owner())
    if retry_failed:
        seen = run_virtual(see(*stuck, fine))
        assert (seen.report.counts["created"], seen.took < 60) == (61, True)
        return
    with pytest.raises(FuruRunFailed) as caught:
        run_virtual(see(*stuck, fine, retry_failed=False, check=True))
    text = str(caught.value)
    assert "left it unfinished" in text
    assert all(item.furu_hash[:12] in text for item in stuck), "every one is named"
    assert fine.furu_hash[:12] not in text
    report = caught.value.report
    assert report is not None
    assert report.counts["failed"] == 60
    assert report[fine].status == "skipped", "it refuses before it starts anything"
    assert [node.hash for node in caught.value.failures] == [item.furu_hash for item in stuck]


@pytest.mark.parametrize("retry_failed", [True, False])
def test_owners_that_die_while_they_are_waited_for(retry_failed: bool, root: FuruConfig) -> None:
    stuck = [Item(number=k) for k in range(7)]
    above = Item(number=50, inputs=(stuck[0],))
    fine = Item(number=100)
    others = claimed(*stuck)

    async def some_die_sooner() -> None:
        await asyncio.gather(*(beats(other, 10.0 * k) for k, other in enumerate(others)))

    options: dict[str, Any] = {"others": some_die_sooner, "retry_failed": retry_failed}
    seen = run_virtual(see(*stuck, above, fine, **options))
    assert seen.took >= root.lease_secs + 60
    assert seen.report[fine].status == "created"
    if retry_failed:
        assert seen.report.counts["created"] == 9
        (told,) = seen.told(stuck[0], "node_retry")
        assert "gave no sign of life" in told.message
        return
    assert seen.report[above].status == "skipped"
    for item, other in zip(stuck, others, strict=True):
        failure = seen.report[item].failure
        assert failure is not None
        assert failure.kind == "lost"
        assert other._run_id in failure.message
        assert artifacts.look(paths_of(item)).verdict == "claimed", "it is left as it was"


def test_every_node_that_is_stuck_is_named_in_the_error() -> None:
    stuck = [Item(number=k) for k in range(7)]
    claimed(*stuck)
    with pytest.raises(FuruRunFailed) as caught:
        run_virtual(see(*stuck, Item(number=100), retry_failed=False, check=True))
    text = str(caught.value)
    assert all(item.furu_hash[:12] in text for item in stuck)
    assert "retry_failed" in text


def test_the_longest_wait_counts_all_owners_together(tmp_path: Path) -> None:
    item = Item(number=1)
    (first,) = claimed(item)
    root = str(active_config().path)

    async def others() -> None:
        other = first
        while True:
            await beats(other, 100)
            await DOOR.files.run(other.fail, "preempted")
            other = Stranger(root, item)
            await DOOR.files.run(other.claim)  # before we get there: it is theirs again

    with tmp_root(root, max_wait_secs=350.0, poll_interval_secs=1.0):
        # Nothing is free here, so the claim is asked for a while after it could be had.
        seen = run_virtual(see(item, others=others))
    failure = seen.report[item].failure
    assert failure is not None
    assert (failure.kind, failure.error_type) == ("timeout", "FuruWaitTimeout")
    assert "FURU_MAX_WAIT_SECS" in failure.message
    assert "pid" in failure.message
    assert 350 <= seen.took <= 360
    assert all((event.until or 0.0) <= EPOCH + 352 for event in seen.told(item))


@pytest.fixture
def broken() -> Iterator[Callable[[str], None]]:
    """Makes listings of folders with this text in their name fail with EIO."""
    names: list[str] = []

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        if name != "listdir":
            return real

        def listdir(path: str) -> list[str]:
            if any(text in path for text in names):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return real(path)  # type: ignore[no-any-return]

        return listdir

    fs.install(wrap)
    yield names.append
    fs.restore()


@pytest.mark.fault("F19")
def test_a_store_that_gives_no_information_ends_the_run_in_the_end(
    broken: Callable[[str], None], root: FuruConfig
) -> None:
    item, fine = Item(number=1), Item(number=2)
    claimed(item)

    async def others() -> None:
        await asyncio.sleep(20)
        broken(item.furu_hash)

    with pytest.raises(FuruRunFailed) as caught:
        run_virtual(see(item, fine, others=others, check=True))
    report = caught.value.report
    assert report is not None
    assert report[fine].status == "created"
    failure = report[item].failure
    assert failure is not None
    assert failure.kind == "infrastructure"
    assert "Input/output error" in failure.message
    assert paths_of(item).claims in failure.message
    assert root.infra_secs <= report.duration <= root.infra_secs + 40


def test_trouble_of_the_store_that_passes_is_no_silence(
    broken: Callable[[str], None], root: FuruConfig
) -> None:
    item = Item(number=1)
    (other,) = claimed(item)
    names: list[str] = broken.__self__  # type: ignore[attr-defined]

    async def others() -> None:
        await asyncio.sleep(100)
        broken(item.furu_hash)
        await asyncio.sleep(root.infra_secs - 100)
        names.clear()
        await DOOR.files.run(other.beat)
        await asyncio.sleep(20)
        await DOOR.files.run(other.publish, 3)

    seen = run_virtual(see(item, others=others))
    assert seen.report[item].status == "cached"
    assert any("no information" in event.message for event in seen.told(item))


@pytest.mark.fault("F19")
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("at", [0.0, 50.0])
def test_a_beat_that_cannot_be_read_for_now_is_no_silence(root: FuruConfig, number: int, at: float) -> None:
    """``runs`` may be on another mount than ``data``, and its owner may write there all the while."""
    item = Item(number=1)
    (other,) = claimed(item)
    away = [not at]

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def open_file(path: str, flags: int, *rest: Any) -> Any:
            if away[0] and path == other._worker.beat and not flags & os.O_WRONLY:
                raise OSError(number, os.strerror(number), path)
            return real(path, flags, *rest)

        return open_file if name == "open" else real

    async def others() -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < 600:
            await DOOR.files.run(other.beat)
            await asyncio.sleep(10)
            away[0] = loop.time() > at
        away[0] = False
        await DOOR.files.run(other.publish, 3)

    fs.install(wrap)
    try:
        seen = run_virtual(see(item, others=others))
    finally:
        fs.restore()
    assert seen.report[item].status == "cached"
    assert other.generation == 1
    (told, *_) = [event for event in seen.told(item) if "no information" in event.message]
    assert "/beat" in told.message


def test_a_wait_can_be_cancelled_at_once_and_leaves_the_others_alone() -> None:
    items = [Item(number=k) for k in range(50)]
    claimed(*items)

    async def main() -> float:
        async with Scheduler(FakeExecutor()) as scheduler:
            run = scheduler.start(items, check=False)
            await asyncio.sleep(30)
            begin = asyncio.get_running_loop().time()
            run.cancel()
            await run.ended()
            return asyncio.get_running_loop().time() - begin

    assert run_virtual(main()) < 0.5
    assert all(artifacts.look(paths_of(item)).verdict == "claimed" for item in items)


# -- states of other versions ------------------------------------------------------------------------------------

AT_ONCE: dict[str, dict[str, str]] = {
    "a summary only": {".furu/state.json": '{"status": "running", "owner": {"host": "x"}}'},
    "a summary that is torn": {".furu/state.json": '{"sta'},
    "a bare folder of claims": {".furu/claims/": ""},
    "bare folders": {".furu/claims/": "", ".furu/ends/": "", "attempts/": "", "checkpoints/": ""},
    "a failure without times": {".furu/ends/1": '{"generation": 1, "token": "t", "status": "failure"}'},
    "a failure without a claim": {
        ".furu/claims/": "",
        ".furu/ends/1": '{"generation": 1, "token": "t", "status": "failure", "failure": {"kind": "compute"}}',
    },
    "a failure of an unknown kind": {
        ".furu/claims/1": '{"token": "t", "backend": "local"}',
        ".furu/ends/1": '{"generation": 1, "token": "t", "status": "failure", "failure": {"kind": "gremlins"}}',
    },
    "an end with one field": {".furu/claims/1": "{}", ".furu/ends/1": '{"status": "failure"}'},
}
WAITED: dict[str, dict[str, str]] = {
    "two fields": {".furu/claims/1": '{"token": "t", "backend": "local"}'},
    "no field": {".furu/claims/1": "{}"},
    "unknown fields": {
        ".furu/claims/1": '{"token": "t", "backend": "local", "gpu": 1, "owner": {"host": "h", "rack": 3}}'
    },
    "an unknown backend": {".furu/claims/1": '{"token": "t", "backend": "cloud"}'},
    "a newer version": {".furu/claims/1": '{"v": 9, "token": "t", "backend": "local"}'},
    "a time in the future": {".furu/claims/1": '{"token": "t", "backend": "local", "started_at": 9e99}'},
    "after an end": {
        ".furu/ends/1": '{"generation": 1, "token": "t", "status": "failure"}',
        ".furu/claims/2": '{"token": "t", "backend": "local"}',
    },
}


def written(item: Item, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = Path(paths_of(item).base, name)
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


@pytest.mark.fault("F20", "F64")
@pytest.mark.parametrize("case", [*AT_ONCE, *WAITED])
def test_states_of_other_versions_are_read_and_never_block_for_ever(case: str, root: FuruConfig) -> None:
    item, fine = Item(number=1), Item(number=2)
    written(item, {**AT_ONCE, **WAITED}[case])
    seen = run_virtual(see(item, fine))
    assert seen.report.counts["created"] == 2
    if case in AT_ONCE:
        assert seen.took < 5
        return
    assert root.stale_after_secs <= seen.took <= root.stale_after_secs * 1.05, "not stale at first sight"
    assert f"{root.stale_after_secs:g} s" in seen.told(item)[0].message
    done = next(event for event in seen.events if event.kind == "node_done")
    assert done.hash == fine.furu_hash, "nobody else waits for it"


# -- many --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F109")
def test_a_thousand_waits_ask_seldom_and_not_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [Item(number=k) for k in range(1000)]
    others = claimed(*items)
    looks: list[tuple[float, int]] = []
    real = watcher._see

    def see_and_count(root: str, wanted: Any) -> Any:
        looks.append((loop.time(), len(wanted)))
        return real(root, wanted)

    monkeypatch.setattr(watcher, "_see", see_and_count)
    loop: VirtualLoop

    async def main() -> tuple[RunReport, ...]:
        nonlocal loop
        found = asyncio.get_running_loop()
        assert isinstance(found, VirtualLoop)
        loop = found

        async def publish() -> None:
            for second in range(60):
                await asyncio.sleep(1)
                if second % 10 == 0:
                    await DOOR.files.run(lambda: [other.beat() for other in others])
            await DOOR.files.run(lambda: [other.publish(1) for other in others])

        beside = asyncio.ensure_future(publish())
        async with Scheduler(FakeExecutor()) as scheduler:
            runs = [scheduler.start(items), scheduler.start(items)]
            reports = tuple([await run for run in runs])
        await beside
        return reports

    reports = run_virtual(main())
    assert all(report.counts["cached"] == 1000 for report in reports)
    per_second = Counter[int]()
    for at, many in looks:
        per_second[int(at)] += many
    assert max(per_second.values()) <= 2 * 200 + 150, "of two runs, and the beginning of a round"
    later = [per_second[second] for second in range(30, 60)]
    assert min(later) > 0.3 * sum(later) / len(later), "spread, no bursts with silence between them"
    assert max(many for _, many in looks) <= 150


@pytest.mark.fault("F70")
@pytest.mark.parametrize("ends", ["published", "failed", "lost"])
@pytest.mark.parametrize(
    "how", [("pool", "running"), ("dag", "running"), ("dag", "queued"), ("pool", "queued")]
)
@pytest.mark.parametrize("interactive", [True, False])
def test_executors_of_other_kinds_and_an_interactive_get_share_the_claim(
    how: tuple[str, str], ends: str, interactive: bool, root: FuruConfig
) -> None:
    item = Item(number=4)
    other = Stranger(str(root.path), item)
    backend, phase = how
    other._card.record = msgspec.structs.replace(
        other._card.record,
        backend=backend,
        phase=phase,
        beat=other._card.record.beat if phase == "running" else "",
    )
    other._card._data = msgspec.json.encode(other._card.record)
    assert other.claim()

    async def others() -> None:
        await beats(other, 200)
        if ends == "published":
            await DOOR.files.run(other.publish, 4)
        elif ends == "failed":
            await DOOR.files.run(other.fail, "compute")

    async def main() -> tuple[int, float]:
        beside = asyncio.ensure_future(others())
        begin = asyncio.get_running_loop().time()
        executor = FakeExecutor({Item: Returns(4)})
        if interactive:
            value = await item.aget(executor=executor)
        else:
            value = await (await run_dag(item, executor=executor)).load(item)
        took = asyncio.get_running_loop().time() - begin
        await beside
        return value, took

    value, took = run_virtual(main())
    assert value == 4
    patience = {"published": 0.0, "failed": 0.0, "lost": root.lease_secs if phase == "running" else 0.0}[ends]
    if ends == "lost" and phase == "queued":
        assert took >= root.stale_after_secs
    else:
        assert 200 + patience - 15 <= took <= 200 + patience + 30
    seen = artifacts.look(paths_of(item))
    assert (seen.verdict, seen.generation) == ("published", 1 if ends == "published" else 2)


def test_a_look_at_a_store_that_is_gone_is_an_error_not_a_wait(root: FuruConfig) -> None:
    """The whole root becomes a file: told with its path."""
    item = Item(number=1)
    Path(root.path).write_text("no folder")
    with pytest.raises(FuruStoreError) as caught:
        run_virtual(see(item, check=True))
    assert str(root.path) in str(caught.value)
    assert atomic.exists(str(root.path))
