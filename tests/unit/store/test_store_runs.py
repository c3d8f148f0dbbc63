"""Runs on disk: claimed, found, gone on with and ended; cut off, refused or misheard at each system call."""

from __future__ import annotations

import errno
import itertools
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from store_env import HASH, LOST_REPLY, SCALE, calls_of, crash_before, every_call, paths_at, with_error
from test_store_power import choices, record

from furu_async._store import artifacts, fs, runs
from furu_async._store.keeper import Keeper
from furu_async._store.layout import RunPaths, beat_path
from furu_async._store.liveness import start_time, this_owner
from furu_async._store.records import ChildRecord, Claim, End, Owner, RunRecord, decode, encode

NAME = "pkg.Train"
KEY = runs.call_key("local", [HASH])
RUN = "20260101-000000-1-aaaaaa"
pytestmark = pytest.mark.usefixtures("both_ways")


@pytest.fixture(scope="module")
def dead() -> Owner:
    """The owner record of a process that is gone."""
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    owner = msgspec.structs.replace(this_owner(), pid=child.pid, start_time=start_time(child.pid) or 0)
    child.communicate(b"\n")
    return owner


@pytest.fixture(scope="module")
def elsewhere() -> Owner:
    return Owner(host="elsewhere", boot_id="b", pid_ns="n", pid=1, start_time=1)


class Controller:
    """A keeper in this process, of a controller with any owner record."""

    def __init__(self, root: str, name: str, owner: Owner | None = None) -> None:
        self.root, self.name = root, name
        self.owner = owner or this_owner()
        self.keeper = Keeper(15.0)
        self.keeper._start_beat = lambda beat: None  # type: ignore[method-assign]

    def ask(self, *op: Any) -> Any:
        return self.keeper.handle(list(op))

    def open(self, run_id: str = RUN, after: int = 0, key: str = KEY) -> str:
        claim = Claim(
            token=f"token-{self.name}",
            backend="local",
            run_id=run_id,
            owner=self.owner,
            beat=beat_path(run_id, self.name),
        )
        reply = self.ask("open", self.root, run_id, self.name, encode(claim), key, after)
        return str(reply["r"])

    def close(self, run_id: str = RUN, how: str = "ok", keep: bool = True) -> None:
        assert self.ask("close_run", self.root, run_id, how, {"created": 1}, 5.0, keep) == {"r": "ok"}

    def die(self) -> None:
        """Its keeper sees it."""
        self.keeper.supervisor_died()

    def go_on(self) -> str:
        """What the next same call does: the run that it goes on with, or a new one; it is opened in any case."""
        found = runs.find_unfinished(self.root, KEY)
        if found is not None and self.open(found.run_id, found.generation) == "ok":
            return found.run_id
        fresh = f"20270101-000000-1-{self.name}"
        assert self.open(fresh) == "ok"
        return fresh


def verdict(root: str, run_id: str = RUN) -> tuple[str, int]:
    seen = runs.look_run(RunPaths(root, run_id))
    return seen.verdict, seen.generation


def entries(root: str) -> list[str]:
    folder = f"{root}/runs/.unfinished"
    return [name for _, _, names in os.walk(folder) for name in names]


# -- the protocol --------------------------------------------------------------------------------------------


def test_a_run_is_claimed_when_it_is_opened_and_ended_when_it_is_closed(root: str) -> None:
    one = Controller(root, "one")
    assert verdict(root) == ("missing", 0)
    assert one.open() == "ok"
    paths = RunPaths(root, RUN)
    assert verdict(root) == ("held", 1)
    assert os.path.samefile(paths.claim(1), paths.worker("one").card(1)), "a claim is a link of the card"
    assert entries(root) == [RUN]
    one.close(how="failed")
    assert verdict(root) == ("over", 1)
    assert entries(root) == []
    assert os.listdir(f"{root}/runs/.unfinished") == []
    end = decode(End, Path(paths.end(1)).read_bytes(), "end")
    assert (end.metadata, end.ended_at, end.run_id) == ({"how": "failed", "counts": {"created": 1}}, 5.0, RUN)
    assert not os.path.exists(paths.workers)


