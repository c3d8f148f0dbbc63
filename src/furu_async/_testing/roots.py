"""A store of its own for a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from furu_async._runtime.config import FuruConfig, active_config, use_config


@contextmanager
def tmp_root(path: str | os.PathLike[str], **settings: Any) -> Iterator[FuruConfig]:
    """Use ``path`` as the store inside the block, with other settings changed as given."""
    with use_config(replace(active_config(), path=Path(path), **settings)) as config:
        yield config
