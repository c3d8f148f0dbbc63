"""Artifacts for tests of a pool's worker."""

from __future__ import annotations

from typing import Any

from furu_async import Furu, SlurmSpec

SPEC = SlurmSpec(partition="p")
BIG = SlurmSpec(partition="big")


class Leaf(Furu[int]):
    """Runs anywhere."""

    n: int = 0

    def _spec(self) -> SlurmSpec:
        return SPEC

    def _create(self) -> int:
        return self.n


class Limited(Furu[int]):
    """Says how long it takes at most."""

    _time_limit = 100.0
    n: int = 0

    def _spec(self) -> SlurmSpec:
        return SPEC

    def _create(self) -> int:
        return self.n


class Goes(Furu[int]):
    """Goes on from its checkpoint."""

    _resumable = True
    n: int = 0

    def _spec(self) -> SlurmSpec:
        return SPEC

    def _create(self) -> int:
        return self.n


class Choosy(Furu[int]):
    """Wants much, or else little."""

    n: int = 0

    def _spec(self) -> Any:
        return [BIG, SPEC]

    def _create(self) -> int:
        return self.n
