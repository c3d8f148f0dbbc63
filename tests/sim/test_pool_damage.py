"""Foreign and damaged files in what a pool's controller and its workers share, and what cannot be read."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.local.test_bad_input import DAMAGE
from tests.sim.pool_sim import World, until
from tests.sim.sim_artifacts import Item

from furu_async import RunReport
from furu_async._pool import crew, queue
from furu_async._store import fs
from furu_async._store.layout import ArtifactPaths
from furu_async.errors import FuruError, FuruExecutorError
from furu_async.testing import FakeExecutor, Returns, faulty_storage, run_virtual

LONG = FakeExecutor(default=Returns(1, after=30.0))

KINDS = ("empty", "binary", "huge", "newer", "a folder", "a pipe", "a link to outside", "a loop")

PLACES = (
    "queue/todo/KEY/foreign", "queue/todo/KEY/BUCKET/NAME", "queue/running/WID/NAME", "queue/running/foreign",
    "queue/done/foreign", "queue/done/NAME", "queue/failed/foreign", "queue/failed/NAME", "queue/cancel/foreign",
    "queue/bad", "workers/WID/status.json", "workers/foreign", "submissions/foreign", "submissions/SID/job-1",
    "pool.json", "journal.jsonl", "run.json", "claims/1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def home_of(world: World) -> Path:
    (folder,) = (each for each in (Path(world.root) / "runs").iterdir() if not each.name.startswith("."))
    return folder


def found(folder: Path, pattern: str) -> Path:
    return min(folder.glob(pattern))


def path_of(home: Path, place: str) -> Path:
    """Where that is at this moment; there are entries that wait, and others that workers have."""
    waits, taken = found(home, "queue/todo/*/*/*.*"), found(home, "queue/running/*/*.*")
    names = {
        "KEY": waits.parent.parent.name,
        "BUCKET": waits.parent.name,
        "NAME": taken.name if "running" in place else waits.name,
        "WID": taken.parent.name,
        "SID": found(home, "submissions/*").name,
    }
    return home.joinpath(*(names.get(part, part) for part in place.split("/")))


def put(path: Path, what: str, outside: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    DAMAGE[what](path, outside)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "outside"
    (folder / "folder").mkdir(parents=True)
    (folder / "file").write_text("somebody else's")
    yield folder
    assert (folder / "file").read_text() == "somebody else's"
    assert list((folder / "folder").iterdir()) == []


@pytest.mark.fault("F78", "F112")
@pytest.mark.parametrize("place", PLACES)
def test_damage_to_what_controller_and_workers_share_is_got_over(
    place: str, tmp_path: Path, outside: Path
) -> None:
    items = [Item(number=n) for n in range(6)]

    async def one(what: str, root: Path) -> dict[str, int]:
        world = World(root, LONG)

        async def spoil(run: Any, executor: Any) -> None:
            await until(lambda: len(world.working()) == 2)
            put(path_of(home_of(world), place), what, outside)

        report = await world.run(*items, meanwhile=spoil, pool=world.pool(workers=2), timeout=600.0)
        return dict(report.counts)

    problems = []
    for number, what in enumerate(KINDS):
        try:
            counts = run_virtual(one(what, tmp_path / f"store-{number}"), patience=20)
        except Exception as error:
            problems.append(f"{what}: {error!r}")
            continue
        if counts["created"] + counts["cached"] != 6:  # a worker may have made it when it is tried again
            problems.append(f"{what}: {counts}")
    assert not problems, "\n".join(problems)


@pytest.mark.fault("F19")
def test_a_queue_that_cannot_be_listed_ends_the_run_with_its_path(tmp_path: Path, outside: Path) -> None:
    """Workers see nothing to do and end, and others take their place: that must not go on for ever."""
    items = [Item(number=n) for n in range(4)]
    paths = []

    async def main() -> float:
        world = World(tmp_path / "store", LONG)

        async def spoil(run: Any, executor: Any) -> None:
            await until(lambda: len(world.working()) == 2)
            paths.append(found(home_of(world), "queue/todo/*"))
            put(paths[0], "a loop", outside)

        with pytest.raises(FuruExecutorError) as raised:
            await world.run(*items, meanwhile=spoil, pool=world.pool(workers=2), timeout=5000.0)
        assert "the queue cannot be read" in str(raised.value)
        assert str(paths[0]) in str(raised.value)
        return asyncio.get_running_loop().time()

    assert 900 < run_virtual(main(), patience=20) < 1100


@pytest.mark.fault("F19")
def test_what_a_dead_worker_left_and_cannot_be_seen_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(*_: Any) -> crew.Left:
        raise OSError(errno.EIO, "Input/output error", "the folder of a node")

    async def main() -> float:
        world = World(tmp_path / "store", LONG)

        async def kill(run: Any, executor: Any) -> None:
            (job,) = await until(world.working)
            world.kill(job)

        with pytest.raises(FuruExecutorError, match="cannot be seen: the folder of a node"):
            await world.run(Item(number=1), meanwhile=kill, pool=world.pool(workers=1), timeout=5000.0)
        return asyncio.get_running_loop().time()

    monkeypatch.setattr(crew, "_left", blind)
    assert 900 < run_virtual(main(), patience=20) < 1100


@pytest.mark.fault("F19", "F56")
def test_workers_that_cannot_look_at_the_queue_end_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their nodes have a broken mount, and the controller has none: they did not end for want of work."""

    def take(taker: queue.Taker, _: int) -> list[queue.Taken]:
        raise OSError(errno.EIO, "Input/output error", taker.folder)

    async def main() -> tuple[RunReport, int]:
        world = World(tmp_path / "store", LONG, infra_secs=100.0)
        report = await world.run(Item(number=1), pool=world.pool(workers=1), timeout=20_000.0)
        return report, len(world.pilots)

    monkeypatch.setattr(queue.Taker, "take", take)
    report, started = run_virtual(main(), patience=20)
    (row,) = report.nodes.values()
    assert row.failure is not None
    assert "5 workers in a row" in row.failure.message
    assert "cannot be used for 100 s: Input/output error" in row.failure.message
    assert "/queue/todo/" in row.failure.message
    assert started == 5
    (note,) = report.notes
    assert "/queue/todo/" in note


