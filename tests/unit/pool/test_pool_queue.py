"""The queue of a pool: one rename decides, whatever listings say, and whatever the server's replies are."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pool_env import HASH, KEY, Home, raw

from furu_async._pool import queue
from furu_async._pool.queue import BUCKET_SIZE, Place
from furu_async._store import fs
from furu_async._store.records import Damaged

sys.path.insert(0, str(Path(__file__).parent.parent / "store"))
from store_env import LOST_REPLY, calls_of, with_error


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_entries_are_taken_in_order_of_priority(home: Home) -> None:
    home.put_plain([1, 2], priority=1)
    home.put_plain([3], priority=7)
    home.put_plain([4], priority=0)
    taker = home.taker()
    order = [taken.name for _ in range(5) for taken in taker.take()]
    assert order[0] == f"{HASH}.3"
    assert set(order[1:3]) == {f"{HASH}.1", f"{HASH}.2"}
    assert order[3:] == [f"{HASH}.4"]
    assert home.todo() == []
    assert os.listdir(home.paths.todo_of(KEY)) == [], "empty buckets are removed by who finds them"
    assert taker.load(order[0]) == home.plain(3, priority=7)


def test_of_many_workers_each_entry_goes_to_one(home: Home) -> None:
    names = home.put_plain(range(1, 201))
    takers = [home.taker(f"w{k}", k) for k in range(8)]
    taken: list[str] = []
    for _ in range(200):
        for taker in takers:
            taken += [found.name for found in taker.take()]
    assert sorted(taken) == sorted(names)


def test_what_a_claim_costs_does_not_grow_with_the_queue(home: Home) -> None:
    home.put_plain(range(1, 10 * BUCKET_SIZE))
    taker = home.taker()
    listings: list[str] = []

    def wrap(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            listings.append(name)
            return operation(*args, **kwargs)

        return call

    fs.install(wrap)
    try:
        assert len(taker.take()) == 1
    finally:
        fs.restore()
    assert listings == ["listdir", "listdir", "rename"]
    assert (
        max(len(os.listdir(f"{taker.folder}/{bucket}")) for bucket in os.listdir(taker.folder)) <= BUCKET_SIZE
    )


def test_a_claim_among_ten_thousand_entries_is_quick(home: Home) -> None:
    for ticket in range(1, 10_001):
        place = home.buckets.place(home.plain(ticket))
        folder = place.folder(home.paths)
        if not os.path.isdir(folder):
            os.makedirs(folder)
        open(f"{folder}/{HASH}.{ticket}", "w").close()
    taker = home.taker()
    took = []
    for _ in range(50):
        began = time.perf_counter()
        assert taker.take()
        took.append(time.perf_counter() - began)
    assert sorted(took)[25] < 0.005 * float(os.environ.get("FURU_TEST_SCALE", "1")) * 4


def test_after_two_lost_races_the_next_bucket_is_tried(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.put_plain(range(1, BUCKET_SIZE + 2))
    taker = home.taker()
    real, tried = fs.rename, []

    def rename(source: str, target: str) -> None:
        tried.append(source)
        if "-000000/" in source:  # others were quicker: the listing is not up to date
            raise FileNotFoundError(errno.ENOENT, "gone", source)
        real(source, target)

    monkeypatch.setattr(fs, "rename", rename)
    assert [taken.name for taken in taker.take()] == [f"{HASH}.{BUCKET_SIZE + 1}"]
    assert len(tried) == 3


@pytest.mark.fault("F72")
def test_a_rename_whose_reply_was_lost_is_a_win_and_nobody_elses(home: Home) -> None:
    (name,) = home.put_plain([1])
    winner, other = home.taker("w1"), home.taker("w2")
    taken = with_error(0, errno.ENOENT, winner.take, done=True)
    assert [found.name for found in taken] == [name]
    assert other.take() == []
    assert home.running() == [f"w1/{name}"]


@pytest.mark.fault("F72")
@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT])
def test_what_was_taken_by_a_rename_that_answered_an_error_is_found(home: Home, number: int) -> None:
    (name,) = home.put_plain([1])
    taker = home.taker()
    assert [found.name for found in with_error(0, number, taker.take, done=True)] == [name]
    assert [found.name for found in taker.found(())] == [name]
    assert taker.found({name}) == []
    home.put_plain([2])
    with pytest.raises(OSError, match=os.strerror(number)):
        with_error(0, number, taker.take)
    assert len(home.todo()) == 1


@pytest.mark.parametrize("lost", [False, True])
def test_every_step_may_be_repeated_after_an_error_at_any_call(tmp_path: Path, lost: bool) -> None:
    """Whichever call fails or loses its reply: doing the step again leaves what it leaves without any trouble."""

    def put(home: Home) -> None:
        queue.put(home.paths, home.plain(1), Place(KEY, "000001-000000"))

    def take(home: Home) -> None:
        home.taker().take()

    def finish(home: Home) -> None:
        queue.finish(home.paths, "w1", f"{HASH}.1")

    def report(home: Home) -> None:
        from furu_async._pool.taken import report_of

        made = report_of(home.plain(1), "returned", worker_id="w1", node="n", job_id="")
        queue.report(home.paths, "w1", f"{HASH}.1", made)

    def back(home: Home) -> None:
        queue.put_back(home.paths, "w1", f"{HASH}.1", Place(KEY, "000001-000000"))

    def withdraw(home: Home) -> None:
        queue.withdraw(home.paths, Place(KEY, "000001-000000"), f"{HASH}.1")

    steps = {
        put: ([], ["todo"]),
        take: ([put], ["running"]),
        finish: ([put, take], ["done"]),
        report: ([put, take], ["failed"]),
        back: ([put, take], ["todo"]),
        withdraw: ([put], []),
    }
    count = 0
    for step, (before, expected) in steps.items():
        sample = Home(tmp_path / f"sample-{step.__name__}-{lost}")
        for earlier in before:
            earlier(sample)
        for k, call in enumerate(calls_of(lambda step=step, sample=sample: step(sample))):  # type: ignore[misc]
            home = Home(tmp_path / f"{step.__name__}-{lost}-{k}")
            for earlier in before:
                earlier(home)
            number = LOST_REPLY.get(call, errno.EIO) if lost else errno.EIO
            try:
                with_error(k, number, lambda step=step, home=home: step(home), done=lost)  # type: ignore[misc]
            except OSError:
                step(home)
            if step is take and not home.running():
                step(home)
            where = [folder for folder in ("todo", "running", "done", "failed") if _has(home, folder)]
            assert where == expected, (step.__name__, k, call)
            count += 1
    assert count > 15


def _has(home: Home, folder: str) -> bool:
    base = f"{home.paths.base}/{folder}"
    return any(name.startswith(HASH) for _, _, names in os.walk(base) for name in names)


@pytest.mark.fault("F78")
def test_foreign_files_are_set_aside_once_and_never_taken(home: Home) -> None:
    (name,) = home.put_plain([1])
    folder = f"{home.paths.todo_of(KEY)}/{os.listdir(home.paths.todo_of(KEY))[0]}"
    Path(folder, "notes.txt").write_text("mine")
    Path(folder, ".nfs0001").write_text("of the server's")
    Path(home.paths.todo_of(KEY), "README").write_text("mine too")
    os.makedirs(f"{home.paths.todo_of(KEY)}/000000-folder")
    taker = home.taker()
    assert [found.name for _ in range(5) for found in taker.take()] == [name]
    assert sorted(os.listdir(home.paths.bad)) == sorted(
        ["README", "README.why", "000000-folder", "000000-folder.why", "notes.txt", "notes.txt.why"]
    )
    assert "not that of an entry" in Path(home.paths.bad, "README.why").read_text()
    assert len(taker.bad) == 3
    assert os.path.exists(f"{folder}/.nfs0001")


@pytest.mark.fault("F78")
def test_a_foreign_file_that_cannot_be_moved_is_told_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = home.put_plain([1])
    folder = f"{home.paths.todo_of(KEY)}/{os.listdir(home.paths.todo_of(KEY))[0]}"
    Path(folder, "notes.txt").write_text("mine")
    real = fs.rename

    def rename(source: str, target: str) -> None:
        if source.endswith("notes.txt"):
            raise PermissionError(errno.EACCES, "no", source)
        real(source, target)

    monkeypatch.setattr(fs, "rename", rename)
    taker = home.taker()
    assert [found.name for _ in range(5) for found in taker.take()] == [name]
    assert taker.bad == [f"{folder}/notes.txt"]


@pytest.mark.fault("F19", "F78")
@pytest.mark.parametrize("operation", ["lstat", "rename"])
def test_what_cannot_be_set_aside_while_the_store_gives_errors_stays(
    home: Home, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    foreign = Path(home.paths.base, "foreign")
    foreign.write_text("mine")

    def fails(path: str, *_: str) -> None:
        raise OSError(errno.EIO, "no", path)

    with monkeypatch.context() as patch:
        patch.setattr(fs, operation, fails)
        assert not queue.set_aside(home.paths, str(foreign), "why")
    assert queue.set_aside(home.paths, str(foreign), "why")
    assert Path(home.paths.bad, "foreign").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"{", "not a record"),
        (b'{"v": 99}', "newer"),
        (b"[]", "not a record"),
    ],
)
def test_an_entry_that_cannot_be_read_says_why(home: Home, content: bytes, says: str) -> None:
    (name,) = home.put_plain([1])
    taker = home.taker()
    taker.take()
    Path(taker.mine, name).write_bytes(content)
    with pytest.raises(Damaged, match=says):
        taker.load(name)


def test_an_entry_of_another_name_or_with_a_path_in_it_is_damaged(home: Home) -> None:
    taker = home.taker()
    wrong = {
        "its name is": home.plain(2),
        "cannot be the name": home.plain(1, name="../../x"),
        "spec key": home.plain(1, spec_key="a/b"),
        "run id": home.plain(1, run_id="../x"),
        "does not say": home.plain(1, run_id=""),
    }
    for says, entry in wrong.items():
        Path(taker.mine, f"{HASH}.1").write_bytes(raw(entry))
        with pytest.raises(Damaged, match=says):
            taker.load(f"{HASH}.1")


def test_an_entry_is_withdrawn_or_taken_never_both(home: Home) -> None:
    (name,) = home.put_plain([1])
    place = queue.waiting(home.paths)[KEY][name]
    taker = home.taker()
    assert taker.take()
    assert not queue.withdraw(home.paths, place, name)
    assert queue.put_back(home.paths, "w1", name, place)
    assert queue.withdraw(home.paths, place, name)
    assert not queue.withdraw(home.paths, place, name)
    assert taker.take() == []
    assert [n for n in os.listdir(home.paths.base) if n.startswith(".")] == []


def test_a_worker_whose_folder_was_removed_makes_it_again(home: Home) -> None:
    taker = home.taker()
    (name,) = home.put_plain([1])
    os.rmdir(taker.mine)
    assert [found.name for found in taker.take()] == [name]


def test_what_a_worker_is_to_skip_stays(home: Home) -> None:
    first, second = home.put_plain([1, 2])
    taker = home.taker()
    taker.skip.add(first)
    assert [found.name for _ in range(3) for found in taker.take()] == [second]
    assert home.todo() == [first]


def test_closing_and_cancelling_are_heard(home: Home) -> None:
    assert not queue.is_closed(home.paths)
    queue.close(home.paths)
    queue.close(home.paths)
    assert queue.is_closed(home.paths)
    queue.reopen(home.paths)
    queue.reopen(home.paths)
    assert not queue.is_closed(home.paths)
    queue.ask_to_cancel(home.paths, f"{HASH}.1")
    queue.ask_to_cancel(home.paths, f"{HASH}.1")
    assert queue.wishes(home.paths) == ([f"{HASH}.1"], [])
    queue.forget_cancel(home.paths, f"{HASH}.1")
    assert queue.wishes(home.paths) == ([], [])
