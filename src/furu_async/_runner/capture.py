"""Where the output of an attempt goes: spool files for stdout and stderr, a lazily made ``log`` for `logging`.

File descriptors 1 and 2 of a child point at a pair of *spools* outside of any attempt. A silent attempt
leaves them as they are, so it costs no file; after one that wrote, the spools move into the attempt's folder
and a new pair is opened. Pairs are numbered, and an attempt that ran long enough to be shown while it runs
(`LONG_SECS`) always ends its pair: the supervisor links a spool by its number, so a late link can never catch
the output of the next attempt.

Losing a spool loses output, never a result.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from io import TextIOWrapper

from furu_async._runner import text

LONG_SECS = 0.2
STREAMS = (("stdout", "out"), ("stderr", "err"))
RECORD_CHARS = 16 * 1024
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def spool_path(base: str, number: int, extension: str) -> str:
    """Name of one spool file."""
    return f"{base}.{number}.{extension}"


def open_spool(path: str) -> int:
    """Make a spool file; the descriptor is not inherited."""
    return os.open(path, _FLAGS, 0o666)


def place(source: str, directory: str, name: str) -> str:
    """Move a spool into an attempt's folder without replacing a file of the user's; returns the name it got.

    Raises:
        OSError: the folder cannot be written.
    """
    for number in range(1000):
        final = name if number == 0 else f"{name}-{number}"
        target = os.path.join(directory, final)
        try:
            os.link(source, target)
        except FileExistsError:
            if not os.path.samefile(source, target):  # not the link made while it ran
                continue
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            if os.path.lexists(target):
                continue
            import shutil  # seldom needed, and a child starts faster without

            shutil.copyfile(source, target)
        _drop(source)
        return final
    raise FileExistsError(errno.EEXIST, "too many files of that name", os.path.join(directory, name))


def _drop(source: str) -> None:
    try:
        os.unlink(source)
    except FileNotFoundError:
        pass  # the reply was lost; of an open file NFS makes a rename, so this is no rarity


def drop_link(directory: str, name: str, spool: os.stat_result) -> None:
    """Remove the link to an empty spool that was made while the attempt ran."""
    target = os.path.join(directory, name)
    try:
        found = os.stat(target, follow_symlinks=False)
        if (found.st_dev, found.st_ino) == (spool.st_dev, spool.st_ino):
            os.unlink(target)
    except OSError:
        pass


def drop_empty(directory: str) -> None:
    """Remove the folder of an attempt that is over if nothing was put into it."""
    try:
        os.rmdir(directory)
    except OSError:
        pass


def read_tail(path: str) -> str:
    """The last lines of a file, without reading the rest; empty if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return tail_of(fd)
    except OSError:
        return ""
    finally:
        os.close(fd)


