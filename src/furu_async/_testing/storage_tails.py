"""What each simulated host wrote and did not sync, and what of it is left when the host crashes."""

from __future__ import annotations

import os
import random
from typing import Literal, NamedTuple


class File:
    """The content of one file, under however many names.

    Attributes:
        host: who wrote what is not synced yet; empty: all of it is on the server.
        paths: its names that are known.
    """

    __slots__ = ("host", "paths")

    def __init__(self, host: str, path: str) -> None:
        self.host = host
        self.paths = [path] if path else []


class _Name(NamedTuple):
    """A name that was made and whose folder is not synced since."""

    number: int
    host: str
    kind: Literal["file", "folder", "moved"]
    source: str = ""


class Tails:
    """See the module.

    Args:
        root: above it, everything is there for good.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._files: dict[str, File] = {}
        self._dirty: dict[File, None] = {}
        self._names: dict[str, dict[str, _Name]] = {}
        self._count = 0

    def opened(self, path: str, host: str, made: bool, writing: bool) -> File | None:
        """A file is open: a new one (``path`` empty: without a name), or one that was there; None if of no interest."""
        if not made:
            self.seen(host, path, content=True)
            found = self._files.get(path)
            if found is None and writing:
                found = self._files[path] = File("", path)  # of which all is on the server
            return found
        file = File(host, path)
        self._dirty[file] = None
        if path:
            self._files[path] = file
            self._add(path, host, "file")
        return file

    def made_folder(self, path: str, host: str) -> None:
        """A new folder."""
        self._add(path, host, "folder")

    def wrote(self, file: File, host: str) -> None:
        """Content was written."""
        file.host = host
        self._dirty[file] = None

    def linked(self, source: str, target: str, host: str, file: File | None) -> None:
        """A further name of a file: of ``file`` where it is known, else of what ``source`` names."""
        file = file or self._files.get(source)
        if file is not None:
            file.paths.append(target)
            self._files[target] = file
        self._add(target, host, "file")

    def renamed(self, source: str, target: str, host: str, replaced: bool) -> None:
        """A file or folder has another name; where it replaced something, the old state does not come back."""
        moved = self._forget(source)
        self._forget(target)
        file = self._files.pop(source, None)
        self._files.pop(target, None)
        if file is not None:
            file.paths = [target if path == source else path for path in file.paths]
            self._files[target] = file
        else:
            self._move_below(source, target)
        if replaced:
            return
        if moved is not None:
            self._add(target, host, "folder" if moved.kind == "folder" else "file")
        else:
            self._add(target, host, "moved", source)

    def _move_below(self, source: str, target: str) -> None:
        """What is in a folder has moved with it, and counts as there for good from here on."""
        prefix = source + "/"
        for folder in [each for each in self._names if each == source or each.startswith(prefix)]:
            del self._names[folder]
        for path in [each for each in self._files if each.startswith(prefix)]:
            file = self._files.pop(path)
            there = target + path[len(source) :]
            file.paths = [there if each == path else each for each in file.paths]
            self._files[there] = file

    def removed(self, path: str) -> None:
        """A name is gone, and does not come back."""
        self._forget(path)
        file = self._files.pop(path, None)
        if file is not None:
            file.paths = [each for each in file.paths if each != path]
            if not file.paths:
                self._dirty.pop(file, None)

    def synced(self, path: str, folder: bool, file: File | None) -> None:
        """A file's content, or a folder's names, are on the server."""
        if folder:
            self._names.pop(path, None)
            return
        file = file or self._files.get(path)
        if file is not None:
            file.host = ""
            self._dirty.pop(file, None)

    def seen(self, host: str, path: str, content: bool = False) -> None:
        """Somebody found this name (and read the content): what another host has seen is on the server."""
        if content:
            file = self._files.get(path)
            if file is not None and file.host and file.host != host:
                file.host = ""
                self._dirty.pop(file, None)
        if not self._names:
            return
        while len(path) > len(self._root):
            folder = path[: path.rindex("/")]
            names = self._names.get(folder)
            if names is not None:
                name = names.get(path)
                if name is not None and name.host != host:
                    del names[path]
                    if not names:
                        del self._names[folder]
            path = folder

    def lose(self, host: str, rng: random.Random, torn: float) -> list[tuple[str, str]]:
        """Lose part of what only this host knew of; what was done, as (path, what)."""
        done: list[tuple[str, str]] = []
        mine: list[tuple[int, str, _Name]] = []
        for folder, names in list(self._names.items()):
            of_host = [path for path, name in names.items() if name.host == host]
            mine += [(names[path].number, path, names.pop(path)) for path in of_host]
            if not names:
                del self._names[folder]
        for _, path, name in sorted(mine, reverse=True):
            if rng.random() < torn and self._undo(path, name):
                done.append((path, "moved back" if name.source else "gone"))
        for file in [file for file in self._dirty if file.host == host]:
            del self._dirty[file]
            file.host = ""
            path = next((path for path in file.paths if os.path.lexists(path)), "")
            if path and rng.random() < torn:
                size = os.path.getsize(path)
                left = rng.choice((0, rng.randrange(size + 1)))
                os.truncate(path, left)
                done.append((path, f"cut to {left} of {size} bytes"))
        return done

    def _undo(self, path: str, name: _Name) -> bool:
        try:
            if name.kind == "file":
                os.unlink(path)
            elif name.kind == "folder":
                os.rmdir(path)
            elif os.path.lexists(name.source):
                return False
            else:
                os.rename(path, name.source)
        except OSError:  # there is something in the folder that stays, or it was moved on
            return False
        self.removed(path)
        return True

    def _add(self, path: str, host: str, kind: Literal["file", "folder", "moved"], source: str = "") -> None:
        self._count += 1
        folder = path[: path.rindex("/")]
        self._names.setdefault(folder, {})[path] = _Name(self._count, host, kind, source)

    def _forget(self, path: str) -> _Name | None:
        folder = path[: path.rindex("/")]
        names = self._names.get(folder)
        found = names.pop(path, None) if names is not None else None
        if names is not None and not names:
            del self._names[folder]
        return found
