"""Torn, empty, foreign, huge and hostile files: each concerns its own artifact, and nothing waits or crashes on it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from store_env import (
    HASH,
    OTHER_HASH,
    create,
    fail,
    owner_card,
    paths_at,
    recover,
    success,
    value,
    write_result,
)

from furu_async._store import artifacts, atomic
from furu_async._store.layout import (
    ArtifactPaths,
    RunPaths,
    WorkerPaths,
    beat_path,
    check_hash,
    name_path,
    root_warning,
    worker_of_beat,
)
from furu_async._store.manifest import manifest_of, missing_files, sync_tree
from furu_async._store.records import Claim, Damaged, End, ManifestEntry, Owner, decode, encode
from furu_async.errors import FuruComputeError, FuruProtocolError
from furu_async.report import Failure

DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "torn": b'{"v":1,"generation":1,"tok',
    "not JSON": b"hello",
    "not a dict": b"[1, 2]",
    "null": b"null",
    "wrong types": b'{"generation":[],"token":{},"status":7}',
    "another record": b'{"v":1,"pid":7,"start_time":3}',
    "binary": bytes(range(256)) * 8,
    "not UTF-8": b'{"generation":1,"token":"\xff\xfe","status":"success"}',
    "deep": b"[" * 100_000,
    "unknown status": b'{"generation":1,"token":"t","status":"maybe"}',
    "zero": b'{"generation":0,"token":"t","status":"success"}',
    "huge": b"",
}


def damage(path: str, what: str) -> None:
    """Put something else in a file's place (never into the file: it has other names)."""
    if os.path.lexists(path):
        os.unlink(path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if what == "huge":
        with open(path, "wb") as file:
            file.truncate(atomic.MAX_RECORD + 1)
    elif what == "a folder":
        os.mkdir(path)
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a symlink":
        os.symlink("/etc/hostname", path)
    elif what == "a dangling symlink":
        os.symlink("/nowhere", path)
    else:
        Path(path).write_bytes(DAMAGE[what])


KINDS = [*DAMAGE, "a folder", "a pipe", "a symlink", "a dangling symlink"]


@pytest.mark.fault("F20", "F112")
@pytest.mark.parametrize("what", KINDS)
def test_a_damaged_claim_is_held_by_an_unknown_owner(root: str, paths: ArtifactPaths, what: str) -> None:
    artifacts.claim(paths, 1, owner_card(root, "a"))
    damage(paths.claim(1), what)
    seen = artifacts.look(paths)
    assert (seen.verdict, seen.generation, seen.claim) == ("claimed", 1, None)
    assert any(paths.claim(1) in note for note in seen.notes)
    assert artifacts.claim(paths, 1, owner_card(root, "b")).r == "taken"
    assert artifacts.takeover(paths, 1, owner_card(root, "b"), "no sign of life").r == "claimed"


@pytest.mark.fault("F20", "F112")
@pytest.mark.parametrize("what", KINDS)
def test_a_damaged_end_ends_its_generation_without_a_result(
    root: str, paths: ArtifactPaths, what: str
) -> None:
    fail(paths, owner_card(root, "a"))
    damage(paths.end(1), what)
    seen = artifacts.look(paths)
    assert (seen.verdict, seen.generation, seen.end) == ("free", 1, None)
    assert any(paths.end(1) in note for note in seen.notes)
    assert what != "huge" or "more than any file of this kind" in seen.notes[0]
    assert recover(paths, owner_card(root, "b")) == 2


@pytest.mark.fault("F20", "F112", "F13")
@pytest.mark.parametrize("what", KINDS)
def test_a_damaged_marker_is_made_again(root: str, paths: ArtifactPaths, what: str) -> None:
    create(paths, owner_card(root, "a"), "x")
    damage(paths.marker, what)
    assert value(paths) == "x"
    if what != "a folder":
        assert os.stat(paths.marker).st_ino == os.stat(paths.end(1)).st_ino


@pytest.mark.fault("F20", "F13")
@pytest.mark.parametrize("what", DAMAGE)
def test_a_success_torn_by_a_power_loss_is_computed_again(root: str, paths: ArtifactPaths, what: str) -> None:
    """End and marker are one file, so both are torn."""
    create(paths, owner_card(root, "a"), "x")
    damage(paths.end(1), what)
    os.unlink(paths.marker)
    os.link(paths.end(1), paths.marker)
    assert artifacts.is_marked(paths) is (what != "empty")
    assert value(paths) is None
    assert not artifacts.is_marked(paths)
    assert recover(paths, owner_card(root, "b")) == 2
    assert value(paths) == "recovered"


def test_an_end_is_written_again_from_an_intact_marker(root: str, paths: ArtifactPaths) -> None:
    create(paths, owner_card(root, "a"), "x")
    damage(paths.end(1), "torn")
    seen = artifacts.look(paths)
    assert seen.verdict == "published"
    assert "Written again" in seen.notes[0]
    assert artifacts.look(paths).notes == []
    assert value(paths) == "x"


@pytest.mark.fault("F20")
def test_a_copy_of_the_damage_is_kept_once(root: str, paths: ArtifactPaths) -> None:
    fail(paths, owner_card(root, "a"))
    damage(paths.end(1), "torn")
    for _ in range(3):
        seen = artifacts.look(paths)
    (name,) = os.listdir(paths.quarantine)
    assert Path(paths.quarantine, name).read_bytes() == DAMAGE["torn"]
    assert name in seen.notes[0]


def test_what_is_kept_of_a_huge_file_is_bounded(root: str, paths: ArtifactPaths) -> None:
    fail(paths, owner_card(root, "a"))
    damage(paths.end(1), "huge")
    artifacts.look(paths)
    (name,) = os.listdir(paths.quarantine)
    assert Path(paths.quarantine, name).stat().st_size <= 65536


@pytest.mark.fault("F20")
@pytest.mark.parametrize("status", [b'"success"', b'{"new":"shape"}'])
@pytest.mark.parametrize("where", ["claim", "end", "marker"])
def test_a_record_of_a_newer_version_is_left_alone(
    root: str, paths: ArtifactPaths, where: str, status: bytes
) -> None:
    card = owner_card(root, "a")
    newer = b'{"v":2,"generation":1,"token":"t","backend":"local","status":' + status + b"}"
    if where == "claim":
        artifacts.claim(paths, 1, card)
        Path(paths.claim(1)).unlink()
        Path(paths.claim(1)).write_bytes(newer)
        assert artifacts.look(paths).verdict == "claimed"
    elif where == "end":
        fail(paths, card)
        Path(paths.end(1)).unlink()
        Path(paths.end(1)).write_bytes(newer)
        assert artifacts.look(paths).verdict == "damaged"
    else:
        fail(paths, card)
        Path(paths.marker).write_bytes(newer)
        assert artifacts.look(paths).verdict == "damaged"
    notes = " ".join(artifacts.look(paths).notes)
    assert "newer furu_async" in notes
    assert not os.path.exists(paths.quarantine)
    found = {"claim": paths.claim(1), "end": paths.end(1), "marker": paths.marker}[where]
    assert Path(found).read_bytes() == newer


def test_fields_of_a_newer_minor_version_are_ignored_and_stay(root: str, paths: ArtifactPaths) -> None:
    fail(paths, owner_card(root, "a"))
    data = b'{"generation":1,"token":"t","status":"failure","colour":"red","failure":{"kind":"compute","mood":1}}'
    Path(paths.end(1)).unlink()
    Path(paths.end(1)).write_bytes(data)
    seen = artifacts.look(paths)
    assert seen.end is not None
    assert seen.end.failure == Failure(kind="compute")
    assert Path(paths.end(1)).read_bytes() == data


@pytest.mark.parametrize("folder", ["claims", "ends"])
def test_foreign_names_among_generations_are_ignored(root: str, paths: ArtifactPaths, folder: str) -> None:
    fail(paths, owner_card(root, "a"))
    names = ["0", "-1", "01", "1.json", "x", "²", "9" * 30, "+3", "1 ", "٣"]
    for name in names:
        Path(getattr(paths, folder), name).touch()
    Path(getattr(paths, folder), ".nfs0001").touch()
    seen = artifacts.look(paths)
    assert (seen.verdict, seen.next_generation) == ("free", 2)
    assert len(seen.notes) == len(names)


def test_another_artifacts_record_is_not_taken_for_ones_own(root: str, paths: ArtifactPaths) -> None:
    other = paths_at(root, OTHER_HASH)
    create(other, owner_card(root, "a"), "other")
    fail(paths, owner_card(root, "b"))
    os.link(other.marker, paths.marker)
    assert value(paths) is None
    assert not artifacts.is_marked(paths)
    assert value(other) == "other"


@pytest.mark.parametrize("part", ["base", "furu", "claims", "ends"])
def test_a_file_where_a_folder_should_be_concerns_this_artifact_only(
    root: str, paths: ArtifactPaths, part: str
) -> None:
    fail(paths, owner_card(root, "a"))

    path = getattr(paths, part)
    shutil.rmtree(path)
    Path(path).touch()
    seen = artifacts.look(paths)
    assert seen.verdict == "damaged"
    assert "should be a folder" in seen.notes[0]
    assert not artifacts.is_marked(paths)


def test_a_store_restored_without_claims_is_not_computed_again(root: str, paths: ArtifactPaths) -> None:

    create(paths, owner_card(root, "a"), "x")
    shutil.rmtree(paths.claims)
    os.unlink(paths.marker)
    reply = artifacts.claim(paths, 1, owner_card(root, "b"))
    assert reply.r == "published"
    assert value(paths) == "x"


# -- manifests -----------------------------------------------------------------------------------------------


@pytest.mark.fault("F29")
def test_a_purged_file_is_named(root: str, paths: ArtifactPaths) -> None:
    create(paths, owner_card(root, "a"), "x")
    os.unlink(f"{paths.attempt(1)}/value.txt")
    found = artifacts.read_success(paths)
    assert found is not None
    assert artifacts.verify_manifest(paths, *found) == [f"{paths.attempt(1)}/value.txt is missing"]


@pytest.mark.fault("F111")
@pytest.mark.parametrize("path", ["../../../secret", "/etc/passwd", "a/../../b", "x\0y"])
def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path: Path, path: str) -> None:
    (problem,) = missing_files(str(tmp_path), [ManifestEntry(path, 1)])
    assert "leads out" in problem


