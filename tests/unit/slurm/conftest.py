"""Slurm without Slurm: pure tables, a protocol explored, a simulated cluster on virtual time."""

from __future__ import annotations

from furu_async.testing import pytest_asyncio_loop_factories as pytest_asyncio_loop_factories