@pytest.mark.parametrize("how", ["ok", "failed", "cancelled", "error"])
def test_a_run_that_ended_in_order_is_not_gone_on_with(root: str, how: str, dead: Owner) -> None:
    one = Controller(root, "one", dead)
    one.open()
    one.close(how=how)
    assert runs.find_unfinished(root, KEY) is None
    two = Controller(root, "two")
    assert two.open(RUN, 1) == "taken"
    assert not os.path.exists(RunPaths(root, RUN).workers)


@pytest.mark.fault("F07")
@pytest.mark.parametrize("seen_by_keeper", [True, False], ids=["keeper lives", "both die"])
def test_the_run_of_a_dead_controller_is_gone_on_with(root: str, dead: Owner, seen_by_keeper: bool) -> None:
    one = Controller(root, "one", dead)
    one.open()
    one.ask("claim", root, RUN, NAME, HASH)
    if seen_by_keeper:
        one.die()
        assert artifacts.look(paths_at(root)).verdict == "free"
    assert verdict(root) == (("lost", 1) if seen_by_keeper else ("held", 1))
    assert runs.find_unfinished(root, KEY) == runs.Unfinished(RUN, 1)
    two = Controller(root, "two")
    assert two.go_on() == RUN
    assert verdict(root) == ("held", 2)
    assert os.listdir(RunPaths(root, RUN).workers) == ["two"], "what the dead one left is removed"
    two.close()
    assert verdict(root) == ("over", 2)
    assert entries(root) == []


def test_a_dead_controller_ends_its_claims_before_its_run(root: str, dead: Owner) -> None:
    one = Controller(root, "one", dead)
    one.open()
    one.ask("claim", root, RUN, NAME, HASH)
    made: list[str] = []

    def note(k: int, name: str, operation: Any, args: Any, kwargs: Any) -> Any:
        if name == "link":
            made.append(os.path.dirname(args[1]))
        return operation(*args, **kwargs)

    with every_call(note):
        one.die()
    assert made == [paths_at(root).ends, RunPaths(root, RUN).ends]


def test_a_run_whose_controller_lives_or_may_live_is_left_alone(root: str, elsewhere: Owner) -> None:
    for name, owner in (("here", None), ("there", elsewhere)):
        Controller(root, name, owner).open(f"20260101-000000-1-{name}")
    assert runs.find_unfinished(root, KEY) is None
    assert len(entries(root)) == 2


def test_the_newest_of_several_is_taken(root: str, dead: Owner) -> None:
    for day in ("05", "30", "11"):
        Controller(root, "one", dead).open(f"202601{day}-000000-1-aaaaaa")
    found = runs.find_unfinished(root, KEY)
    assert found is not None
    assert found.run_id == "20260130-000000-1-aaaaaa"


def test_another_call_finds_nothing(root: str, dead: Owner) -> None:
    Controller(root, "one", dead).open()
    assert runs.find_unfinished(root, runs.call_key("local", [HASH, "f" * 32])) is None
    assert runs.find_unfinished(root, runs.call_key("pool", [HASH])) is None


def test_the_key_of_a_call_is_that_of_a_set() -> None:
    one, two = "1" * 32, "2" * 32
    assert runs.call_key("local", [one, two]) == runs.call_key("local", iter([two, one, one]))
    assert runs.call_key("local", []) != runs.call_key("local", ["0" * 32])
    assert len(runs.call_key("local", [one])) == 32


@pytest.mark.fault("F66")
def test_of_two_that_go_on_one_does(root: str, dead: Owner) -> None:
    Controller(root, "one", dead).open()
    two, three = Controller(root, "two"), Controller(root, "three")
    found = runs.find_unfinished(root, KEY)
    assert found is not None
    assert [two.open(RUN, 1), three.open(RUN, 1)] == ["ok", "taken"]
    assert os.listdir(RunPaths(root, RUN).workers) == ["two"], "who lost leaves nothing"
    assert three.go_on() != RUN


