"""Artifacts whose ``_create`` behaves well, badly and worse. Imported by tests and by real child processes."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from furu_async import Furu, field, stop_requested
from furu_async.errors import FuruMissingArtifact, FuruValidationError


class Number(Furu[int]):
    """Well behaved."""

    n: int = 0

    def _create(self) -> int:
        return self.n


class Double(Furu[int]):
    """Refers to another artifact."""

    below: Number = field(default_factory=Number)

    async def _create(self) -> int:
        await asyncio.sleep(0)
        return 2 * self.below.n


class Chain(Furu[int]):
    """Refers to one of its kind, however deep."""

    below: Chain | None = None

    def _create(self) -> int:
        return 0


class Files(Furu[str]):
    """Writes files, loads them itself."""

    def _create(self) -> str:
        folder = self.furu_dir / "sub"
        folder.mkdir()
        (folder / "a.txt").write_text("hello")
        return "ignored"

    def _load(self) -> str:
        return (self.furu_dir / "sub" / "a.txt").read_text()


class Slow(Furu[int]):
    """Lasts until told (by a file), printing first."""

    release: Path
    text: str = ""

    def _create(self) -> int:
        print(self.text, end="", flush=True)
        while not self.release.exists() and not stop_requested():
            time.sleep(0.01)
        return 1 if self.release.exists() else 2


class SlowAsync(Furu[int]):
    """Waits for ever, unless it is cancelled; notes that it was."""

    note: Path

    async def _create(self) -> int:
        print("waiting", flush=True)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.note.write_text("cancelled")
            raise
        return 1


class _Odd(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be pickled")


class _Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class _Nasty(Exception):
    def __str__(self) -> str:
        return "first\x1b[2J\udcff\nsecond" + "x" * 100_000


def _recurse(n: int) -> int:
    return _recurse(n + 1)


class Raises(Furu[int]):
    """Raises what it is told to."""

    what: str

    def _create(self) -> int:
        secret = "canary-in-a-local"
        assert secret
        raise {
            "SystemExit": SystemExit(3),
            "KeyboardInterrupt": KeyboardInterrupt(),
            "CancelledError": asyncio.CancelledError(),
            "GeneratorExit": GeneratorExit(),
            "ExceptionGroup": ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
            "BaseExceptionGroup": BaseExceptionGroup("two", [SystemExit(1), ValueError("a")]),
            "MemoryError": MemoryError(),
            "ValueError": ValueError("plain"),
            "TypeError": TypeError("will not get better"),
            "odd": _Odd("odd"),
            "mute": _Mute(),
            "nasty": _Nasty(),
            "full": OSError(28, "No space left on device", "/somewhere"),
            "missing": FuruMissingArtifact("m", "h", "0" * 32, self.furu_hash, False),
            "declared": FuruMissingArtifact("m", "h", "0" * 32, self.furu_hash, True),
        }[self.what]


class RaisesAsync(Furu[int]):
    """The same from a coroutine."""

    what: str

    async def _create(self) -> int:
        await asyncio.sleep(0)
        return Raises._create(self)  # type: ignore[arg-type]


class Recursion(Furu[int]):
    """Runs out of stack."""

    def _create(self) -> int:
        return _recurse(0)


class Group(Furu[int]):
    """An exception group made by a task group."""

    async def _create(self) -> int:
        async def fail() -> None:
            raise MemoryError

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
        return 1


class Dies(Furu[int]):
    """Takes its process with it."""

    how: str

    def _create(self) -> int:
        print("last words", flush=True)
        if self.how == "segfault":
            ctypes.string_at(0)
        elif self.how == "exit":
            os._exit(0)
        elif self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "close":
            os.closerange(3, 256)
            time.sleep(60)
        return 1


class Messy(Furu[str]):
    """Changes its process in all ways it knows; returns what it found."""

    change: bool = False
    scratch: Path
    n: int = 0

    def _create(self) -> dict[str, Any]:  # type: ignore[override]
        found = {
            "cwd": os.getcwd(),
            "umask": oct(os.umask(0o022)),
            "env": os.environ.get("MESSY"),
            "usr1": signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL,
            "path": "/nowhere" in sys.path,
            "argv": "messy" in sys.argv,
            "level": logging.getLogger().level,
            "handlers": len(logging.getLogger().handlers),
            "filters": len(warnings.filters),
            "stdout": sys.stdout.fileno(),
            "recursion": sys.getrecursionlimit(),
            "pid": os.getpid(),
            "blocked": signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        }
        os.umask(int(found["umask"], 8))
        if self.change:
            os.chdir(self.scratch)
            os.umask(0o077)
            os.environ["MESSY"] = "1"
            del os.environ["PATH"]
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            signal.alarm(1)
            sys.path.append("/nowhere")
            sys.argv = ["messy"]
            logging.getLogger().setLevel(logging.CRITICAL)
            logging.getLogger().addHandler(logging.NullHandler())
            warnings.simplefilter("error")
            sys.setrecursionlimit(5000)
            fd = os.open(self.scratch / "elsewhere", os.O_CREAT | os.O_WRONLY)
            os.dup2(fd, 1)
            os.close(0)
            sys.stdout = open(self.scratch / "other", "w")  # noqa: SIM115
        return found


class Prints(Furu[int]):
    """Writes to all outputs."""

    out: str = ""
    err: str = ""
    log: str = ""
    fail: bool = False

    def _create(self) -> int:
        print(self.out, end="")
        print(self.err, end="", file=sys.stderr)
        if self.log:
            logging.getLogger("mine").info(self.log)
        if self.fail:
            raise ValueError("failed")
        return 1


class Floods(Furu[int]):
    """Prints many megabytes."""

    megabytes: int

    def _create(self) -> int:
        line = "x" * 1023 + "\n"
        for _ in range(self.megabytes):
            sys.stdout.write(line * 1024)
        print("the last line")
        raise ValueError("after the flood")


class OwnStdout(Furu[int]):
    """Has result files of the names that ours have, too."""

    def _create(self) -> int:
        (self.furu_dir / "stdout").write_text("mine")
        (self.furu_dir / "log").write_text("mine")
        print("printed")
        logging.getLogger().warning("logged")
        return 1


class LeavesProcess(Furu[int]):
    """Leaves a process behind: a plain child, or a daemon that forked twice into a session of its own.

    ``bare``: it does not even keep its environment. ``stay``: the attempt goes on afterwards.
    """

    daemon: bool
    bare: bool = False
    stay: bool = False
    pid_file: Path

    def _create(self) -> int:
        code = (
            "import os, sys, time\n"
            "if sys.argv[2] == 'True':\n"
            "    if os.fork(): os._exit(0)\n"
            "    os.setsid()\n"
            "    if os.fork(): os._exit(0)\n"
            "open(sys.argv[1] + '.tmp', 'w').write(str(os.getpid()))\n"
            "os.rename(sys.argv[1] + '.tmp', sys.argv[1])\n"
            "time.sleep(300)\n"
        )
        command = [sys.executable, "-c", code, str(self.pid_file), str(self.daemon)]
        process = subprocess.Popen(command, env={} if self.bare else None)
        while not self.pid_file.exists():
            time.sleep(0.01)
        if self.daemon:
            process.wait()
        while self.stay:
            time.sleep(60)
        return 1


class Forks(Furu[int]):
    """Comes out of ``_create`` twice, in two processes, once with an exception."""

    how: str

    def _create(self) -> int:
        pid = os.fork()
        if pid == 0:
            if self.how == "raises":
                raise ValueError("in the copy")
            return 2
        os.waitpid(pid, 0)
        return 1


class LeavesThread(Furu[int]):
    """Leaves a thread running."""

    def _create(self) -> int:
        threading.Thread(target=threading.Event().wait, name="stubborn").start()
        return 1


class Stubborn(Furu[int]):
    """Ignores every request to stop."""

    ready: Path

    def _create(self) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.ready.write_text("x")
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass


class HoldsGil(Furu[int]):
    """Native code that never lets another thread of the process run."""

    ready: Path

    def _create(self) -> int:
        self.ready.write_text(str(os.getpid()))
        ctypes.PyDLL(None).sleep(300)
        return 1


class Validates(Furu[int]):
    """Its ``_validate`` answers as told."""

    answer: str

    def _create(self) -> int:
        return 1

    def _validate(self) -> bool:
        if self.answer == "raise":
            raise RuntimeError("broken check")
        if self.answer == "invalid":
            raise FuruValidationError("not good enough")
        return {"true": True, "false": False, "none": None}[self.answer]  # type: ignore[return-value]


class Unstorable(Furu[Any]):
    """Returns what has no stored form."""

    def _create(self) -> Any:
        return threading.Lock()


class Checkpoint(Furu[int]):
    """Uses its checkpoint folder."""

    def _create(self) -> int:
        (self.furu_checkpoint_dir / "state").write_text("1")
        return 1


class Leaks(Furu[int]):
    """Keeps memory."""

    megabytes: int

    def _create(self) -> int:
        _kept.append(bytearray(b"x" * (self.megabytes << 20)))
        return 1


_kept: list[bytearray] = []
