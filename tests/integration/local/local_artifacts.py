"""Artifacts that behave, and some that don't."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from pathlib import Path

import psutil

from furu_async import Furu, Retry, SlurmSpec, dependency, stop_requested
from furu_async.errors import FuruValidationError

FAST = Retry(backoff=0.02)


def count(path: str) -> int:
    """Note a call in a file; how often it was noted."""
    with open(path, "a") as file:
        file.write("x")
    return os.path.getsize(path)


def words(process: psutil.Process) -> str:
    """The command line of a process; empty for one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Num(Furu[int]):
    n: int

    def _create(self) -> int:
        return self.n


class ANum(Furu[int]):
    n: int

    async def _create(self) -> int:
        await asyncio.sleep(0)
        return self.n


class Sum(Furu[int]):
    parts: tuple[Furu[int], ...]

    async def _create(self) -> int:
        return sum([await part.aget() for part in self.parts])


class Counted(Furu[int]):
    """Notes each ``_create`` in a file."""

    path: str
    n: int = 0

    def _create(self) -> int:
        return count(self.path)


class Fails(Furu[int]):
    n: int
    _retry = Retry(retries=0)

    def _create(self) -> int:
        print("working on", self.n)
        raise ValueError(f"cannot do {self.n}")


class Flaky(Furu[int]):
    """Fails ``times`` times, then works."""

    path: str
    times: int
    _retry = FAST

    def _create(self) -> int:
        if count(self.path) <= self.times:
            raise RuntimeError("flaky")
        return 1


class Stubborn(Furu[int]):
    """Fails each time; how long it is waited before the next comes from the environment, in seconds."""

    path: str
    _retry = Retry(backoff=float(os.environ.get("STUBBORN_BACKOFF", "0.02")))

    def _create(self) -> int:
        raise RuntimeError(f"no ({count(self.path)})")


class Misnamed(Furu[int]):
    """Not worth a retry."""

    path: str
    _retry = FAST

    def _create(self) -> int:
        count(self.path)
        raise NameError("no such name")


class Sleeps(Furu[int]):
    n: int
    secs: float = 60.0
    path: str = ""

    def _create(self) -> int:
        if self.path:
            Path(self.path).write_text(str(os.getpid()))
        time.sleep(self.secs)
        return self.n


class ASleeps(Furu[int]):
    n: int
    secs: float = 60.0

    async def _create(self) -> int:
        await asyncio.sleep(self.secs)
        return self.n


class Stoppable(Furu[int]):
    """Looks at `stop_requested`, as a long sync ``_create`` should."""

    path: str

    def _create(self) -> int:
        Path(self.path).write_text("begun")
        while not stop_requested():
            time.sleep(0.01)
        Path(self.path).write_text("stopped")
        raise RuntimeError("stopped early")


class Limited(Furu[int]):
    n: int
    _time_limit = 0.3

    def _create(self) -> int:
        time.sleep(60)
        return self.n


class Segfaults(Furu[int]):
    n: int
    _retry = FAST

    def _create(self) -> int:
        ctypes.string_at(0)
        return self.n


class Leaves(Furu[int]):
    """Ends its process in the middle."""

    code: int

    def _create(self) -> int:
        os._exit(self.code)


class Raises(Furu[int]):
    what: str
    _retry = Retry(retries=0)

    def _create(self) -> int:
        if self.what == "SystemExit":
            sys.exit(3)
        if self.what == "KeyboardInterrupt":
            raise KeyboardInterrupt
        if self.what == "CancelledError":
            raise asyncio.CancelledError
        raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])


class Judged(Furu[int]):
    """Valid when the file says so."""

    verdict: str

    def _create(self) -> int:
        return 1

    def _validate(self) -> bool:
        text = Path(self.verdict).read_text()
        if text == "raise":
            raise ZeroDivisionError("in _validate")
        if text == "invalid":
            raise FuruValidationError("not good enough")
        return text == "yes"


class Undeclared(Furu[int]):
    n: int

    def _create(self) -> int:
        return Num(n=self.n).get()


class Extra(Furu[int]):
    n: int

    @dependency
    def other(self) -> Num:
        return Num(n=self.n)

    def _create(self) -> int:
        return self.other().get() + 1


class Needs(Furu[str]):
    """Tells what it was given."""

    n: int
    cpus: int = 1
    gpus: int = 0
    mem: int = 1
    path: str = ""

    def _spec(self) -> SlurmSpec:
        return SlurmSpec(cpus=self.cpus, gpus=self.gpus, mem_gb=self.mem)

    def _create(self) -> str:
        if self.path:
            with open(self.path, "a") as file:
                file.write("+")
            time.sleep(0.2)
            with open(self.path, "a") as file:
                file.write("-")
        return os.environ.get("CUDA_VISIBLE_DEVICES", "")


class Threaded(Furu[int]):
    n: int
    _mode = "thread"

    def _create(self) -> int:
        return os.getpid()


class Inline(Furu[int]):
    n: int
    _mode = "inline"

    async def _create(self) -> int:
        await asyncio.sleep(0)
        return os.getpid()


class Chain(Furu[int]):
    n: int
    before: Chain | None = None

    def _create(self) -> int:
        return self.n


class Files(Furu[str]):
    """Writes and loads its own files."""

    text: str

    def _create(self) -> str:
        (self.furu_dir / "out.txt").write_text(self.text)
        return "ignored"

    def _load(self) -> str:
        return (self.furu_dir / "out.txt").read_text()


class Held(Furu[int]):
    """Marks begin and end in a file, and whether an earlier one is still at work; goes on when ``hold`` is away."""

    path: str
    hold: str = ""
    n: int = 0

    def _create(self) -> int:
        with open(self.path, "a+") as file:
            file.seek(0)
            lines = file.read().split()
            open_ones = {line[1:] for line in lines if line[0] == "+"} - {
                line[1:] for line in lines if line[0] == "-"
            }
            for pid in open_ones:
                if lives(int(pid)):
                    file.write(f"!{pid}\n")
            file.write(f"+{os.getpid()}\n")
        while self.hold and os.path.exists(self.hold):
            time.sleep(0.01)
        with open(self.path, "a") as file:
            file.write(f"-{os.getpid()}\n")
        return self.n


class Leaks(Furu[int]):
    """Fails with a secret of the environment in a local variable."""

    variable: str
    _retry = Retry(retries=0)

    def _create(self) -> int:
        secret = os.environ[self.variable]
        raise RuntimeError(f"the login was refused ({len(secret)} letters)")


class Named(Furu[int]):
    """Fails, with any text in a field."""

    text: str
    _retry = Retry(retries=0)

    def _create(self) -> int:
        print("working on", self.text)
        raise ValueError(f"bad: {self.text}")


class Large(Furu[bytes]):
    """A result of many bytes."""

    size: int

    def _create(self) -> bytes:
        return b"x" * self.size


class LargeFile(Furu[None]):
    """A file of many bytes."""

    size: int

    def _create(self) -> None:
        (self.furu_dir / "large").write_bytes(b"x" * self.size)


class HangsInThread(Furu[int]):
    """Over its limit, in a thread that nothing can end."""

    n: int
    _mode = "thread"
    _time_limit = 0.2

    def _create(self) -> int:
        time.sleep(600)
        return self.n


def lives(pid: int) -> bool:
    """The process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :].split()[0] not in (b"Z", b"X")