def test_a_keeper_that_is_started_again_opens_the_run_again(root: str, dead: Owner) -> None:
    Controller(root, "one", dead).open()
    for after, expected in ((1, ("held", 2)), (1, ("held", 2))):
        # The second time with a new keeper of the same controller: same token, nothing else known.
        two = Controller(root, "two")
        assert two.open(RUN, after) == "ok"
        assert verdict(root) == expected
    two.close()
    assert verdict(root) == ("over", 2)


def test_what_is_said_of_a_run_is_heard(root: str, dead: Owner) -> None:
    Controller(root, "one", dead).open()
    record = RunRecord(run_id=RUN, key=KEY, created_at=12.5)
    Path(RunPaths(root, RUN).record).write_bytes(encode(record))
    assert runs.find_unfinished(root, KEY) == runs.Unfinished(RUN, 1, 12.5, True)
    Path(RunPaths(root, RUN).record).write_bytes(b"")
    assert runs.find_unfinished(root, KEY) == runs.Unfinished(RUN, 1)
    Path(RunPaths(root, RUN).record).write_bytes(encode(msgspec.structs.replace(record, key="0" * 32)))
    assert runs.find_unfinished(root, KEY) is None, "an entry that was put at another call's"


@pytest.mark.fault("F20")
@pytest.mark.parametrize("where", ["claim", "end", "entry of nothing", "entry of no run", "folder", "card"])
def test_damage_costs_no_more_than_a_new_run(root: str, dead: Owner, where: str) -> None:
    one = Controller(root, "one", dead)
    one.open()
    paths = RunPaths(root, RUN)
    if where == "claim":
        Path(paths.claim(1)).write_bytes(b"{")
    elif where == "end":
        one.die()
        Path(paths.end(1)).write_bytes(b"")
    elif where == "entry of nothing":
        Path(paths.unfinished(KEY)).rename(f"{root}/runs/.unfinished/{KEY}/20280101-gone")
    elif where == "entry of no run":
        Path(paths.unfinished(KEY)).rename(f"{root}/runs/.unfinished/{KEY}/.. x")
    elif where == "folder":
        os.unlink(paths.unfinished(KEY))
        os.rmdir(f"{root}/runs/.unfinished/{KEY}")
        Path(f"{root}/runs/.unfinished/{KEY}").touch()
    else:
        Path(paths.worker("one").card(1)).unlink()
    two = Controller(root, "two")
    assert (two.go_on() == RUN) == (where == "card")
    if where == "entry of nothing":
        assert entries(root) == ["20270101-000000-1-two"]


# -- leftovers -----------------------------------------------------------------------------------------------


@pytest.mark.fault("F32")
def test_folders_of_dead_controllers_go_and_those_of_living_ones_stay(
    root: str, dead: Owner, elsewhere: Owner
) -> None:
    paths = RunPaths(root, RUN)
    Controller(root, "one", dead).open()
    os.makedirs(paths.worker("one").base + "/spool")
    Path(paths.worker("one").base + "/spool/out").write_bytes(b"x" * 100)
    for name, owner in (("alive", this_owner()), ("there", elsewhere), ("gone", dead)):
        os.makedirs(paths.worker(name).base)
        card = Claim(token=name, backend="pool", owner=owner, beat=beat_path(RUN, name))
        Path(paths.worker(name).card(1)).write_bytes(encode(card))
    os.makedirs(paths.worker("empty").base)
    os.makedirs(paths.worker("unknown").base)
    Path(paths.worker("unknown").beat).touch()
    two = Controller(root, "two")
    assert two.go_on() == RUN
    assert sorted(os.listdir(paths.workers)) == ["alive", "there", "two", "unknown"]


