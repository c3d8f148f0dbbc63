"""Helpers for tests of code that uses furu_async. Also a pytest plugin: ``pytest_plugins = ["furu_async.testing"]``.

The fixture `furu_tmp_root` gives a test a store of its own (`tmp_root` is the same without pytest);
`override_results` puts values in place of results.
"""

from __future__ import annotations

from furu_async._testing.results import override_results
from furu_async._testing.roots import tmp_root

try:
    from furu_async._testing.fixtures import furu_tmp_root
except ImportError:  # no pytest: the fixture is of no use
    pass

__all__ = ["furu_tmp_root", "override_results", "tmp_root"]
