"""A shared file system as several hosts see it, over real files: stale views, lost replies, errors, crashes of hosts.

It takes the place of the system calls behind the store (`furu_async._store.fs`). The real folder is the server; each
simulated host has caches and un-synced writes of its own. Nothing outside the root is touched, and what is done where
``host_of`` says ``""`` (a test that looks at the outcome) sees the server and meets no fault.

What is modelled:

- *Views*, after NFS with close-to-open consistency (nfs(5), "Data and metadata coherence"). That a name is absent, a
  file's attributes and a folder's listing are kept by a host for a while, and may be out of date for as long. Absence
  counts for a name on the way to another one as well. A host's own changes are in its own view at once. ``open`` of
  what is not believed to be absent goes to the server, and so does the last name of ``link``, ``mkdir``, the target of
  ``rename`` and of a creating ``open``: these tell the truth, and the host forgets what it believed of that name.
- *Lost replies*: the call was carried out and an error is raised: EIO or ETIMEDOUT of a soft mount, or what a server
  without memory says to a call that is sent twice: EEXIST to ``link``, ``mkdir`` and an exclusive ``open``, ENOENT to
  ``rename``, ``unlink`` and ``rmdir``.
- *Errors*: the call was not carried out. Errors of space only where space is needed; on NFS a file's ``close`` may be
  the first to tell.
- *The crash of a host*: the content that it wrote and did not sync is cut somewhere; names that it made, without
  syncing their folder, are gone. What another host has seen is on the server and stays. Stronger than NFS, which
  writes names and closed files through, and than a local disk, which keeps the order of names: any part may be lost.
  Removals and replacements are not undone, which is one of the outcomes that may be.

What is not: delays; a file that is read while another host has it open for writing; what is made without the store's
help (such as files of ``_create``), which counts as there for good.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from furu_async._store import atomic, fs
from furu_async._testing.storage_tails import File, Tails
from furu_async._testing.storage_troubles import StorageFaults as StorageFaults
from furu_async._testing.storage_troubles import Troubles
from furu_async._testing.storage_views import View

Operation = Callable[..., Any]


class _Open:
    """What a descriptor stands for."""

    __slots__ = ("file", "folder", "host", "path", "wrote")

    def __init__(self, host: str, path: str, folder: bool, file: File | None) -> None:
        self.host = host
        self.path = path
        self.folder = folder
        self.file = file
        self.wrote = False


class SimulatedStorage:
    """See the module. A context manager: installed inside.

    Args:
        root: the store's root, absolute. Only what is below it is touched.
        clock: seconds; one clock for all hosts.
        rng: what is drawn from; the same one and the same calls in the same order give the same faults.
        host_of: the host on whose behalf the present call is made; ``""``: nobody's.
        faults: how bad it is.

    Attributes:
        log: what was injected, newest last, bounded: (host, operation, path, what).
    """

    def __init__(
        self,
        root: str,
        clock: Callable[[], float],
        rng: random.Random,
        host_of: Callable[[], str],
        faults: StorageFaults,
    ) -> None:
        self._root = root.rstrip("/")
        self._prefix = self._root + "/"
        self._clock = clock
        self._rng = rng
        self._host_of = host_of
        self._stale = faults.stale_secs
        self._torn = faults.torn
        self._may_be_nameless = faults.nameless
        self._troubles = Troubles(faults, clock, rng)
        self.log: deque[tuple[str, str, str, str]] = self._troubles.log
        self._views: dict[str, View] = {}
        self._open: dict[int, _Open] = {}
        self._tails = Tails(self._root) if faults.torn else None
        self._nameless = False

    # -- on and off ------------------------------------------------------------------------------------------

    def install(self) -> Self:
        """Take the place of the store's system calls. One at a time."""
        self._nameless = atomic._nameless
        atomic._nameless = self._nameless and self._may_be_nameless
        fs.install(self._wrap)
        return self

    def restore(self) -> None:
        """Undo `install`."""
        fs.restore()
        atomic._nameless = self._nameless

    def __enter__(self) -> Self:
        return self.install()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def heal(self) -> None:
        """From now on nothing fails and all hosts see what is there. A crash still loses what is not synced."""
        self._troubles.heal()
        self._stale = 0.0
        self._views.clear()

    def crash(self, host: str) -> None:
        """The host loses its power: what only it knew of is lost in part, and it comes back without a memory."""
        self._views.pop(host, None)
        for fd in [fd for fd, opened in self._open.items() if opened.host == host]:
            del self._open[fd]
        if self._tails is not None:
            for path, what in self._tails.lose(host, self._rng, self._torn):
                self.log.append((host, "crash", path, what))

    # -- what every operation goes through -------------------------------------------------------------------

    def _wrap(self, name: str, operation: Operation) -> Operation:
        model = getattr(self, f"_do_{name}", None)
        return operation if model is None else partial(model, name, operation)

    def _whose(self, path: Any) -> str:
        """The host, if this is its business and ours; else empty."""
        return self._host_of() if isinstance(path, str) and path.startswith(self._prefix) else ""

    def _view(self, host: str) -> View:
        found = self._views.get(host)
        if found is None:
            until = self._until if self._stale else None
            found = self._views[host] = View(self._root, self._clock, until)
        return found

    def _until(self) -> float:
        return self._clock() + self._stale * self._rng.random()

    def _resolve(self, host: str, view: View, path: str, last: bool = True) -> None:
        try:
            view.resolve(path, last)
        except FileNotFoundError:
            self.log.append((host, "look-up", path, "believed to be absent"))
            raise

    def _told(self, host: str, view: View, path: str) -> None:
        """The server said the truth about a name that is there."""
        view.forget(path)
        if self._tails is not None:
            self._tails.seen(host, path)

    # -- looking ---------------------------------------------------------------------------------------------

    def _do_stat(self, name: str, operation: Operation, path: str, **kwargs: Any) -> os.stat_result:
        host = self._whose(path)
        if not host:
            return operation(path, **kwargs)  # type: ignore[no-any-return]
        self._troubles.before(host, name, path)
        view = self._view(host)
        self._resolve(host, view, path)
        known = view.attributes(path)
        if known is not None:
            return known
        try:
            found: os.stat_result = operation(path, **kwargs)
        except FileNotFoundError:
            view.learn_absence(path)
            raise
        view.learn_attributes(path, found)
        if self._tails is not None:
            self._tails.seen(host, path)
        return found

    _do_lstat = _do_stat

    def _do_listdir(self, name: str, operation: Operation, path: str) -> list[str]:
        host = self._whose(path)
        if not host:
            return operation(path)  # type: ignore[no-any-return]
        self._troubles.before(host, name, path)
        view = self._view(host)
        self._resolve(host, view, path)
        believed = view.listing(path)
        if believed is not None:
            return believed
        try:
            names = sorted(operation(path))
        except FileNotFoundError:
            view.learn_absence(path)
            raise
        view.learn_listing(path, names)
        if self._tails is not None:
            for each in names:
                self._tails.seen(host, f"{path}/{each}")
        return names

    def _do_scandir(self, name: str, operation: Operation, path: str) -> Any:
        host = self._whose(path)
        if host:
            self._troubles.before(host, name, path)
            self._resolve(host, self._view(host), path)
        return operation(path)

    _do_readlink = _do_scandir

    # -- files -----------------------------------------------------------------------------------------------

    def _do_open(self, name: str, operation: Operation, path: str, flags: int, *args: Any) -> int:
        host = self._whose(path)
        if not host:
            fd: int = operation(path, flags, *args)
            self._open.pop(fd, None)
            return fd
        nameless = flags & os.O_TMPFILE == os.O_TMPFILE
        exclusive = bool(flags & os.O_EXCL) and not nameless
        creating = exclusive or bool(flags & os.O_CREAT and not os.path.lexists(path))
        self._troubles.before(host, "create" if creating or nameless else "open", path)
        view = self._view(host)
        self._resolve(host, view, path, not flags & os.O_CREAT)
        try:
            fd = operation(path, flags, *args)
        except FileNotFoundError:
            view.learn_absence(path)
            raise
        except FileExistsError:
            self._told(host, view, path)
            raise
        file = None
        if self._tails is not None:
            writing = bool(flags & os.O_CREAT)
            file = self._tails.opened("" if nameless else path, host, creating or nameless, writing)
        if creating:
            view.forget(path)
        elif flags & os.O_CREAT:
            self._told(host, view, path)
        self._open[fd] = _Open(host, path, bool(flags & os.O_DIRECTORY) and not nameless, file)
        if exclusive:
            try:
                self._troubles.after(host, "create", path)
            except OSError:
                del self._open[fd]
                os.close(fd)
                raise
        return fd

    def _do_write(self, name: str, operation: Operation, fd: int, *args: Any) -> int:
        opened = self._open.get(fd)
        if opened is None:
            return operation(fd, *args)  # type: ignore[no-any-return]
        self._troubles.before(opened.host, name, opened.path)
        done: int = operation(fd, *args)
        opened.wrote = True
        self._view(opened.host).known.pop(opened.path, None)
        if opened.file is not None and self._tails is not None:
            self._tails.wrote(opened.file, opened.host)
        self._troubles.after(opened.host, name, opened.path)
        return done

    _do_pwrite = _do_write

    def _do_read(self, name: str, operation: Operation, fd: int, size: int) -> bytes:
        opened = self._open.get(fd)
        if opened is not None:
            self._troubles.before(opened.host, name, opened.path)
        return operation(fd, size)  # type: ignore[no-any-return]

    def _do_fsync(self, name: str, operation: Operation, fd: int) -> None:
        opened = self._open.get(fd)
        if opened is None:
            operation(fd)
            return
        self._troubles.before(opened.host, name, opened.path)
        if self._tails is not None:
            self._tails.synced(opened.path, opened.folder, opened.file)
        self._troubles.after(opened.host, name, opened.path)

    def _do_close(self, name: str, operation: Operation, fd: int) -> None:
        opened = self._open.pop(fd, None)
        operation(fd)
        if opened is not None and opened.wrote:
            self._troubles.before(opened.host, name, opened.path)

    # -- names -----------------------------------------------------------------------------------------------

    def _do_mkdir(self, name: str, operation: Operation, path: str, *args: Any) -> None:
        host = self._whose(path)
        if not host:
            operation(path, *args)
            return
        self._troubles.before(host, name, path)
        view = self._view(host)
        self._resolve(host, view, path, False)
        try:
            operation(path, *args)
        except FileNotFoundError:
            view.learn_absence(path[: path.rindex("/")])
            raise
        except FileExistsError:
            self._told(host, view, path)
            raise
        view.forget(path)
        if self._tails is not None:
            self._tails.made_folder(path, host)
        self._troubles.after(host, name, path)

    def _do_link(self, name: str, operation: Operation, source: str, target: str, **kwargs: Any) -> None:
        host = self._whose(target)
        if not host:
            operation(source, target, **kwargs)
            return
        self._troubles.before(host, name, target)
        view = self._view(host)
        self._resolve(host, view, target, False)
        if source.startswith(self._prefix):
            self._resolve(host, view, source)
            view.known.pop(source, None)
        try:
            operation(source, target, **kwargs)
        except FileExistsError:
            self._told(host, view, target)
            raise
        view.forget(target)
        if self._tails is not None:
            opened = self._open.get(kwargs.get("src_dir_fd", -1))
            self._tails.linked(source, target, host, opened.file if opened is not None else None)
        self._troubles.after(host, name, target)

    def _do_rename(self, name: str, operation: Operation, source: str, target: str) -> None:
        host = self._whose(target)
        if not host:
            operation(source, target)
            return
        self._troubles.before(host, name, source)
        view = self._view(host)
        self._resolve(host, view, source)
        self._resolve(host, view, target, False)
        replaced = os.path.lexists(target)
        operation(source, target)
        view.forget_below(source)
        view.forget_below(target)
        if self._tails is not None:
            self._tails.renamed(source, target, host, replaced)
        self._troubles.after(host, name, source)

    _do_replace = _do_rename

    def _do_unlink(self, name: str, operation: Operation, path: str) -> None:
        host = self._whose(path)
        if not host:
            operation(path)
            return
        self._troubles.before(host, name, path)
        view = self._view(host)
        self._resolve(host, view, path)
        operation(path)
        view.forget(path)
        if self._tails is not None:
            self._tails.removed(path)
        self._troubles.after(host, name, path)

    _do_rmdir = _do_unlink
