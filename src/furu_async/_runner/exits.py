"""Why a child process is gone, in words, and which line of the failure taxonomy that is.

The kernel says only a number. An OOM kill looks like any SIGKILL, so the cgroup's own counter is asked;
without its word a SIGKILL stays ``killed``.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CHANNEL_LOST = 93
"""Exit code of a child that found its control channel closed under it."""

_WORDS = {
    signal.SIGSEGV: "segmentation fault: native code touched memory that is not its own",
    signal.SIGBUS: "bus error: a memory-mapped file shrank or its disk failed",
    signal.SIGABRT: "abort: native code gave up (assertion, double free, C++ exception)",
    signal.SIGFPE: "arithmetic error in native code",
    signal.SIGILL: "illegal instruction: native code built for another CPU",
    signal.SIGKILL: "SIGKILL from outside: an administrator, a batch system, or the kernel short of memory",
    signal.SIGTERM: "SIGTERM from outside",
    signal.SIGHUP: "SIGHUP: its terminal or session went away",
    signal.SIGINT: "SIGINT from outside",
    signal.SIGXCPU: "over its CPU time limit (ulimit -t)",
    signal.SIGXFSZ: "over its file size limit (ulimit -f)",
    signal.SIGALRM: "a timer (signal.alarm, setitimer) without a handler",
}


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended.

    Attributes:
        kind: ``oom`` only with evidence, else ``killed``.
        text: one sentence without a subject: "was ended by …", "exited with …".
    """

    kind: Literal["killed", "oom"]
    text: str


def explain(
    returncode: int | None,
    *,
    busy: bool,
    oom_evidence: bool = False,
    closed: bool = False,
    asked: bool = False,
) -> Exit:
    """Put an exit status into words.

    Args:
        returncode: as `subprocess.Popen.returncode`: negative for a signal; None if it could not be learned.
        busy: a task was running.
        oom_evidence: the OOM killer's counter went up.
        asked: its supervisor had asked for its end.
        closed: the control channel was closed while the process still lived.
    """
    where = " in the middle of a task" if busy else " while no task was running"
    if asked and not busy:
        return Exit("killed", "was ended by its supervisor")
    if closed or returncode == CHANNEL_LOST:
        return Exit(
            "killed",
            f"closed its control channel{where}; code that closes file descriptors it did not open "
            "(os.closerange, a daemonizing library) does that",
        )
    if returncode is None:
        return Exit("killed", f"is gone{where}; its exit status could not be read")
    if returncode >= 0:
        how = "os._exit, or native code calling exit(), in user code" if busy else "not by us"
        return Exit("killed", f"exited with code {returncode}{where} ({how})")
    number = -returncode
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL and oom_evidence:
        return Exit(
            "oom",
            f"was ended by {name}{where}, and the kernel's out-of-memory counter went up: "
            "it needed more memory than this machine or control group has; run fewer workers, or give the node more",
        )
    words = _WORDS.get(signal.Signals(number)) if name.startswith("SIG") else None
    return Exit("killed", f"was ended by {name}{where}" + (f" ({words})" if words else ""))


class OomCounter:
    """Counts OOM kills of this process's control group; each one explains one death only.

    Reads a few small kernel files; call it off the loop.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._source = _find(root)
        self._explained = self._read()

    def _read(self) -> int:
        if self._source is None:
            return 0
        try:
            for line in self._source.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        except (OSError, ValueError):
            pass
        return 0

    def settle(self) -> None:
        """Forget kills up to now: no child of ours was there to be killed."""
        self._explained = self._read()

    def take(self) -> bool:
        """Say whether there is a kill that explains one more death, and use it up."""
        if self._read() > self._explained:
            self._explained += 1
            return True
        return False


def _find(root: Path) -> Path | None:
    """The counter nearest to us: cgroup v2, cgroup v1, else the whole machine's."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    groups = root / "sys/fs/cgroup"
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        inner = path.lstrip("/")
        if "memory" in controllers.split(","):
            candidates = [
                groups / "memory" / inner / "memory.oom_control",
                groups / "memory/memory.oom_control",
            ]
        elif number == "0":
            candidates = [groups / inner / "memory.events"]
        else:
            continue
        for file in candidates:
            try:
                if "oom_kill " in file.read_text():
                    return file
            except OSError:
                continue
    machine = root / "proc/vmstat"
    return machine if machine.exists() else None
