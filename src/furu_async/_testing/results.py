"""`override_results`: values in place of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from furu_async._executors.overrides import override
from furu_async._model.artifact import Furu


@contextmanager
def override_results(results: Mapping[Furu[Any], Any]) -> Iterator[None]:
    """Inside, each of these artifacts counts as computed and loads as the given value; the store is not asked.

    Reaches what is loaded inside ``_create`` too: while results are overridden, nodes that would run in child
    processes run in threads of this one.
    """
    with override(results):
        yield
