"""Putting a child process back in order after user code has run in it.

A `Snapshot` is taken when the child is ready, and again after a module of the user's was imported: what an
import does to the process (a warnings filter, an environment variable, a log handler) belongs to it and
stays, as in any Python program. What an attempt does is undone, because the next attempt is another
artifact's. Cheap when nothing changed: some microseconds.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

from furu_async._runner.processes import children_of

MANY_THREADS = 32
_raw_signal: Any = import_module(
    "_signal"
)  # without the conversion to enums, which costs more than the calls
_getsignal, _sigmask = _raw_signal.getsignal, _raw_signal.pthread_sigmask
_SIGNALS = sorted(set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP})


class Snapshot:
    """What user code may change in its process, as it was when this was made."""

    def __init__(self) -> None:
        self.stdin = _dup_stdin()
        self.take()

    def take(self) -> None:
        """Make the present state the one to come back to."""
        self.cwd = _cwd()
        self.umask = os.umask(0o077)
        os.umask(self.umask)
        self.environ = os.environ
        self.environ_items = dict(os.environ)
        self.environ_raw = _raw(os.environ)
        self.handlers = [*map(_getsignal, _SIGNALS)]
        self.mask = _sigmask(signal.SIG_BLOCK, ())
        self.path, self.path_items = sys.path, list(sys.path)
        self.argv, self.argv_items = sys.argv, list(sys.argv)
        self.recursion = sys.getrecursionlimit()
        self.hooks = (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook)
        self.filters = list(warnings.filters)
        self.show = warnings.showwarning
        root = logging.root
        self.level, self.log_handlers, self.disabled = root.level, list(root.handlers), root.manager.disable
        self.modules = len(sys.modules)
        self.removed = 0
        self.threads = threading.active_count()

    def restore(self) -> list[str]:
        """Undo what changed; returns what that was, for people."""
        changed: list[str] = []
        self.removed = max(0, self.modules - len(sys.modules))
        for name, step in self._steps():
            try:
                if step():
                    changed.append(name)
            except Exception as error:  # what cannot be put back must not fail the attempt
                changed.append(f"{name} ({type(error).__name__})")
        self.modules = len(sys.modules)
        return changed

    def _steps(self) -> tuple[tuple[str, Callable[[], bool]], ...]:
        return (
            ("working directory", self._cwd),
            ("umask", self._umask),
            ("environment", self._environ),
            ("signal handlers", self._signals),
            ("interpreter settings", self._interpreter),
            ("warnings filters", self._warnings),
            ("logging", self._logging),
        )

    def _cwd(self) -> bool:
        if _cwd() == self.cwd or not self.cwd:
            return False
        os.chdir(self.cwd)
        return True

    def _umask(self) -> bool:
        return os.umask(self.umask) != self.umask

    def _environ(self) -> bool:
        replaced = os.environ is not self.environ
        os.environ = self.environ  # noqa: B003  (an object that was replaced: the original comes back)
        if getattr(os.environ, "_data", None) == self.environ_raw:
            return replaced
        for name in set(os.environ) - set(self.environ_items):
            del os.environ[name]
        for name, value in self.environ_items.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        return True

    def _signals(self) -> bool:
        changed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        if _sigmask(signal.SIG_SETMASK, self.mask) != self.mask:
            changed = True
        if [*map(_getsignal, _SIGNALS)] == self.handlers:
            return changed
        for number, handler in zip(_SIGNALS, self.handlers, strict=True):
            if _getsignal(number) != handler and handler is not None:
                signal.signal(number, handler)
                changed = True
        return changed

    def _interpreter(self) -> bool:
        same = (
            sys.path is self.path
            and sys.path == self.path_items
            and sys.argv is self.argv
            and sys.argv == self.argv_items
            and sys.getrecursionlimit() == self.recursion
            and self.hooks == (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook)
            and gc.isenabled()
        )
        if same:
            return False
        self.path[:], self.argv[:] = self.path_items, self.argv_items
        sys.path, sys.argv = self.path, self.argv
        sys.setrecursionlimit(self.recursion)
        sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook = self.hooks
        gc.enable()
        return True

    def _warnings(self) -> bool:
        shown = warnings.showwarning is not self.show
        warnings.showwarning = self.show
        if warnings.filters == self.filters:
            return shown
        if len(sys.modules) != self.modules:  # _create imported a module: the filters it sets stay with it
            self.filters = list(warnings.filters)
            return shown
        warnings.filters[:] = self.filters  # type: ignore[index]
        warnings._filters_mutated()  # type: ignore[attr-defined]
        return True

    def _logging(self) -> bool:
        root = logging.root
        same = (root.level, root.handlers, root.manager.disable) == (
            self.level,
            self.log_handlers,
            self.disabled,
        )
        if same:
            return False
        for handler in [found for found in root.handlers if found not in self.log_handlers]:
            root.removeHandler(handler)
            handler.close()
        root.handlers[:] = self.log_handlers
        root.setLevel(self.level)
        logging.disable(self.disabled)
        return True

    def stdin_changed(self) -> bool:
        """Point descriptor 0 at the null device again if it was closed or replaced."""
        if self.stdin < 0:
            return False
        try:
            found, wanted = os.fstat(0), os.fstat(self.stdin)
            if (found.st_dev, found.st_ino, found.st_rdev) == (wanted.st_dev, wanted.st_ino, wanted.st_rdev):
                return False
        except OSError:
            pass
        try:
            os.dup2(self.stdin, 0)
        except OSError:
            return False
        return True

    def lost_modules(self) -> str:
        """Modules that an attempt has removed: what imports them again gets other classes; empty if none are gone."""
        return f"{self.removed} module(s) removed from sys.modules" if self.removed else ""

    def left_threads(self) -> str:
        """Threads that an attempt left running and that make the process unfit for the next; empty if none."""
        if threading.active_count() == self.threads:
            return ""
        others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
        stubborn = [thread.name for thread in others if not thread.daemon]
        if stubborn:
            return f"{len(stubborn)} thread(s) still running: {', '.join(stubborn[:5])}"
        grown = threading.active_count() - self.threads
        return f"{grown} more daemon threads than at its start" if grown > MANY_THREADS else ""


def left_processes() -> str:
    """Descendants that an attempt left running; empty if none. Reaps those that have ended.

    The child is a subreaper where the system has that, so a daemon that forked twice is found too.
    """
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ""
        if ended is None:
            break
        try:
            os.waitpid(ended.si_pid, 0)
        except ChildProcessError:
            pass
    helpers = trackers()
    pids = [pid for pid in children_of(os.getpid()) if pid not in helpers]
    if not pids:
        return ""
    names = ", ".join(f"{_command(pid)} (pid {pid})" for pid in pids[:5])
    return f"{len(pids)} process(es) still running: {names}"


def trackers() -> frozenset[int]:
    """Helper processes of multiprocessing and joblib that outlive a task by design and end with this process."""
    found = []
    for module in ("multiprocessing.resource_tracker", "joblib.externals.loky.backend.resource_tracker"):
        tracker: Any = getattr(sys.modules.get(module), "_resource_tracker", None)
        pid = getattr(tracker, "_pid", None)
        if isinstance(pid, int):
            found.append(pid)
    return frozenset(found)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip() or "?"
    except OSError:
        return "?"


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _raw(environ: os._Environ[str]) -> dict[Any, Any]:
    data: Any = getattr(environ, "_data", None)  # comparing bytes saves decoding every variable each time
    return dict(data) if isinstance(data, dict) else {}


def _dup_stdin() -> int:
    try:
        return os.dup(0)
    except OSError:
        return -1
