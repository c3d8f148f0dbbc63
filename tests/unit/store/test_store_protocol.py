"""Claim, publish, end, take over, invalidate: what one owner does to another."""

from __future__ import annotations

import errno
import os
import shutil
import threading

import msgspec
import pytest
from store_env import (
    calls_of,
    create,
    every_call,
    fail,
    failure,
    owner_card,
    paths_at,
    success,
    value,
    write_result,
)

from furu_async._store import artifacts, atomic, fs, results
from furu_async._store.layout import ArtifactPaths
from furu_async._store.records import End

pytestmark = pytest.mark.usefixtures("both_ways")


def test_a_cold_artifact_is_free_and_costs_two_calls(paths: ArtifactPaths) -> None:
    calls: list[str] = []

    def wrap(name: str, operation: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return operation(*args, **kwargs)  # type: ignore[operator]

        return call

    fs.install(wrap)  # type: ignore[arg-type]
    try:
        seen = artifacts.look(paths)
    finally:
        fs.restore()
    assert (seen.verdict, seen.generation, seen.next_generation) == ("free", 0, 1)
    assert calls == ["listdir", "lstat"]


def test_a_result_is_published_in_one_step(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    reply = artifacts.claim(paths, 1, card)
    assert reply.r == "claimed"
    assert not os.path.lexists(paths.attempts)
    write_result(paths, 1, "x")
    assert not artifacts.is_marked(paths)
    assert value(paths) is None
    assert artifacts.publish(paths, 1, success(paths, 1, card)).r == "published"
    assert artifacts.is_marked(paths)
    assert value(paths) == "x"
    assert os.stat(paths.marker).st_ino == os.stat(paths.end(1)).st_ino
    assert artifacts.look(paths).verdict == "published"
    assert os.listdir(paths.ends) == ["1"]


def test_a_fresh_claim_and_publish_make_few_calls(root: str, paths: ArtifactPaths) -> None:
    """The price of a small node: four folders, the claim, and one file with two names."""
    card = owner_card(root, "a")
    create(paths_at(root, "e" * 32), card, "x")
    assert calls_of(lambda: artifacts.claim(paths, 1, card)) == [
        "mkdir",
        "mkdir",
        "mkdir",
        "link",
        "mkdir",
    ]
    write_result(paths, 1, "x")
    calls = calls_of(lambda: artifacts.publish(paths, 1, success(paths, 1, card)))
    assert [name.replace("create", "open") for name in calls if name != "unlink"] == [
        "open",
        "write",
        "link",
        "link",
    ]


def test_a_claim_is_a_link_of_the_card(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    assert os.stat(paths.claim(1)).st_ino == os.stat(card.path).st_ino
    seen = artifacts.look(paths)
    assert seen.verdict == "claimed"
    assert seen.claim == card.record


def test_the_second_claimant_is_told_who_was_first(root: str, paths: ArtifactPaths) -> None:
    artifacts.claim(paths, 1, owner_card(root, "a"))
    reply = artifacts.claim(paths, 1, owner_card(root, "b"))
    assert reply.r == "taken"
    assert reply.look is not None
    assert reply.look.claim is not None
    assert reply.look.claim.token == "token-a"


def test_the_next_generation_needs_the_end_of_this_one(root: str, paths: ArtifactPaths) -> None:
    artifacts.claim(paths, 1, owner_card(root, "a"))
    reply = artifacts.claim(paths, 2, owner_card(root, "b"))
    assert reply.r == "taken"
    assert not os.path.exists(paths.claim(2))


def test_after_a_failure_the_next_generation_is_free(root: str, paths: ArtifactPaths) -> None:
    fail(paths, owner_card(root, "a"))
    seen = artifacts.look(paths)
    assert (seen.verdict, seen.next_generation) == ("free", 2)
    assert seen.end is not None
    assert seen.end.failure is not None
    assert seen.end.failure.message == "no"
    assert create(paths, owner_card(root, "b"), "y") == 2
    assert value(paths) == "y"


@pytest.mark.fault("F67", "F14")
def test_a_replaced_owner_can_neither_publish_nor_fail(root: str, paths: ArtifactPaths) -> None:
    old, new = owner_card(root, "old"), owner_card(root, "new")
    artifacts.claim(paths, 1, old)
    write_result(paths, 1, "old")
    assert artifacts.takeover(paths, 1, new, "silent").r == "claimed"
    late = artifacts.publish(paths, 1, success(paths, 1, old))
    assert late.r == "fenced"
    assert late.end is not None
    assert late.end.token == "token-new"
    assert not artifacts.is_marked(paths)
    write_result(paths, 2, "new")
    assert artifacts.publish(paths, 2, success(paths, 2, new)).r == "published"
    assert artifacts.finish(paths, 1, failure(paths, 1, old)).r == "fenced"
    assert artifacts.publish(paths, 1, success(paths, 1, old)).r == "fenced"
    assert value(paths) == "new"
    assert artifacts.look(paths).generation == 2


def test_a_replaced_owner_whose_files_are_gone_hears_who_replaced_it(root: str, paths: ArtifactPaths) -> None:
    old, new = owner_card(root, "old"), owner_card(root, "new")
    artifacts.claim(paths, 1, old)
    write_result(paths, 1, "old")
    end = success(paths, 1, old)
    artifacts.takeover(paths, 1, new, "silent")
    shutil.rmtree(paths.attempt(1))
    late = artifacts.publish(paths, 1, end)
    assert late.r == "fenced"
    assert late.end is not None
    assert late.end.token == "token-new"


@pytest.mark.fault("F67")
def test_a_takeover_that_comes_after_success_finds_it(root: str, paths: ArtifactPaths) -> None:
    create(paths, owner_card(root, "a"), "x")
    reply = artifacts.takeover(paths, 1, owner_card(root, "b"), "silent")
    assert reply.r == "published"
    assert value(paths) == "x"
    assert not os.path.exists(paths.claim(2))


def test_a_takeover_ends_the_owner_after_fencing_it(root: str, paths: ArtifactPaths) -> None:
    artifacts.claim(paths, 1, owner_card(root, "a"))
    seen: list[tuple[bool, bool]] = []

    def end_owner() -> None:
        seen.append((os.path.exists(paths.end(1)), os.path.exists(paths.claim(2))))

    artifacts.takeover(paths, 1, owner_card(root, "b"), "silent", end_owner=end_owner)
    assert seen == [(True, False)]


def test_two_takeovers_make_one_generation(root: str, paths: ArtifactPaths) -> None:
    artifacts.claim(paths, 1, owner_card(root, "a"))
    assert artifacts.takeover(paths, 1, owner_card(root, "b"), "silent").r == "claimed"
    assert artifacts.takeover(paths, 1, owner_card(root, "c"), "silent").r == "taken"
    assert sorted(os.listdir(paths.claims)) == ["1", "2"]


@pytest.mark.fault("F22")
def test_repeated_steps_recognise_their_own_work(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    assert artifacts.claim(paths, 1, card).r == "claimed"
    assert artifacts.claim(paths, 1, card).r == "claimed"
    write_result(paths, 1, "x")
    end = success(paths, 1, card)
    assert artifacts.publish(paths, 1, end).r == "published"
    assert artifacts.publish(paths, 1, end).r == "published"
    assert artifacts.finish(paths, 1, failure(paths, 1, card)).r == "fenced"
    assert value(paths) == "x"


@pytest.mark.fault("F29")
def test_what_is_missing_or_cut_short_is_not_published(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    write_result(paths, 1, "whole")
    end = success(paths, 1, card)
    write_result(paths, 1, "cut")
    reply = artifacts.publish(paths, 1, end)
    assert reply.r == "broken"
    assert "has 3 bytes and should have 5" in reply.problems[0]
    os.unlink(f"{paths.attempt(1)}/value.txt")
    assert "is missing" in artifacts.publish(paths, 1, end).problems[0]
    assert artifacts.look(paths).verdict == "claimed"


@pytest.mark.fault("F31")
def test_an_artifact_deleted_while_computing_is_broken_and_then_made_anew(
    root: str, paths: ArtifactPaths
) -> None:
    import shutil

    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    write_result(paths, 1, "x")
    end = success(paths, 1, card)
    shutil.rmtree(paths.base)
    assert artifacts.publish(paths, 1, end).r == "broken"
    assert create(paths, owner_card(root, "b"), "y") == 1
    assert value(paths) == "y"


# -- invalidation and the marker -----------------------------------------------------------------------------


@pytest.mark.fault("F71")
def test_an_invalidated_result_is_computed_again_and_its_readers_keep_it(
    root: str, paths: ArtifactPaths
) -> None:
    card = owner_card(root, "a")
    create(paths, card, "old")
    with open(f"{paths.attempt(1)}/value.txt") as reader:
        assert artifacts.invalidate(paths, 1, "always rerun", "run-a")
        assert not artifacts.is_marked(paths)
        assert value(paths) is None
        assert artifacts.look(paths).verdict == "free"
        assert create(paths, card, "new") == 2
        assert reader.read() == "old"
    assert os.path.exists(f"{paths.attempt(1)}/value.txt")
    assert value(paths) == "new"


def test_invalidating_again_or_what_is_no_success_does_nothing(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    assert not artifacts.invalidate(paths, 1, "nothing there")
    fail(paths, card)
    assert not artifacts.invalidate(paths, 1, "a failure")
    create(paths, card, "x")
    assert artifacts.invalidate(paths, 2, "first")
    assert not artifacts.invalidate(paths, 2, "second")
    create(paths, card, "y")
    assert not artifacts.invalidate(paths, 2, "late, and not to touch generation 3")
    assert artifacts.is_marked(paths)
    assert value(paths) == "y"


def test_a_lost_marker_is_put_back_by_a_look(root: str, paths: ArtifactPaths) -> None:
    create(paths, owner_card(root, "a"), "x")
    os.unlink(paths.marker)
    assert value(paths) == "x"
    assert artifacts.is_marked(paths)


def _sleep_before_marker(paths: ArtifactPaths, end: End, meanwhile: object) -> None:
    """Publish, and let ``meanwhile`` happen between the link of the end and the marker."""

    def decide(
        k: int, name: str, operation: object, args: tuple[str, ...], kwargs: dict[str, object]
    ) -> object:
        if name == "link" and args[1] == paths.marker and args[0] == paths.end(1):
            fs.restore()
            meanwhile()  # type: ignore[operator]
        return operation(*args, **kwargs)  # type: ignore[operator]

    with every_call(decide):
        assert artifacts.publish(paths, 1, end).r == "published"


@pytest.mark.fault("F71", "F14")
def test_a_publisher_that_slept_does_not_bring_back_an_invalid_marker(
    root: str, paths: ArtifactPaths
) -> None:
    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    write_result(paths, 1, "old")
    _sleep_before_marker(paths, success(paths, 1, card), lambda: artifacts.invalidate(paths, 1, "meanwhile"))
    assert not artifacts.is_marked(paths)
    assert value(paths) is None


@pytest.mark.fault("F71", "F14")
def test_a_publisher_that_slept_does_not_replace_a_later_marker(root: str, paths: ArtifactPaths) -> None:
    card, other = owner_card(root, "a"), owner_card(root, "b")
    artifacts.claim(paths, 1, card)
    write_result(paths, 1, "old")

    def meanwhile() -> None:
        artifacts.invalidate(paths, 1, "meanwhile")
        create(paths, other, "new")

    _sleep_before_marker(paths, success(paths, 1, card), meanwhile)
    assert os.stat(paths.marker).st_ino == os.stat(paths.end(2)).st_ino
    assert value(paths) == "new"


@pytest.mark.fault("F71")
def test_an_invalidator_that_caught_another_marker_puts_it_back(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    create(paths, card, "old")

    def decide(
        k: int, name: str, operation: object, args: tuple[str, ...], kwargs: dict[str, object]
    ) -> object:
        if name == "rename" and args[0] == paths.marker:
            fs.restore()
            artifacts.invalidate(paths, 1, "by another")
            create(paths, card, "new")
        return operation(*args, **kwargs)  # type: ignore[operator]

    with every_call(decide):
        artifacts.invalidate(paths, 1, "by one")
    assert artifacts.is_marked(paths)
    assert value(paths) == "new"
    assert not [name for name in os.listdir(paths.base) if name.startswith(".marker")]


@pytest.mark.fault("F71")
@pytest.mark.parametrize("what", ["invalidate", "publish"])
def test_others_may_look_between_any_two_calls(what: str, root: str) -> None:
    """A look puts the marker right, also in the middle of a step that is about to change it."""
    for k in range(30):
        paths = paths_at(root, f"{k:032x}")
        card = owner_card(root, "a")
        if what == "invalidate":
            create(paths, card, "x")
        else:
            artifacts.claim(paths, 1, card)
            write_result(paths, 1, "x")
        end = success(paths, 1, card)

        def decide(
            at: int,
            name: str,
            operation: object,
            args: tuple[str, ...],
            kwargs: dict[str, object],
            k: int = k,
            paths: ArtifactPaths = paths,
        ) -> object:
            if at == k:
                fs.restore()
                artifacts.look(paths)
            return operation(*args, **kwargs)  # type: ignore[operator]

        with every_call(decide):
            if what == "invalidate":
                assert artifacts.invalidate(paths, 1, "again")
            else:
                assert artifacts.publish(paths, 1, end).r == "published"
        assert artifacts.is_marked(paths) is (what == "publish"), k
        assert value(paths) == ("x" if what == "publish" else None), k


@pytest.mark.fault("F71")
def test_who_loads_checks_a_stale_marker_against_invalidations(root: str, paths: ArtifactPaths) -> None:
    """What stays when a publisher dies between making its marker and looking for an invalidation."""
    create(paths, owner_card(root, "a"), "old")
    os.link(paths.end(1), paths.base + "/kept")
    artifacts.invalidate(paths, 1, "meanwhile")
    os.rename(paths.base + "/kept", paths.marker)
    assert value(paths) is None
    assert not artifacts.is_marked(paths), "and puts it right"


# -- claims on awkward file systems --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMLINK, errno.EXDEV, errno.EPERM])
@pytest.mark.fault("F25")
def test_a_card_that_cannot_be_linked_is_written_instead(
    root: str, paths: ArtifactPaths, number: int
) -> None:
    card = owner_card(root, "a")
    first = card.path

    def decide(
        k: int, name: str, operation: object, args: tuple[str, ...], kwargs: dict[str, object]
    ) -> object:
        if name == "link" and args[0] == first:
            raise OSError(number, os.strerror(number), args[0], None, args[1])
        return operation(*args, **kwargs)  # type: ignore[operator]

    with every_call(decide):
        create(paths, card, "x")
        create(paths_at(root, "f" * 32), card, "x")
    assert value(paths) == "x"
    assert not [name for name in os.listdir(paths.claims) if name.startswith(".")]


def test_a_card_whose_file_was_removed_is_written_again(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    os.unlink(card.path)
    create(paths, card, "x")
    assert value(paths) == "x"


# -- attempts and checkpoints --------------------------------------------------------------------------------


@pytest.mark.fault("F02")
def test_the_next_attempt_starts_empty_and_takes_the_checkpoint(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    write_result(paths, 1, "partial")
    os.makedirs(paths.checkpoint(1))
    with open(paths.checkpoint(1) + "/step", "w") as file:
        file.write("7")
    artifacts.takeover(paths, 1, owner_card(root, "b"), "gone")
    assert os.listdir(paths.attempts) == ["1"]
    assert os.listdir(paths.checkpoints) == ["2"]
    assert os.listdir(paths.checkpoint(2)) == ["step"]


def test_a_checkpoint_skips_holders_that_died_before_taking_it(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    os.makedirs(paths.checkpoint(1))
    artifacts.finish(paths, 1, failure(paths, 1, card))
    os.link(card.path, paths.claim(2))
    artifacts.finish(paths, 2, failure(paths, 2, card))
    artifacts.claim(paths, 3, card)
    assert os.listdir(paths.checkpoints) == ["3"]


def test_the_checkpoint_of_a_success_is_not_carried_on(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    os.makedirs(paths.checkpoint(1))
    write_result(paths, 1, "x")
    artifacts.publish(paths, 1, success(paths, 1, card))
    artifacts.invalidate(paths, 1, "again")
    artifacts.claim(paths, 2, card)
    assert os.listdir(paths.checkpoints) == ["1"]


def test_what_lies_in_the_way_of_a_fresh_folder_is_moved_aside(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    fail(paths, card)
    os.makedirs(paths.attempt(2))
    with open(paths.attempt(2) + "/foreign", "w"):
        pass
    assert artifacts.claim(paths, 2, card).r == "claimed"
    (stale,) = os.listdir(paths.attempts)
    assert stale.startswith(".stale-2")
    assert os.listdir(f"{paths.attempts}/{stale}") == ["foreign"]


def test_an_empty_folder_in_the_way_is_removed(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    fail(paths, card)
    os.makedirs(paths.attempt(2))
    assert artifacts.claim(paths, 2, card).r == "claimed"
    assert os.listdir(paths.attempts) == []


def test_a_result_without_files_needs_no_folder(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    end = msgspec.structs.replace(success(paths, 1, card), result="inline", value=msgspec.Raw(b"[1,2.0]"))
    assert end.manifest == []
    assert artifacts.publish(paths, 1, end, power=True).r == "published"
    assert not os.path.lexists(paths.attempts)
    found = artifacts.read_success(paths)
    assert found is not None
    assert artifacts.verify_manifest(paths, *found, checksums=True) == []
    assert results.load(paths.attempt(1), found[1].result, bytes(found[1].value)) == [1, 2.0]


@pytest.mark.fault("F32")
def test_a_later_holder_collects_what_others_left_but_their_logs(root: str, paths: ArtifactPaths) -> None:
    from furu_async._store.sweep import sweep

    card = owner_card(root, "a")
    for n in (1, 2):
        artifacts.claim(paths, n, card)
        write_result(paths, n, "big")
        with open(paths.attempt(n) + "/log", "w") as file:
            file.write("said")
        artifacts.finish(paths, n, failure(paths, n, card))
        with open(f"{paths.ends}/.tmp-{n}-dead-1", "w"):
            pass
    artifacts.claim(paths, 3, card)
    write_result(paths, 3, "mine")
    with open(f"{paths.ends}/.tmp-3-mine-1", "w"):
        pass  # what is being written now
    sweep(paths, 3)
    assert os.listdir(paths.attempt(1)) == ["log"]
    assert os.listdir(paths.attempt(2)) == ["log"]
    assert os.listdir(paths.attempt(3)) == ["value.txt"]
    assert sorted(os.listdir(paths.ends)) == [".tmp-3-mine-1", "1", "2"]


def test_where_no_thread_can_be_had_it_is_swept_with_the_next_one(
    root: str, paths: ArtifactPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from furu_async._store.sweep import Sweeper

    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    write_result(paths, 1, "big")
    artifacts.finish(paths, 1, failure(paths, 1, card))
    sweeper = Sweeper()

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        sweeper.add(paths, 2)
    assert os.path.exists(paths.attempt(1))
    sweeper.add(paths_at(root, "e" * 32), 2)
    for thread in threading.enumerate():
        if thread.name == "sweep":
            thread.join(10)
    assert not os.path.exists(paths.attempt(1))


def test_an_invalidated_result_is_kept_until_the_one_after_next(root: str, paths: ArtifactPaths) -> None:
    from furu_async._store.sweep import sweep

    card = owner_card(root, "a")
    create(paths, card, "1")
    artifacts.invalidate(paths, 1, "again")
    create(paths, card, "2")
    sweep(paths, 2)
    assert os.path.exists(paths.attempt(1) + "/value.txt")
    artifacts.invalidate(paths, 2, "again")
    create(paths, card, "3")
    sweep(paths, 3)
    assert not os.path.exists(paths.attempt(1))
    assert os.path.exists(paths.attempt(2) + "/value.txt")
    assert value(paths) == "3"


@pytest.mark.fault("F26")
def test_no_decision_goes_by_a_file_time(root: str, paths: ArtifactPaths) -> None:
    card = owner_card(root, "a")
    artifacts.claim(paths, 1, card)
    for when in (0, 4e9):
        for path in (paths.claim(1), paths.claims, paths.base, card.path):
            os.utime(path, (when, when))
        assert artifacts.look(paths).verdict == "claimed"
    write_result(paths, 1, "x")
    artifacts.publish(paths, 1, success(paths, 1, card))
    os.utime(paths.marker, (0, 0))
    assert value(paths) == "x"


def test_new_files_have_the_permissions_of_the_umask(root: str, paths: ArtifactPaths) -> None:
    old = os.umask(0o027)
    try:
        create(paths, owner_card(root, "a"), "x")
    finally:
        os.umask(old)
    assert os.stat(paths.base).st_mode & 0o777 == 0o750
    assert os.stat(paths.attempt(1)).st_mode & 0o777 == 0o750
    assert os.stat(paths.end(1)).st_mode & 0o777 == 0o640
    assert os.stat(paths.claim(1)).st_mode & 0o777 == 0o640


def test_a_new_file_without_name_support_falls_back(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_nameless", True)

    def decide(
        k: int, name: str, operation: object, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        if name == "open" and isinstance(args[1], int) and args[1] & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return operation(*args, **kwargs)  # type: ignore[operator]

    with every_call(decide):
        assert atomic.write_new_linked(f"{root}/new", b"data")
    assert atomic.read_bytes(f"{root}/new") == b"data"
    assert os.listdir(root) == ["new"]


@pytest.mark.fault("F17")
def test_a_short_write_is_continued(root: str, paths: ArtifactPaths) -> None:
    """A disk that is nearly full, or a signal, cuts a write short without an error."""

    def decide(
        k: int, name: str, operation: object, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        if name == "write":
            return operation(args[0], bytes(args[1])[:7])  # type: ignore[operator, call-overload]
        return operation(*args, **kwargs)  # type: ignore[operator]

    with every_call(decide):
        card = owner_card(root, "a")
        create(paths, card, "x")
    seen = artifacts.look(paths)
    assert (seen.verdict, seen.notes) == ("published", [])
    assert atomic.read_bytes(card.path) == atomic.read_bytes(paths.claim(1))
    assert value(paths) == "x"


@pytest.mark.fault("F21")
@pytest.mark.parametrize("theirs", ["claimed", "failed", "published"])
def test_a_stale_listing_does_not_hide_what_a_link_met(root: str, paths: ArtifactPaths, theirs: str) -> None:
    """On NFS the folder still looks as it did a minute ago."""
    fail(paths, owner_card(root, "a"))
    other = owner_card(root, "b")
    artifacts.claim(paths, 2, other)
    write_result(paths, 2, "x")
    if theirs == "failed":
        artifacts.finish(paths, 2, failure(paths, 2, other))
    elif theirs == "published":
        artifacts.publish(paths, 2, success(paths, 2, other))
        os.unlink(paths.marker)

    def wrap(name: str, operation: object) -> object:
        return (lambda path: ["1"]) if name == "listdir" else operation

    fs.install(wrap)  # type: ignore[arg-type]
    try:
        seen = artifacts.look(paths)
        assert (seen.verdict, seen.next_generation) == ("free", 2)
        reply = artifacts.claim(paths, 2, owner_card(root, "c"))
    finally:
        fs.restore()
    assert reply.look is not None
    assert reply.look.generation == 2
    assert reply.r == ("published" if theirs == "published" else "taken")
    assert reply.look.verdict == {"claimed": "claimed", "failed": "free", "published": "published"}[theirs]
