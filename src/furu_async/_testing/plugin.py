"""The pytest marker ``virtual_time`` of `furu_async.testing`; imports pytest, and works with pytest-asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any

import pytest

from furu_async._testing.virtual_loop import VirtualLoop

LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]

_MARKER = (
    "virtual_time(seed=None, cancel_at=None, patience=None, horizon=...): run this async test on furu_async's "
    "virtual time"
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_asyncio_loop_factories(item: Any) -> Generator[None, LoopFactories | None, LoopFactories]:
    """Give a marked test a `VirtualLoop`, and leave the others to whoever else has a say."""
    others = yield
    marker = item.get_closest_marker("virtual_time")
    if marker is not None:
        return {"virtual": partial(VirtualLoop, *marker.args, **marker.kwargs)}
    return others or {"asyncio": asyncio.new_event_loop}
