"""Whole runs on a mount that answers errors, loses replies, is slow, hangs, or is gone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from mounts import SCALE, Host, Lab, LyingMount, until
from mounts import mount_lab as mount_lab

STORE = "^/(data|runs)/"
DATA = "^/data/"
PATIENT = {
    "FURU_LEASE_SECS": "30",
    "FURU_HEARTBEAT_SECS": "0.1",
    "FURU_HEARTBEAT_GRACE_SECS": "30",
    "FURU_INFRA_SECS": "20",
}
SHORT = {**PATIENT, "FURU_INFRA_SECS": "1"}

Rule = dict[str, Any]


def rule(op: str, errno: str = "", path: str = DATA, **more: Any) -> Rule:
    """One rule for some operations, given as words."""
    return {"op": op.split(), "path": path, **({"errno": errno} if errno else {}), **more}


def each(
    lab: Lab, mount: LyingMount, cases: dict[str, list[Rule]], env: dict[str, str]
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """One run of a diamond for each case, by its rules, in one process: number, name and end of each."""
    meeting = lab.folder / "meeting"
    meeting.mkdir()
    make = lab.make("diamond(MARKS, {k})")
    host = lab.host("a", mount, make, rounds=len(cases), meet=[str(meeting), 2], workers=2, env=env)
    for k, (name, rules) in enumerate(cases.items()):
        mount.tell(*rules)
        (meeting / f"{k}-test").touch()
        until(lambda k=k: len(host.ends) > k or host.process.poll(), f"the run {name!r}", 60)
        assert all(mount.met()), f"{name}: the trouble was met"
        yield k, name, host.ends[k]
    mount.tell()
    host.finish()


def whole(lab: Lab, k: int, name: str, end: dict[str, Any]) -> None:
    """Every node of the ``k``-th diamond has one result, all of it can be read, and nothing is left over."""
    assert end.get("ok"), (name, end)
    assert end["counts"]["created"] == 7, (name, end)
    assert end["values"] == [9 + 60 * k], name
    for path in lab.real.glob("data/**/.furu/ends/*"):
        json.loads(path.read_bytes())
    assert len(list(lab.real.glob("data/**/SUCCESS.json"))) == 7 * (k + 1), name
    assert lab.left_over() == [], name


# -- what passes ---------------------------------------------------------------------------------------------

PASSES = {
    "a read fails": [rule("read", "EIO", times=3)],
    "a handle is stale": [rule("open read", "ESTALE", times=6)],
    "a stat fails": [rule("getattr", "EIO", times=3, skip=3)],
    "a listing fails": [rule("readdir", "ESTALE", times=3)],
    "a link fails": [rule("link", "EIO", times=3)],
    "a folder cannot be made": [rule("mkdir", "EIO", times=3)],
    "no space for a file": [rule("create", "ENOSPC", times=3)],
    "no space while writing": [rule("write", "ENOSPC", times=3)],
    "over quota": [rule("write mkdir create link", "EDQUOT", times=4)],
    "no permission for a moment": [rule("create link mkdir", "EACCES", times=3)],
    "the beat cannot be written": [rule("open write", "EIO", path="/beat$", times=5)],
    "the journal cannot be written": [rule("open write create", "EIO", path="journal")],
    "every step takes time": [rule("link mkdir create", delay=0.05), rule("open", path="/beat$", delay=0.5)],
}


@pytest.mark.fault("F17", "F18", "F19")
def test_trouble_that_passes_costs_no_result(mount_lab: Lab) -> None:
    for k, name, end in each(mount_lab, mount_lab.lying(), PASSES, PATIENT):
        whole(mount_lab, k, name, end)


LOST = {
    "link, EIO": [rule("link", "EIO", lost=True, times=4)],
    "link, EEXIST": [rule("link", "EEXIST", lost=True, times=4)],
    "rename, ENOENT": [rule("rename", "ENOENT", path=STORE, lost=True)],
    "mkdir, EEXIST": [rule("mkdir", "EEXIST", path=STORE, lost=True)],
    "create, EEXIST": [rule("create", "EEXIST", path=STORE, lost=True, times=10)],
    "create of an end, EEXIST": [rule("create", "EEXIST", path="/ends/", lost=True, times=2)],
    "unlink, ENOENT": [rule("unlink", "ENOENT", path=STORE, lost=True)],
    "rmdir, ENOENT": [rule("rmdir", "ENOENT", path=STORE, lost=True)],
}


@pytest.mark.fault("F22", "F26")
@pytest.mark.parametrize("inodes", [True, False], ids=["inodes", "no inodes"])
def test_a_lost_reply_changes_nothing(mount_lab: Lab, inodes: bool) -> None:
    mount = mount_lab.lying(inodes=inodes, coarse=True)
    cases = LOST if inodes else {name: LOST[name] for name in LOST if name.startswith(("link", "create"))}
    for k, name, end in each(mount_lab, mount, cases, PATIENT):
        whole(mount_lab, k, name, end)
        assert set(Counter(mount_lab.marked()).values()) == {1}, f"{name}: what was done is not done again"


# -- what stays ----------------------------------------------------------------------------------------------

STAYS = {
    "results cannot be published": ([rule("link", "EIO", path="/ends/")], "Input/output error"),
    "nothing can be claimed": ([rule("link mkdir", "EACCES")], "Permission denied"),
    "the disk is full": ([rule("write create mkdir", "ENOSPC")], "No space left on device"),
    "no listing": ([rule("readdir", "ESTALE")], "Stale file handle"),
}


@pytest.mark.fault("F17", "F18", "F19")
def test_trouble_that_stays_ends_the_run_with_path_and_reason(mount_lab: Lab) -> None:
    mount = mount_lab.lying()
    cases = {name: rules for name, (rules, _) in STAYS.items()}
    for _, name, end in each(mount_lab, mount, cases, SHORT):
        assert end["ok"] is False, (name, end)
        kinds = {kind for kind, _ in end["failures"]}
        assert kinds == {"infrastructure"}, (name, end)
        texts = [text for _, text in end["failures"]]
        assert all(STAYS[name][1] in text for text in texts), (name, texts)
        assert all(str(mount.path) in text for text in texts), (name, texts)
        assert end["seconds"] < 20 * SCALE, name
    assert list(mount_lab.real.glob("data/**/SUCCESS.json")) == []


@pytest.mark.fault("F18")
def test_a_store_that_cannot_be_written_at_all_is_told_at_once(mount_lab: Lab) -> None:
    mount = mount_lab.lying()
    mount.tell(rule("mkdir create", "EACCES", path=""))
    (end,) = mount_lab.host("a", mount, mount_lab.make("diamond(MARKS, 0)"), env=PATIENT).finish()
    assert end["error"] == "FuruStoreError"
    assert "Permission denied" in end["text"]
    assert str(mount.path) in end["text"]
    assert mount_lab.marked() == []


# -- what hangs, and what is gone ----------------------------------------------------------------------------


def held(lab: Lab, mount: LyingMount, name: str, **wanted: Any) -> Host:
    """A host with an artifact that waits as long as a file is there."""
    hold = lab.folder / "hold"
    hold.touch()
    make = lab.make(f"Held(marks=MARKS, hold={str(hold)!r})")
    return lab.host(name, mount, make, **wanted)


@pytest.mark.fault("F33")
def test_nobody_is_taken_for_lost_because_the_store_hung(mount_lab: Lab) -> None:
    lease = 3.0
    env = {"FURU_LEASE_SECS": str(lease), "FURU_HEARTBEAT_SECS": "0.3"}
    mounts = [mount_lab.lying("a"), mount_lab.lying("b")]
    one = held(mount_lab, mounts[0], "a", env=env)
    until(lambda: mount_lab.marked("begin"), "_create begins")
    other = held(mount_lab, mounts[1], "b", env=env)
    until(lambda: other.saw("node_waiting"), "b waits")
    for mount in mounts:
        mount.stop()
    time.sleep(2 * lease)
    mounts[1].go_on()
    time.sleep(1.0)  # b looks before a can beat again: for twice the lease it has seen no change
    mounts[0].go_on()
    time.sleep(1.0)
    (mount_lab.folder / "hold").unlink()
    for host, counts in ((one, "created"), (other, "cached")):
        (end,) = host.finish()
        assert end["ok"], end
        assert end["counts"][counts] == 1, end
        assert end["history"] == []
    assert mount_lab.marked() == ["begin", "end"]


@pytest.mark.fault("F33", "F100")
def test_a_process_on_a_mount_that_hangs_exits(mount_lab: Lab) -> None:
    mount = mount_lab.lying()
    host = held(mount_lab, mount, "a", options={"timeout": 3}, env=PATIENT)
    until(lambda: mount_lab.marked("begin"), "_create begins")
    mount.stop()
    begin = time.monotonic()
    (mount_lab.folder / "hold").unlink()
    (end,) = host.finish(60)
    assert end["error"] == "FuruRunTimeout", end
    assert time.monotonic() - begin < 45 * SCALE
    mount.go_on()
    until(lambda: not mount_lab.processes(), "what hung in the kernel ends when that lets go of it")


@pytest.mark.fault("F19", "F33", "F100")
def test_a_mount_that_is_gone_ends_the_run_with_the_reason(mount_lab: Lab) -> None:
    mount = mount_lab.lying()
    host = held(mount_lab, mount, "a", env={**PATIENT, "FURU_INFRA_SECS": "3"})
    until(lambda: mount_lab.marked("begin"), "_create begins")
    mount.kill()
    begin = time.monotonic()
    (mount_lab.folder / "hold").unlink()
    (end,) = host.finish(60)
    assert time.monotonic() - begin < 45 * SCALE
    text = json.dumps(end)
    assert "ok" not in end or not end["ok"], end
    assert "Transport endpoint is not connected" in text, end
    assert str(mount.path) in text
    assert list(mount_lab.real.glob("data/**/SUCCESS.json")) == []


# -- what stays open -----------------------------------------------------------------------------------------

OPEN = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


@pytest.mark.fault("F23")
def test_a_file_that_somebody_has_open_is_in_nobodys_way(mount_lab: Lab) -> None:
    mount = mount_lab.lying()
    make = mount_lab.make("Twin(marks=MARKS)")
    (end,) = mount_lab.host("a", mount, make).finish()
    assert end["ok"]
    (found,) = mount_lab.real.glob("data/**/attempts/1/salt.txt")
    path = str(mount.path / found.relative_to(mount_lab.real))
    with subprocess.Popen(
        [sys.executable, "-c", OPEN, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        options = {"rerun": ["ALL"]}
        ends = mount_lab.host("a", mount, make, rounds=3, options=options).finish()
        assert [end["counts"]["created"] for end in ends] == [1, 1, 1]
        left = [name.name for name in found.parent.iterdir()]
        assert left, "the file is still there"
        assert all(name.startswith(".fuse_hidden") for name in left), left
        reader.communicate("", timeout=20)
    (end,) = mount_lab.host("a", mount, make, options=options).finish()
    assert end["ok"]
    until(lambda: not found.parent.exists(), "the folder goes once nobody has it open")
    assert len(list(mount_lab.real.glob("data/**/SUCCESS.json"))) == 1
