"""A store of its own for a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from furu_async._runtime.config import FuruConfig, active_config, use_config

if TYPE_CHECKING:
    import pytest


@contextmanager
def tmp_root(path: str | os.PathLike[str], **settings: Any) -> Iterator[FuruConfig]:
    """Use ``path`` as the store inside the block, with other settings changed as given."""
    with use_config(replace(active_config(), path=Path(path), **settings)) as config:
        yield config


def _fixture() -> Any:
    import pytest

    @pytest.fixture
    def furu_tmp_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """An empty store for this test; ``FURU_PATH`` points there too, for processes that the test starts."""
        root = tmp_path / "furu-data"
        monkeypatch.setenv("FURU_PATH", str(root))
        with tmp_root(root):
            yield root

    return furu_tmp_root


def __getattr__(name: str) -> Any:
    # pytest is needed only by whoever asks for the fixture.
    if name == "furu_tmp_root":
        made = _fixture()
        globals()[name] = made
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if TYPE_CHECKING:
    furu_tmp_root: Any
