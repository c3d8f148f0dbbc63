"""Helpers for tests of code that uses furu_async. Also a pytest plugin: ``pytest_plugins = ["furu_async.testing"]``.

`furu_tmp_root` gives a test a store of its own; `override_results` puts values in place of results.
"""

from __future__ import annotations

from furu_async._testing.results import override_results
from furu_async._testing.roots import furu_tmp_root, tmp_root

__all__ = ["furu_tmp_root", "override_results", "tmp_root"]
