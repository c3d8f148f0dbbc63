"""What a simulated host believes of a shared file system: absences, attributes and listings, each for a while."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any


class View:
    """One host's caches; all that it keeps has a time until which it does not ask again.

    Args:
        root: the names above it are not looked at.
        now: seconds.
        until: draws how long something is kept from now on; None: nothing is.

    Attributes:
        absent: names that are believed to be absent.
        known: attributes by name.
        listed: names in a folder.
    """

    __slots__ = ("_now", "_root", "_until", "absent", "known", "listed")

    def __init__(self, root: str, now: Callable[[], float], until: Callable[[], float] | None) -> None:
        self._root = len(root)
        self._now = now
        self._until = until
        self.absent: dict[str, float] = {}
        self.known: dict[str, tuple[float, os.stat_result]] = {}
        self.listed: dict[str, tuple[float, list[str]]] = {}

    def resolve(self, path: str, last: bool = True) -> None:
        """Raise FileNotFoundError where a name on the way is believed to be absent; ``last``: or the last one."""
        if not self.absent:
            return
        name = path if last else path[: path.rindex("/")]
        while len(name) > self._root:
            until = self.absent.get(name)
            if until is not None:
                if until > self._now():
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                del self.absent[name]
            name = name[: name.rindex("/")]

    def attributes(self, path: str) -> os.stat_result | None:
        """What it still believes of a file."""
        found = self.known.get(path)
        return found[1] if found is not None and found[0] > self._now() else None

    def listing(self, path: str) -> list[str] | None:
        """What it still believes to be in a folder."""
        found = self.listed.get(path)
        return list(found[1]) if found is not None and found[0] > self._now() else None

    def learn_attributes(self, path: str, found: os.stat_result) -> None:
        """The server said this."""
        if self._until is not None:
            self.known[path] = (self._until(), found)

    def learn_listing(self, path: str, names: list[str]) -> None:
        """The server said this."""
        if self._until is not None:
            self.listed[path] = (self._until(), list(names))

    def learn_absence(self, path: str) -> None:
        """The server said that there is no such name: it is the first missing one on the way that is remembered."""
        self.known.pop(path, None)
        if self._until is None:
            return
        above = path[: path.rindex("/")]
        while len(above) > self._root and not os.path.lexists(above):
            path, above = above, above[: above.rindex("/")]
        self.absent[path] = self._until()

    def forget(self, path: str) -> None:
        """It changed this name itself, or was told the truth about it."""
        self.absent.pop(path, None)
        self.known.pop(path, None)
        self.listed.pop(path[: path.rindex("/")], None)

    def forget_below(self, folder: str) -> None:
        """It moved this folder itself."""
        self.forget(folder)
        prefix = folder + "/"
        caches: tuple[dict[str, Any], ...] = (self.absent, self.known, self.listed)
        for kept in caches:
            for path in [path for path in kept if path.startswith(prefix) or path == folder]:
                del kept[path]
