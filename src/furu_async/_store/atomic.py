"""Small building blocks on files: exclusive links, bounded reads, quarantine, syncing.

Nothing here knows what the files mean. Every function is synchronous and makes few system calls; the deep call is
tried first and parents are made when it says ENOENT.
"""

from __future__ import annotations

import errno
import os
import stat
from hashlib import blake2b

from furu_async._store import fs
from furu_async._store.records import Damaged

MAX_RECORD = 16 * 1024 * 1024
_QUARANTINED = 64 * 1024
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

_salt = os.urandom(5).hex()
_count = 0
_nameless = hasattr(os, "O_TMPFILE") and os.path.exists("/proc/self/fd")


def private_name(prefix: str) -> str:
    """A file name that no other process and no earlier call uses; begins with a dot and the prefix."""
    global _count
    _count += 1
    return f".{prefix}-{os.getpid():x}-{_salt}-{_count:x}"


UNUSABLE = (errno.ENOTDIR, errno.ELOOP, errno.EISDIR)
"""Errors that tell of what lies in a place, not of the storage: waiting does not help, somebody has to look at it."""


def exists(path: str) -> bool:
    """Whether there is anything at this path; an I/O error is raised, not taken for absence."""
    try:
        fs.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        return False
    return True


def check_folders(*paths: str) -> None:
    """See to it that what is there under these names are folders: a link is not followed where something is written.

    What cannot be asked for is passed over: it is missing, or what follows on this will fail and say why.

    Raises:
        Damaged: one of them is something else.
    """
    for path in paths:
        try:
            mode = fs.lstat(path).st_mode
        except OSError:
            continue
        if not stat.S_ISDIR(mode):
            raise Damaged(path, f"it is {_kind(mode)} where a folder belongs")


def check_place(path: str) -> None:
    """See to it that a folder, a link to one, or nothing at all is in a place that people may have made themselves.

    Raises:
        NotADirectoryError: something else is, such as a link to what is not there.
        OSError: it cannot be asked for.
    """
    try:
        mode = fs.stat(path).st_mode
    except FileNotFoundError:
        try:
            target = fs.readlink(path)
        except OSError:
            return
        text = f"it is a link to {target}, which is not there"
        raise NotADirectoryError(errno.ENOTDIR, text, path) from None
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, f"it is {_kind(mode)} where a folder belongs", path)


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a file" if stat.S_ISREG(mode) else "a special file"


def make_folders(path: str, stop: str = "") -> None:
    """Make a folder and the missing ones above it, with the umask's permissions.

    Raises:
        OSError: one of them cannot be made; `NotADirectoryError` if a link above leads nowhere.
    """
    missing = []
    while True:
        try:
            fs.mkdir(path)
            break
        except FileExistsError:
            break
        except FileNotFoundError:
            missing.append(path)
            above = os.path.dirname(path)
            if above == path or path == stop:
                raise
            path = above
    for folder in reversed(missing):
        try:
            fs.mkdir(folder)
        except FileExistsError:
            pass
        except FileNotFoundError:
            check_place(path)
            raise


