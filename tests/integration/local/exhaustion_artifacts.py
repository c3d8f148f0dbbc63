"""Artifacts that take what there is."""

from __future__ import annotations

import re
import time

from furu_async import Furu


class Blocks(Furu[int]):
    """Holds the interpreter lock of its process for as long as ``n`` says: a regular expression gives nothing away."""

    n: int = 26

    def _create(self) -> int:
        begin = time.monotonic()
        while time.monotonic() - begin < 0.5:
            re.match(r"(a+)+$", "a" * self.n + "b")
        return self.n
