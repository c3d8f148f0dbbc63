"""Fixtures for whole runs on `Local` with real processes."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import psutil
import pytest
from local_artifacts import words

from furu_async._testing.fixtures import furu_tmp_root as furu_tmp_root


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After each test: no child process of ours, no thread that is not a daemon, and signal handlers as before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before
    children = [p for p in psutil.Process().children(recursive=True) if _is_ours(p)]
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, f"processes left behind: {[words(p)[-200:] for p in alive]}"
    assert not [t for t in threading.enumerate() if t.name.startswith("furu") and not t.daemon]


def _is_ours(process: psutil.Process) -> bool:
    return "furu_async" in words(process)


@pytest.fixture(autouse=True)
def quick_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second between SIGTERM and SIGKILL instead of five."""
    monkeypatch.setattr("furu_async._executors.local.GRACE_SECS", 1.0)


async def until(condition: object, seconds: float = 10.0) -> None:
    """Wait for a condition with a deadline."""
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
