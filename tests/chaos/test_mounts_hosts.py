"""Several hosts at one store: each has a mount of its own, which remembers names and attributes for seconds.

What one host has done, another learns late, as on NFS. Nothing can be known directly of another host's processes,
and its clock goes wrong by an hour.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mounts import SCALE, Host, Lab, until
from mounts import mount_lab as mount_lab
from tests.laboratory import counting, wanted

LEASE = 3.0
BEAT = 0.3
ENV = {"FURU_LEASE_SECS": str(LEASE), "FURU_HEARTBEAT_SECS": str(BEAT)}
HELD = "Held(marks=MARKS, hold=HOLD)"


def held(lab: Lab) -> tuple[str, Path]:
    """An artifact that waits as long as a file is there, and that file."""
    hold = lab.folder / "hold"
    hold.touch()
    return lab.make(HELD).replace("HOLD", repr(str(hold))), hold


def records(lab: Lab, kind: str) -> dict[str, Any]:
    """The claims or ends of the one artifact in the store, by generation."""
    return {
        path.name: json.loads(path.read_bytes()) for path in lab.real.glob(f"data/**/.furu/{kind}/[0-9]*")
    }


def begun(lab: Lab, times: int) -> None:
    """Wait until `_create` of the held artifact has begun that often."""
    until(lambda: len(lab.marked("begin")) >= times, f"_create begins, number {times}")


def checked(host: Host, **counts: int) -> None:
    """Its one run was ok and counts so."""
    (end,) = host.finish()
    assert end.get("ok"), end
    assert {name: n for name, n in end["counts"].items() if n} == counts


# -- the same at the same moment -----------------------------------------------------------------------------


@pytest.mark.fault("F65", "F21", "F62")
@pytest.mark.timeout(240 * SCALE)
def test_two_hosts_want_the_same_at_the_same_moment(mount_lab: Lab) -> None:
    rounds = wanted("mount-races")
    meeting = mount_lab.folder / "meeting"
    meeting.mkdir()
    make = mount_lab.make("diamond(MARKS, {k})")
    with counting("mount-races") as counts:
        hosts = [
            mount_lab.host(
                name,
                mount_lab.bind(name, 2.0),
                make,
                rounds=rounds,
                meet=[str(meeting), 2],
                workers=2,
                skew=skew,
                env={
                    "FURU_LEASE_SECS": "60",
                    "FURU_HEARTBEAT_SECS": "5",
                    "FURU_POLL_INTERVAL_SECS": "0.2",
                },
            )
            for name, skew in (("a", 0), ("b", -3600))
        ]
        ends = [host.finish(180) for host in hosts]
        for k, pair in enumerate(zip(*ends, strict=True)):
            counts.trials += 1
            for end in pair:
                counts.most("seconds", end["seconds"])
                if not end.get("ok"):
                    counts.harm("lost")
                elif end["values"] != [6 + 60 * k + 3]:
                    counts.harm("torn")
        created = sum(end["counts"]["created"] for pair in ends for end in pair if end.get("ok"))
        times = Counter(mount_lab.marked())
        counts.harm("doubles", sum(n - 1 for n in times.values()))
        counts.harm("orphans", len(mount_lab.left_over()))
        assert not any(counts.harms.values()), (counts, ends, mount_lab.left_over())
        assert counts.trials == rounds
        assert len(times) == created == 7 * rounds
        assert all(end["counts"]["created"] + end["counts"]["cached"] == 7 for pair in ends for end in pair)


# -- one waits for the other ---------------------------------------------------------------------------------


@pytest.mark.fault("F21")
@pytest.mark.parametrize("how", ["names", "listings"])
def test_a_host_with_stale_caches_waits_for_the_result_of_another(mount_lab: Lab, how: str) -> None:
    env = {"FURU_LEASE_SECS": "4", "FURU_HEARTBEAT_SECS": str(BEAT)}  # longer than what is remembered
    make, hold = held(mount_lab)
    a = mount_lab.bind("a", 1.5)
    b = mount_lab.bind("b", 1.5) if how == "names" else mount_lab.lying("b", names=1.5, listing=1.5)
    one = mount_lab.host("a", a, make, env=env)
    begun(mount_lab, 1)
    total = f"Total(marks={str(mount_lab.marks)!r}, n=1, parts=({make},))"
    other = mount_lab.host("b", b, total, env=env)
    until(lambda: other.saw("node_waiting"), "b waits")
    assert other.saw("on a) holds the claim"), "it says for whom"
    time.sleep(5)  # an owner that beats is not replaced, however long it takes
    hold.unlink()
    freed = time.monotonic()
    checked(one, created=1)
    checked(other, cached=1, created=1)
    assert other.ends[0]["at"] - freed < 20 * SCALE
    assert mount_lab.marked() == ["begin", "end", "total.1"]
    assert not other.ends[0]["history"], "no attempt was lost to a name that was not there yet"
    assert mount_lab.left_over() == []


@pytest.mark.fault("F21")
def test_a_claim_that_no_listing_shows_is_waited_for_and_not_asked_for_again(mount_lab: Lab) -> None:
    hold, broken = mount_lab.folder / "hold", mount_lab.folder / "broken"
    hold.touch()
    broken.touch()
    make = mount_lab.make(f"Flaky(marks=MARKS, broken={str(broken)!r}, hold={str(hold)!r})")
    a, b = mount_lab.bind("a", 0.1), mount_lab.lying("b", listing=10.0)
    (end,) = mount_lab.host("a", a, make, options={"retries": 0}).finish()
    assert end["failures"] == [["compute", "broken"]]
    (end,) = mount_lab.host("b", b, make, options={"retry_failed": False}).finish()
    assert not end["ok"], "it looks, and remembers that there is one generation"
    broken.unlink()
    one = mount_lab.host("a", a, make)
    begun(mount_lab, 1)
    b.tell({"op": ["getattr"], "path": "claims/2$"})  # no lie: it is only counted
    other = mount_lab.host("b", b, make)
    until(lambda: other.saw("on a) holds the claim"), "b waits")
    time.sleep(2.0)
    (looks,) = b.met()
    assert looks < 100, "asking for the claim again and again"
    assert not other.saw("node_retry"), "an end of an earlier generation is no news"
    hold.unlink()
    checked(one, created=1)
    checked(other, cached=1)
    assert mount_lab.marked() == ["begin"]


# -- one is gone, or seems so --------------------------------------------------------------------------------


@pytest.mark.fault("F14", "F62", "F66", "F26")
def test_a_host_that_dies_is_replaced_by_one_other_after_the_lease(mount_lab: Lab) -> None:
    make, hold = held(mount_lab)
    one = mount_lab.host("a", mount_lab.bind("a"), make, env=ENV)
    begun(mount_lab, 1)
    mounts = [mount_lab.bind("b"), mount_lab.lying("c", names=5.0, listing=5.0, coarse=True)]
    others = [
        mount_lab.host(name, mount, make, skew=skew, env=ENV)
        for name, mount, skew in zip("bc", mounts, (3600, -3600), strict=True)
    ]
    for other in others:
        until(lambda other=other: other.saw("node_waiting"), "it waits")
    died = time.monotonic()
    one.kill()
    begun(mount_lab, 2)
    silent = time.monotonic() - died
    assert silent > LEASE - 2 * BEAT, f"replaced after {silent:.2f} s of silence"
    assert silent < 4 * LEASE * SCALE
    hold.unlink()
    ends = [other.finish()[0] for other in others]
    assert sorted(end["counts"]["created"] for end in ends) == [0, 1], "one of them computes, the other waits"
    assert mount_lab.marked() == ["begin", "begin", "end"]
    found = records(mount_lab, "ends")
    assert sorted(found) == ["1", "2"]
    assert found["1"]["failure"]["kind"] == "lost"
    assert found["2"]["status"] == "success"
    assert mount_lab.left_over() == []


@pytest.mark.fault("F14", "F67")
@pytest.mark.parametrize("wakes", ["while the other computes", "after the other"])
def test_a_host_that_slept_is_fenced(mount_lab: Lab, wakes: str) -> None:
    make, hold = held(mount_lab)
    one = mount_lab.host("a", mount_lab.bind("a"), make, env=ENV)
    begun(mount_lab, 1)
    other = mount_lab.host("b", mount_lab.bind("b"), make, env=ENV)
    until(lambda: other.saw("node_waiting"), "it waits")
    one.send(signal.SIGSTOP)
    begun(mount_lab, 2)
    if wakes == "after the other":
        hold.unlink()
        checked(other, created=1)
        one.send(signal.SIGCONT)
    else:
        one.send(signal.SIGCONT)
        hold.unlink()
        checked(other, created=1)
    checked(one, cached=1)
    assert mount_lab.marked("begin") == ["begin", "begin"], "the one that was fenced does not compute again"
    claims, found = records(mount_lab, "claims"), records(mount_lab, "ends")
    assert [claims[n]["owner"]["host"] for n in ("1", "2")] == ["a", "b"]
    assert found["1"]["failure"]["kind"] == "lost"
    assert found["2"]["token"] == claims["2"]["token"], "what is published is b's"
    assert "3" not in claims


# -- one sets aside what the other reads ---------------------------------------------------------------------


@pytest.mark.fault("F71")
def test_a_host_computes_again_what_another_reads(mount_lab: Lab) -> None:
    make = mount_lab.make("Twin(marks=MARKS)")
    b = mount_lab.bind("b")
    first = mount_lab.host("b", b, make, env=ENV)
    checked(first, created=1)
    stop = mount_lab.folder / "stop"
    reader = mount_lab.host("a", mount_lab.bind("a", 1.0), make, read=str(stop), env=ENV)
    until(lambda: reader.saw("reading"), "it reads")
    again = mount_lab.host("b", b, make, rounds=5, options={"rerun": ["ALL"]}, env=ENV)
    ends = again.finish()
    assert [end["counts"]["created"] for end in ends] == [1] * 5
    stop.touch()
    (end,) = reader.finish()
    assert "torn" not in end["troubles"], end
    assert end["loads"] > 10
    assert end["salts"] >= 2, "it has seen more than one generation"
    assert all("FuruMissingArtifact" in trouble for trouble in end["troubles"]), (
        "between two results there is none"
    )
    assert len(mount_lab.marked("twin")) == 6
    assert sorted(records(mount_lab, "ends")) == ["1", "2", "3", "4", "5", "6"]
    assert len(os.listdir(mount_lab.marks)) == 6
