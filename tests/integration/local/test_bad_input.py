"""Foreign, torn, huge and hostile things in every place of the store: each concerns its own artifact, and no other.

One store per place, one artifact per kind of damage, one whole run over all of them on virtual time: it ends, each
artifact is computed or fails with words that name its folder, the others are computed, and nothing outside is touched.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.sim.sim_artifacts import Item

from furu_async import FuruConfig, RunReport, run_dag
from furu_async._executors.inspect import explain_dag
from furu_async._runtime.config import active_config
from furu_async._store import artifacts, atomic, runs
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths, RunPaths
from furu_async._store.liveness import this_owner
from furu_async._store.records import Claim, RunRecord, encode
from furu_async._testing.strangers import Stranger
from furu_async.errors import FuruError
from furu_async.testing import Computes, FakeExecutor, Raises, Returns, run_virtual, tmp_root

SECRET = "canary-outside-5c1e"


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.ERROR)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def paths_of(item: Item) -> ArtifactPaths:
    return ArtifactPaths(str(active_config().path), "tests.sim.sim_artifacts.Item", item.furu_hash)


# -- kinds of damage -------------------------------------------------------------------------------------------


def _bytes(data: bytes) -> Callable[[Path, Path], None]:
    return lambda path, outside: void(path.write_bytes(data))


def void(_: object) -> None:
    """For functions in a table whose result does not matter."""


def _huge(path: Path, outside: Path) -> None:
    with path.open("wb") as file:
        file.truncate(atomic.MAX_RECORD + 1)


def _socket(path: Path, outside: Path) -> None:
    # The name of a socket is short, so it is bound elsewhere and moved.
    short = outside / "s"
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(short))
    short.rename(path)


def _folder(path: Path, outside: Path) -> None:
    path.mkdir()
    (path / "foreign").write_text("something else")


def _record(**fields: Any) -> Callable[[Path, Path], None]:
    return _bytes(json.dumps({"generation": 1, "token": "t", "status": "success", **fields}).encode())


DAMAGE: dict[str, Callable[[Path, Path], None]] = {
    "empty": _bytes(b""),
    "torn": _bytes(b'{"v":1,"generation":1,"tok'),
    "foreign": _bytes(b'{"hello": [1, 2]}'),
    "a list": _bytes(b"[]"),
    "binary": _bytes(bytes(range(256)) * 8),
    "deep": _bytes(b"[" * 100_000),
    "huge": _huge,
    "newer": _record(v=99),
    "of another artifact": _record(hash="0" * 40),
    "of another generation": _record(generation=7),
    "huge numbers": _bytes(b'{"generation": 1' + b"0" * 400 + b', "v": 1e999}'),
    "a folder": _folder,
    "a pipe": lambda path, outside: os.mkfifo(path),
    "a socket": _socket,
    "a dangling link": lambda path, outside: path.symlink_to("/nowhere/at/all"),
    "a link to outside": lambda path, outside: path.symlink_to(outside / "file"),
    "a link to a folder outside": lambda path, outside: path.symlink_to(outside / "folder"),
    "a loop": lambda path, outside: path.symlink_to(path),
    "a link to /dev/zero": lambda path, outside: path.symlink_to("/dev/zero"),
}

# -- places ------------------------------------------------------------------------------------------------------

PLACES: dict[str, tuple[str, str]] = {
    # name: (what had happened to the artifact before, path below its folder)
    "claim": ("claimed", ".furu/claims/1"),
    "claim of an ended generation": ("failed", ".furu/claims/1"),
    "claim of the next generation": ("failed", ".furu/claims/2"),
    "claim of a published one": ("published", ".furu/claims/1"),
    "end": ("failed", ".furu/ends/1"),
    "end without claim": ("fresh", ".furu/ends/1"),
    "end of a published one": ("published", ".furu/ends/1"),
    "end while claimed": ("claimed", ".furu/ends/1"),
    "invalidation": ("published", ".furu/invalid/1"),
    "invalidation of nothing": ("fresh", ".furu/invalid/1"),
    "job": ("fresh", ".furu/jobs/1"),
    "state": ("fresh", ".furu/state.json"),
    "marker": ("published", "SUCCESS.json"),
    "marker of nothing": ("fresh", "SUCCESS.json"),
    "marker of a failure": ("failed", "SUCCESS.json"),
    "marker of a claimed one": ("claimed", "SUCCESS.json"),
    "attempt": ("fresh", "attempts/1"),
    "next attempt": ("failed", "attempts/2"),
    "checkpoint": ("failed", "checkpoints/1"),
    "claims": ("fresh", ".furu/claims"),
    "ends": ("fresh", ".furu/ends"),
    "ends while claimed": ("claimed", ".furu/ends"),
    "invalid": ("published", ".furu/invalid"),
    "quarantine": ("fresh", ".furu/quarantine"),
    "attempts": ("fresh", "attempts"),
    "checkpoints": ("failed", "checkpoints"),
    "furu": ("fresh", ".furu"),
    "furu of a published one": ("published", ".furu"),
    "artifact": ("fresh", ""),
    "foreign name": ("fresh", ".furu/claims/foreign"),
    "foreign number": ("failed", ".furu/ends/01"),
    "great number": ("fresh", ".furu/claims/" + "9" * 40),
    "foreign temp": ("failed", ".furu/ends/.tmp-1-x"),
}


def put(item: Item, place: str, what: str, outside: Path) -> Path:
    """Bring an artifact into a state, then put something else into a place of it."""
    before, name = PLACES[place]
    stranger = Stranger(str(active_config().path), item)
    if before != "fresh":
        assert stranger.claim()
    if before == "failed":
        assert stranger.fail("compute")
    elif before == "published":
        assert stranger.publish(item.number)
    path = Path(paths_of(item).base, name) if name else Path(paths_of(item).base)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    DAMAGE[what](path, outside)
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What is not ours: it is as it was when the test is over."""
    folder = tmp_path / "outside"
    (folder / "folder").mkdir(parents=True)
    for name in ("file", "folder/1", "folder/file"):
        (folder / name).write_text(SECRET)
    before = listing(folder)
    yield folder
    assert listing(folder) == before


