"""The methods that compute, load and ask go to the installed `Access`; contexts and stop flags."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import model_cases as cases
import pytest

from furu_async._model import context
from furu_async._model.access import access, install_access
from furu_async._model.artifact import Binding, aget_all, bind
from furu_async.errors import FuruMissingArtifact


class Recorder:
    """Answers every question with its name, and notes it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def sync(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            return f"/dev/null/{name}" if name == "directory" else f"/{name}"  # a folder that cannot be made

        async def later(*arguments: Any) -> Any:
            return sync(*arguments)

        return later if name.startswith("a") else sync


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    before = install_access(made)
    yield made
    install_access(before)


async def test_methods_are_thin(recorder: Recorder) -> None:
    leaf: Any = cases.Leaf()
    assert access() is recorder
    assert leaf.get() == "/get"
    assert await leaf.aget() == "/aget"
    assert await leaf.aget(executor=3) == "/aget"
    assert leaf.exists() == "/exists"
    assert await leaf.aexists() == "/aexists"
    assert leaf._exists_quiet() == "/exists_quiet"
    assert await leaf._aexists_quiet() == "/aexists_quiet"
    assert leaf.load_existing() == "/load"
    assert await leaf.aload() == "/aload"
    assert leaf.get_state() == "/state"
    assert await leaf.aget_state() == "/astate"
    assert leaf.get_metadata() == "/metadata"
    assert await leaf.aget_metadata() == "/ametadata"
    assert leaf.furu_dir == Path("/dev/null/directory")
    assert leaf.furu_checkpoint_dir == Path("/checkpoint_dir")
    answer: Any = await aget_all(iter([leaf]))
    assert answer == "/aget_all"
    assert recorder.calls[-1] == ("aget_all", [leaf], None)
    assert ("aget", leaf, 3) in recorder.calls


def test_folders_of_an_attempt(recorder: Recorder, tmp_path: Path) -> None:
    bound = bind(cases.Leaf(), Binding(str(tmp_path / "a"), str(tmp_path / "c"), 1))
    assert not (tmp_path / "a").exists()
    assert bound.furu_dir == tmp_path / "a"
    assert (tmp_path / "a").is_dir()
    assert bound.furu_checkpoint_dir == tmp_path / "c"
    assert os.path.isdir(tmp_path / "c")
    assert recorder.calls == []


def test_hooks_of_the_base() -> None:
    leaf = cases.Leaf()
    assert leaf._validate() is True
    with pytest.raises(NotImplementedError):
        leaf._load()
    with pytest.raises(NotImplementedError):
        cases.Base(value=1)._create()


def test_what_runs_here() -> None:
    leaf = cases.Leaf()
    assert context.current.get() is None
    flag = context.StopFlag()
    with context.running(leaf, flag):
        assert context.current.get() is leaf
        assert not context.stop_requested()
        context.request_stop(flag)
        assert context.stop_requested()
    assert context.current.get() is None
    assert not context.stop_requested()
    context.request_stop()
    assert context.stop_requested()
    context.clear_stop()
    assert not context.stop_requested()
    with context.running(leaf):
        assert context.current.get() is leaf


def test_missing_artifact_is_a_lookup_of_the_store() -> None:
    assert issubclass(FuruMissingArtifact, Exception)
