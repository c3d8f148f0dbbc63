"""A pass-through file system that lies as it is told: errors, delays, lost replies, stale listings, coarse times.

``python lying_mount.py <real folder> <mount point> <control socket> '{"entry": 0, ...}'`` mounts and serves until it is
unmounted or killed. Who connects to the socket sends one JSON line: ``{"rules": [...]}`` replaces the rules, and the
answer says how often each of the old ones was met. A rule:

    op      names of operations (``link``, ``write``, ...); empty for all
    path    a regular expression, searched in the path below the mount (both paths of a rename or link)
    errno   the name of the error that is answered; none: the operation goes on
    lost    the operation is carried out before the error is answered
    delay   seconds that it takes longer
    times   how often (default: always)
    skip    how often it is let pass before that
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import mfusepy

PR_SET_PDEATHSIG = 1
STAT = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino", "st_dev", "st_blocks")
STATVFS = (
    "f_bavail",
    "f_bfree",
    "f_blocks",
    "f_bsize",
    "f_favail",
    "f_ffree",
    "f_files",
    "f_frsize",
    "f_namemax",
)
COARSE_NS = 2_000_000_000


class Rules:
    """The rules in force, and how often each was met."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[dict[str, Any]] = []

    def replace(self, rules: list[dict[str, Any]]) -> list[int]:
        """Other rules from now on; how often each of the old ones was met."""
        with self._lock:
            met = [rule["met"] for rule in self._rules]
            self._rules = [{**rule, "met": 0, "passed": 0} for rule in rules]
        return met

    def met(self) -> list[int]:
        """How often each was met."""
        with self._lock:
            return [rule["met"] for rule in self._rules]

    def find(self, op: str, paths: tuple[str, ...]) -> dict[str, Any] | None:
        """The first rule that speaks of this operation."""
        with self._lock:
            for rule in self._rules:
                if rule.get("op") and op not in rule["op"]:
                    continue
                if not any(re.search(rule.get("path", ""), path) for path in paths):
                    continue
                if rule["passed"] < rule.get("skip", 0):
                    rule["passed"] += 1
                    continue
                if rule["met"] >= rule.get("times", sys.maxsize):
                    continue
                rule["met"] += 1
                return rule
        return None