def test_a_manifest_lists_every_file_but_the_logs(tmp_path: Path) -> None:
    (tmp_path / "sub" / "deeper").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "log").write_bytes(b"said")
    (tmp_path / "sub" / "log").write_bytes(b"a result of that name")
    (tmp_path / "sub" / "deeper" / "new\nline").write_bytes(b"")
    (tmp_path / "latest").symlink_to("sub/log")
    entries = manifest_of(str(tmp_path))
    assert [(e.path, e.size) for e in entries] == [
        ("a", 2),
        ("latest", 7),
        ("sub/deeper/new\nline", 0),
        ("sub/log", 21),
    ]
    assert missing_files(str(tmp_path), entries) == []


@pytest.mark.fault("F116")
def test_control_characters_in_names_stay_in_one_line() -> None:
    end = End(generation=1, token="t", status="success", manifest=[ManifestEntry("a\n\x1b[31mb", 1)])
    data = encode(end)
    assert b"\n" not in data
    assert b"\x1b" not in data
    assert decode(End, data, "x") == end


@pytest.mark.fault("F112")
def test_what_cannot_be_part_of_a_result_is_named(tmp_path: Path) -> None:
    inside = tmp_path / "result"
    inside.mkdir()
    os.mkfifo(inside / "pipe")
    with pytest.raises(FuruComputeError, match="pipe"):
        manifest_of(str(inside))
    os.unlink(inside / "pipe")
    (inside / "out").symlink_to("../elsewhere")
    with pytest.raises(FuruComputeError, match="leads out"):
        sync_tree(str(inside))
    os.unlink(inside / "out")
    with open(os.fsencode(inside) + b"/\xff", "w"):
        pass
    with pytest.raises(FuruComputeError, match="UTF-8"):
        manifest_of(str(inside))


