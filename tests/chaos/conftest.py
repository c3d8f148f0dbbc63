"""Fixtures of the laboratory with real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts controllers; at the end of the session nothing may be left of any of them."""
    zygote = Zygote()
    yield zygote
    zygote.close()
