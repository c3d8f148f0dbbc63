"""A virtual loop that does something at its n-th turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from furu_async.testing import VirtualLoop


class Turns(VirtualLoop):
    """Does something at the n-th turn of the loop since `watch`."""

    turns = 0
    _at = 0
    _do: Callable[[], object] | None = None

    def watch(self, at: int, do: Callable[[], object]) -> None:
        """Count turns from now on; at turn ``at`` call ``do``, once."""
        self.turns, self._at, self._do = 0, at, do

    def rest(self) -> None:
        """Count no more."""
        self._do = None

    def _select(self, timeout: float | None, select: Callable[[float | None], Any]) -> Any:
        if self._do is not None:
            self.turns += 1
            if self.turns == self._at:
                self._do()
        return super()._select(timeout, select)