@pytest.mark.fault("F103")
def test_children_of_the_dead_controller_are_ended_first(root: str, dead: Owner) -> None:
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        one = Controller(root, "one", dead)
        one.open()
        one.ask("child", "seat", child.pid, start_time(child.pid), "t")
        folder = RunPaths(root, RUN).worker("one").children
        assert decode(ChildRecord, Path(f"{folder}/{child.pid}").read_bytes(), "x").pid == child.pid
        assert Controller(root, "two").go_on() == RUN
        assert start_time(child.pid) is None
        assert not os.path.exists(folder)
    finally:
        child.kill()
        child.communicate()


def test_what_a_dead_controller_left_is_ended_before_its_run_is_claimed(
    root: str, dead: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    Controller(root, "one", dead).open()
    claimed: list[list[str]] = []

    def ended(*_: object) -> bool:
        claimed.append(os.listdir(RunPaths(root, RUN).claims))
        return True

    monkeypatch.setattr(runs, "end_left_behind", ended)
    assert Controller(root, "two").go_on() == RUN
    assert claimed == [["1"]]


def test_a_run_that_is_not_to_be_kept_leaves_nothing(root: str) -> None:
    one = Controller(root, "one")
    for k, (how, left) in enumerate([("ok", False), ("failed", True)]):
        run_id = f"20260101-000000-1-{k}"
        one.open(run_id)
        paths = RunPaths(root, run_id)
        Path(paths.record).write_bytes(encode(RunRecord(run_id=run_id)))
        Path(paths.journal).touch()
        one.close(run_id, how, keep=False)
        assert os.path.exists(paths.base) is left


# -- faults at each system call ------------------------------------------------------------------------------


class Scene:
    """A store brought to the point where one step is to be made by a controller that dies then."""

    def __init__(self, root: str, dead: Owner) -> None:
        self.root = root
        self.one = Controller(root, "one", dead)
        self.actor = Controller(root, "actor", dead)


Step = Callable[[Scene], object]


def _lost(scene: Scene) -> None:
    scene.one.open()
    scene.one.die()


def _left(scene: Scene) -> None:
    scene.one.open()
    scene.one.ask("child", "seat", 99999999, 5, "")


def _opened(scene: Scene) -> None:
    scene.actor.open()


SCENES: dict[str, tuple[Step, Step]] = {
    "open": (lambda s: None, lambda s: s.actor.open()),
    "go on with a lost one": (_lost, lambda s: s.actor.open(RUN, 1)),
    "go on with one left open": (_left, lambda s: s.actor.open(RUN, 1)),
    "close": (_opened, lambda s: s.actor.close()),
    "close for good": (_opened, lambda s: s.actor.close(keep=False)),
    "die": (_opened, lambda s: s.actor.die()),
}


@pytest.fixture
def scenes(tmp_path: Path, dead: Owner) -> Callable[[str], Scene]:
    def make(name: str) -> Scene:
        scene = Scene(tempfile.mkdtemp(dir=tmp_path), dead)
        SCENES[name][0](scene)
        return scene

    return make


def _the_next_one_goes_on(scene: Scene, k: object) -> str:
    """Two same calls at once after whatever happened: both work, one at most goes on, nothing stale is left."""
    two, three = Controller(scene.root, "two"), Controller(scene.root, "three")
    theirs = [two.go_on(), three.go_on()]
    assert theirs[0] != theirs[1], k
    two.close(theirs[0])
    three.close(theirs[1])
    assert runs.find_unfinished(scene.root, KEY) is None, k
    assert entries(scene.root) == [], k
    return theirs[0]


@pytest.mark.fault("F07", "F09", "F13")
@pytest.mark.parametrize("name", SCENES)
def test_a_crash_before_any_call_is_gone_on_from(name: str, scenes: Callable[[str], Scene]) -> None:
    k = 0
    crashed = True
    went_on = set()
    while crashed:
        scene = scenes(name)
        crashed = crash_before(k, lambda: SCENES[name][1](scene))  # noqa: B023
        went_on.add(_the_next_one_goes_on(scene, k) == RUN)
        k += 1
    assert k > 2
    if name.startswith(("go on", "die")):
        assert went_on == {True}, "nothing of an unfinished run is forgotten"
    else:
        assert went_on == {True, False}


ERRORS = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.ESTALE, errno.EROFS, errno.EDQUOT)


