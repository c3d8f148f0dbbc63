"""The table of a pool's artifacts: one `Entry` a line, dependencies first, appended by the controller only.

Workers read on from where they were. A line counts when it is complete; one that cannot be read (a controller died
over it, and the next one went on behind) concerns nobody but the artifact that it is about, which is then missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import msgspec

from furu_async._model.artifact import Furu
from furu_async._model.table import Entry
from furu_async._runner.objects import Objects, entries_for
from furu_async._store import atomic, fs

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CHUNK = 1 << 20

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class ObjectsLog:
    """The controller's side.

    Attributes:
        known: hashes of the artifacts that are in the file, or about to be.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.known: set[str] = set()
        self._torn = True

    def load(self) -> None:
        """Learn what an earlier controller wrote; blocks.

        Raises:
            OSError: the file system does not answer.
        """
        reader = ObjectsReader(self.path)
        self.known |= {entry.hash for entry in reader.read()}

    def missing(self, obj: Furu[Any]) -> list[Entry]:
        """Entries of an artifact and all it refers to that are to be appended before it can be queued; on the loop."""
        return entries_for(self.known, obj)

    def append(self, entries: Iterable[Entry]) -> None:
        """Append entries, whole lines in one write; blocks. To be called again with the same after an error.

        Raises:
            OSError: it is not known what was written.
        """
        data = b"".join(_encode(entry) + b"\n" for entry in entries)
        if not data:
            return
        fd = fs.open(self.path, _APPEND, 0o666)
        try:
            # What somebody did not finish is not to swallow the line that follows.
            atomic.write_all(fd, b"\n" + data if self._torn and fs.fstat(fd).st_size else data)
            self._torn = False
        except OSError:
            self._torn = True
            raise
        finally:
            fs.close(fd)


class ObjectsReader:
    """The worker's side: what has come since the last look.

    Attributes:
        unreadable: lines that were no entries.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.unreadable: int = 0
        self._offset = 0
        self._rest = b""

    def read(self) -> list[Entry]:
        """New entries, in order; blocks.

        Raises:
            OSError: the file system does not answer.
        """
        try:
            fd = fs.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return []
        parts: list[bytes] = []
        try:
            os.lseek(fd, self._offset, os.SEEK_SET)
            while data := fs.read(fd, _CHUNK):
                parts.append(data)
        finally:
            fs.close(fd)
        # Only now: what an error has interrupted is read once more.
        self._offset += sum(map(len, parts))
        *lines, self._rest = b"".join((self._rest, *parts)).split(b"\n")
        found = []
        for line in lines:
            if not line:
                continue
            try:
                found.append(_decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self.unreadable += 1
        return found

    def again(self) -> None:
        """Read from the beginning the next time: a page that was read before it was whole may be put right."""
        self._offset = self.unreadable = 0
        self._rest = b""


class Table:
    """The artifacts of the file, built when they are wanted; each method blocks, and one thread at a time may use it.

    Building imports the user's modules.
    """

    def __init__(self, path: str) -> None:
        self.reader = ObjectsReader(path)
        self._objects = Objects()
        self._known: set[str] = set()

    def has(self, wanted: str) -> bool:
        """Whether an artifact's entry has come; looks into the file if it was not there before."""
        if wanted in self._known:
            return True
        self._read()
        if wanted not in self._known and self.reader.unreadable:
            self.reader.again()
            self._read()
        return wanted in self._known

    def _read(self) -> None:
        new = self.reader.read()
        self._objects.add(new)
        self._known.update(entry.hash for entry in new)

    def get(self, wanted: str) -> Furu[Any]:
        """The artifact of this hash.

        Raises:
            FuruSpecMismatch: this process's code has no such class, or makes another hash of the same fields.
            BaseException: whatever importing a module raised.
        """
        return self._objects.get(wanted)
