"""The nodes of ``nodes.py`` for furu 0.0.12."""

from __future__ import annotations

import os
import time
from pathlib import Path

from furu import Furu
from furu.execution import SlurmSpec

ONE = SlurmSpec(cpus=1, mem_gb=1, time_min=30)


def mark(what: str) -> None:
    """Note that a node has begun, on the clock that all processes of this machine share."""
    with open(f"{os.environ['FURU_BENCH_MARKS']}/{os.getpid()}", "a") as file:
        file.write(f"{time.monotonic()} {what}\n")


class Noop(Furu[int]):
    index: int
    layer: int = 0
    before: tuple[Noop, ...] = ()

    def _executor(self) -> SlurmSpec:
        return ONE

    def _create(self) -> int:
        mark(f"{self.layer}-{self.index}")
        (self.furu_dir / "value").write_text(str(self.index))
        return self.index

    def _load(self) -> int:
        return int((Path(self.furu_dir) / "value").read_text())


def wide(count: int) -> list[Noop]:
    """Independent nodes."""
    return [Noop(index=index) for index in range(count)]


def layers(depth: int, width: int = 10) -> list[Noop]:
    """Each node needs three of the layer before it."""
    last: list[Noop] = [Noop(index=index) for index in range(width)]
    for layer in range(1, depth):
        last = [
            Noop(index=k, layer=layer, before=tuple(last[(k + j) % width] for j in range(3)))
            for k in range(width)
        ]
    return last
