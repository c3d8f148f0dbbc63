"""What is to be done when a child's process has exited, before anybody hears of it. Blocking: runs off the loop.

Everything it started is ended first (a new attempt must not meet an old one's processes), then what it wrote
is collected. The process itself stays a zombie until its supervisor reaps it, so its number cannot be
somebody else's.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import cache

from furu_async._runner import processes, spools
from furu_async._runner.exits import OomCounter
from furu_async._runner.messages import TaskSpec
from furu_async.report import Failure, FailureKind


@dataclass(frozen=True, slots=True)
class Remains:
    """What a dead child left.

    Attributes:
        returncode: as `subprocess.Popen.returncode`; None if somebody else reaped it.
        escaped: processes outside its group that were ended.
        oom: the kernel's out-of-memory counter went up.
        log_tail: last lines of output.
        logged: the task's folder holds output.
        trouble: what could not be done, or empty.
    """

    returncode: int | None = None
    escaped: tuple[int, ...] = ()
    oom: bool = False
    log_tail: str = ""
    logged: bool = False
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildGone:
    """The child's process has ended, and with it everything it had started. Always the last message.

    Attributes:
        returncode: as `subprocess.Popen.returncode`; None if it could not be learned.
        expected: we had asked for it (`Child.warn`, `Child.kill`, `Child.aclose`).
        kind: ``killed``, or ``oom`` with evidence.
        text: what happened, a sentence.
        running: the task that was running; its attempt is lost.
        not_begun: tasks that were given and had not begun; unharmed.
        log_tail: last lines of what the running task had written.
        logged: the running task's folder holds what it wrote.
        escaped: pids of daemons that had left the process group and were ended too.
    """

    pid: int
    returncode: int | None
    expected: bool
    kind: FailureKind
    text: str
    running: TaskSpec | None = None
    not_begun: tuple[TaskSpec, ...] = ()
    log_tail: str = ""
    logged: bool = False
    escaped: tuple[int, ...] = ()

    def failure(self) -> Failure:
        """The failure of the task that was running."""
        return Failure(
            kind=self.kind,
            message=self.text,
            log_path=self.running.directory if self.running is not None and self.logged else "",
            log_tail=self.log_tail,
        )


@cache
def oom_counter() -> OomCounter:
    """The counter of this process's control group; made before the first child starts."""
    return OomCounter()


@dataclass(frozen=True, slots=True)
class Case:
    """What the supervisor knows of a child that has exited.

    Attributes:
        directory: folder of the task that was running, or empty.
        search: look through all processes for descendants that left the group.
        asked: we ended it ourselves; otherwise a SIGKILL makes one ask about memory.
    """

    pid: int
    start_time: int
    token: str
    spool_base: str
    spool: int
    directory: str
    search: bool
    asked: bool


def bury(case: Case) -> Remains:
    """End what is left of a child's processes and collect its output."""
    returncode = exit_status(case.pid)
    if case.search:
        escaped = tuple(processes.sweep(case.pid, case.token, case.start_time))
    else:
        processes.end_group(case.pid)
        escaped = ()
    oom = not case.asked and returncode == -signal.SIGKILL and oom_counter().take()
    trouble = tail = ""
    logged = False
    try:
        if case.directory:
            tail, logged = spools.collect(case.spool_base, case.spool, case.directory)
        else:
            tail = spools.read(case.spool_base, case.spool)
    except OSError as error:
        trouble = f"its output could not be collected: {error}"
    for number in (case.spool, case.spool + 1):  # after an attempt that wrote it has the next pair
        spools.remove(case.spool_base, number)
    return Remains(returncode, escaped, oom, tail, logged, trouble)


def exit_status(pid: int) -> int | None:
    """How an unreaped process ended, negative for a signal; leaves it a zombie. Waits if it has not ended."""
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return None
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
