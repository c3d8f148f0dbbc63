"""Is a published result usable? What no answer is taken for, and what ``_validate`` says by raising."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from furu_async import Furu, FuruConfig
from furu_async._runner.loading import load_result
from furu_async._runner.validity import judge
from furu_async._store.layout import ArtifactPaths
from furu_async._testing.strangers import Stranger
from furu_async.errors import FuruMissingArtifact, FuruValidationError
from furu_async.testing import faulty_storage


class Plain(Furu[bytes]):
    def _create(self) -> bytes:
        return b""


class Checked(Plain):
    """Says what it is told to, one thing after the other; then that it is valid."""

    says: ClassVar[list[Any]] = []

    def _validate(self) -> bool:
        answer = Checked.says.pop(0) if Checked.says else True
        if isinstance(answer, BaseException):
            raise answer
        return bool(answer)


@pytest.fixture
def config(tmp_path: Path) -> FuruConfig:
    Checked.says.clear()
    return FuruConfig(path=tmp_path, record_git="off")


def published(obj: Furu[Any], config: FuruConfig) -> ArtifactPaths:
    """Somebody has made its result, which has a file."""
    stranger = Stranger(str(config.path), obj)
    assert stranger.claim()
    assert stranger.publish(b"x" * 10_000)
    return stranger.paths


@pytest.mark.fault("F19")
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("content", [False, True])
def test_a_store_that_fails_says_nothing_of_a_result(number: int, content: bool, config: FuruConfig) -> None:
    """Whichever of its operations fails, once or for good, a result is not taken for invalid."""
    obj = Plain()
    published(obj, config)
    for times in (1, None):
        verdicts = set()
        for skip in range(100):
            with faulty_storage(number, skip=skip, times=times) as faulty:
                verdicts.add(judge(obj, config, content=content).verdict)
            if not faulty.hits:
                break
        assert skip > 3
        assert verdicts == {"valid", "unknown"}


@pytest.mark.fault("F29")
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_result_without_its_files_is_invalid(how: str, config: FuruConfig) -> None:
    obj = Plain()
    folder = Path(published(obj, config).attempt(1))
    (file,) = folder.iterdir()
    if how == "gone":
        file.unlink()
    else:
        os.truncate(file, 10)
    assert judge(obj, config).verdict == "invalid"
    assert judge(obj, config, files=False).verdict == "valid", "nobody has looked"


@pytest.mark.parametrize(
    ("says", "verdict", "raised"),
    [
        ([True], "valid", False),
        ([False], "invalid", False),
        ([FuruValidationError("no")], "invalid", False),
        ([FileNotFoundError(errno.ENOENT, "gone")], "invalid", False),
        ([OSError(errno.EIO, "no answer")], "unknown", False),
        ([PermissionError(errno.EACCES, "not yours")], "unknown", False),
        ([ZeroDivisionError("once")], "valid", False),
        ([ZeroDivisionError("once"), False], "invalid", False),
        ([ZeroDivisionError("once"), ZeroDivisionError("twice")], "invalid", True),
        ([SystemExit(1), KeyboardInterrupt()], "invalid", True),
    ],
)
def test_what_validate_says(says: list[Any], verdict: str, raised: bool, config: FuruConfig) -> None:
    obj = Checked()
    published(obj, config)
    Checked.says[:] = says
    said = judge(obj, config)
    assert (said.verdict, said.raised) == (verdict, raised)
    assert Checked.says == []


def test_nothing_is_asked_about_what_is_not_there(config: FuruConfig) -> None:
    Checked.says[:] = [True]
    assert judge(Checked(), config).verdict == "invalid"
    assert Checked.says == [True]


class Loads(Plain):
    """Does not look at its files."""

    def _load(self) -> bytes:
        return b"loaded"


@pytest.mark.fault("F29")
@pytest.mark.parametrize("cls", [Plain, Loads])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_result_without_its_files_is_not_loaded(cls: type[Plain], how: str, config: FuruConfig) -> None:
    obj = cls()
    stranger = Stranger(str(config.path), obj)
    assert stranger.claim()
    folder = Path(stranger.paths.attempt(1))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_bytes(b"w" * 100)
    assert stranger.publish(b"x" * 10_000)
    assert load_result(obj, str(config.path)) == (b"loaded" if cls is Loads else b"x" * 10_000)
    if how == "gone":
        (folder / "weights").unlink()
    else:
        os.truncate(folder / "weights", 10)
    with pytest.raises(FuruMissingArtifact, match="its result is damaged"):
        load_result(obj, str(config.path))


@pytest.mark.fault("F20")
def test_a_result_whose_marker_is_lost_is_loaded(config: FuruConfig) -> None:
    obj = Plain()
    paths = published(obj, config)
    os.unlink(paths.marker)
    assert load_result(obj, str(config.path)) == b"x" * 10_000
