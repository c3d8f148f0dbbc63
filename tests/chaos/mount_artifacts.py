"""Artifacts that the hosts of the mount tests compute; each `_create` leaves a mark in a folder on no mount."""

from __future__ import annotations

import os
import time
import uuid

from furu_async import Furu, field


def mark(folder: str, name: str) -> None:
    """Leave a mark; no two are one file."""
    os.close(os.open(f"{folder}/{name}-{uuid.uuid4().hex[:8]}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))


class Leaf(Furu[int]):
    """A number, with a file of its own."""

    marks: str
    n: int

    def _create(self) -> int:
        mark(self.marks, f"leaf.{self.n}")
        print("leaf", self.n)
        (self.furu_dir / "out.txt").write_text(f"{self.n}\n" * 100)
        return self.n


class Total(Furu[int]):
    """The sum of others."""

    marks: str
    n: int
    parts: tuple[Furu[int], ...] = field(default_factory=tuple)

    def _create(self) -> int:
        mark(self.marks, f"total.{self.n}")
        return sum(part.get() for part in self.parts)


class Held(Furu[int]):
    """Begins, then waits as long as a file outside of the mounts is there."""

    marks: str
    hold: str
    n: int = 0

    def _create(self) -> int:
        mark(self.marks, "begin")
        (self.furu_dir / "half.txt").write_text("half")
        while os.path.exists(self.hold):
            time.sleep(0.01)
        mark(self.marks, "end")
        return self.n


class Loud(Furu[int]):
    """Prints more than there is room for."""

    marks: str
    size: int

    def _create(self) -> int:
        mark(self.marks, "loud")
        for _ in range(self.size // 1000):
            print("x" * 999)
        return self.size


class Flaky(Furu[int]):
    """Raises as long as one file is there, then waits as long as another is."""

    marks: str
    broken: str
    hold: str

    def _create(self) -> int:
        if os.path.exists(self.broken):
            raise ValueError("broken")
        mark(self.marks, "begin")
        while os.path.exists(self.hold):
            time.sleep(0.01)
        return 1


class Twin(Furu[dict[str, str]]):
    """A value and a file that belong together: both say by which attempt they were made."""

    marks: str
    size: int = 20_000

    def _create(self) -> dict[str, str]:
        salt = uuid.uuid4().hex
        mark(self.marks, "twin")
        (self.furu_dir / "salt.txt").write_text(salt * (self.size // 32))
        return {"salt": salt, "fill": salt * (self.size // 32)}


def diamond(marks: str, k: int) -> Total:
    """Four leaves, two sums over them, one sum over all; all of its own for each ``k``."""
    leaves = [Leaf(marks=marks, n=10 * k + i) for i in range(4)]
    left = Total(marks=marks, n=10 * k, parts=(leaves[0], leaves[1], leaves[2]))
    right = Total(marks=marks, n=10 * k + 1, parts=(leaves[1], leaves[2], leaves[3]))
    return Total(marks=marks, n=10 * k + 2, parts=(left, right))
