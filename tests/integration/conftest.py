"""The order of the integration tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, or the other workers would wait for it in the end."""
    items.sort(key=lambda item: item.path.name != "test_demo.py")