def test_sync_tree_gives_checksums_that_are_verified(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    write_result(paths, 1, "whole")
    end = success(paths, 1, card, power=True)
    assert len(end.manifest[0].checksum) == 32
    assert artifacts.publish(paths, 1, end, power=True).r == "published"
    write_result(paths, 1, "WHOLE")
    assert artifacts.verify_manifest(paths, 1, end) == []
    assert "another content" in artifacts.verify_manifest(paths, 1, end, checksums=True)[0]


# -- paths ---------------------------------------------------------------------------------------------------


@pytest.mark.fault("F111", "F27")
@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a..b",
        "../x",
        "a/b",
        "a.b/c",
        "/abs",
        "a\0b",
        "a\nb",
        "x" * 201,
        "é" * 150,
        "a b",
        "\ud800",
    ],
)
def test_names_that_cannot_be_folders_are_refused(root: str, name: str) -> None:
    with pytest.raises(FuruProtocolError):
        ArtifactPaths(root, name, HASH)


@pytest.mark.fault("F111")
@pytest.mark.parametrize(
    "hash", ["", "../x", HASH[:-1], HASH + "0", HASH.upper(), HASH[:-1] + "\n", HASH + "\n", "g" * 32]
)
def test_hashes_that_are_none_are_refused(root: str, hash: str) -> None:
    with pytest.raises(FuruProtocolError):
        ArtifactPaths(root, "pkg.Train", hash)
    with pytest.raises(FuruProtocolError):
        check_hash(hash)