def tail_of(fd: int) -> str:
    """The last lines of an open file."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, text.TAIL_BYTES + 1, max(0, size - text.TAIL_BYTES - 1))
    return text.tail(data) if data else ""


def join_tails(*tails: str) -> str:
    """One bounded tail of several, the last being the most telling."""
    return text.tail("\n".join(part for part in tails if part).encode())


class AttemptLog:
    """The ``log`` file of one attempt, made by its first record: one line each, UTC, worker, level, logger."""

    def __init__(self, directory: str, worker: str) -> None:
        self.directory = directory
        self.worker = worker
        self.name = ""
        self._fd = -1

    def write(self, record: logging.LogRecord) -> None:
        """Append one record as one line, bounded, with control characters escaped."""
        body = record.getMessage()
        if record.exc_info:
            body += "\n" + logging.Formatter().formatException(record.exc_info)
        if record.stack_info:
            body += "\n" + record.stack_info
        body = text.one_line(text.bounded(body, RECORD_CHARS))
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {self.worker} {record.name}"
        line = f"{text.one_line(head)}: {body}\n"
        if self._fd < 0:
            self._open()
        os.write(self._fd, line.encode("utf-8", "backslashreplace"))

    def _open(self) -> None:
        os.makedirs(self.directory, exist_ok=True)
        for number in range(1000):
            name = "log" if number == 0 else f"log-{number}"
            try:
                self._fd = open_spool(os.path.join(self.directory, name))
            except FileExistsError:
                continue
            self.name = name
            return

    def tail(self) -> str:
        """Its last lines."""
        try:
            return tail_of(self._fd) if self._fd >= 0 else ""
        except OSError:
            return ""

    def close(self) -> bool:
        """Close it; says whether there is one."""
        if self._fd < 0:
            return False
        try:
            os.close(self._fd)
        except OSError:
            pass  # user code closed it under us
        self._fd = -1
        return True


class ChildLogHandler(logging.Handler):
    """Root handler of a child: records go to the log of the attempt that runs; without one, to stderr."""

    log: AttemptLog | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.log is not None:
                self.log.write(record)
            elif record.levelno >= logging.WARNING:
                sys.stderr.write(text.one_line(record.getMessage())[:RECORD_CHARS] + "\n")
        except Exception:
            self.handleError(record)


class Capture:
    """The child's side of the spools.

    Args:
        base: spool files are ``<base>.<number>.out`` and ``.err``; number 0 is open as 1 and 2 already.
        worker: name in log lines.
        level: the least level that reaches ``log``.
    """

    def __init__(self, base: str, worker: str, level: str) -> None:
        self.base = base
        self.worker = worker
        self.number = 0
        self.handler = ChildLogHandler()
        self._keep = [os.dup(1), os.dup(2)]
        self._identity = [_identity(fd) for fd in self._keep]
        self._directory = ""
        self._names: set[str] = set()
        self._since = 0.0
        self.stdout, self.stderr = _stream(1), _stream(2)
        sys.stdout = sys.__stdout__ = self.stdout  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self.stderr  # type: ignore[misc]
        logging.lastResort = None
        root = logging.getLogger()
        root.addHandler(self.handler)
        root.setLevel(level)

    def mark(self) -> int:
        """An attempt is about to be announced: counts its time from here; the number of the spools it gets."""
        self._since = time.monotonic()
        return self.number

    def begin(self, directory: str) -> None:
        """The attempt whose files are in ``directory`` starts."""
        self._directory = directory
        self.handler.log = AttemptLog(directory, self.worker)

    def discard(self) -> None:
        """Forget what was written since `begin`; for what is no attempt and has no folder."""
        self.handler.log = None
        for fd in self._keep:
            os.ftruncate(fd, 0)

    def restore(self) -> list[str]:
        """Put 1, 2 and the stream objects back as they were; says what user code had changed."""
        changed = []
        for index, stream in enumerate((self.stdout, self.stderr)):
            name = STREAMS[index][0]
            if getattr(sys, name) is not stream or stream.closed:
                changed.append(f"sys.{name}")
            try:
                if not stream.closed:
                    stream.flush()
            except (OSError, ValueError):
                changed.append(name)
            if _identity(index + 1) != self._identity[index]:
                os.dup2(self._keep[index], index + 1)
                changed.append(f"file descriptor {index + 1}")
        if self.stdout.closed:
            self.stdout = _stream(1)
        if self.stderr.closed:
            self.stderr = _stream(2)
        sys.stdout, sys.stderr = self.stdout, self.stderr
        return changed

    def tail(self) -> str:
        """What the attempt wrote last: stdout, log, stderr, in this order."""
        for stream in (self.stdout, self.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        out, err = (self._tail(fd) for fd in self._keep)
        log = self.handler.log
        return join_tails(out, log.tail() if log else "", err)

    @staticmethod
    def _tail(fd: int) -> str:
        try:
            return tail_of(fd)
        except OSError:
            return ""

    def end(self) -> set[str]:
        """Move what was written into the attempt's folder; returns the names of the files that are ours there.

        Raises:
            OSError: the folder or the spool's folder cannot be written.
        """
        names: set[str] = set()
        log, self.handler.log = self.handler.log, None
        if log is not None and log.close():
            names.add(log.name)
        spools = [_spool(fd) for fd in self._keep]
        wrote = any(spool is not None and spool.st_size for spool in spools)
        if not wrote and None not in spools and time.monotonic() - self._since < LONG_SECS:
            return names
        if wrote:
            os.makedirs(self._directory, exist_ok=True)
        for spool, (name, extension) in zip(spools, STREAMS, strict=True):
            source = spool_path(self.base, self.number, extension)
            if spool is not None and spool.st_size:
                names.add(place(source, self._directory, name))
            else:
                _drop(source)
                if spool is not None:
                    drop_link(self._directory, name, spool)
        if not names:
            drop_empty(self._directory)  # made to show the output while it ran, and there was none
        self._renew()
        return names

    def _renew(self) -> None:
        self.number += 1
        for index, (_, extension) in enumerate(STREAMS):
            fd = open_spool(spool_path(self.base, self.number, extension))
            os.dup2(fd, index + 1)
            os.dup2(fd, self._keep[index], inheritable=False)
            os.close(fd)
            self._identity[index] = _identity(index + 1)


def _spool(fd: int) -> os.stat_result | None:
    """What an open spool is; None if the file system has lost it, and its output with it."""
    try:
        return os.fstat(fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return None


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _stream(fd: int) -> TextIOWrapper:
    raw = open(fd, "wb", buffering=64 * 1024, closefd=False)  # noqa: SIM115
    return TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
