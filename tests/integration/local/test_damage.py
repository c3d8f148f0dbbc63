"""Runs on stores that are damaged, full, read-only or no store at all; what is written and what must not be."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_artifacts import Counted, Files, Large, LargeFile, Named, Num, Sum

from furu_async import Furu, Local, RunEvent, RunReport, run_dag
from furu_async._runtime.config import active_config, reset_config
from furu_async.errors import FuruError, FuruStoreError

pytestmark = pytest.mark.usefixtures("furu_tmp_root")
TWO = Local(workers=2)
CONTENDER = str(Path(__file__).with_name("contender.py"))


async def run(*targets: Furu[Any], **options: Any) -> RunReport:
    """A run that gives its report within a minute."""
    async with asyncio.timeout(60):
        return await run_dag(targets, **{"executor": TWO, "check": False, "progress": False, **options})


def base(obj: Furu[Any]) -> Path:
    """The artifact's folder."""
    return (
        Path(obj.get_state()["directory"]).parent.parent
        if obj.exists()
        else Path(obj.get_state()["directory"])
    )


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "torn": lambda whole: whole[: len(whole) // 2],
    "binary": lambda whole: b"\xff\x00\x80" * 100,
    "foreign": lambda whole: b'{"hello": [1, 2]}',
    "list": lambda whole: b"[]",
    "null": lambda whole: b"null",
    "deep": lambda whole: b"[" * 100_000,
}
FILES = {
    "marker": ["SUCCESS.json"],
    "claim": [".furu/claims/1"],
    "end": [".furu/ends/1"],
    "end and claim": [".furu/ends/1", ".furu/claims/1"],
}


def replaced(path: Path, wrong: Callable[[bytes], bytes]) -> None:
    """Another file under the same name, as a torn copy of a store has it."""
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(wrong(whole))


# -- damaged files -------------------------------------------------------------------------------------------


@pytest.mark.fault("F20")
async def test_one_damaged_file_of_a_published_node_costs_nothing() -> None:
    cases = [(files, wrong) for files in FILES.values() for wrong in WRONG.values()]
    nodes = [Num(n=k) for k in range(len(cases))]
    sound = [Num(n=-1), Num(n=-2)]
    assert (await run(*nodes, *sound)).ok
    for node, (files, wrong) in zip(nodes, cases, strict=True):
        folder = base(node)
        for name in files:
            replaced(folder / name, wrong)
    report = await run(*nodes, *sound)
    assert report.counts["cached"] == len(nodes) + 2
    assert [await node.aget() for node in nodes] == [node.n for node in nodes]
    top = Sum(parts=(*nodes, *sound))
    assert (await run(top)).counts["created"] == 1
    assert await top.aget() == sum(range(len(nodes))) - 3


@pytest.mark.fault("F20", "F76")
async def test_a_node_whose_end_and_marker_are_damaged_is_computed_again(tmp_path: Path) -> None:
    nodes = [Counted(path=str(tmp_path / f"calls-{k}"), n=k) for k in range(2 * len(WRONG))]
    sound = Num(n=1)
    await run(*nodes, sound)
    for k, wrong in enumerate(WRONG.values()):
        for node in nodes[2 * k : 2 * k + 2]:
            marker = base(node) / "SUCCESS.json"
            marker.write_bytes(wrong(marker.read_bytes()))  # in place: the end is the same file
    loaded, used = nodes[::2], nodes[1::2]
    assert [await node.aget() for node in loaded] == [2] * len(loaded)
    report = await run(Sum(parts=(*used, sound)))
    assert report.ok, [node.failure for node in report]
    assert report[sound].status == "cached" if sound in report else True
    assert [await node.aget() for node in used] == [2] * len(used)
    assert [node.get_state()["generation"] for node in nodes] == [2] * len(nodes)


