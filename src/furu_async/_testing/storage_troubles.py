"""How bad a simulated storage is, and which of its operations fail."""

from __future__ import annotations

import errno
import os
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NoReturn

_LOG = 10_000
_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NEEDS_SPACE = frozenset({"close", "create", "fsync", "link", "mkdir", "write"})
_SENT_AGAIN = {
    "create": errno.EEXIST,
    "link": errno.EEXIST,
    "mkdir": errno.EEXIST,
    "rename": errno.ENOENT,
    "replace": errno.ENOENT,
    "rmdir": errno.ENOENT,
    "unlink": errno.ENOENT,
}
"""What a server that keeps no memory of calls answers to one that is sent again."""


def can_concern(number: int, name: str) -> bool:
    """Whether an operation can end in this error: those of space only where space is needed."""
    return number not in _SPACE or name in _NEEDS_SPACE


@dataclass(frozen=True, slots=True)
class StorageFaults:
    """How bad a `SimulatedStorage` is. Rates are chances for each operation that they can concern, from 0 to 1.

    Attributes:
        stale_secs: the longest that a host keeps an absence, attributes or a listing; how long it keeps each one is
            drawn. 0: not at all.
        lost_reply: rate of changing operations that are carried out and raise.
        errors: rates by ``errno`` of operations that are not carried out and raise.
        spell_secs: an error goes on, for its host and all operations that it can concern, for up to so long.
        torn: chance, when a host crashes, of each un-synced content and name to be lost.
        nameless: files without a name (`O_TMPFILE`) can be made, as on a local disk.
    """

    stale_secs: float = 0.0
    lost_reply: float = 0.0
    errors: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    spell_secs: float = 0.0
    torn: float = 0.0
    nameless: bool = False


class Troubles:
    """Draws which operations fail.

    An operation goes by the name of its system call; ``create`` is an ``open`` that makes a file.

    Args:
        faults: the rates.
        now: seconds.
        rng: what is drawn from.

    Attributes:
        log: (host, operation, path, what), newest last, bounded.
    """

    __slots__ = ("_errors", "_lost", "_now", "_rng", "_spell", "_spells", "log")

    def __init__(self, faults: StorageFaults, now: Callable[[], float], rng: random.Random) -> None:
        self.log: deque[tuple[str, str, str, str]] = deque(maxlen=_LOG)
        self._errors = tuple(faults.errors.items())
        self._lost = faults.lost_reply
        self._spell = faults.spell_secs
        self._now = now
        self._rng = rng
        self._spells: dict[str, tuple[float, int]] = {}

    def heal(self) -> None:
        """There are no more."""
        self._errors, self._lost = (), 0.0
        self._spells.clear()

    def before(self, host: str, name: str, path: str) -> None:
        """Raise where this operation is to fail without being carried out."""
        if not self._errors:
            return
        until, number = self._spells.get(host, (0.0, 0))
        if until > self._now():
            if can_concern(number, name):
                self._raise(host, name, path, number, "error")
            return
        draw = self._rng.random()
        for number, rate in self._errors:
            if draw < rate:
                if not can_concern(number, name):
                    return
                if self._spell:
                    self._spells[host] = (self._now() + self._rng.uniform(0.0, self._spell), number)
                self._raise(host, name, path, number, "error")
            draw -= rate

    def after(self, host: str, name: str, path: str) -> None:
        """Raise where the reply of what was just carried out is to be lost."""
        if not self._lost or self._rng.random() >= self._lost:
            return
        number = _SENT_AGAIN.get(name)
        if number is None or self._rng.random() < 0.5:
            number = self._rng.choice((errno.EIO, errno.ETIMEDOUT))
        self._raise(host, name, path, number, "lost reply")

    def _raise(self, host: str, name: str, path: str, number: int, what: str) -> NoReturn:
        self.log.append((host, name, path, f"{what} {errno.errorcode[number]}"))
        raise OSError(number, os.strerror(number), path)
