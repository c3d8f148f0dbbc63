from __future__ import annotations

from pathlib import Path

import pytest
from store_env import paths_at

from furu_async._store import atomic
from furu_async._store.layout import ArtifactPaths


@pytest.fixture(autouse=True, params=["nameless", "named"])
def _new_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocol tests run with both ways to make a file that is linked later."""
    monkeypatch.setattr(atomic, "_nameless", request.param == "nameless")


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def paths(root: str) -> ArtifactPaths:
    return paths_at(root)