def listing(folder: Path) -> list[tuple[str, str]]:
    return sorted((str(p), p.read_text() if p.is_file() else "") for p in folder.rglob("*"))


async def compute(*targets: Item, **options: Any) -> tuple[RunReport, float]:
    begin = asyncio.get_running_loop().time()
    executor = FakeExecutor(
        lambda obj, attempt: Computes() if obj.inputs else Returns(lambda _: obj.number),
    )
    report = await run_dag(targets, executor=executor, **{"check": False, **options})
    return report, asyncio.get_running_loop().time() - begin


@pytest.mark.fault("F20", "F78", "F112")
@pytest.mark.parametrize("place", PLACES)
def test_damage_in_any_place_concerns_its_artifact_only(place: str, root: FuruConfig, outside: Path) -> None:
    items = {what: Item(number=k) for k, what in enumerate(DAMAGE)}
    kept: dict[str, bytes] = {}
    for what, item in items.items():
        path = put(item, place, what, outside)
        if path.is_file() and not path.is_symlink():
            kept[what] = beginning(path)
    fine = [Item(number=1000), Item(number=1001, inputs=(Item(number=1002),))]
    above = {what: Item(number=2000 + k, inputs=(item,)) for k, (what, item) in enumerate(items.items())}
    asyncio.run(explain_dag(list(items.values())))

    report, took = run_virtual(compute(*fine, *above.values()), patience=20)
    assert all(report[item].status == "created" for item in fine)
    assert took < 2 * root.stale_after_secs
    problems: list[str] = []
    for what, item in items.items():
        problems.extend(f"{what}: {text}" for text in wrong_with(item, above[what], report))
        # A record that is whole is set aside like any result that cannot be used.
        if what in kept and what != "of another generation" and not still_there(item, kept[what]):
            problems.append(f"{what}: its content is nowhere any more")
    assert not problems, "\n".join(problems)


