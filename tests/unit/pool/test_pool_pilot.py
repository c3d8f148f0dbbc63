"""A pool's worker on virtual time: what it takes, what it reports, and when it ends."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pool_artifacts import BIG, SPEC, Choosy, Goes, Leaf, Limited
from pool_env import HOME, KEY, Home

from furu_async._pool import guardian, queue
from furu_async._pool.pilot import Pilot
from furu_async._pool.walltime import Walltime
from furu_async._runtime.blocking import DOOR, NoThread
from furu_async._store import runs
from furu_async._store.layout import ArtifactPaths, RunPaths
from furu_async.errors import FuruExecutorError, FuruStoreError
from furu_async.testing import Computes, Fails, FakeExecutor, Hangs, Raises, Returns

pytestmark = pytest.mark.virtual_time
LONG = FakeExecutor(default=Returns(0, after=30.0))
QUICK = FakeExecutor(default=Returns(0, after=0.0))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def until(condition: Callable[[], Any], seconds: float = 200.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def with_worker(pilot: Pilot, then: Callable[[], Awaitable[Any]]) -> str:
    """Run a worker, do something meanwhile, and wait for its end."""
    running = asyncio.create_task(pilot.run())
    await then()
    return await running


async def test_it_works_off_the_queue_and_ends_when_idle(home: Home) -> None:
    names = [home.put(Leaf(n=n)) for n in range(20)]
    loop = asyncio.get_running_loop()
    why = await home.worker(script=QUICK, idle=7.0).run()
    assert why == "nothing to do for 7 s"
    assert 7.0 <= loop.time() < 9.0
    assert home.done() == sorted(names)
    assert (home.todo(), home.running(), home.reports()) == ([], [], {})
    status = home.status()
    assert (status.stage, status.taken, status.finished, status.began) == ("ended", 20, 20, [])


async def test_idle_time_counts_from_the_end_of_the_last_task(home: Home) -> None:
    home.put(Leaf(n=1))
    loop = asyncio.get_running_loop()
    await home.worker(script=LONG, idle=10.0).run()
    assert 40.0 <= loop.time() < 42.0


async def test_slots_are_filled_and_no_more_is_taken(home: Home) -> None:
    for n in range(10):
        home.put(Leaf(n=n))
    pilot = home.worker(script=LONG, slots=3)

    async def look() -> None:
        await until(lambda: len(home.status().began) == 3)
        assert len(home.running()) == 3
        assert len(home.todo()) == 7
        pilot.drain("enough")

    await with_worker(pilot, look)


async def test_what_was_published_before_is_done(home: Home) -> None:
    first = home.put(Leaf(n=1))
    await home.worker().run()
    second = home.put(Leaf(n=1))
    await home.worker("w2").run()
    assert home.done() == sorted([first, second])
    assert home.generations(Leaf(n=1)) == 1


async def test_a_failure_is_reported_and_the_worker_goes_on(home: Home) -> None:
    bad, good = home.put(Leaf(n=1), history=["compute: earlier"]), home.put(Leaf(n=2))
    script = FakeExecutor({Leaf(n=1): Raises(ValueError("no luck"))})
    await home.worker(script=script).run()
    assert home.done() == [good]
    report = home.reports()[bad]
    assert (report.outcome, report.begun, report.generation) == ("failed", True, 1)
    assert report.failure is not None
    assert report.failure.kind == report.failure_kind == "compute"
    assert "no luck" in report.error
    assert (report.worker_id, report.history, report.attempt) == ("w1", ["compute: earlier"], 1)


# -- F72, F69: the claim is the truth --------------------------------------------------------------------------


@pytest.mark.fault("F72")
async def test_two_workers_with_the_same_entry_compute_once(home: Home) -> None:
    """A copy of the entry is in the queue again while the first worker is at it."""
    entry = home.entry(Leaf(n=1))
    home.objects.append(home.objects.missing(Leaf(n=1)))
    name = home.put_entry(entry)
    first, second = home.worker("w1", LONG), home.worker("w2", LONG)

    async def again() -> None:
        await until(lambda: home.running() == [f"w1/{name}"] and home.status("w1").began)
        home.put_entry(entry)
        assert await second.run() == "nothing to do for 5 s"

    await with_worker(first, again)
    assert home.done() == [name]
    report = home.only_report()
    assert (report.outcome, report.begun, report.generation, report.worker_id) == (
        "elsewhere",
        False,
        1,
        "w2",
    )
    assert home.generations(Leaf(n=1)) == 1


@pytest.mark.fault("F69")
async def test_the_same_task_under_two_tickets_is_computed_once_by_one_worker(home: Home) -> None:
    names = [home.put(Leaf(n=1)), home.put(Leaf(n=1))]
    await home.worker(slots=2, script=LONG).run()
    assert home.done() == sorted(names)
    assert home.generations(Leaf(n=1)) == 1


@pytest.mark.fault("F72")
@pytest.mark.parametrize("workers", [2, 5])
async def test_several_workers_share_a_queue_without_doing_anything_twice(home: Home, workers: int) -> None:
    script = FakeExecutor(default=Returns(0, after=0.3))
    nodes = [Leaf(n=n) for n in range(40)]
    names = [home.put(node) for node in nodes]
    pilots = [home.worker(f"w{k}", script, seed=k, slots=1 + k % 2) for k in range(workers)]
    await asyncio.gather(*(pilot.run() for pilot in pilots))
    assert home.done() == sorted(names)
    assert [home.generations(node) for node in nodes] == [1] * 40
    assert sum(home.status(f"w{k}").finished for k in range(workers)) == 40
    assert all(home.status(f"w{k}").finished > 1 for k in range(workers))


# -- F81: specs, code ------------------------------------------------------------------------------------------


@pytest.mark.fault("F81")
@pytest.mark.parametrize("spec_key", ["", BIG.key])
async def test_an_entry_of_no_or_another_spec_is_refused_for_the_whole_run(home: Home, spec_key: str) -> None:
    node = Leaf(n=1)
    home.objects.append(home.objects.missing(node))
    home.put_entry(home.entry(node, spec_key=spec_key), KEY)
    good = home.put(Leaf(n=2))
    await home.worker().run()
    failure = home.only_report().failure
    assert failure is not None
    assert (failure.kind, failure.run_wide) == ("protocol", True)
    assert KEY in failure.message
    assert (spec_key or "(none)") in failure.message
    assert home.generations(node) == 0
    assert home.done() == [good], "it concerns the run, not the worker"


@pytest.mark.fault("F81")
async def test_specs_that_this_code_does_not_give_are_refused(home: Home) -> None:
    home.put(Leaf(n=1), executor_keys=[BIG.key, SPEC.key], spec_key=SPEC.key)
    await home.worker().run()
    failure = home.only_report().failure
    assert failure is not None
    assert (failure.kind, failure.run_wide) == ("protocol", True)


async def test_a_second_choice_of_spec_is_taken_by_its_worker(home: Home) -> None:
    name = home.put(Choosy(n=1), spec_key=SPEC.key)
    await home.worker().run()
    assert home.done() == [name]


@pytest.mark.parametrize("what", ["library", "hash"])
async def test_other_code_than_the_controllers_is_refused_with_both_versions(home: Home, what: str) -> None:
    if what == "library":
        home.put(Leaf(n=1), library="9.9.9")
    else:
        entries = home.objects.missing(Leaf(n=1))
        home.objects.append([type(e)(e.hash, e.cls, e.version, {"n": 5}) for e in entries])
        home.put(Leaf(n=1))
    await home.worker().run()
    failure = home.only_report().failure
    assert failure is not None
    assert (failure.kind, failure.run_wide) == ("protocol", True)
    assert "the controller has furu_async" in failure.message
    assert "this worker" in failure.message
    assert home.generations(Leaf(n=1)) == 0


# -- what is in the queue and cannot be used -------------------------------------------------------------------


@pytest.mark.fault("F78")
async def test_an_unreadable_entry_is_set_aside_and_reported_by_its_name(home: Home) -> None:
    name = home.put(Leaf(n=1))
    place = queue.waiting(home.paths)[KEY][name]
    Path(place.folder(home.paths), name).write_bytes(b"\0\0")
    good = home.put(Leaf(n=2))
    log: list[str] = []
    await home.worker(log=log).run()
    report = home.reports()[name]
    assert (report.hash, report.ticket, report.detail) == (Leaf(n=1).furu_hash, 1, "unreadable")
    assert report.failure is not None
    assert (report.failure.kind, report.failure.run_wide) == ("protocol", False)
    assert sorted(os.listdir(home.paths.bad)) == [name, f"{name}.why"]
    assert home.done() == [good]


@pytest.mark.fault("F78")
async def test_foreign_files_do_not_keep_it_awake(home: Home) -> None:
    os.makedirs(f"{home.paths.todo_of(KEY)}/000001-000000")
    Path(home.paths.todo_of(KEY), "000001-000000", "notes.txt").write_text("mine")
    loop, log = asyncio.get_running_loop(), []  # type: ignore[var-annotated]
    await home.worker(log=log, idle=5.0).run()
    assert 5.0 <= loop.time() < 7.0
    assert sum("set aside" in line for line in log) == 1


async def test_a_table_entry_that_comes_late_is_waited_for(home: Home) -> None:
    name = home.put_entry(home.entry(Leaf(n=1)))
    pilot = home.worker(idle=2.0)

    async def late() -> None:
        await asyncio.sleep(20)
        assert home.running() == [f"w1/{name}"]
        home.objects.append(home.objects.missing(Leaf(n=1)))

    await with_worker(pilot, late)
    assert home.done() == [name]


async def test_a_table_entry_that_never_comes_is_infrastructure(home: Home) -> None:
    home.put_entry(home.entry(Leaf(n=1)))
    await home.worker(idle=2.0).run()
    failure = home.only_report().failure
    assert failure is not None
    assert (failure.kind, failure.run_wide) == ("infrastructure", False)
    assert home.paths.objects in failure.message


# -- cancelling ------------------------------------------------------------------------------------------------


async def test_a_cancelled_entry_is_ended_within_a_second_and_returned(home: Home) -> None:
    running, other = home.put(Leaf(n=1)), home.put(Leaf(n=2))
    pilot = home.worker(script=FakeExecutor({Leaf(n=1): Hangs()}), slots=2, idle=3.0)
    loop = asyncio.get_running_loop()

    async def cancel() -> None:
        await until(lambda: running in home.status().began)
        queue.ask_to_cancel(home.paths, running)
        asked = loop.time()
        await until(lambda: home.reports())
        assert loop.time() - asked <= 1.5

    await with_worker(pilot, cancel)
    report = home.only_report()
    assert (report.outcome, report.begun, report.detail) == ("returned", True, "cancelled")
    assert home.done() == [other]
    assert queue.wishes(home.paths) == ([], []), "the wish is fulfilled"


# -- signals and walltime --------------------------------------------------------------------------------------


@pytest.mark.fault("F58")
@pytest.mark.parametrize("running", [0, 1, 2])
async def test_a_signal_gives_back_what_has_not_begun_and_ends_what_runs(home: Home, running: int) -> None:
    """Three are taken: two have slots, one had to wait for its table entry."""
    script = FakeExecutor(default=Hangs())
    ran = [home.put(Leaf(n=n)) for n in range(running)]
    waits = home.put_entry(home.entry(Leaf(n=77)))
    pilot = home.worker(script=script, slots=3)
    loop = asyncio.get_running_loop()

    async def signal() -> None:
        await until(lambda: len(home.running()) == running + 1 and len(home.status().began) == running)
        pilot.drain("SIGTERM")

    assert await with_worker(pilot, signal) == "SIGTERM"
    assert loop.time() < 5.0
    assert home.todo() == [waits]
    assert home.running() == []
    reports = home.reports()
    assert sorted(reports) == sorted(ran)
    for report in reports.values():
        assert report.begun
        assert report.failure is not None
        assert report.failure.kind == "preempted"
    status = home.status()
    assert (status.stage, status.why) == ("ended", "SIGTERM")


async def test_a_task_that_still_ends_well_is_done(home: Home) -> None:
    name = home.put(Leaf(n=1))
    pilot = home.worker(script=FakeExecutor(default=Returns(1, after=3.0)))

    async def warn() -> None:
        await until(lambda: home.status().began)
        pilot.drain("SIGUSR1", hard=False)

    await with_worker(pilot, warn)
    assert home.done() == [name]


@pytest.mark.fault("F58")
async def test_a_death_heard_just_before_the_signal_is_not_the_tasks_fault(home: Home) -> None:
    """Slurm signals the children, too."""
    home.put(Leaf(n=1))
    pilot = home.worker(script=FakeExecutor(default=Fails("killed", after=3.0)))

    async def signal() -> None:
        await asyncio.sleep(3.1)
        pilot.drain("SIGTERM")

    await with_worker(pilot, signal)
    failure = home.only_report().failure
    assert failure is not None
    assert failure.kind == "preempted"


async def test_a_death_without_a_signal_is(home: Home) -> None:
    home.put(Leaf(n=1))
    await home.worker(script=FakeExecutor(default=Fails("killed", after=3.0))).run()
    failure = home.only_report().failure
    assert failure is not None
    assert failure.kind == "killed"


@pytest.mark.fault("F57")
async def test_a_task_is_taken_only_if_its_limit_fits_what_is_left(home: Home) -> None:
    loop = asyncio.get_running_loop()
    free, limited = home.put(Leaf(n=1)), home.put(Limited(n=1))
    total = Walltime(loop.time() + 90.0, 3600.0)
    assert (
        await home.worker(walltime=total).run() == "what is left of its walltime is too short for what waits"
    )
    assert home.done() == [free]
    assert home.todo() == [limited]
    assert loop.time() < 10, "there is nothing else to do for it"
    await home.worker("w2", walltime=Walltime(loop.time() + 3600.0, 3600.0)).run()
    assert home.done() == sorted([free, limited])


@pytest.mark.fault("F57")
async def test_what_it_gives_back_does_not_keep_it(home: Home) -> None:
    loop = asyncio.get_running_loop()
    pilot = home.worker(walltime=Walltime(loop.time() + 90.0, 3600.0), idle=5.0)

    async def later() -> None:
        await asyncio.sleep(3.5)
        home.put(Limited(n=1))

    await with_worker(pilot, later)
    assert loop.time() < 5.0


@pytest.mark.fault("F72")
async def test_what_it_took_and_was_not_told_of_is_found(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server renamed, and all that came back was errors."""
    names = [home.put(Leaf(n=n)) for n in range(2)]
    real, failed = queue._move, []

    def move(source: str, target: str) -> bool:
        moved = real(source, target)
        if "/todo/" in source and not failed:
            failed.append(source)
            raise OSError(5, "Input/output error", source)
        return moved

    monkeypatch.setattr(queue, "_move", move)
    log: list[str] = []
    await home.worker(log=log, script=QUICK).run()
    assert failed
    assert home.done() == sorted(names)
    assert any("the store gives trouble" in line for line in log)


