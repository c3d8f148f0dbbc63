"""The supervisor's side of its keeper, where the process is not what it should be."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from furu_async._runner.keeper_client import KeeperClient


class Hung:
    """A keeper that has closed its socket and does not go."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def wait(self, timeout: float | None = None) -> int:
        self.release.wait(timeout)
        return 0

    def kill(self) -> None: ...


@pytest.mark.fault("F33")
async def test_closing_leaves_no_restart_behind() -> None:
    client, process = KeeperClient(1.0), Hung()
    hung: Any = process
    client._process = hung
    try:
        client._ended()
        assert client._restart is not None
        await asyncio.sleep(0)
        await client.aclose(0.05)
        assert client._restart.done()
    finally:
        process.release.set()
