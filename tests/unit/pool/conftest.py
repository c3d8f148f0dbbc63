"""The pool without processes: the queue's files, decisions, workers and controllers on virtual time."""

from __future__ import annotations

from furu_async.testing import pytest_asyncio_loop_factories as pytest_asyncio_loop_factories
