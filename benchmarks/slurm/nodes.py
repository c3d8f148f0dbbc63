"""What ``bench_slurm.py`` runs: nodes that note when they began, and do nothing else."""

from __future__ import annotations

import os
import time

from furu_async import Furu, SlurmSpec

ONE = SlurmSpec(cpus=1, mem_gb=1, time_min=30)


def mark(what: str) -> None:
    """Note that a node has begun, on the clock that all processes of this machine share."""
    with open(f"{os.environ['FURU_BENCH_MARKS']}/{os.getpid()}", "a") as file:
        file.write(f"{time.monotonic()} {what}\n")


class Noop(Furu[int]):
    """A node of a layer; needs three of the layer before it."""

    index: int
    layer: int = 0
    before: tuple[Noop, ...] = ()

    def _spec(self) -> SlurmSpec:
        return ONE

    def _create(self) -> int:
        mark(f"{self.layer}-{self.index}")
        return self.index


class Busy(Furu[int]):
    """Takes some time."""

    index: int
    secs: float

    def _spec(self) -> SlurmSpec:
        return ONE

    def _create(self) -> int:
        mark(f"busy-{self.index}")
        time.sleep(self.secs)
        return self.index


class Held(Furu[int]):
    """Ends when a file is away."""

    hold: str

    def _spec(self) -> SlurmSpec:
        return ONE

    def _create(self) -> int:
        mark("held")
        while os.path.exists(self.hold):
            time.sleep(0.005)
        return 1


def wide(count: int) -> list[Noop]:
    """Independent nodes."""
    return [Noop(index=index) for index in range(count)]


def layers(depth: int, width: int = 10) -> list[Noop]:
    """The last of several layers."""
    last: list[Noop] = [Noop(index=index) for index in range(width)]
    for layer in range(1, depth):
        last = [
            Noop(index=k, layer=layer, before=tuple(last[(k + j) % width] for j in range(3)))
            for k in range(width)
        ]
    return last