@pytest.mark.fault("F19")
@pytest.mark.parametrize("ends", ["well", "badly"])
async def test_what_it_cannot_report_for_a_while_is_not_taken_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """What is in its folder and has been done is not an entry that it was never told of."""
    name = home.put(Leaf(n=1))
    real, loop = queue._move, asyncio.get_running_loop()
    tries: list[float] = []

    def move(source: str, target: str) -> bool:
        if target.startswith((home.paths.done, home.paths.failed)) and loop.time() < 60.0:
            tries.append(loop.time())
            raise OSError(5, "Input/output error", target)
        return real(source, target)

    monkeypatch.setattr(queue, "_move", move)
    script = QUICK if ends == "well" else FakeExecutor(default=Raises(ValueError("no")))
    pilot = home.worker(script=script)
    await pilot.run()
    assert pilot.work.taken == 1
    assert home.generations(Leaf(n=1)) == 1
    assert home.done() == ([name] if ends == "well" else [])
    assert list(home.reports()) == ([] if ends == "well" else [name])
    assert len(tries) < 400, "it is tried again ever more slowly"


class Broken:
    """Parts of the store that answer with an error for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Home, until: float, since: float = 0.0) -> None:
        self.monkeypatch, self.home = monkeypatch, home
        self.since, self.until = since, until

    def breaks(self, owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
        real, loop = getattr(owner, name), asyncio.get_running_loop()

        def call(*args: Any) -> Any:
            if self.since <= loop.time() < self.until and when(*args):
                raise OSError(5, "Input/output error", f"{self.home.paths.base}/the-path")
            return real(*args)

        self.monkeypatch.setattr(owner, name, call)


@pytest.mark.fault("F19")
async def test_trouble_with_the_queue_is_no_idleness(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [home.put(Leaf(n=n)) for n in range(2)]
    Broken(monkeypatch, home, until=300.0, since=2.0).breaks(queue.Taker, "take")
    loop = asyncio.get_running_loop()

    async def more() -> None:
        await asyncio.sleep(200)
        names.append(home.put(Leaf(n=3)))

    assert await with_worker(home.worker(script=QUICK, detached=True), more) == "nothing to do for 5 s"
    assert home.done() == sorted(names)
    assert 305.0 <= loop.time() < 308.0


@pytest.mark.fault("F19")
async def test_time_in_which_the_queue_could_be_looked_at_counts(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look now and then that fails does not keep a worker for ever."""
    loop = asyncio.get_running_loop()
    broken = Broken(monkeypatch, home, until=1e9)
    broken.breaks(queue.Taker, "take", lambda *_: loop.time() % 4.0 > 2.0)
    assert await home.worker(script=QUICK).run() == "nothing to do for 5 s"
    assert 6.0 < loop.time() < 20.0