@pytest.mark.fault("F111")
@pytest.mark.parametrize("wid", ["", "..", ".x", "a/b", "../../x", "a\n", "x" * 101, "a b", "é"])
def test_ids_that_cannot_be_folders_are_refused(root: str, wid: str) -> None:
    for make in (
        lambda: RunPaths(root, wid),
        lambda: WorkerPaths(root, "run", wid),
        lambda: beat_path(wid, "w"),
    ):
        with pytest.raises(FuruProtocolError):
            make()


def test_names_become_folders() -> None:
    assert name_path("pkg.sub.Train") == "pkg/sub/Train"
    assert name_path("pkg.Größe") == "pkg/Größe"


@pytest.mark.fault("F111")
def test_a_beat_that_is_no_path_of_a_beat_names_no_worker(root: str) -> None:
    found = worker_of_beat(root, beat_path("run-1", "w1"))
    assert found is not None
    assert found.base == f"{root}/runs/run-1/workers/w1"
    for beat in (
        "",
        "/etc/passwd",
        "runs/../workers/w/beat",
        "runs/r/workers/../beat",
        "a/b/c/d/e",
        "runs/r/workers/w",
    ):
        assert worker_of_beat(root, beat) is None


def test_a_store_that_anybody_can_write_is_warned_of(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert root_warning(str(tmp_path)) is None
    tmp_path.chmod(0o777)
    assert "chmod o-w" in (root_warning(str(tmp_path)) or "")
    assert root_warning(str(tmp_path / "missing")) is None


def test_a_damaged_file_error_survives_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(Damaged("/x", "torn", True)))
    assert (error.path, error.reason, error.newer, str(error)) == ("/x", "torn", True, "/x: torn")


def test_records_round_trip() -> None:
    claim = Claim(token="t", backend="pool", phase="queued", owner=Owner(host="h", pid=3), beat="b")
    assert decode(Claim, encode(claim), "x") == claim
    end = End(
        generation=3,
        token="t",
        status="failure",
        failure=Failure(kind="oom", message="m"),
        metadata={"a": [1]},
        history=["x"],
    )
    assert decode(End, encode(end), "x") == end
