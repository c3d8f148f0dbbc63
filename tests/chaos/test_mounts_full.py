"""A disk that is really full, for one step of a run at a time: the claim, the beat, the result, the output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mounts import SCALE, Host, Lab, until
from mounts import mount_lab as mount_lab

ENV = {"FURU_LEASE_SECS": "30", "FURU_HEARTBEAT_SECS": "0.1", "FURU_INFRA_SECS": "30"}
FULL = "No space left on device"


class Ballast:
    """What fills a disk: all of its bytes, and all of its inodes."""

    def __init__(self, disk: Path) -> None:
        self.folder = disk / "ballast"
        self.folder.mkdir()

    def fill(self) -> None:
        """Until nothing more fits."""
        try:
            with (self.folder / "bytes").open("wb") as file:
                while True:
                    file.write(b"x" * 4096)
                    file.flush()
        except OSError:
            pass
        for number in range(10_000):
            try:
                (self.folder / str(number)).touch()
            except OSError:
                return
        raise AssertionError("the disk does not fill up")

    def drop(self) -> None:
        """Make room again."""
        for path in self.folder.iterdir():
            path.unlink()


def waited_out(lab: Lab, host: Host, ballast: Ballast) -> None:
    """It says that the disk is full and where, and ends well when there is room."""
    until(lambda: host.saw(FULL), "it says that the disk is full")
    told = [line["message"] for line in list(host.lines) if FULL in line.get("message", "")]
    assert all(str(lab.folder) in text for text in told), told
    ballast.drop()
    (end,) = host.finish()
    assert end["ok"], end
    assert end["counts"]["created"] == 1
    assert len(list(lab.real.glob("data/**/SUCCESS.json"))) == 1
    for path in lab.real.glob("data/**/.furu/ends/*"):
        json.loads(path.read_bytes())
    assert lab.left_over() == []


@pytest.mark.fault("F17")
def test_no_room_for_a_claim(mount_lab: Lab) -> None:
    mount_lab.small("size=1m,nr_inodes=200")
    ballast, mount = Ballast(mount_lab.real), mount_lab.lying()
    mount.tell({"op": ["link"], "path": "^/data/.*/claims/", "delay": 2.0, "times": 1})
    host = mount_lab.host("a", mount, mount_lab.make("Leaf(marks=MARKS, n=1)"), env=ENV)
    until(lambda: mount.met() == [1], "a claim is under way")
    ballast.fill()
    waited_out(mount_lab, host, ballast)
    assert mount_lab.marked() == ["leaf.1"]


@pytest.mark.fault("F17", "F15")
def test_no_room_for_a_result_and_the_beat_goes_on(mount_lab: Lab) -> None:
    mount_lab.small("size=1m,nr_inodes=200")
    ballast, mount = Ballast(mount_lab.real), mount_lab.lying()
    hold = mount_lab.folder / "hold"
    hold.touch()
    make = mount_lab.make(f"Held(marks=MARKS, hold={str(hold)!r})")
    host = mount_lab.host("a", mount, make, env=ENV)
    until(
        lambda: any(p.stat().st_size for p in mount_lab.real.glob("data/**/half.txt")), "_create has written"
    )
    ballast.fill()
    (beat,) = mount_lab.real.glob("runs/*/workers/*/beat")
    seen = beat.read_bytes()
    until(lambda: int(beat.read_bytes()) >= int(seen) + 5, "five more beats on a full disk")
    hold.unlink()
    waited_out(mount_lab, host, ballast)


@pytest.mark.fault("F17")
def test_no_room_for_the_output(mount_lab: Lab) -> None:
    mount_lab.small("size=1m")
    mount = mount_lab.lying()
    make = mount_lab.make("Loud(marks=MARKS, size=4_000_000)")
    env = {**ENV, "FURU_INFRA_SECS": "1"}
    (end,) = mount_lab.host("a", mount, make, env=env).finish()
    ((kind, text),) = end["failures"]
    assert kind == "infrastructure", end
    assert FULL in text
    assert str(mount.path) in text
    assert end["seconds"] < 20 * SCALE
    assert list(mount_lab.real.glob("data/**/SUCCESS.json")) == []