def wrong_with(item: Item, above: Item, report: RunReport) -> Iterator[str]:
    """What is not as it is promised for a damaged artifact and for what needs it."""
    if item not in report:  # it was there already
        if report[above].status != "created":
            yield f"what needs it is {report[above].status}"
        return
    node = report[item]
    if node.status in ("created", "cached"):
        if report[above].status != "created":
            yield f"{node.status}, and what needs it is {report[above].status}: {report[above].failure}"
        try:
            value = item.load_existing()
            if value != item.number:
                yield f"its value is {value!r}"
        except Exception as error:
            yield f"{node.status}, and cannot be loaded: {error!r}"
    elif node.status == "failed" and node.failure is not None:
        folder = paths_of(item).base
        if folder not in node.failure.message:
            yield f"failed without naming {folder}: {node.failure}"
        if node.failure.kind not in ("protocol", "compute"):
            yield f"failed as {node.failure.kind}: {node.failure.message}"
        if report[above].status != "skipped":
            yield f"what needs it is {report[above].status}"
    else:
        yield f"it is {node.status}"
    try:
        item.get_state()
    except FuruError as error:
        if paths_of(item).base not in str(error):
            yield f"get_state does not say where: {error}"
    except Exception as error:
        yield f"get_state raised {error!r}"


def still_there(item: Item, content: bytes) -> bool:
    """Somewhere in the artifact's folder there is a file with this content."""
    base = Path(paths_of(item).base)
    if base.is_file():
        return base.read_bytes()[:1000] == content
    files = (p for p in base.rglob("*") if p.is_file() and not p.is_symlink())
    return any(beginning(path) == content for path in files)


def beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1000)


# -- runs ----------------------------------------------------------------------------------------------------------

RUN_PLACES = (
    "run.json", "journal.jsonl", "claims/1", "ends/1", "claims", "ends", "workers", "workers/w1", "workers/w1/beat",
    "workers/w1/card-1", "workers/w1/children", "workers/w1/children/77", "workers/w1/children/foreign", "submissions",
    "../.unfinished", "../.unfinished/KEY", "../.unfinished/KEY/RUN", "../.unfinished/KEY/foreign", "",
)  # fmt: skip


def dead_run(item: Item) -> Path:
    """What the controller of a call left that died while it was at its only target; the folder of the run."""
    root = str(active_config().path)
    run_id = f"20200101-000000-1-{item.number:06x}"
    paths = RunPaths(root, run_id)
    owner = msgspec.structs.replace(this_owner(), start_time=1)
    beat = paths.worker("w1").beat[len(root) + 1 :]
    card = Card(paths.worker("w1"), Claim(token="t", backend="local", run_id=run_id, owner=owner, beat=beat))
    card.write()
    assert runs.claim_run(paths, 0, card) == 1
    runs.enter(paths, runs.call_key("fake", [item.furu_hash]), card)
    assert artifacts.claim(paths_of(item), 1, card).r == "claimed"
    Path(paths.record).write_bytes(
        encode(RunRecord(run_id=run_id, key=runs.call_key("fake", [item.furu_hash])))
    )
    Path(paths.journal).write_text('{"at":1,"kind":"run_started"}\n')
    Path(paths.worker("w1").beat).write_text("1")
    Path(paths.worker("w1").children).mkdir()
    Path(paths.worker("w1").children, "77").write_text('{"pid": 77, "start_time": 5, "token": "x"}')
    return Path(paths.base)


@pytest.mark.fault("F07", "F20", "F78", "F112")
@pytest.mark.parametrize("place", RUN_PLACES)
def test_damage_to_the_run_of_a_dead_controller_keeps_nobody_from_going_on(
    place: str, root: FuruConfig, outside: Path
) -> None:
    problems = []
    for number, what in enumerate(DAMAGE):
        item = Item(number=number)
        folder = dead_run(item)
        key = runs.call_key("fake", [item.furu_hash])
        path = Path(os.path.normpath(folder / place.replace("KEY", key).replace("RUN", folder.name)))
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        DAMAGE[what](path, outside)
        try:
            report, took = run_virtual(compute(item), patience=20)
            if report[item].status != "created" or took > 60:
                problems.append(f"{what}: {report[item]} after {took:g} s")
        except Exception as error:
            problems.append(f"{what}: {error!r}")
        if place in ("../.unfinished", "../.unfinished/KEY"):  # of all of these runs
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_beat_of_somebody_who_lives_is_waited_for_a_while(
    what: str, root: FuruConfig, outside: Path
) -> None:
    item, fine = Item(number=1), Item(number=2)
    stranger = Stranger(str(root.path), item)
    assert stranger.claim()
    path = Path(stranger._worker.beat)
    path.unlink()
    DAMAGE[what](path, outside)
    report, took = run_virtual(compute(item, fine), patience=20)
    assert report.counts["created"] == 2
    assert root.heartbeat_grace_secs <= took <= root.lease_secs * 1.3