@pytest.mark.fault("F20")
async def test_a_damaged_invalidation_still_invalidates(tmp_path: Path) -> None:
    for k, wrong in enumerate(WRONG.values()):
        obj = Counted(path=str(tmp_path / f"calls-{k}"))
        await run(obj)
        folder = base(obj) / ".furu" / "invalid"
        folder.mkdir()
        (folder / "1").write_bytes(wrong(b'{"generation": 1}'))
        assert await obj.aget() in (1, 2)
        (base(obj) / "SUCCESS.json").unlink(missing_ok=True)
        assert await obj.aget() == 2
        assert await obj.aget() == 2, "only once"


@pytest.mark.fault("F20")
async def test_an_unreadable_claim_without_end_is_held_by_somebody_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [Num(n=k) for k in range(len(WRONG))]
    for node, wrong in zip(nodes, WRONG.values(), strict=True):
        claims = base(node) / ".furu" / "claims"
        claims.mkdir(parents=True)
        (claims / "1").write_bytes(wrong(b'{"token": "t", "backend": "local"}'))
    monkeypatch.setenv("FURU_STALE_AFTER_SECS", "2")
    reset_config()
    events: list[RunEvent] = []
    begin = time.monotonic()
    report = await run(*nodes, Num(n=100), on_event=events.append)
    assert report.counts["created"] == len(nodes) + 1
    assert time.monotonic() - begin >= 2
    first = next(event for event in events if event.kind == "node_done")
    assert first.hash == Num(n=100).furu_hash, "others do not wait"
    told = {event.hash: event.message for event in events if event.kind == "node_waiting"}
    assert set(told) == {node.furu_hash for node in nodes}
    assert all("cannot be read" in message and "2 s" in message for message in told.values())
    assert await nodes[0].aget() == 0


@pytest.mark.fault("F20")
async def test_damaged_records_of_an_old_run_concern_nobody() -> None:
    old = await run(Num(n=1))
    folder = Path(old.run_dir)
    assert (folder / "run.json").exists()
    for wrong in WRONG.values():
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            path.write_bytes(wrong(b'{"run_id": "x", "v": 1}'))
        report = await run(Num(n=1), Num(n=2), rerun=["ALL"])
        assert report.counts["created"] == 2
    shutil.rmtree(folder.parent)
    assert (await run(Num(n=1), Num(n=3))).counts["created"] == 1


@pytest.mark.fault("F20")
@pytest.mark.parametrize(
    "name", ["SUCCESS.json", ".furu/claims/1", ".furu/ends/1", "attempts/1", ".furu", "."]
)
async def test_a_folder_for_a_file_or_a_file_for_a_folder_concerns_that_node_only(
    name: str,
) -> None:
    obj, other = Files(text="x"), Num(n=1)
    await run(obj, other)
    path = base(obj) / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("no folder")
    else:
        path.unlink()
        path.mkdir()
    report = await run(obj, other, Num(n=2))
    assert report[other].status == "cached"
    assert report[Num(n=2)].status == "created"
    try:
        text = await asyncio.wait_for(obj.aget(), 30)
    except FuruError as error:
        text = str(error)
    assert text == "x" or obj.furu_hash[:12] in text, "computed again, or it says where"


@pytest.mark.fault("F29")
async def test_what_is_gone_below_a_marker_is_made_again() -> None:
    for obj in (Files(text="file"), Large(size=1 << 20)):
        await run(obj)
        first = await obj.aget()
        shutil.rmtree(obj.furu_dir)
        assert await obj.aget() == first
        assert obj.get_state()["generation"] == 2


@pytest.mark.fault("F20")
async def test_a_result_of_a_newer_version_is_left_alone_and_explained() -> None:
    obj = Num(n=1)
    await run(obj)
    folder = base(obj)
    end = json.loads((folder / ".furu/ends/1").read_bytes())
    for name in ("SUCCESS.json", ".furu/ends/1"):
        replaced(folder / name, lambda _: json.dumps({**end, "v": 99}).encode())
    before = (folder / ".furu/ends/1").read_bytes()
    with pytest.raises(Exception, match="newer furu_async"):
        await asyncio.wait_for(obj.aget(), 30)
    assert (folder / ".furu/ends/1").read_bytes() == before
    (folder / "SUCCESS.json").unlink()
    report = await run(obj, Sum(parts=(Num(n=2),)))
    assert report.counts == {"created": 2, "cached": 0, "failed": 1, "skipped": 0, "cancelled": 0}
    failure = report[obj].failure
    assert failure is not None
    assert failure.kind == "protocol", "waiting does not help, and it concerns this node only"
    assert "newer furu_async" in failure.message
    assert str(folder) in failure.message


