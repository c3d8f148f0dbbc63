"""The artifacts that the benchmarks run: they do nothing, so that what is measured is us."""

from __future__ import annotations

from furu_async import Furu


class Noop(Furu[int]):
    """An independent node."""

    index: int

    def _create(self) -> int:
        return self.index


class Link(Furu[int]):
    """One hop of a chain."""

    index: int
    before: Link | None = None

    def _create(self) -> int:
        return self.index


def wide(count: int) -> list[Noop]:
    """Independent nodes."""
    return [Noop(index=index) for index in range(count)]


def chain(count: int) -> Link:
    """The last of a chain."""
    last: Link | None = None
    for index in range(count):
        last = Link(index=index, before=last)
    assert last is not None
    return last
