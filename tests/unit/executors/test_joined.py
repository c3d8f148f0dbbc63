"""A process in a Slurm job finds modules, and what they look at, as its controller's process does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from furu_async import FuruConfig
from furu_async._executors.joined import like_the_controller
from furu_async._model import naming
from furu_async._pool.home import settings_of

HOOK = "__editable__.lab-1.0.finder.__path_hook__"


def test_a_pool_tells_its_search_path_as_children_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the script is in it, and what is no folder, as a hook of an editable install, stays as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/lib", HOOK])
    monkeypatch.setattr(naming, "script_import", lambda: ("pipeline", "/scripts"))
    assert settings_of(FuruConfig(path=tmp_path)).path == [os.getcwd(), "/lib", HOOK, "/scripts"]


def test_what_a_process_has_besides_comes_after_what_its_controller_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    path, argv = ["/own", "/lib"], ["worker"]
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.setattr(sys, "argv", argv)
    said: list[str] = []
    like_the_controller(["/lib", "/theirs"], ["script.py", "--fast"], str(tmp_path), said.append)
    assert path == ["/lib", "/theirs", "/own"]
    assert argv == ["script.py", "--fast"]
    assert os.getcwd() == str(tmp_path)
    assert said == []
    like_the_controller(["/lib"], [], str(tmp_path / "missing"), said.append)
    assert argv == ["script.py", "--fast"]
    assert os.getcwd() == str(tmp_path)
    assert [str(tmp_path / "missing") in text for text in said] == [True]
