"""Every protocol, cut off, refused or misheard at each of its system calls, and then what the next one makes of it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from store_env import (
    LOST_REPLY,
    SCALE,
    calls_of,
    crash_before,
    create,
    every_call,
    fail,
    failure,
    owner_card,
    paths_at,
    recover,
    success,
    value,
    with_error,
    write_result,
)

from furu_async._store import artifacts
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths
from furu_async._store.sweep import sweep

pytestmark = pytest.mark.usefixtures("both_ways")


ERRORS = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.ESTALE, errno.EROFS, errno.EDQUOT)


class Scene:
    """A fresh artifact brought to the point where one protocol step is to be made by owner ``a``."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.paths = paths_at(root)
        self.card = owner_card(root, "a")
        self.other = owner_card(root, "b")
        self.old: str | None = None


Step = Callable[[Scene], object]


def _claimed(scene: Scene) -> None:
    artifacts.claim(scene.paths, 1, scene.card)
    write_result(scene.paths, 1, "new")


def _failed_with_checkpoint(scene: Scene) -> None:
    artifacts.claim(scene.paths, 1, scene.other)
    os.makedirs(scene.paths.checkpoint(1))
    artifacts.finish(scene.paths, 1, failure(scene.paths, 1, scene.other))


def _held_by_other(scene: Scene) -> None:
    artifacts.claim(scene.paths, 1, scene.other)
    write_result(scene.paths, 1, "other")


def _published(scene: Scene) -> None:
    create(scene.paths, scene.other, "old")
    scene.old = "old"


def _marker_lost(scene: Scene) -> None:
    _published(scene)
    os.unlink(scene.paths.marker)


def _marker_stale(scene: Scene) -> None:
    create(scene.paths, scene.other, "older")
    os.link(scene.paths.end(1), scene.paths.base + "/kept")
    artifacts.invalidate(scene.paths, 1, "again")
    os.rename(scene.paths.base + "/kept", scene.paths.marker)
    artifacts.claim(scene.paths, 2, scene.card)
    write_result(scene.paths, 2, "new")


def _end_torn(scene: Scene) -> None:
    fail(scene.paths, scene.other)
    with open(scene.paths.end(1), "wb"):
        pass


def _end_torn_marker_whole(scene: Scene) -> None:
    _published(scene)
    data = Path(scene.paths.marker).read_bytes()
    os.unlink(scene.paths.marker)
    Path(scene.paths.marker).write_bytes(data)
    with open(scene.paths.end(1), "wb"):
        pass


SCENES: dict[str, tuple[Step, Step]] = {
    "card": (lambda s: None, lambda s: Card(s.card._worker, s.card.record).write()),
    "first claim": (lambda s: None, lambda s: artifacts.claim(s.paths, 1, s.card)),
    "second claim": (_failed_with_checkpoint, lambda s: artifacts.claim(s.paths, 2, s.card)),
    "publish": (_claimed, lambda s: artifacts.publish(s.paths, 1, success(s.paths, 1, s.card))),
    "publish with power": (
        _claimed,
        lambda s: artifacts.publish(s.paths, 1, success(s.paths, 1, s.card, True), True),
    ),
    "publish over a stale marker": (
        _marker_stale,
        lambda s: artifacts.publish(s.paths, 2, success(s.paths, 2, s.card)),
    ),
    "finish": (_claimed, lambda s: artifacts.finish(s.paths, 1, failure(s.paths, 1, s.card))),
    "takeover": (_held_by_other, lambda s: artifacts.takeover(s.paths, 1, s.card, "gone")),
    "takeover with power": (
        _held_by_other,
        lambda s: artifacts.takeover(s.paths, 1, s.card, "silent", power=True),
    ),
    "invalidate": (_published, lambda s: artifacts.invalidate(s.paths, 1, "again")),
    "look heals": (_marker_lost, lambda s: artifacts.look(s.paths)),
    "look quarantines": (_end_torn, lambda s: artifacts.look(s.paths)),
    "look rebuilds": (_end_torn_marker_whole, lambda s: artifacts.look(s.paths)),
}


def _scene(root: Path, prepare: Step) -> Scene:
    # A new folder each time: removing the old one is what would take longest.
    scene = Scene(Path(tempfile.mkdtemp(dir=root.parent)))
    prepare(scene)
    return scene


def _good_values(name: str, old: str | None) -> set[str | None]:
    """What a reader may see at any moment of a step."""
    if name.startswith("publish"):
        return {None, "new"}
    if name == "invalidate":
        return {"old", None}
    return {old}


def _unique_results(paths: ArtifactPaths) -> None:
    """At most one result counts: of all successes only the newest is not invalidated."""
    valid = [
        n
        for n in map(int, os.listdir(paths.ends))  # no temp files are left either
        if _is_success(paths, n) and not os.path.exists(paths.invalid(n))
    ]
    assert len(valid) == 1, valid


def _is_success(paths: ArtifactPaths, n: int) -> bool:
    return b'"success"' in Path(paths.end(n)).read_bytes()


