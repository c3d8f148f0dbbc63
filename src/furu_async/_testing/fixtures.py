"""The pytest fixtures of `furu_async.testing`; imports pytest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from furu_async._runtime import config


@pytest.fixture
def furu_tmp_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty store for this test, here and in the processes that the test starts (``FURU_PATH``)."""
    root = tmp_path / "furu-data"
    monkeypatch.setenv("FURU_PATH", str(root))
    config.reset_config()
    yield root
    config.reset_config()
