"""Results that a test has put in place of the stored ones (see `furu_async.testing.override_results`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from furu_async._model.artifact import Furu

T = TypeVar("T")

_overrides: ContextVar[Mapping[str, Any] | None] = ContextVar("furu_overrides", default=None)


def active() -> bool:
    """Some results are overridden here."""
    return bool(_overrides.get())


def has(obj: Furu[Any]) -> bool:
    """The result of ``obj`` is overridden here."""
    table = _overrides.get()
    return table is not None and obj.furu_hash in table


def value(obj: Furu[T]) -> T:
    """The overriding value."""
    table = _overrides.get() or {}
    result: T = table[obj.furu_hash]
    return result


@contextmanager
def override(results: Mapping[Furu[Any], Any]) -> Iterator[None]:
    """Put values in place of results, for this context and what it starts."""
    table = dict(_overrides.get() or {})
    table.update({obj.furu_hash: result for obj, result in results.items()})
    token = _overrides.set(table)
    try:
        yield
    finally:
        _overrides.reset(token)