@pytest.mark.fault("F19")
@pytest.mark.parametrize("what", ["the queue", "wishes", "an entry", "its report"])
async def test_a_queue_that_it_cannot_use_for_long_ends_it_with_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    home = Home(tmp_path, infra_secs=100.0)
    broken = Broken(monkeypatch, home, until=1e9)
    match what:
        case "the queue":
            broken.breaks(queue.Taker, "take")
        case "wishes":
            broken.breaks(queue, "wishes")
        case "an entry":
            broken.breaks(queue.Taker, "load")
        case _:
            broken.breaks(queue, "finish")
    home.put(Leaf(n=1))
    loop = asyncio.get_running_loop()
    pilot = home.worker(script=QUICK, detached=True)
    with pytest.raises(FuruExecutorError, match=r"cannot be used for 100 s: Input/output error .*/the-path"):
        await asyncio.wait_for(pilot.run(), 1000)
    assert 100.0 < loop.time() < 120.0
    assert "the-path" in home.status().why
    assert home.status().stage == "ended"


@pytest.mark.fault("F19")
async def test_what_runs_may_end_before_a_worker_ends_that_cannot_use_its_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, infra_secs=100.0)
    Broken(monkeypatch, home, until=1e9, since=1.0).breaks(queue, "wishes")
    name = home.put(Leaf(n=1))
    pilot = home.worker(script=FakeExecutor(default=Returns(0, after=300.0)), detached=True)
    with pytest.raises(FuruExecutorError, match="/the-path"):
        await pilot.run()
    assert home.done() == [name]
    assert 300.0 <= asyncio.get_running_loop().time() < 320.0