@pytest.mark.fault("F19", "F56")
def test_a_worker_on_a_bad_node_is_told_of_while_others_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = queue.Taker.take
    first: list[queue.Taker] = []

    def take(taker: queue.Taker, most: int) -> list[queue.Taken]:
        if taker in first or not first:
            first[:] = [taker]
            raise OSError(errno.EIO, "Input/output error", taker.folder)
        return real(taker, most)

    async def main() -> RunReport:
        world = World(tmp_path / "store", LONG, infra_secs=100.0)
        return await world.run(*(Item(number=n) for n in range(10)), pool=world.pool(workers=2))

    monkeypatch.setattr(queue.Taker, "take", take)
    report = run_virtual(main(), patience=20)
    assert report.counts["created"] == 10
    (note,) = report.notes
    assert "cannot be used for 100 s: Input/output error" in note


@pytest.mark.fault("F19")
@pytest.mark.parametrize("secs", [400.0, 1e9], ids=["for a while", "for ever"])
def test_a_workers_beat_that_cannot_be_read_is_no_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secs: float
) -> None:
    """Slurm says that its job runs; in its folder the controller sees nothing but errors."""
    real = fs.open

    async def main() -> tuple[RunReport, int]:
        loop = asyncio.get_running_loop()
        world = World(tmp_path / "store", FakeExecutor(default=Returns(1, after=2000.0)))

        def open_file(path: str, flags: int, *rest: Any) -> int:
            if path.endswith("/beat") and not flags & os.O_WRONLY and 20.0 < loop.time() < secs:
                raise OSError(errno.EIO, "Input/output error", path)
            return real(path, flags, *rest)

        monkeypatch.setattr(fs, "open", open_file)
        report = await world.run(Item(number=1), pool=world.pool(workers=1), timeout=5000.0)
        return report, len(world.slurm.jobs)

    if secs > 5000.0:
        with pytest.raises(FuruExecutorError, match=r"Input/output error .*/beat"):
            run_virtual(main(), patience=20)
    else:
        report, jobs = run_virtual(main(), patience=20)
        assert report.counts["created"] == 1
        assert jobs == 1
        assert [each.history for each in report.nodes.values()] == [()]


@pytest.mark.fault("F17", "F18", "F19")
def test_a_folder_that_cannot_be_made_is_waited_for_or_said(tmp_path: Path) -> None:
    """What passes by itself for as long as trouble is waited out; what needs a person is said at once."""

    async def one(name: str, number: int, times: int | None) -> tuple[str, float]:
        world = World(tmp_path / name, LONG, infra_secs=100.0)
        loop, said = asyncio.get_running_loop(), ""
        began = loop.time()
        with faulty_storage(number, path="*/queue/done", operation="mkdir", times=times):
            try:
                await world.run(Item(number=1), pool=world.pool(workers=1))
            except FuruError as error:
                said = str(error)
        return said, loop.time() - began

    assert run_virtual(one("passes", errno.EIO, 5))[0] == ""
    for number, words in ((errno.EIO, "Input/output error"), (errno.ENOSPC, "No space left on device")):
        said, took = run_virtual(one(f"stays-{number}", number, None))
        assert words in said
        assert "/queue/done" in said
        assert (80 < took < 130) == (number == errno.EIO)
        assert number == errno.EIO or took < 10


@pytest.mark.fault("F19", "F22")
@pytest.mark.parametrize("times", [1, 4])
def test_a_claim_that_was_made_and_answered_with_an_error_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Its worker lives and beats, maybe for hours, and the next try may be another worker's."""
    real, hits = fs.lstat, 0
    item = Item(number=1)
    paths = ArtifactPaths(str(tmp_path / "store"), "tests.sim.sim_artifacts.Item", item.furu_hash)

    def lstat(path: str) -> os.stat_result:
        nonlocal hits
        if path == paths.end(1) and os.path.lexists(paths.claim(1)) and hits < times:
            hits += 1
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return real(path)

    async def main() -> RunReport:
        os.makedirs(paths.claims)  # so that it is not the first to want it
        world = World(tmp_path / "store", LONG)
        report = await world.run(item, pool=world.pool(workers=1))
        assert world.ends(item, paths.name) == ["infrastructure", "success"]
        return report

    monkeypatch.setattr(fs, "lstat", lstat)
    report = run_virtual(main(), patience=20)
    assert hits == times
    assert report.counts["created"] == 1
    assert report.duration < 60
