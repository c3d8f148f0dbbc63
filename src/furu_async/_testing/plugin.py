"""The pytest marker ``virtual_time`` of `furu_async.testing`; imports pytest, and works with pytest-asyncio."""

from __future__ import annotations

import asyncio
import inspect
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


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Make a marked test one of pytest-asyncio's, in its strict mode as well, or tell what is missing.

    Raises:
        pytest.Collector.CollectError: there is no pytest-asyncio, or one that would run the test in real time.
    """
    if not _is_marked(collector, obj) or not collector.istestfunction(obj, name):
        return
    if not collector.config.hook.pytest_asyncio_loop_factories.has_spec():
        raise collector.CollectError(f"{name}: the marker virtual_time needs pytest-asyncio 1.4 or newer")
    pytest.mark.asyncio(obj)


def _is_marked(collector: pytest.Module | pytest.Class, obj: object) -> bool:
    """Whether it is an async function to which the marker applies, and not yet pytest-asyncio's own."""
    inner = getattr(getattr(obj, "hypothesis", None), "inner_test", obj)
    if not inspect.iscoroutinefunction(inner):
        return False
    own = getattr(obj, "pytestmark", ())
    marks = {mark.name for mark in own if isinstance(mark, pytest.Mark)}
    marks |= {mark.name for mark in collector.iter_markers()}
    return "virtual_time" in marks and "asyncio" not in marks


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_asyncio_loop_factories(item: Any) -> Generator[None, LoopFactories | None, LoopFactories]:
    """Give a marked test a `VirtualLoop`, and leave the others to whoever else has a say."""
    others = yield
    marker = item.get_closest_marker("virtual_time")
    if marker is not None:
        return {"virtual": partial(VirtualLoop, *marker.args, **marker.kwargs)}
    return others or {"asyncio": asyncio.new_event_loop}