@pytest.mark.fault("F19")
async def test_a_controller_that_cannot_be_seen_does_not_keep_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says of the queue is not what it says of its controller."""
    name = home.put(Leaf(n=1))
    Broken(monkeypatch, home, until=1e9).breaks(guardian, "look")
    loop = asyncio.get_running_loop()
    pilot = home.worker(script=LONG, idle=100.0)
    assert await pilot.run() == "nothing to do for 100 s"
    assert home.done() == [name]
    assert 130.0 <= loop.time() < 132.0


@pytest.mark.fault("F57")
async def test_a_limit_that_fits_no_allocation_of_this_spec_is_a_failure(home: Home) -> None:
    loop = asyncio.get_running_loop()
    home.put(Limited(n=1))
    await home.worker(walltime=Walltime(loop.time() + 90.0, 90.0)).run()
    failure = home.only_report().failure
    assert failure is not None
    assert failure.kind == "timeout"
    assert "time_min" in failure.message


@pytest.mark.fault("F44")
@pytest.mark.parametrize(("node", "kind"), [(Leaf(n=1), "timeout"), (Goes(n=1), "preempted")])
async def test_the_end_of_the_allocation(home: Home, node: Any, kind: str) -> None:
    """A node that began with it would need more: another spec. One that goes on from its checkpoint just goes on."""
    loop = asyncio.get_running_loop()
    home.put(node)
    pilot = home.worker(script=FakeExecutor(default=Hangs()), walltime=Walltime(loop.time() + 100.0, 100.0))
    await pilot.run()
    assert 88.0 < loop.time() < 97.0, "in time for SIGTERM, the grace period and the last words"
    failure = home.only_report().failure
    assert failure is not None
    assert failure.kind == kind


@pytest.mark.fault("F44")
@pytest.mark.parametrize(("late", "kind"), [(20.0, "timeout"), (200.0, "preempted")])
async def test_a_task_for_which_the_worker_had_to_wait(home: Home, late: float, kind: str) -> None:
    loop = asyncio.get_running_loop()
    walltime = Walltime(loop.time() + 600.0, 600.0)
    pilot = home.worker(script=FakeExecutor(default=Hangs()), walltime=walltime, idle=1000.0, detached=True)

    async def later() -> None:
        await asyncio.sleep(late)
        home.put(Leaf(n=1))

    await with_worker(pilot, later)
    failure = home.only_report().failure
    assert failure is not None
    assert failure.kind == kind


@pytest.mark.fault("F44")
async def test_a_task_that_came_late_in_the_allocation_is_preempted(home: Home) -> None:
    loop = asyncio.get_running_loop()
    first, late = home.put(Leaf(n=1), priority=5), home.put(Leaf(n=2))
    script = FakeExecutor({Leaf(n=1): Returns(0, after=40.0), Leaf(n=2): Hangs()})
    waits = home.put(Leaf(n=3), priority=0)
    await home.worker(script=script, walltime=Walltime(loop.time() + 100.0, 100.0)).run()
    assert first in home.done()
    by_name = {name: report.failure.kind for name, report in home.reports().items() if report.failure}
    assert by_name in ({late: "preempted"}, {})
    assert waits in (*home.done(), *home.todo())


# -- the controller --------------------------------------------------------------------------------------------


async def test_without_a_sign_of_its_controller_it_ends_after_what_runs(tmp_path: Path) -> None:
    home = Home(tmp_path, lease_secs=20.0, heartbeat_secs=2.5, heartbeat_grace_secs=20.0)
    loop = asyncio.get_running_loop()
    home.claim(beat=home.beat("1"))
    ran = home.put(Leaf(n=1))
    pilot = home.worker(script=FakeExecutor(default=Returns(0, after=60.0)), idle=1000.0)

    async def more() -> None:
        await asyncio.sleep(40)
        home.put(Leaf(n=2))

    assert await with_worker(pilot, more) == "its controller gave no sign of life for a lease"
    assert home.done() == [ran]
    assert len(home.todo()) == 1
    assert 60.0 <= loop.time() < 62.0


async def test_as_long_as_its_controller_beats_it_stays(tmp_path: Path) -> None:
    home = Home(tmp_path, lease_secs=20.0, heartbeat_secs=2.5, heartbeat_grace_secs=20.0)
    home.claim(beat=home.beat("0"))
    pilot = home.worker(idle=100.0)

    async def beat() -> None:
        for k in range(30):
            home.beat(str(k))
            await asyncio.sleep(3)

    assert await with_worker(pilot, beat) == "nothing to do for 100 s"


async def test_another_controller_of_the_run_is_waited_for(tmp_path: Path) -> None:
    home = Home(tmp_path, lease_secs=20.0, heartbeat_secs=2.5, heartbeat_grace_secs=20.0)
    loop = asyncio.get_running_loop()
    home.claim("first", home.beat("1"))
    pilot = home.worker(idle=30.0)

    async def replaced() -> None:
        await asyncio.sleep(15)
        runs.end_run(home.run, 1, "first", "lost")
        home.claim("second", home.beat("7"), after=1)

    assert await with_worker(pilot, replaced) == "nothing to do for 30 s"
    assert loop.time() < 35


async def test_detached_it_needs_no_controller(tmp_path: Path) -> None:
    home = Home(tmp_path, lease_secs=20.0, heartbeat_secs=2.5, heartbeat_grace_secs=20.0)
    name = home.put(Leaf(n=1))
    pilot = home.worker(script=FakeExecutor(default=Returns(0, after=300.0)), detached=True, idle=50.0)
    assert await pilot.run() == "nothing to do for 50 s"
    assert home.done() == [name]


@pytest.mark.parametrize(("how", "ended"), [("cancelled", True), ("failed", False)])
async def test_when_the_run_has_ended_it_ends(home: Home, how: Any, ended: bool) -> None:
    home.claim(beat=home.beat("1"))
    name = home.put(Leaf(n=1))
    pilot = home.worker(script=LONG)

    async def end() -> None:
        await until(lambda: home.status().began)
        runs.end_run(home.run, 1, "controller", how)

    await with_worker(pilot, end)
    if ended:
        failure = home.only_report().failure
        assert failure is not None
        assert failure.kind == "cancelled"
    else:
        assert home.done() == [name]


async def test_a_closed_pool_takes_nothing_more(home: Home) -> None:
    names = [home.put(Leaf(n=n)) for n in range(3)]
    pilot = home.worker(script=LONG)

    async def close() -> None:
        await until(lambda: home.status().began)
        queue.close(home.paths)

    assert await with_worker(pilot, close) == "the pool is closed"
    assert len(home.done()) == 1
    assert sorted([*home.done(), *home.todo()]) == sorted(names)


async def test_of_a_closed_pool_it_touches_nothing(home: Home) -> None:
    name = home.put(Leaf(n=1))
    queue.close(home.paths)
    assert await home.worker().run() == "the pool is closed"
    assert (home.status().taken, home.todo()) == (0, [name])


# -- what it leaves --------------------------------------------------------------------------------------------


async def test_it_claims_in_its_own_name_and_leaves_the_run_to_its_controller(home: Home) -> None:
    node = Leaf(n=1)
    home.put(node)
    await home.worker(script=FakeExecutor(default=Computes())).run()
    paths = ArtifactPaths(home.root, "pool_artifacts.Leaf", node.furu_hash)
    assert b'"backend":"pool"' in Path(paths.claim(1)).read_bytes()
    run = RunPaths(home.root, HOME)
    assert not os.path.exists(run.claims)
    assert not os.path.exists(run.ends)
    assert os.listdir(f"{run.workers}/w1") == ["status.json"]


async def test_a_short_task_is_taken_ahead_and_a_long_one_is_not(home: Home) -> None:
    for n in range(60):
        home.put(Leaf(n=n))
    pilot = home.worker(script=FakeExecutor(default=Returns(0, after=0.05)))
    depths: list[int] = []

    async def look() -> None:
        while len(home.done()) < 50:
            depths.append(len(home.running()))
            await asyncio.sleep(0.01)

    await with_worker(pilot, look)
    assert max(depths) == 2
    slow = replace(LONG, default=Returns(0, after=1.0))
    for n in range(60, 64):
        home.put(Leaf(n=n))
    pilot = home.worker("w2", script=slow)
    await with_worker(pilot, lambda: until(lambda: len(home.running()) > 1 or len(home.done()) == 64))
    assert pilot.work.depth() == 1


@pytest.mark.parametrize("slots", [1, 2])
async def test_what_was_taken_ahead_of_a_long_task_is_given_back(home: Home, slots: int) -> None:
    """A worker that takes dozens of tiny tasks at a time meets one of days: the rest is for others."""
    long = [Leaf(n=1000 + k) for k in range(slots)]
    script = {obj: Returns(0, after=1e5) for obj in long}
    for n in range(60):
        home.put(Leaf(n=n))
        for k in range(slots):
            if n == 40 + 4 * k:
                home.put(long[k])
    pilot = home.worker(script=FakeExecutor(script, default=Returns(0, after=0.0)), slots=slots)

    async def others_have_the_rest() -> None:
        await until(
            lambda: (
                sum(t.began is not None for t in pilot.work.tasks.values()) == slots
                and (
                    {t.entry.hash for t in pilot.work.tasks.values() if t.began is not None}
                    == {obj.furu_hash for obj in long}
                )
            )
        )
        began = asyncio.get_running_loop().time()
        await until(lambda: len(home.running()) == slots)
        assert asyncio.get_running_loop().time() - began < 5.0
        assert len(home.done()) + len(home.todo()) == 60
        other = home.worker("w2", script=FakeExecutor(default=Returns(0)))
        await with_worker(other, lambda: until(lambda: len(home.done()) == 60))
        pilot.drain("the test is over")

    await with_worker(pilot, others_have_the_rest)


@pytest.mark.fault("F109")
async def test_an_idle_worker_asks_seldom_and_not_in_step(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from furu_async._pool.round import Desk

    loop = asyncio.get_running_loop()
    asked: dict[str, list[float]] = {}
    real = Desk.round

    def counted(desk: Desk, ask: Any) -> Any:
        if ask.want:
            asked.setdefault(desk.wid, []).append(loop.time())
        return real(desk, ask)

    monkeypatch.setattr(Desk, "round", counted)
    pilots = [home.worker(f"w{k}", seed=k, idle=60.0) for k in range(3)]
    await asyncio.gather(*(pilot.run() for pilot in pilots))
    for times in asked.values():
        late = [at for at in times if at > 20.0]
        assert len(late) <= 60, "about once a second"
    assert len({round(times[-1], 3) for times in asked.values()}) == 3


async def test_a_store_that_gives_no_answer_does_not_keep_it_from_ending(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.put(Leaf(n=1))
    pilot = home.worker(script=FakeExecutor(default=Hangs()))
    loop = asyncio.get_running_loop()
    hangs = loop.create_future()

    async def signal() -> None:
        await until(lambda: home.status().began)
        monkeypatch.setattr(Pilot, "_round", lambda *_, **__: asyncio.shield(hangs))
        await asyncio.sleep(10)
        pilot.drain("SIGTERM")

    assert await with_worker(pilot, signal) == "SIGTERM"
    assert loop.time() < 45.0


@pytest.mark.parametrize("lane", ["files", "user"])
async def test_where_no_thread_can_be_had_for_a_while_nothing_is_lost(
    home: Home, monkeypatch: pytest.MonkeyPatch, lane: str
) -> None:
    names = [home.put(Leaf(n=n)) for n in range(5)]
    door = getattr(DOOR, lane)
    run, calls = door.run, itertools.count()

    async def now_and_then(*args: Any, **kwargs: Any) -> Any:
        if lane == "files" and args[0].__name__ != "round":
            return await run(*args, **kwargs)
        if next(calls) % 3:
            raise NoThread(lane, 0.0)
        return await run(*args, **kwargs)

    monkeypatch.setattr(door, "run", now_and_then)
    assert await home.worker(script=QUICK, idle=7.0).run() == "nothing to do for 7 s"
    assert home.done() == sorted(names)
    assert (home.todo(), home.running(), home.reports()) == ([], [], {})


async def test_without_a_store_to_begin_with_it_says_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", home.run.workers)

    monkeypatch.setattr("furu_async._store.card.Card.write", refuse)
    with pytest.raises(FuruStoreError, match="cannot be written"):
        await home.worker().run()


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_detached_it_goes_on_when_the_run_has_ended(home: Home, how: Any) -> None:
    home.claim(beat=home.beat("1"))
    runs.end_run(home.run, 1, "controller", how)
    names = [home.put(Leaf(n=n)) for n in range(3)]
    await home.worker(script=LONG, detached=True).run()
    assert home.done() == sorted(names)


async def test_entries_of_other_runs_are_claimed_in_their_name(home: Home) -> None:
    other = "20260101-000000-2-bbbbbb"
    nodes = [Leaf(n=1), Leaf(n=2)]
    names = [home.put(nodes[0]), home.put(nodes[1], run_id=other)]
    await home.worker().run()
    assert home.done() == sorted(names)
    said = [
        Path(ArtifactPaths(home.root, "pool_artifacts.Leaf", node.furu_hash).claim(1)).read_text()
        for node in nodes
    ]
    assert HOME in said[0]
    assert other in said[1]
    assert not os.path.exists(RunPaths(home.root, other).base), "nothing of it is left"


# -- what is wanted back ---------------------------------------------------------------------------------------


async def test_what_has_not_begun_is_returned_when_it_is_wanted_back(home: Home) -> None:
    """A run drains: the task that a process is at ends as it would, and those behind it begin no more."""
    runs_, *behind = [home.put(Leaf(n=n), priority=9 - n) for n in range(4)]
    script = FakeExecutor({Leaf(n=0): Returns(0, after=30.0)}, default=Returns(0, after=0.0))
    pilot = home.worker(script=script, slots=1)
    pilot.work.seconds = 0.001  # so that it takes several at once
    pilot.work.give_back_ahead = lambda: None  # type: ignore[method-assign]

    async def recall() -> None:
        await until(lambda: len(pilot.work.tasks) == 4 and home.status().began == [runs_])
        for name in (runs_, *behind):
            queue.ask_to_cancel(home.paths, name, begun=False)
        await until(lambda: len(home.reports()) == 3, 5.0)

    await with_worker(pilot, recall)
    assert home.done() == [runs_]
    assert home.todo() == []
    for name in behind:
        report = home.reports()[name]
        assert (report.outcome, report.begun, report.detail) == ("returned", False, "cancelled")
    assert queue.wishes(home.paths) == ([], [runs_]), "the controller removes what came too late"


async def test_what_is_wanted_back_is_returned_by_whoever_takes_it_next(home: Home) -> None:
    name = home.put(Leaf(n=1))
    queue.ask_to_cancel(home.paths, name, begun=False)
    await home.worker(script=LONG).run()
    assert home.done() == []
    assert home.only_report().outcome == "returned"
    assert home.generations(Leaf(n=1)) == 0