WHOLE = ("", "data", "data/tests", "data/tests/sim/sim_artifacts/Item", "runs")


@pytest.mark.parametrize("what", ["empty", *list(DAMAGE)[list(DAMAGE).index("a folder") :]])
@pytest.mark.parametrize("place", WHOLE)
def test_something_else_in_place_of_the_store_or_a_folder_of_it_is_said(
    place: str, what: str, root: FuruConfig, outside: Path
) -> None:
    path = Path(root.path) / place
    path.parent.mkdir(parents=True, exist_ok=True)
    DAMAGE[what](path, outside)
    item = Item(number=1)
    if what in ("a folder", "a link to a folder outside"):
        # Whoever has put a part of the store elsewhere may do so.
        report, _ = run_virtual(compute(item), patience=20)
        assert report.counts["created"] == 1
        for made in (outside / "folder").iterdir():
            if made.is_dir():
                shutil.rmtree(made)
        return
    begin = time.monotonic()
    try:
        report, took = run_virtual(compute(item), patience=20)
        assert report[item].failure is not None
        text = str(report[item].failure)
    except FuruError as error:
        took, text = 0.0, str(error)
        assert "hint" in text
    assert str(path) in text
    # What a link leads to may be back soon: a disk that is not mounted.
    assert took <= (root.infra_secs if what == "a dangling link" else 60)
    assert time.monotonic() - begin < 15, "nothing hangs"


def test_names_to_compute_again_that_match_nothing_are_told(root: FuruConfig) -> None:
    names = ("tests.sim.sim_artifacts.Item", "tests.sim.sim_artifacts.Itme")
    report, _ = run_virtual(compute(Item(number=1), rerun=names))
    assert report.ok
    assert [note for note in report.notes if "rerun" in note] == [
        "rerun='tests.sim.sim_artifacts.Itme' is no class of this run "
        "(what lies below results that are there is not looked at)"
    ]


def test_a_stored_result_of_the_right_size_and_wrong_content_is_made_again(root: FuruConfig) -> None:
    """By whoever needs it, and by an `aget`."""
    item = Item(number=1)
    above = Item(number=2, inputs=(item,))
    text = "x" * 5000
    executor = FakeExecutor(lambda obj, attempt: Computes() if obj.inputs else Returns([text]))

    async def run() -> RunReport:
        return await run_dag(item, executor=executor)

    async def get() -> Any:
        return await item.aget(executor=executor)

    assert run_virtual(run()).ok
    for way in (get, lambda: run_dag(above, executor=executor, check=False, retries=0)):
        (path,) = Path(paths_of(item).attempts).glob("*/result.json")
        path.write_bytes(b"{" * path.stat().st_size)
        run_virtual(way())
        assert item.load_existing() == [text]
        shutil.rmtree(path.parent, ignore_errors=True)


@pytest.mark.fault("F114")
def test_no_secret_of_arguments_or_environment_gets_into_the_store(
    root: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_PASSWORD", "canary-env-91")
    item = Item(number=1)

    def broken() -> None:
        password = os.environ["THE_PASSWORD"]
        assert password
        raise ValueError("the login was refused")

    caught: list[BaseException] = []
    try:
        broken()
    except ValueError as error:
        caught.append(error)
    executor = FakeExecutor({Item: Raises(caught[0])})
    report = run_virtual(run_dag(item, executor=executor, check=False, retries=1))
    assert report.counts["failed"] == 1
    files = [path for path in Path(root.path).rglob("*") if path.is_file()]
    assert any(b"the login was refused" in path.read_bytes() for path in files)
    assert not any(b"canary-env-91" in path.read_bytes() for path in files)


def test_a_store_that_anybody_may_write_is_told_of_once(root: FuruConfig) -> None:
    Path(root.path).mkdir()
    os.chmod(root.path, 0o777)
    report, _ = run_virtual(compute(Item(number=1), Item(number=2)))
    (note,) = [each for each in report.notes if "every user" in each]
    assert f"chmod o-w {root.path}" in note