@pytest.mark.fault("F17", "F18", "F19")
@pytest.mark.parametrize("name", SCENES)
def test_an_error_at_any_call_is_said_and_harms_no_later_call(
    name: str, scenes: Callable[[str], Scene]
) -> None:
    """Each call fails with one of the errors in turn; with FURU_TEST_SCALE over 1, with each of them."""
    many = len(ERRORS) if SCALE > 1 else 1
    for k, i in itertools.product(range(len(_calls(name, scenes))), range(many)):
        number = ERRORS[(len(name) + k + i) % len(ERRORS)]
        for done in (False, True):
            scene = scenes(name)
            reply = with_error(k, number, lambda: SCENES[name][1](scene), done)  # noqa: B023
            assert reply in (None, "ok", "taken", "error"), (k, reply)
            if "open" in name or "go on" in name:
                again = Controller(scene.root, "actor", scene.actor.owner)
                assert again.open(RUN, 0 if name == "open" else 1) == "ok", (k, done)
                assert verdict(scene.root)[0] == "held"
            _the_next_one_goes_on(scene, k)


@pytest.mark.fault("F22")
@pytest.mark.parametrize("name", SCENES)
def test_a_lost_reply_is_recognised_at_any_call(name: str, scenes: Callable[[str], Scene]) -> None:
    for k, call in enumerate(_calls(name, scenes)):
        if call not in LOST_REPLY:
            continue
        scene = scenes(name)
        reply = with_error(k, LOST_REPLY[call], lambda: SCENES[name][1](scene), done=True)  # noqa: B023
        assert reply in (None, "ok"), (k, call, reply)
        if name == "close":
            assert verdict(scene.root) == ("over", 1), (k, call)
        _the_next_one_goes_on(scene, (k, call))


def _calls(name: str, scenes: Callable[[str], Scene]) -> list[str]:
    scene = scenes(name)
    return calls_of(lambda: SCENES[name][1](scene))


@pytest.mark.parametrize("count", [0, 3])
def test_looking_for_a_run_costs_one_listing(root: str, count: int) -> None:
    """Where this call left nothing, however many runs there are."""
    for i in range(count):
        Controller(root, "one").open(f"20260101-000000-1-{i}", key=runs.call_key("local", [f"{i:032x}"]))
    listed: list[str] = []

    def wrap(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            listed.append(name)
            return operation(*args, **kwargs)

        return call

    fs.install(wrap)
    try:
        assert runs.find_unfinished(root, KEY) is None
    finally:
        fs.restore()
    assert listed == ["listdir"]


@pytest.mark.fault("F13", "F30")
@pytest.mark.parametrize("name", ["open", "go on with a lost one"])
def test_after_a_power_loss_the_same_call_works(name: str, tmp_path: Path, dead: Owner) -> None:
    """Nothing of a run is synced but its card: whatever part of it is on disk costs no more than a new run."""
    root = tmp_path / "real"
    root.mkdir()
    scene = Scene(str(root), dead)
    rng = random.Random(11)

    def act() -> None:
        SCENES[name][0](scene)
        SCENES[name][1](scene)
        scene.actor.close()

    for count, disk in enumerate(record(str(root), act)):
        for part, (keep, torn) in enumerate(choices(disk, rng)):
            target = tmp_path / f"state-{count}-{part}"
            target.mkdir()
            disk.build(str(target), keep, torn)
            next_one = Controller(str(target), "next")
            next_one.close(next_one.go_on())
