"""The one thin seam between the store's protocols and the operating system.

What may live here: the system calls that the protocols use, under their own names, and the means for tests to put
something else in their place. The protocol modules call ``fs.link(...)`` and so on, so a test can make the n-th
operation fail, lose its reply (do it and raise), or record it for an enumeration of crash states. Without such a
replacement a call costs one attribute look-up more than `os` itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

close = os.close
fstat = os.fstat
fsync = os.fsync
link = os.link
listdir = os.listdir
lstat = os.lstat
mkdir = os.mkdir
open = os.open
pwrite = os.pwrite
read = os.read
readlink = os.readlink
rename = os.rename
replace = os.replace
rmdir = os.rmdir
scandir = os.scandir
stat = os.stat
unlink = os.unlink
write = os.write

#: Calls that change something on disk; what a crash can fall between.
CHANGING = ("fsync", "link", "mkdir", "open", "pwrite", "rename", "replace", "rmdir", "unlink", "write")
NAMES = (*CHANGING, "close", "fstat", "listdir", "lstat", "read", "readlink", "scandir", "stat")


def install(wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put ``wrap(name, os.<name>)`` in the place of each operation (tests only)."""
    for name in NAMES:
        globals()[name] = wrap(name, getattr(os, name))


def restore() -> None:
    """Undo `install`."""
    for name in NAMES:
        globals()[name] = getattr(os, name)