# -- the root ------------------------------------------------------------------------------------------------


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a path the root."""

    def use(path: Path) -> None:
        monkeypatch.setenv("FURU_PATH", str(path))
        reset_config()

    return use


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system; skips where that is not allowed."""
    mounts: list[str] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"mount-{len(mounts)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"no mount command: {error}")
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        mounts.append(str(folder))
        return folder

    yield mount
    for folder in mounts:
        subprocess.run(["umount", "-l", folder], check=True)


async def refused(*words: str) -> str:
    """Every way in gives a clear error soon; the text of the run's."""
    text = ""
    for way in (lambda: run_dag([Num(n=1)], executor=TWO, progress=False), lambda: Num(n=1).aget()):
        begin = time.monotonic()
        with pytest.raises(FuruStoreError) as caught:
            await asyncio.wait_for(way(), 30)  # type: ignore[arg-type]
        text = str(caught.value)
        assert time.monotonic() - begin < 10
        assert caught.value.path
        for word in (str(active_config().path), *words):
            assert word in text
    return text


@pytest.mark.fault("F18")
async def test_a_root_that_is_a_file(tmp_path: Path, at: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("something else")
    at(tmp_path / "file")
    await refused("Not a directory")
    assert (tmp_path / "file").read_text() == "something else"


@pytest.mark.fault("F18")
async def test_a_root_below_a_file(tmp_path: Path, at: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("something else")
    at(tmp_path / "file" / "store")
    await refused("Not a directory")


@pytest.mark.fault("F18")
async def test_a_root_that_cannot_be_written(
    mounted: Callable[[str], Path], at: Callable[[Path], None]
) -> None:
    at(mounted("size=1m,ro") / "store")
    await refused("Read-only file system", "FURU_PATH")


@pytest.mark.fault("F18")
def test_a_root_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    script = "from furu_async import run_dag_sync; from local_artifacts import Num; run_dag_sync(Num(n=1))"
    # Without these capabilities even root has to ask for permission.
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*drop, sys.executable, "-c", script],
        env={**os.environ, "FURU_PATH": str(tmp_path / "closed" / "store")},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "FURU_PATH" in done.stderr
    assert list((tmp_path / "closed").iterdir()) == []


@pytest.mark.fault("F17")
async def test_a_full_root(mounted: Callable[[str], Path], at: Callable[[Path], None]) -> None:
    folder = mounted("size=1m,nr_inodes=12")
    for k in range(20):
        try:
            (folder / str(k)).touch()
        except OSError:
            break
    at(folder / "store")
    await refused("No space left", "FURU_PATH")


@pytest.mark.fault("F17")
@pytest.mark.parametrize("obj", [Large(size=4 << 20), LargeFile(size=4 << 20)], ids=["value", "file"])
async def test_a_result_that_does_not_fit_on_the_disk(
    obj: Furu[Any],
    mounted: Callable[[str], Path],
    at: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FURU_INFRA_SECS", "1")
    monkeypatch.setenv("FURU_MAX_COMPUTE_RETRIES", "0")
    reset_config()
    at(mounted("size=2m"))
    report = await run(obj)
    failure = report[obj].failure
    assert failure is not None
    assert failure.kind == "infrastructure"
    assert "No space left" in failure.message
    assert not await obj.aexists()


@pytest.mark.fault("F17")
@pytest.mark.parametrize("kind", [Large, LargeFile], ids=["value", "file"])
async def test_a_full_disk_is_waited_out(
    kind: type[Large] | type[LargeFile],
    mounted: Callable[[str], Path],
    at: Callable[[Path], None],
) -> None:
    folder = mounted("size=6m")
    (folder / "ballast").write_bytes(b"x" * (5 << 20))
    at(folder / "store")
    told: list[str] = []

    def make_room(event: RunEvent) -> None:
        if event.kind == "node_retry":
            told.append(event.message)
            (folder / "ballast").unlink(missing_ok=True)

    obj = kind(size=2 << 20)
    report = await run(obj, retries=0, on_event=make_room)
    assert report.counts["created"] == 1, "trouble with the disk costs no retry"
    assert "No space left" in told[0]
    assert obj.get_state()["status"] == "published"


async def test_a_missing_root_is_made(tmp_path: Path, at: Callable[[Path], None]) -> None:
    at(tmp_path / "not" / "there" / "yet")
    assert not await Num(n=1).aexists()
    assert not (tmp_path / "not").exists(), "asking makes nothing"
    assert await Num(n=1).aget() == 1
    assert (tmp_path / "not/there/yet/data").is_dir()


# -- settings, secrets, names --------------------------------------------------------------------------------


def contend(make: str, *more: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `contender.py` to its end."""
    return subprocess.run(
        [sys.executable, CONTENDER, json.dumps({"make": [make]}), *more],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.fault("F83")
@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("FURU_LEASE_SECS", "soon", "a number of seconds"),
        ("FURU_MAX_COMPUTE_RETRIES", "-1", "0 or more"),
        ("FURU_RETRY_FAILED", "maybe", "1 or 0"),
        ("FURU_DURABILITY", "strong", "auto"),
    ],
)
def test_a_malformed_setting_ends_with_words(
    variable: str, value: str, allowed: str, furu_tmp_root: Path
) -> None:
    done = contend("Num(n=1)", env={variable: value})
    assert done.returncode == 1
    for word in (variable, repr(value), allowed):
        assert word in done.stderr
    assert not furu_tmp_root.exists()


@pytest.mark.fault("F114")
def test_secrets_of_the_process_are_in_no_file(furu_tmp_root: Path) -> None:
    canary, argument = "canary-3b1f9c", "canary-77aa02"
    done = contend(
        "Sum(parts=(Num(n=1), Leaks(variable='THE_SECRET')))", argument, env={"THE_SECRET": canary}
    )
    assert done.returncode == 0, done.stderr
    assert "the login was refused" in done.stdout
    files = [path for path in furu_tmp_root.rglob("*") if path.is_file()]
    assert any(path.name == "run.json" for path in files)
    assert any(b"the login was refused" in path.read_bytes() for path in files)
    for text in (done.stdout.encode(), done.stderr.encode(), *(path.read_bytes() for path in files)):
        assert canary.encode() not in text
        assert argument.encode() not in text


@pytest.mark.fault("F116")
async def test_control_characters_in_fields_are_shown_escaped() -> None:
    nasty = "a\x1b[31mred\r\nnew line\x00\x07\u2028end"
    obj = Named(text=nasty)
    events: list[RunEvent] = []
    report = await run(obj, on_event=events.append)
    outcome = report[obj]
    shown = [outcome.label, repr(obj), outcome.describe_failure()]
    assert outcome.failure is not None
    shown += [
        outcome.failure.line(),
        *(event.message for event in events),
        *(event.label for event in events),
    ]
    for text in shown:
        for line in text.split("\n"):
            assert line.isprintable(), repr(line)
    journal = (Path(report.run_dir) / "journal.jsonl").read_text().split("\n")
    assert [json.loads(line)["kind"] for line in journal if line][-1] == "run_ended"


@pytest.mark.fault("F11")
async def test_children_that_die_at_start_end_the_run_with_their_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if any('furu_async._runner' in word for word in sys.orig_argv):\n"
        "    print('the module system is broken', file=sys.stderr, flush=True)\n"
        "    os._exit(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    begin = time.monotonic()
    report = await run(Num(n=1), Num(n=2), Sum(parts=(Num(n=3),)), check=False)
    assert time.monotonic() - begin < 30
    assert not report.ok
    assert report.counts["created"] == 0
    failures = [node.failure.message for node in report if node.failure is not None]
    assert any("die at start" in text and "the module system is broken" in text for text in failures)
    assert all(node.get_state()["status"] != "claimed" for node in (Num(n=1), Num(n=2), Num(n=3)))
