"""`faulty_storage`: operations on the store fail, for tests of what a pipeline does about it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Self

from furu_async._store import fs
from furu_async._testing.storage_troubles import can_concern

BY_DESCRIPTOR = frozenset({"close", "fstat", "fsync", "pwrite", "read", "write"})


class FaultyStorage:
    """What `faulty_storage` is to do, and what it has done.

    Attributes:
        hits: (operation, path) of each that has failed so far.
    """

    def __init__(
        self, number: int, path: str, operation: str, times: int | None, skip: int, done: bool
    ) -> None:
        self.hits: list[tuple[str, str]] = []
        self._number = number
        self._path = path
        self._operation = operation
        self._times = times
        self._skip = skip
        self._done = done
        self._paths: dict[int, str] = {}
        self._written: set[int] = set()
        self._lock = threading.Lock()

    def _due(self, name: str, path: str) -> bool:
        if not (path and can_concern(self._number, name) and fnmatchcase(path, self._path)):
            return False
        if not fnmatchcase(name, self._operation):
            return False
        with self._lock:
            if self._skip:
                self._skip -= 1
                return False
            if self._times is not None and len(self.hits) >= self._times:
                return False
            self.hits.append((name, path))
            return True

    @contextmanager
    def installed(self) -> Iterator[Self]:
        """Inside, it is in effect, on top of what else is."""
        before = {name: getattr(fs, name) for name in fs.NAMES}
        for name, present in before.items():
            setattr(fs, name, self._wrap(name, present))
        try:
            yield self
        finally:
            for name, present in before.items():
                setattr(fs, name, present)

    def _wrap(self, system_call: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            name, path = system_call, self._path_of(system_call, args)
            if name == "open" and _makes_a_file(path, args[1]):
                name = "create"
            due = self._due(name, path)
            if due and not self._done and name != "close":
                raise OSError(self._number, os.strerror(self._number), path)
            result = operation(*args, **kwargs)
            if due:
                if system_call == "open":
                    os.close(result)
                raise OSError(self._number, os.strerror(self._number), path)
            if system_call == "open":
                self._paths[result] = path
            return result

        return call

    def _path_of(self, name: str, args: tuple[Any, ...]) -> str:
        if name == "close":
            path = self._paths.pop(args[0], "")
            written = args[0] in self._written
            self._written.discard(args[0])
            return path if written else ""  # who only reads is not told
        if name in ("pwrite", "write"):
            self._written.add(args[0])
        if name in BY_DESCRIPTOR:
            return self._paths.get(args[0], "")
        path = args[1] if name == "link" else args[0]
        return path if isinstance(path, str) else ""


def _makes_a_file(path: str, flags: int) -> bool:
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        return True
    return bool(flags & os.O_CREAT) and (bool(flags & os.O_EXCL) or not os.path.lexists(path))


@contextmanager
def faulty_storage(
    number: int,
    *,
    path: str = "*",
    operation: str = "*",
    times: int | None = 1,
    skip: int = 0,
    done: bool = False,
) -> Iterator[FaultyStorage]:
    """Inside, operations on the store fail: ``with faulty_storage(errno.ENOSPC, path="*/attempts/*", times=2): ...``.

    Reaches what is done in this process, so it is for runs with a `FakeExecutor`. Where the errors of two blocks meet,
    the inner one is asked first.

    Args:
        number: of the error, as in the module `errno`. Errors of space concern only what needs space.
        path: pattern of the paths concerned, as of `fnmatch`; ``*`` matches ``/`` too.
        operation: pattern of the names of operations: ``create`` (a file), ``open``, ``read``, ``write``, ``pwrite``,
            ``fsync``, ``close`` (of what was written), ``link``, ``mkdir``, ``rename``, ``replace``, ``unlink``,
            ``rmdir``, ``stat``, ``lstat``, ``fstat``, ``listdir``, ``scandir``, ``readlink``.
        times: how many operations fail; None: all, until the block ends.
        skip: so many of them succeed first.
        done: they are carried out all the same, and only their answer is lost.

    Yields:
        Its ``hits``: what has failed.
    """
    with FaultyStorage(number, path, operation, times, skip, done).installed() as faulty:
        yield faulty
