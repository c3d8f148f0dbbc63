from __future__ import annotations

import os
from pathlib import Path

import pytest
from store_env import paths_at

from furu_async._store import atomic, fs
from furu_async._store.layout import ArtifactPaths


@pytest.fixture(params=["nameless", "named"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocol tests run with both ways to make a file that is linked later."""
    monkeypatch.setattr(atomic, "_nameless", request.param == "nameless")


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here can tell a synced file from another; that calls are made where they should be is recorded."""
    monkeypatch.setattr(os, "fsync", os.fstat)
    monkeypatch.setattr(fs, "fsync", os.fstat)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def paths(root: str) -> ArtifactPaths:
    return paths_at(root)
