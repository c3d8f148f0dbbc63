"""What an attempt has saved in its checkpoint, as a digest: two are equal where nothing has changed in between."""

from __future__ import annotations

import errno
import hashlib
import os
import stat

from furu_async._store import atomic, fs

_MOST_FILES = 1000
_MOST_READ = 200
_PART = 1 << 16
_NOT_READ = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EINVAL, errno.ENXIO)
"""It is gone, is not ours to read, or is no regular file: its name and size count."""


def digest(path: str) -> str:
    """Digest of the names, sizes and contents below a folder; empty if there is nothing. Blocks.

    Of a file that is larger than 128 KiB its two ends count, of the 200th file and those after it the size alone, and
    files after the first thousand do not count. Times never do.

    Raises:
        OSError: the file system does not answer.
    """
    found = hashlib.blake2b(digest_size=16)
    files = 0
    for name, size in _files(path):
        found.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        if files < _MOST_READ:
            found.update(_ends(f"{path}/{name}"))
        files += 1
    return found.hexdigest() if files else ""


def _files(path: str) -> list[tuple[str, int]]:
    """Files below a folder and their sizes, in order, as far as `_MOST_FILES`."""
    found: list[tuple[str, int]] = []
    folders = [""]
    while folders and len(found) < _MOST_FILES:
        below = folders.pop()
        try:
            names = sorted(fs.listdir(f"{path}/{below}"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in names:
            try:
                about = fs.lstat(f"{path}/{below}{name}")
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(about.st_mode):
                folders.append(f"{below}{name}/")
            else:
                found.append((f"{below}{name}", about.st_size))
    return sorted(found[:_MOST_FILES])


def _ends(path: str) -> bytes:
    try:
        fd = atomic.open_file(path)
    except OSError as error:
        if error.errno in _NOT_READ:
            return b""
        raise
    try:
        size = fs.fstat(fd).st_size
        return os.pread(fd, _PART, 0) + os.pread(fd, _PART, max(_PART, size - _PART))
    finally:
        fs.close(fd)
