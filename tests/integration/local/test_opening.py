"""A store that does not let a run be opened: refused at once, or waited out where it may pass."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sim.sim_artifacts import Item

from furu_async import FuruConfig, RunReport, run_dag
from furu_async.errors import FuruConfigError, FuruRunFailed, FuruStoreError
from furu_async.testing import FakeExecutor, faulty_storage, run_virtual, tmp_root

TO_DO = {
    errno.ENOSPC: "df -i",
    errno.EDQUOT: "quota",
    errno.EROFS: "mounted read-only",
    errno.EACCES: "permissions",
    errno.EPERM: "permissions",
    errno.ENOTDIR: "in the place of a folder",
}

# Some file systems have no links, and say so by EPERM: the card is copied then.
TROUBLES = [
    (operation, number)
    for operation in ("mkdir", "create", "link")
    for number in TO_DO
    if (operation, number) != ("link", errno.EPERM)
]


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[FuruConfig]:
    with tmp_root(tmp_path / "a store", record_git="off", infra_secs=600) as config:
        yield config


async def once() -> RunReport:
    return await run_dag(Item(number=1), executor=FakeExecutor(), progress=False)


@pytest.mark.fault("F17", "F18")
@pytest.mark.parametrize(("operation", "number"), TROUBLES, ids=lambda each: errno.errorcode.get(each, each))
def test_what_a_person_has_to_put_right_is_said_at_once(
    root: FuruConfig, number: int, operation: str
) -> None:
    broken = faulty_storage(number, path=f"{root.path}*", operation=operation, times=None)
    with broken, pytest.raises(FuruStoreError) as caught:
        run_virtual(once(), horizon=60)
    text = str(caught.value)
    assert os.strerror(number) in text
    assert f"the store {root.path} cannot be written" in text
    assert f"({root.path}" in text, "which file or folder it was"
    assert TO_DO[number] in text
    assert "FURU_PATH" in text


@pytest.mark.fault("F18")
@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.ENOTDIR], ids=errno.errorcode.get)
def test_results_that_cannot_be_looked_at_are_told_at_once(root: FuruConfig, number: int) -> None:
    broken = faulty_storage(number, path=f"{root.path}/data*", operation="stat", times=None)
    with broken, pytest.raises(FuruStoreError, match="cannot be used") as caught:
        run_virtual(once(), horizon=60)
    assert os.strerror(number) in str(caught.value)
    assert f"({root.path}/data" in str(caught.value)
    assert "FURU_PATH" in str(caught.value)


def test_a_root_with_a_name_that_is_too_long(tmp_path: Path) -> None:
    with tmp_root(tmp_path / ("x" * 300)), pytest.raises(FuruStoreError, match="a shorter path"):
        run_virtual(once(), horizon=60)


def test_a_root_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FuruConfigError, match=r"FURU_PATH='.*' is not allowed: .*UTF-8"):
        FuruConfig.from_env({"FURU_PATH": "/store-\udcff"})
    with pytest.raises(FuruConfigError, match="UTF-8"):
        FuruConfig.from_env({}, tmp_path / "code-\udcff")


@pytest.mark.parametrize("name", ["two\nlines", "a\ttab", "a\x7fdelete", "a\u2028separator"])
def test_a_root_with_a_control_character_is_refused(tmp_path: Path, name: str) -> None:
    # The scripts of Slurm jobs could not name it, and no executor is to make a store that another cannot use.
    with pytest.raises(FuruConfigError, match="control character") as caught:
        FuruConfig(path=tmp_path / name)
    assert "FURU_PATH" in str(caught.value)
    with pytest.raises(FuruConfigError, match=r"FURU_PATH=.*control character"):
        FuruConfig.from_env({"FURU_PATH": f"{tmp_path}/{name}"})
    folder = tmp_path / name
    folder.mkdir()
    with pytest.raises(FuruConfigError, match="control character"):  # the project's own
        FuruConfig.from_env({}, cwd=folder)
    assert not FuruConfig(path=tmp_path / "Ünïcode \u00a0 and 'quotes' \"$(x)\"").path.exists()


def test_a_working_directory_that_is_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FuruConfigError, match="working directory has been removed"):
        FuruConfig.from_env({})
    assert FuruConfig.from_env({"FURU_PATH": str(tmp_path)}).path == tmp_path


@pytest.mark.fault("F18", "F19")
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT], ids=errno.errorcode.get)
@pytest.mark.parametrize("operation", ["mkdir", "create", "link", "write"])
def test_what_may_pass_is_waited_out(root: FuruConfig, number: int, operation: str) -> None:
    with faulty_storage(number, path=f"{root.path}/runs*", operation=operation, times=4) as faulty:
        report = run_virtual(once())
    assert report.ok
    assert len(faulty.hits) >= 1


@pytest.mark.fault("F18", "F19")
def test_what_does_not_pass_ends_the_run_with_the_path(root: FuruConfig) -> None:
    broken = faulty_storage(errno.EIO, path=f"{root.path}*", operation="mkdir", times=None)
    with broken, pytest.raises((FuruRunFailed, FuruStoreError)) as caught:
        run_virtual(once(), horizon=3000)
    assert os.strerror(errno.EIO) in str(caught.value)
    assert str(root.path) in str(caught.value)
