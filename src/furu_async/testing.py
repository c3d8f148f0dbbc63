"""Helpers for tests of code that uses furu_async. Also a pytest plugin: ``pytest_plugins = ["furu_async.testing"]``.

The fixture `furu_tmp_root` gives a test a store of its own (`tmp_root` is the same without pytest);
`override_results` puts values in place of results. `FakeExecutor` runs a DAG by a script of outcomes, so that failures
of every kind can be had without computing; `faulty_storage` makes operations on the store fail meanwhile.
``@pytest.mark.virtual_time`` runs an async test on a `VirtualLoop`, where waiting costs nothing (`run_virtual` is the
same without pytest; the marker needs pytest-asyncio 1.4 or newer).
"""

from __future__ import annotations

from furu_async._testing.fake_executor import FakeExecutor
from furu_async._testing.faulty import faulty_storage
from furu_async._testing.results import override_results
from furu_async._testing.roots import tmp_root
from furu_async._testing.script import Computes, Elsewhere, Fails, Hangs, Outcome, Raises, Returns
from furu_async._testing.virtual_loop import VirtualDeadlock, VirtualLoop, run_virtual

try:
    from furu_async._testing.fixtures import furu_tmp_root
    from furu_async._testing.plugin import pytest_asyncio_loop_factories as pytest_asyncio_loop_factories
    from furu_async._testing.plugin import pytest_configure as pytest_configure
    from furu_async._testing.plugin import pytest_pycollect_makeitem as pytest_pycollect_makeitem
except ImportError:  # no pytest: fixture and marker are of no use
    pass

__all__ = [
    "Computes",
    "Elsewhere",
    "Fails",
    "FakeExecutor",
    "Hangs",
    "Outcome",
    "Raises",
    "Returns",
    "VirtualDeadlock",
    "VirtualLoop",
    "faulty_storage",
    "furu_tmp_root",
    "override_results",
    "run_virtual",
    "tmp_root",
]
