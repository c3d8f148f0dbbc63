"""The card: one file per supervisor, of which every claim it makes is a hard link.

A claim by link is one system call, atomic, and carries its owner's whole record without writing it. What losing the
card's file costs: nothing, the claims are links to the same content; the next claim writes a new card.
"""

from __future__ import annotations

import errno

from furu_async._store import atomic, fs
from furu_async._store.layout import WorkerPaths
from furu_async._store.records import Claim, Damaged, decode, encode

#: The card cannot be linked to this place: other file system, other rules, too many links, or it is gone.
_NEEDS_COPY = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


class Card:
    """A supervisor's claim record, ready to be linked.

    Attributes:
        record: what every claim says.
        token: knows our claims from others'.
        path: the present card file.
    """

    __slots__ = ("_by_copy", "_data", "_number", "_worker", "path", "record", "token")

    def __init__(self, worker: WorkerPaths, record: Claim) -> None:
        self._worker = worker
        self.record = record
        self.token = record.token
        self._data = encode(record)
        self._number = 0
        self._by_copy = False
        self.path = ""

    def write(self) -> None:
        """Write a new card file, durable: it is one per supervisor, and a torn one would tear all its claims."""
        while True:
            self._number += 1
            path = self._worker.card(self._number)
            try:
                atomic.write_new(path, self._data, sync=True)
            except FileNotFoundError:
                atomic.make_folders(self._worker.base)
                self._number -= 1
            except FileExistsError:
                # An earlier keeper of the same supervisor wrote it.
                continue
            else:
                self.path = path
                return

    def files(self) -> list[str]:
        """Every card file of this supervisor."""
        return [self._worker.card(k) for k in range(1, self._number + 1)]

    def link(self, target: str) -> bool:
        """Link the card to ``target``; False if something is there already.

        Raises:
            FileNotFoundError: the folder of ``target`` is missing.
        """
        if self._by_copy:
            return self._copy(target)
        try:
            fs.link(self.path, target)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if atomic.exists(self.path):
                raise
            self.write()
            fs.link(self.path, target)
        except OSError as error:
            if error.errno == errno.EMLINK:
                self.write()
                return atomic.link_new(self.path, target)
            if error.errno not in _NEEDS_COPY:
                raise
            linked = self._copy(target)
            self._by_copy = True
            return linked
        return True

    def _copy(self, target: str) -> bool:
        folder, _, name = target.rpartition("/")
        if not atomic.exists(folder):
            raise FileNotFoundError(errno.ENOENT, "no such folder", folder)
        temp = atomic.write_temp(folder, f"tmp-{name}", self._data)
        try:
            return atomic.link_new(temp, target)
        finally:
            atomic.try_unlink(temp)

    def owns(self, path: str) -> bool:
        """Whether the claim at ``path`` is ours: a link whose reply was lost, or one of an earlier try."""
        try:
            return decode(Claim, atomic.read_bytes(path), path).token == self.token
        except (Damaged, FileNotFoundError):
            return False


class PlainCard(Card):
    """A card without a file of its own, for a supervisor that is still to come: each claim is a copy of the record."""

    __slots__ = ()

    def __init__(self, worker: WorkerPaths, record: Claim) -> None:
        super().__init__(worker, record)
        self._by_copy = True
