"""The beat: a counter in a file, so that others see a change. Nobody compares times.

The file is opened, written in place and closed for each beat, because on NFS it is the close that makes a write
visible to other hosts, and because a handle would go stale with the server. Written in place it needs no space on
a full disk.
"""

from __future__ import annotations

import errno
import os
import stat
import threading

from furu_async._store import atomic, fs
from furu_async._store.records import Damaged

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_SHOWN = 64
_NO_BEAT = (errno.ENOENT, errno.ENXIO, errno.EINVAL, errno.ENAMETOOLONG, *atomic.UNUSABLE)
"""Errors that tell of what lies in the place of a beat, or that nothing does."""


def read_beat(root: str, beat: str) -> bytes | None:
    """`see_beat`, where it does not matter why a beat says nothing."""
    try:
        return see_beat(root, beat)
    except OSError:
        return None


def see_beat(root: str, beat: str) -> bytes | None:
    """What a beat file says now, as an opaque text to be compared with what it said before; None if it says nothing.

    Args:
        beat: what a claim says in ``beat``: it came from a file, so it may be anything.

    Raises:
        OSError: it cannot be read now, which says nothing of its owner.
    """
    if not beat or "\0" in beat or os.path.isabs(beat) or ".." in beat.split("/"):
        return None
    try:
        fd = fs.open(f"{root}/{beat}", _READ)
    except OSError as error:
        if error.errno in _NO_BEAT:
            return None
        raise
    try:
        return fs.read(fd, _SHOWN) if stat.S_ISREG(fs.fstat(fd).st_mode) else None
    finally:
        fs.close(fd)


def is_back(root: str, beat: str, silent_at: bytes | None) -> bool:
    """Whether an owner that was judged silent has given a sign of life since. That its beat is gone is none.

    Args:
        beat: as of `see_beat`.
        silent_at: what it said when its owner was judged.

    Raises:
        OSError: it cannot be read now.
    """
    return see_beat(root, beat) not in (silent_at, None)


class Beat:
    """Beats one file from a thread of its own, so that no other mount and no other work can delay it.

    Args:
        path: the file.
        interval: seconds between two beats.
    """

    def __init__(self, path: str, interval: float) -> None:
        self.path = path
        self.interval = interval
        self.count = 0
        self._stopped = threading.Event()

    def first(self) -> None:
        """The beat that has to be there before anything is claimed; goes on from what an earlier keeper wrote.

        Raises:
            OSError: it cannot be written.
        """
        try:
            self.count = int(atomic.read_bytes(self.path, 64))
        except (FileNotFoundError, Damaged, ValueError):
            self.count = 0
        self.once()

    def once(self) -> None:
        """Write the next number."""
        self.count += 1
        fd = fs.open(self.path, _FLAGS, 0o666)
        try:
            fs.pwrite(fd, b"%020d\n" % self.count, 0)
        finally:
            fs.close(fd)

    def start(self) -> None:
        """Go on beating in the background.

        Raises:
            OSError: there can be no thread now.
        """
        # The keeper has no event loop, and this must not wait for anything.
        thread = threading.Thread(target=self._beat, name=f"beat {self.path}", daemon=True)  # noqa: TID251
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "no thread can be started, see `ulimit -u`", self.path) from error

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()

    def _beat(self) -> None:
        wait = self.interval
        while not self._stopped.wait(wait):
            try:
                self.once()
                wait = self.interval
            except OSError:
                # A full disk, a dead server: whoever watches sees silence only if it lasts for a lease.
                wait = self.interval / 8