@pytest.mark.fault("F01", "F03", "F04", "F06", "F13")
@pytest.mark.parametrize("name", SCENES)
def test_a_crash_before_any_call_leaves_the_old_or_the_new_state(name: str, tmp_path: Path) -> None:
    prepare, step = SCENES[name]
    k = 0
    crashed = True
    while crashed:
        scene = _scene(tmp_path / "store", prepare)
        crashed = crash_before(k, lambda: step(scene))  # noqa: B023
        seen = value(scene.paths)
        assert seen in _good_values(name, scene.old), (k, seen)
        recover(scene.paths, owner_card(scene.root, "next"))
        assert value(scene.paths) is not None
        assert artifacts.is_marked(scene.paths), k
        if seen is not None and name != "invalidate":
            assert value(scene.paths) == seen, "a success is not demoted"
        sweep(scene.paths, 9)
        for folder, _, files in os.walk(scene.paths.base):
            assert not [f for f in files if f.startswith((".tmp-", ".marker-"))], (k, folder, files)
        k += 1
    assert k > 1
    k -= 1
    assert k == _length(prepare, step, tmp_path)


@pytest.mark.fault("F17", "F18", "F19")
@pytest.mark.parametrize("name", SCENES)
def test_an_error_at_any_call_is_said_and_trying_again_works(name: str, tmp_path: Path) -> None:
    """Each call fails with one of the errors in turn; with FURU_TEST_SCALE over 1, with each of them."""
    prepare, step = SCENES[name]
    length = _length(prepare, step, tmp_path)
    shift = len(name)
    many = len(ERRORS) if SCALE > 1 else 1
    for k, number in ((k, ERRORS[(shift + k + i) % len(ERRORS)]) for k in range(length) for i in range(many)):
        scene = _scene(tmp_path / "store", prepare)
        said = _error_of(lambda: with_error(k, number, lambda: step(scene)))  # noqa: B023
        if said is not None:
            assert said.errno == number, (k, said)
            assert said.filename, "the error names the path"
        assert value(scene.paths) in _good_values(name, scene.old), k
        again = step(scene)
        reply = getattr(again, "r", None)
        assert reply in (None, "claimed", "published"), (k, reply)
        recover(scene.paths, owner_card(scene.root, "next"))
        assert value(scene.paths) is not None
        assert artifacts.is_marked(scene.paths), k
        if name.startswith("publish"):
            assert value(scene.paths) == "new"


def _error_of(action: Callable[[], object]) -> OSError | None:
    try:
        action()
    except OSError as error:
        return error
    return None


def _length(prepare: Step, step: Step, tmp_path: Path) -> int:
    scene = _scene(tmp_path / "count", prepare)
    return len(calls_of(lambda: step(scene)))


@pytest.mark.fault("F22")
@pytest.mark.parametrize("name", SCENES)
def test_a_lost_reply_is_recognised_at_any_call(name: str, tmp_path: Path) -> None:
    """The server did it and the client, asking again, is told that it exists or is gone."""
    prepare, step = SCENES[name]
    scene = _scene(tmp_path / "store", prepare)
    calls = calls_of(lambda: step(scene))
    for k, call in enumerate(calls):
        if call not in LOST_REPLY:
            continue
        scene = _scene(tmp_path / "store", prepare)
        reply = with_error(k, LOST_REPLY[call], lambda: step(scene), done=True)  # noqa: B023
        assert getattr(reply, "r", None) in (None, "claimed", "published"), (k, call, reply.r)
        if name == "invalidate":
            assert reply is True, (k, call)
        assert value(scene.paths) in _good_values(name, scene.old), (k, call)
        recover(scene.paths, owner_card(scene.root, "next"))
        assert artifacts.is_marked(scene.paths), (k, call)
        _unique_results(scene.paths)


@pytest.mark.fault("F22")
@pytest.mark.parametrize("name", SCENES)
def test_an_error_after_the_deed_is_found_out_by_trying_again(name: str, tmp_path: Path) -> None:
    prepare, step = SCENES[name]
    for k in range(_length(prepare, step, tmp_path)):
        scene = _scene(tmp_path / "store", prepare)
        said = _error_of(lambda: with_error(k, errno.EIO, lambda: step(scene), done=True))  # noqa: B023
        assert said is None or said.errno == errno.EIO
        again = step(scene)
        assert getattr(again, "r", None) in (None, "claimed", "published"), k
        assert value(scene.paths) in _good_values(name, scene.old), k
        recover(scene.paths, owner_card(scene.root, "next"))
        assert artifacts.is_marked(scene.paths)


def test_a_published_result_is_published_whatever_happens_to_its_marker(
    root: str, paths: ArtifactPaths
) -> None:
    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    write_result(paths, 1, "x")
    end = success(paths, 1, card)

    def decide(
        k: int, name: str, operation: object, args: tuple[str, ...], kwargs: dict[str, object]
    ) -> object:
        if name == "link" and args[1] == paths.marker:
            raise OSError(errno.ENOSPC, "no space", paths.marker)
        return operation(*args, **kwargs)  # type: ignore[operator]

    with every_call(decide):
        assert artifacts.publish(paths, 1, end).r == "published"
    assert not artifacts.is_marked(paths)
    assert value(paths) == "x"
    assert artifacts.is_marked(paths)


@pytest.mark.fault("F18")
def test_a_store_that_cannot_be_written_can_be_read(root: str, paths: ArtifactPaths) -> None:
    create(paths, owner_card(root, "a"), "x")
    os.unlink(paths.marker)

    def decide(
        k: int, name: str, operation: object, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        if name != "open" or int(args[1]) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):  # type: ignore[call-overload]
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(args[0]))
        return operation(*args, **kwargs)  # type: ignore[operator]

    with every_call(decide):
        assert artifacts.look(paths).verdict == "published"
        assert value(paths) == "x"