class Liar(mfusepy.Operations):
    """The file system; see the module.

    It has no `flush`: the kernel lets nobody exit before that is answered, which is so on no network file system.

    Args:
        listing: seconds for which a listing is remembered, as other hosts' changes are not seen on NFS.
        coarse: times of files are rounded down to two seconds.
    """

    use_ns = True

    def __init__(self, real: str, rules: Rules, listing: float, coarse: bool) -> None:
        self.real = real
        self.rules = rules
        self.listing = listing
        self.coarse = coarse
        self._listings: dict[str, tuple[float, list[str]]] = {}

    def _do(self, op: str, paths: tuple[str, ...], call: Callable[[], Any]) -> Any:
        rule = self.rules.find(op, paths)
        if rule is None:
            return call()
        if rule.get("delay"):
            time.sleep(rule["delay"])
        if "errno" not in rule:
            return call()
        if rule.get("lost"):
            call()
        raise OSError(getattr(errno, rule["errno"]), "as told")

    def _at(self, path: str) -> str:
        return self.real + path

    def _changed(self, path: str) -> None:
        self._listings.pop(os.path.dirname(path), None)

    # -- what is there ---------------------------------------------------------------------------------------

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            info = os.lstat(self._at(path)) if fh is None else os.fstat(fh)
            found: dict[str, Any] = {name: getattr(info, name) for name in STAT}
            for name in ("atime", "mtime", "ctime"):
                nanoseconds = getattr(info, f"st_{name}_ns")
                found[f"st_{name}"] = nanoseconds - nanoseconds % COARSE_NS if self.coarse else nanoseconds
            return found

        return self._do("getattr", (path,), call)

    def readdir(self, path: str, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        names = self._do("readdir", (path,), lambda: self._listed(path))
        # An entry without an inode number is taken for a removed one.
        return iter([(name, {"st_ino": 1}, 0) for name in (".", "..", *names)])

    def _listed(self, path: str) -> list[str]:
        now = time.monotonic()
        known = self._listings.get(path)
        if known is not None and now - known[0] < self.listing:
            return known[1]
        names = os.listdir(self._at(path))
        self._listings[path] = (now, names)
        return names

    def readlink(self, path: str) -> str:
        return self._do("readlink", (path,), lambda: os.readlink(self._at(path)))

    def statfs(self, path: str) -> dict[str, int]:
        info = os.statvfs(self._at(path))
        return {name: getattr(info, name) for name in STATVFS}

    # -- names -----------------------------------------------------------------------------------------------

    def _name(self, op: str, paths: tuple[str, ...], call: Callable[[], Any]) -> int:
        self._do(op, paths, call)
        # A host knows of its own changes, but not of one whose reply it has not heard.
        for path in paths:
            self._changed(path)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        return self._name("mkdir", (path,), lambda: os.mkdir(self._at(path), mode))

    def rmdir(self, path: str) -> int:
        return self._name("rmdir", (path,), lambda: os.rmdir(self._at(path)))

    def unlink(self, path: str) -> int:
        return self._name("unlink", (path,), lambda: os.unlink(self._at(path)))

    def rename(self, old: str, new: str) -> int:
        return self._name("rename", (old, new), lambda: os.rename(self._at(old), self._at(new)))

    def link(self, target: str, source: str) -> int:
        return self._name("link", (target, source), lambda: os.link(self._at(source), self._at(target)))

    def symlink(self, target: str, source: str) -> int:
        return self._name("symlink", (target,), lambda: os.symlink(source, self._at(target)))

    # -- attributes ------------------------------------------------------------------------------------------

    def chmod(self, path: str, mode: int) -> int:
        self._do("chmod", (path,), lambda: os.chmod(self._at(path), mode))
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        self._do("chown", (path,), lambda: os.lchown(self._at(path), _signed(uid), _signed(gid)))
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        self._do("utimens", (path,), lambda: os.utime(self._at(path), ns=times, follow_symlinks=False))
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        target = self._at(path) if fh is None else fh
        self._do("truncate", (path,), lambda: os.truncate(target, length))
        return 0

    # -- files -----------------------------------------------------------------------------------------------

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        flags = os.O_RDWR | os.O_CREAT | (fi or 0) & (os.O_EXCL | os.O_TRUNC)
        made: int = self._do("create", (path,), lambda: os.open(self._at(path), flags, mode))
        self._changed(path)
        return made

    def open(self, path: str, flags: int) -> int:
        # The kernel has appended already: a write comes with its place.
        return self._do("open", (path,), lambda: os.open(self._at(path), flags & ~os.O_APPEND))

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return self._do("read", (path,), lambda: os.pread(fh, size, offset))

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return self._do("write", (path,), lambda: os.pwrite(fh, data, offset))

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._do("fsync", (path,), lambda: os.fsync(fh))
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0


def _signed(number: int) -> int:
    return -1 if number == 0xFFFFFFFF else number


def control(listener: socket.socket, rules: Rules) -> None:
    """Answer whoever connects, for ever."""
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            wanted = json.loads(stream.readline())
            met = rules.replace(wanted["rules"]) if "rules" in wanted else rules.met()
            stream.write(json.dumps(met) + "\n")


def main() -> None:
    """Mount and serve; ends with whoever started it."""
    real, mount, path, text = sys.argv[1:]
    wanted = json.loads(text)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.umask(0)
    rules = Rules()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threading.Thread(target=control, args=(listener, rules), daemon=True).start()
    names, inodes = wanted.get("names", 0.0), wanted.get("inodes", True)
    mfusepy.FUSE(
        Liar(real, rules, wanted.get("listing", 0.0), wanted.get("coarse", False)),
        mount,
        foreground=True,
        entry_timeout=names,
        negative_timeout=names,
        attr_timeout=names,
        use_ino=inodes,
    )


if __name__ == "__main__":
    main()
