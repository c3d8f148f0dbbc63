"""Claims and ends that a power loss took, and the marker that it left: one truth for planners, claimants and readers.

Nothing of this can come about while processes die: the marker is made last. It does when names that nobody had synced
are lost in any order, with `FURU_DURABILITY=process` or `auto`.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from store_env import (
    create,
    every_call,
    fail,
    failure,
    owner_card,
    success,
    value,
    write_result,
)

from furu_async._executors.planner import probe_many
from furu_async._store import artifacts
from furu_async._store.layout import ArtifactPaths
from furu_async._store.records import Damaged

pytestmark = [pytest.mark.usefixtures("both_ways"), pytest.mark.fault("F13", "F30")]


def lose(*paths: str) -> None:
    for path in paths:
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def agree_on(paths: ArtifactPaths, text: str, n: int) -> None:
    """Who plans, who claims, who loads, and who is shown it, see one result; looking again changes nothing."""
    for _ in range(2):
        for exact in (False, True):
            (found,) = probe_many(paths.root, [("pkg.Train", paths.hash)], exact)
            assert found.verdict == "valid"
        seen = artifacts.look(paths)
        assert (seen.verdict, seen.generation) == ("published", n)
        assert value(paths) == text
        for k in range(1, n + 1):
            reply = artifacts.claim(paths, k, owner_card(paths.root, "x"))
            assert reply.r == "published", k
            assert reply.look is not None
            assert reply.look.generation == n
        assert value(paths) == text
        assert artifacts.is_marked(paths)


def agree_on_nothing(paths: ArtifactPaths, after: int) -> None:
    """All see that there is no result, and that generation ``after`` was the last one."""
    assert not artifacts.is_marked(paths)
    (found,) = probe_many(paths.root, [("pkg.Train", paths.hash)])
    assert found.verdict in ("absent", "failed")
    seen = artifacts.look(paths)
    assert (seen.verdict, seen.next_generation) == ("free", after + 1)
    assert value(paths) is None


@pytest.mark.parametrize("ended", [False, True])
def test_what_came_after_a_result_that_was_not_set_aside_does_not_demote_it(
    root: str, paths: ArtifactPaths, ended: bool
) -> None:
    create(paths, owner_card(root, "a"), "x")
    late = owner_card(root, "b")
    assert late.link(paths.claim(2))
    if ended:
        artifacts.finish(paths, 2, failure(paths, 2, late))
    for _ in range(2):
        seen = artifacts.look(paths)
        assert (seen.verdict, seen.generation) == ("published", 1)
        assert value(paths) == "x"
        assert artifacts.is_marked(paths)


def test_a_marker_that_is_one_generation_later_than_what_is_left(root: str, paths: ArtifactPaths) -> None:
    create(paths, owner_card(root, "a"), "x")
    artifacts.invalidate(paths, 1, "again")
    create(paths, owner_card(root, "b"), "y")
    lose(paths.claim(2), paths.end(2), paths.invalid(1))
    agree_on(paths, "y", 2)


@pytest.mark.parametrize("kept", ["both folders", "claims", "ends", "nothing", "no .furu"])
def test_a_marker_alone_is_the_result_for_everybody(root: str, paths: ArtifactPaths, kept: str) -> None:
    create(paths, owner_card(root, "a"), "x")
    if kept == "no .furu":
        lose(paths.furu)
    else:
        lose(paths.claim(1), paths.end(1))
        if kept in ("claims", "nothing"):
            lose(paths.ends)
        if kept in ("ends", "nothing"):
            lose(paths.claims)
    agree_on(paths, "x", 1)
    assert Path(paths.end(1)).read_bytes() == Path(paths.marker).read_bytes()


@pytest.mark.parametrize("marked", [True, False])
def test_an_end_whose_claims_are_gone_with_their_folder_counts(
    root: str, paths: ArtifactPaths, marked: bool
) -> None:
    create(paths, owner_card(root, "a"), "x")
    lose(paths.claims)
    if not marked:
        lose(paths.marker)
        assert artifacts.look(paths).verdict == "published"
    agree_on(paths, "x", 1)


def test_a_failure_whose_claims_are_gone_with_their_folder_is_followed(
    root: str, paths: ArtifactPaths
) -> None:
    fail(paths, owner_card(root, "a"))
    lose(paths.claims)
    agree_on_nothing(paths, 1)
    assert create(paths, owner_card(root, "b"), "x") == 2


def _remade(root: str, paths: ArtifactPaths) -> None:
    """A result lost all but its marker; before that was seen its generation was claimed again, and failed."""
    create(paths, owner_card(root, "a"), "x")
    lose(paths.claim(1), paths.end(1))
    os.rename(paths.marker, paths.base + "/hidden")
    other = owner_card(root, "b")
    assert artifacts.claim(paths, 1, other).r == "claimed"
    os.rename(paths.base + "/hidden", paths.marker)
    assert artifacts.finish(paths, 1, failure(paths, 1, other, "inputs")).r == "published"


def test_a_marker_whose_generation_failed_when_made_again_can_be_set_aside(
    root: str, paths: ArtifactPaths
) -> None:
    _remade(root, paths)
    seen = artifacts.look(paths)
    assert (seen.verdict, seen.generation) == ("published", 1), "what was published is not demoted"
    with pytest.raises(AssertionError):
        value(paths)  # its files are gone
    assert artifacts.invalidate(paths, 1, "its files are gone"), "so somebody distrusts it"
    assert not artifacts.invalidate(paths, 1, "its files are gone")
    agree_on_nothing(paths, 1)
    assert create(paths, owner_card(root, "c"), "again") == 2
    agree_on(paths, "again", 2)


def test_a_marker_alone_can_be_set_aside(root: str, paths: ArtifactPaths) -> None:
    create(paths, owner_card(root, "a"), "x")
    lose(paths.claim(1), paths.end(1), paths.attempt(1))
    assert artifacts.invalidate(paths, 1, "its files are gone")
    agree_on_nothing(paths, 1)
    assert create(paths, owner_card(root, "b"), "again") == 2
    agree_on(paths, "again", 2)


def test_what_cannot_be_given_an_end_is_not_set_aside(root: str, paths: ArtifactPaths) -> None:
    """An invalidation without an end would leave a generation that looks new and cannot be published."""
    create(paths, owner_card(root, "a"), "x")
    lose(paths.claim(1), paths.end(1))

    def refuse(k: int, name: str, operation: Any, args: Any, kwargs: Any) -> Any:
        if name == "link" and args[1] == paths.end(1):
            raise OSError(errno.ENOSPC, "full", args[1])
        return operation(*args, **kwargs)

    with every_call(refuse), pytest.raises(OSError, match="full"):
        artifacts.invalidate(paths, 1, "again")
    assert not os.path.exists(paths.invalid(1))
    agree_on(paths, "x", 1)


@pytest.mark.parametrize("first", ["failed", "open", "invalid", "invalid no more"])
def test_a_marker_later_than_claims_and_ends(root: str, paths: ArtifactPaths, first: str) -> None:
    a = owner_card(root, "a")
    if first.startswith("invalid"):
        create(paths, a, "old")
        artifacts.invalidate(paths, 1, "again")
    else:
        fail(paths, a)
    fail(paths, a)
    assert create(paths, a, "new") == 3
    lose(paths.claim(2), paths.claim(3), paths.end(2), paths.end(3))
    if first == "open":
        lose(paths.end(1))
    if first == "invalid no more":
        lose(paths.invalid(1))
    agree_on(paths, "new", 3)
    assert artifacts.invalidate(paths, 3, "again")
    if first == "invalid no more":
        assert artifacts.look(paths).generation == 3
    else:
        agree_on_nothing(paths, 3)
    assert create(paths, a, "newer") == 4
    agree_on(paths, "newer", 4)


def test_a_stale_marker_later_than_a_result_is_taken_away(root: str, paths: ArtifactPaths) -> None:
    """It was set aside, by one who died before it removed the marker; then the ends since the first were lost."""
    a = owner_card(root, "a")
    create(paths, a, "old")
    artifacts.invalidate(paths, 1, "again")
    create(paths, a, "new")
    os.link(paths.marker, paths.base + "/kept")
    artifacts.invalidate(paths, 2, "again")
    os.rename(paths.base + "/kept", paths.marker)
    lose(paths.invalid(1), paths.claim(2), paths.end(2))
    assert artifacts.look(paths).generation == 1
    agree_on(paths, "old", 1)


def test_a_generation_that_was_set_aside_is_not_used_again(root: str, paths: ArtifactPaths) -> None:
    """Its result would count as set aside when it is published."""
    a, b = owner_card(root, "a"), owner_card(root, "b")
    create(paths, a, "x")
    artifacts.invalidate(paths, 1, "again")
    lose(paths.claim(1), paths.end(1))
    reply = artifacts.claim(paths, 1, b)
    assert reply.r == "taken"
    assert reply.look is not None
    assert (reply.look.verdict, reply.look.next_generation) == ("free", 2)
    assert create(paths, b, "again") == 2
    agree_on(paths, "again", 2)


def test_who_claims_beside_an_earlier_result_goes_on(root: str, paths: ArtifactPaths) -> None:
    """The invalidation was lost, and what the next owner was told still was that there is no result."""
    a, b = owner_card(root, "a"), owner_card(root, "b")
    create(paths, a, "x")
    artifacts.invalidate(paths, 1, "again")
    os.link(paths.end(1), paths.marker)
    lose(paths.invalid(1))
    assert artifacts.claim(paths, 2, b).r == "claimed"
    assert value(paths) == "x"
    write_result(paths, 2, "again")
    assert artifacts.publish(paths, 2, success(paths, 2, b)).r == "published"
    agree_on(paths, "again", 2)


def test_who_made_a_lost_generation_again_is_fenced_once_its_result_was_seen(
    root: str, paths: ArtifactPaths
) -> None:
    create(paths, owner_card(root, "a"), "x")
    lose(paths.claim(1), paths.end(1))
    os.rename(paths.marker, paths.base + "/hidden")
    other = owner_card(root, "b")
    assert artifacts.claim(paths, 1, other).r == "claimed"
    os.rename(paths.base + "/hidden", paths.marker)
    write_result(paths, 1, "x")  # of which it clears the files before it begins
    assert artifacts.look(paths).verdict == "published"
    reply = artifacts.publish(paths, 1, success(paths, 1, other))
    assert reply.r == "fenced"
    assert reply.end is not None
    assert reply.end.token == "token-a"
    agree_on(paths, "x", 1)


@pytest.mark.parametrize("who", ["another", "the same"])
def test_a_marker_gives_way_to_the_result_that_was_made_again_unseen(
    root: str, paths: ArtifactPaths, who: str
) -> None:
    a = owner_card(root, "a")
    create(paths, a, "old")
    lose(paths.claim(1), paths.end(1))
    os.rename(paths.marker, paths.base + "/hidden")
    other = a if who == "the same" else owner_card(root, "b")
    assert artifacts.claim(paths, 1, other).r == "claimed"
    os.rename(paths.base + "/hidden", paths.marker)
    write_result(paths, 1, "made again")
    assert artifacts.publish(paths, 1, success(paths, 1, other)).r == "published"
    assert os.path.samefile(paths.marker, paths.end(1))
    agree_on(paths, "made again", 1)


def test_a_look_replaces_a_marker_that_says_something_else_than_its_end(
    root: str, paths: ArtifactPaths
) -> None:
    """As when who made it again died before it came to the marker."""
    create(paths, owner_card(root, "a"), "old")
    kept = Path(paths.marker).read_bytes()
    lose(paths.furu, paths.marker, paths.attempts)
    create(paths, owner_card(root, "b"), "made again")
    lose(paths.marker)
    Path(paths.marker).write_bytes(kept)
    assert artifacts.look(paths).verdict == "published"
    assert os.path.samefile(paths.marker, paths.end(1))
    agree_on(paths, "made again", 1)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_store_that_cannot_be_written_shows_what_the_marker_says(
    root: str, paths: ArtifactPaths, number: int
) -> None:
    create(paths, owner_card(root, "a"), "x")
    lose(paths.furu)

    def refuse(k: int, name: str, operation: Any, args: Any, kwargs: Any) -> Any:
        if name == "open" and not args[1] & os.O_WRONLY:
            return operation(*args, **kwargs)
        raise OSError(number, os.strerror(number), str(args[0]))

    with every_call(refuse):
        seen = artifacts.look(paths)
        assert (seen.verdict, seen.generation) == ("published", 1)
        assert "could not be written again" in " ".join(seen.notes)
        assert value(paths) == "x"
    assert not os.path.exists(paths.furu)


def test_an_end_is_not_written_from_the_marker_of_another_generation(root: str, paths: ArtifactPaths) -> None:
    from furu_async._store import marker

    create(paths, owner_card(root, "a"), "x")
    with pytest.raises(Damaged):
        marker.restore_end(paths, 2)
    lose(paths.marker)
    with pytest.raises(Damaged):
        marker.restore_end(paths, 2)
    assert os.listdir(paths.ends) == ["1"]
    assert not marker.restore_end(paths, 1), "what is there stays"


@pytest.mark.parametrize("marked", [True, False])
def test_of_a_replaced_owner_whose_fence_was_lost_the_later_generation_counts(
    root: str, paths: ArtifactPaths, marked: bool
) -> None:
    """The host that had replaced it lost its power; what was not synced of that was the end that fenced it."""
    old, new = owner_card(root, "old"), owner_card(root, "new")
    artifacts.claim(paths, 1, old)
    write_result(paths, 1, "old")
    assert artifacts.takeover(paths, 1, new, "silent").r == "claimed"
    write_result(paths, 2, "new")
    assert artifacts.publish(paths, 2, success(paths, 2, new)).r == "published"
    lose(paths.end(1), paths.claim(2))
    if not marked:
        lose(paths.marker)
    artifacts.publish(paths, 1, success(paths, 1, old))
    agree_on(paths, "new", 2)
    assert artifacts.invalidate(paths, 2, "again")
    agree_on_nothing(paths, 2)
