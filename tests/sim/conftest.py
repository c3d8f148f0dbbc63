"""Whole runs on virtual time: the plugin that users have, too."""

from __future__ import annotations

from furu_async.testing import furu_tmp_root as furu_tmp_root
from furu_async.testing import pytest_asyncio_loop_factories as pytest_asyncio_loop_factories
