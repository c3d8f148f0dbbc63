from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runner_bench import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    try:
        yield made
    finally:
        for child in made.children:
            await child.kill(0)
    left = os.listdir(tmp_path / "spools") if (tmp_path / "spools").exists() else []
    assert left == [], "spools of children that are gone"
