"""What a pool's processes write to each other, and the table of its artifacts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_artifacts import Leaf
from pool_env import HASH, HOME, KEY, Home

from furu_async._pool.entries import (
    PoolSettings,
    QueueEntry,
    Report,
    plain_config,
    read_entry,
    read_report,
    worker_id,
)
from furu_async._pool.objects_log import ObjectsLog, ObjectsReader, Table
from furu_async._pool.queue import Place, Taken
from furu_async._pool.taken import Task, cannot_build, report_of, unreadable
from furu_async._runtime.config import FuruConfig
from furu_async._store.layout import bucket_name, entry_name, is_bucket, parse_entry_name
from furu_async._store.records import Damaged, encode
from furu_async.errors import FuruProtocolError, FuruSpecMismatch
from furu_async.report import Failure

sys.path.insert(0, str(Path(__file__).parent.parent / "store"))
from store_env import calls_of, with_error

ENTRIES = st.builds(
    QueueEntry,
    hash=st.just(HASH),
    name=st.just("m.A"),
    spec_key=st.just(KEY),
    executor_keys=st.just([KEY]),
    attempt=st.integers(1, 99),
    ticket=st.integers(1, 10**9),
    run_id=st.just(HOME),
    priority=st.integers(0, 10**6),
    supersede=st.integers(0, 9),
    takeover=st.integers(0, 9),
    silent_at=st.none() | st.binary(max_size=64),
    history=st.lists(st.text(max_size=50), max_size=5),
    error=st.text(max_size=50),
)


@given(ENTRIES)
def test_entries_and_reports_come_back_as_they_were_written(entry: QueueEntry) -> None:
    assert read_entry(encode(entry), entry.file, "p") == entry
    failure = Failure(kind="oom", message="too much")
    report = report_of(entry, "failed", worker_id="w", node="n", job_id="7", failure=failure, generation=3)
    again = read_report(encode(report), entry.file, "p")
    assert again == report
    assert isinstance(again, Report)
    assert (again.hash, again.history, again.silent_at) == (entry.hash, entry.history, entry.silent_at)


def test_unknown_fields_are_tolerated_and_newer_versions_are_not_guessed_at() -> None:
    entry = QueueEntry(hash=HASH, name="m.A", spec_key=KEY, run_id=HOME, ticket=1)
    data = msgspec.json.decode(encode(entry))
    assert read_entry(msgspec.json.encode({**data, "new": [1]}), entry.file, "p") == entry
    with pytest.raises(Damaged) as error:
        read_entry(msgspec.json.encode({**data, "v": 2}), entry.file, "p")
    assert error.value.newer


def test_a_failed_report_without_a_failure_is_damaged() -> None:
    entry = QueueEntry(hash=HASH, name="m.A", spec_key=KEY, run_id=HOME, ticket=1)
    report = report_of(entry, "failed", worker_id="w", node="n", job_id="")
    with pytest.raises(Damaged, match="not how"):
        read_report(encode(report), entry.file, "p")


def test_a_report_may_know_no_more_than_the_name() -> None:
    entry, failure = unreadable(f"{HASH}.4", "torn", spec_key=KEY)
    report = report_of(entry, "failed", worker_id="w", node="n", job_id="", failure=failure)
    assert read_report(encode(report), f"{HASH}.4", "p").ticket == 4


@pytest.mark.fault("F81")
@pytest.mark.parametrize("spec_key", ["", "other"])
def test_a_missing_or_another_spec_is_a_protocol_failure_of_the_run(spec_key: str) -> None:
    entry = QueueEntry(
        hash=HASH, name="m.A", spec_key=spec_key, executor_keys=["a", "b"], run_id=HOME, ticket=1
    )
    failure = Task(Taken(entry.file, Place(KEY, "b")), entry, 0.0).refusal(KEY)
    assert failure is not None
    assert (failure.kind, failure.run_wide) == ("protocol", True)
    assert "a, b" in failure.message
    assert Task(Taken(entry.file, Place(KEY, "b")), entry, 0.0).refusal(spec_key) is None


def test_what_the_file_system_did_not_give_may_pass_and_other_code_does_not() -> None:
    entry = QueueEntry(hash=HASH, name="m.A", ticket=1)
    assert cannot_build(OSError(5, "EIO"), entry).kind == "infrastructure"
    for error in (FuruSpecMismatch("x"), ImportError("y"), FileNotFoundError(2, "no"), SystemExit(3)):
        failure = cannot_build(error, entry)
        assert (failure.kind, failure.run_wide) == ("protocol", True)


def test_settings_carry_the_config_and_nothing_of_the_environment(tmp_path: Path) -> None:
    config = FuruConfig(path=tmp_path, always_rerun=("m.A",), max_wait_secs=3.0, retry_failed=False)
    settings = PoolSettings(config={**plain_config(config), "of_a_later_version": 1})
    assert settings.furu_config() == config
    assert FuruConfig.from_env(config.environment()) == config
    assert set(PoolSettings.__struct_fields__) == {
        "v", "config", "path", "cwd", "argv", "python", "library"
    }  # fmt: skip


def test_names() -> None:
    assert parse_entry_name(entry_name(HASH, 12)) == (HASH, 12)
    for bad in (HASH, f"{HASH}.0", f"{HASH}.x", f"{HASH}.1.tmp", f".{HASH}.1", "..", f"{HASH.upper()}.1"):
        assert parse_entry_name(bad) is None
    with pytest.raises(FuruProtocolError):
        entry_name(HASH, 0)
    buckets = [bucket_name(p, k) for p, k in ((10**9, 0), (5, 0), (5, 1), (0, 0), (-3, 1))]
    assert buckets == sorted(buckets)
    assert all(map(is_bucket, buckets))
    assert worker_id("0123456789abcdef") == "0123456789ab"
    assert worker_id("0123456789abcdef", 0, 2) == "0123456789ab-a0-r2"


# -- the table -------------------------------------------------------------------------------------------------


def test_a_worker_reads_on_from_where_it_was(tmp_path: Path) -> None:
    log, table = ObjectsLog(f"{tmp_path}/o"), Table(f"{tmp_path}/o")
    assert not table.has(Leaf(n=1).furu_hash)
    log.append(log.missing(Leaf(n=1)))
    assert log.missing(Leaf(n=1)) == []
    assert table.has(Leaf(n=1).furu_hash)
    log.append(log.missing(Leaf(n=2)))
    assert table.get(Leaf(n=1).furu_hash) == Leaf(n=1)
    assert table.has(Leaf(n=2).furu_hash)
    assert table.get(Leaf(n=2).furu_hash) == Leaf(n=2)
    reader = ObjectsReader(f"{tmp_path}/o")
    assert [len(reader.read()), len(reader.read())] == [2, 0]


@given(cut=st.integers(0, 400))
def test_only_complete_lines_count(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "o"
    log = ObjectsLog(str(path))
    log.append([entry for n in range(3) for entry in log.missing(Leaf(n=n))])
    whole = path.read_bytes()
    cut = min(cut, len(whole))
    path.write_bytes(whole[:cut])
    reader = ObjectsReader(str(path))
    first = reader.read()
    assert len(first) == whole[:cut].count(b"\n")
    path.write_bytes(whole)
    assert len(first) + len(reader.read()) == 3
    assert reader.unreadable == 0


def test_a_line_that_a_dead_controller_did_not_finish_swallows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "o"
    first = ObjectsLog(str(path))
    first.append(first.missing(Leaf(n=1)))
    with open(path, "ab") as file:
        file.write(b'{"hash": "tor')
    second = ObjectsLog(str(path))
    second.load()
    assert second.known == {Leaf(n=1).furu_hash}
    second.append(second.missing(Leaf(n=2)))
    table = Table(str(path))
    assert table.has(Leaf(n=1).furu_hash)
    assert table.has(Leaf(n=2).furu_hash)


@pytest.mark.parametrize("done", [False, True])
def test_appending_again_after_an_error_is_harmless(tmp_path: Path, done: bool) -> None:
    home = Home(tmp_path)
    entries = home.objects.missing(Leaf(n=1))
    for k in range(len(calls_of(lambda: ObjectsLog(f"{tmp_path}/x").append(entries)))):
        log = ObjectsLog(f"{tmp_path}/{k}")
        try:
            with_error(k, 5, lambda log=log: log.append(entries), done=done)  # type: ignore[misc]
        except OSError:
            log.append(entries)
        assert Table(log.path).has(Leaf(n=1).furu_hash)


def test_what_was_read_before_it_was_whole_is_read_again(tmp_path: Path) -> None:
    """A page of zeros, as another host may see it for a moment."""
    path = tmp_path / "o"
    log = ObjectsLog(str(path))
    log.append(log.missing(Leaf(n=1)))
    whole = path.read_bytes()
    path.write_bytes(b"\0" * (len(whole) - 1) + b"\n")
    table = Table(str(path))
    assert not table.has(Leaf(n=1).furu_hash)
    path.write_bytes(whole)
    assert table.has(Leaf(n=1).furu_hash)
    assert os.path.getsize(path) == len(whole)