def write_new(path: str, data: bytes, sync: bool = False) -> None:
    """Write a file that must not exist yet; a half-written one is taken away again.

    Raises:
        FileExistsError: it exists.
        OSError: anything else, with the path in ``filename``.
    """
    fd = fs.open(path, _NEW, 0o666)
    try:
        try:
            write_all(fd, data)
            if sync:
                fs.fsync(fd)
        finally:
            fs.close(fd)
    except OSError as error:
        try_unlink(path)
        if error.filename is None:
            error.filename = path
        raise


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write everything; a short write (a full disk says so only at the next one) is continued."""
    written = fs.write(fd, data)
    while written < len(data):
        written += fs.write(fd, memoryview(data)[written:])


def write_temp(folder: str, prefix: str, data: bytes, sync: bool = False) -> str:
    """Write a new private file in a folder (made if missing) and return its path."""
    for _ in range(3):
        path = f"{folder}/{private_name(prefix)}"
        try:
            write_new(path, data, sync)
        except FileNotFoundError:
            make_folders(folder)
        except FileExistsError:
            # Nobody else makes this name: the reply of our own creation was lost. The next name is as good.
            try_unlink(path)
        else:
            return path
    path = f"{folder}/{private_name(prefix)}"
    write_new(path, data, sync)
    return path


class NewFile:
    """A complete file that has no name of its own yet (or a private one), to be linked where it belongs.

    Where the system can make a file without a name (`O_TMPFILE`), a crash leaves nothing behind and two changes of a
    folder are saved; elsewhere (NFS, Lustre) it is a private file in the same folder.

    Args:
        folder: made if missing.
        prefix: of the private name.
    """

    __slots__ = ("_fd", "_path")

    def __init__(self, folder: str, prefix: str, data: bytes, sync: bool = False) -> None:
        self._fd = -1
        self._path = ""
        if not _nameless or not self._open(folder):
            self._path = write_temp(folder, prefix, data, sync)
            return
        self._path = f"/proc/self/fd/{self._fd}"
        try:
            write_all(self._fd, data)
            if sync:
                fs.fsync(self._fd)
        except OSError as error:
            error.filename = error.filename or folder
            self.close()
            raise

    def _open(self, folder: str) -> bool:
        global _nameless
        for _ in range(2):
            try:
                self._fd = fs.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                make_folders(folder)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS):
                    raise
                _nameless = False
                return False
            else:
                return True
        return False

    def link(self, target: str) -> bool:
        """Link it to ``target`` unless that exists; True if ``target`` is now this file."""
        if self._fd < 0:
            return link_new(self._path, target)
        try:
            # With a folder descriptor given (any, the path is absolute) it is linkat that is called, which follows.
            fs.link(self._path, target, src_dir_fd=self._fd, follow_symlinks=True)
        except FileExistsError:
            mine, there = fs.fstat(self._fd), fs.lstat(target)
            return (mine.st_ino, mine.st_dev) == (there.st_ino, there.st_dev)
        return True

    def close(self) -> None:
        """Drop the private name; what was linked stays."""
        if self._fd >= 0:
            try:
                fs.close(self._fd)
            except OSError:
                pass
        elif self._path:
            try_unlink(self._path)


def link_new(source: str, target: str) -> bool:
    """Link ``source`` to ``target`` unless that exists; True if ``target`` is now ``source``'s file.

    EEXIST for one's own file is a lost reply: the link had been made and only the answer was not heard.
    """
    try:
        fs.link(source, target)
    except FileExistsError:
        return same_file(source, target)
    return True


def same_file(one: str, other: str) -> bool:
    """Whether both names are links to one file."""
    try:
        a, b = fs.lstat(one), fs.lstat(other)
    except FileNotFoundError:
        return False
    return (a.st_ino, a.st_dev) == (b.st_ino, b.st_dev)


def write_new_linked(path: str, data: bytes, sync: bool = False) -> bool:
    """Create a file that appears with all its content or not at all; False if another is there already."""
    folder, _, name = path.rpartition("/")
    new = NewFile(folder, f"tmp-{name}", data, sync)
    try:
        made = new.link(path)
    finally:
        new.close()
    if sync:
        sync_folder(folder)
    return made


def replace(path: str, data: bytes, sync: bool = False) -> None:
    """Put new content in the place of a file, in one step."""
    folder, _, name = path.rpartition("/")
    temp = write_temp(folder, f"tmp-{name}", data, sync)
    try:
        fs.replace(temp, path)
    except FileNotFoundError:
        if exists(temp) or not exists(path):
            raise
        # The reply was lost: the file has moved.
    except OSError:
        try_unlink(temp)
        raise
    if sync:
        sync_folder(folder)


def read_bytes(path: str, limit: int = MAX_RECORD) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; never follows a link, never waits on a pipe.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is something else, or larger.
        OSError: it cannot be read now (says nothing about the content).
    """
    try:
        return _read_bytes(path, limit)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Damaged(path, "it is a symbolic link or a socket, not a file") from None
        if error.errno != errno.ESTALE:
            raise
    # A stale handle is often only a stale name: open it anew, once.
    return _read_bytes(path, limit)


def _read_bytes(path: str, limit: int) -> bytes:
    fd = fs.open(path, _READ)
    try:
        info = fs.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise Damaged(path, "it is not a regular file")
        if info.st_size > limit:
            raise Damaged(path, f"it has {info.st_size} bytes, more than any file of this kind ({limit})")
        data = fs.read(fd, info.st_size + 1)
        if len(data) == info.st_size:
            return data
        parts = [data]
        size = len(data)
        while data and size <= limit:
            data = fs.read(fd, 65536)
            parts.append(data)
            size += len(data)
        return b"".join(parts)
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise
    finally:
        fs.close(fd)


def open_file(path: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file; never follows a link, never waits on a pipe.

    Raises:
        OSError: it is not there, or is something else (ELOOP, EISDIR, or EINVAL).
    """
    fd = fs.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if stat.S_ISREG(fs.fstat(fd).st_mode):
        return fd
    fs.close(fd)
    raise OSError(errno.EINVAL, "it is not a regular file", path)


def try_unlink(path: str) -> None:
    """Remove a file if that is possible now."""
    try:
        fs.unlink(path)
    except OSError:
        pass


def sync_folder(path: str) -> None:
    """Make the entries of a folder durable."""
    fd = fs.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        fs.fsync(fd)
    except OSError as error:
        # Some file systems have no sync of folders; there is nothing more one could do on them.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            error.filename = path
            raise
    finally:
        fs.close(fd)


def quarantine(path: str, folder: str) -> str:
    """Keep a bounded copy of a damaged file in ``folder``; its path, or empty if there is nothing to keep.

    The copy is named by its content, so looking at the same damage twice keeps one. Never raises: this is a
    courtesy to whoever investigates, and the store may be read-only.
    """
    try:
        fd = fs.open(path, _READ)
        try:
            if not stat.S_ISREG(fs.fstat(fd).st_mode):
                return ""
            data = fs.read(fd, _QUARANTINED)
        finally:
            fs.close(fd)
        above, _, name = path.rpartition("/")
        check_folders(folder)
        copy = f"{folder}/{os.path.basename(above)}-{name}-{blake2b(data, digest_size=4).hexdigest()}"
        make_folders(folder)
        try:
            write_new(copy, data)
        except FileExistsError:
            pass
        return copy
    except (OSError, Damaged):
        return ""
