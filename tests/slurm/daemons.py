"""Processes that outlive the program that started them: found again, signalled and ended by process id and start time.

Every process of a cluster can be told by its environment: daemons and slurmstepd carry `MARK` with the cluster's
folder, jobs carry Slurm's own SLURM_CLUSTER_NAME, which is unique to the folder. So nothing is ended by its name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

MARK = "FURU_TEST_CLUSTER"
SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))


class ClusterError(Exception):
    """A cluster did not do what was asked of it; the message has the end of the log that tells why."""


@dataclass(frozen=True)
class Daemon:
    """One process: a process id alone may by now belong to another.

    Attributes:
        pid: process id.
        ticks: when it started, in the kernel's ticks since boot.
    """

    pid: int
    ticks: int

    @classmethod
    def of(cls, pid: int) -> Daemon | None:
        """The living process with this id; None if there is none, or only what is left of one that has ended."""
        stat = _stat(pid)
        return None if stat is None or stat[0] in "ZX" else cls(pid, stat[1])

    def alive(self) -> bool:
        """Whether it runs or is stopped; a child of ours that has ended is reaped on the way."""
        try:
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pass
        return Daemon.of(self.pid) == self

    def stopped(self) -> bool:
        """Whether SIGSTOP holds it."""
        stat = _stat(self.pid)
        return stat is not None and stat[0] == "T" and self.alive()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still lives."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def start(
    argv: list[str], folder: Path, output: Path, environment: dict[str, str], user: str | None = None
) -> Daemon:
    """Start a daemon in the foreground, in a session of its own, with its output in a file.

    Raises:
        ClusterError: it could not be started.
    """
    with output.open("ab") as log:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**environment, MARK: str(folder)},
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=[] if user else None,
            )
        except OSError as error:
            raise ClusterError(f"{argv[0]} could not be started: {error}") from error
    process.returncode = 0  # `Daemon.alive` reaps it; Popen is not to warn of a process that outlives it
    stat = _stat(process.pid)
    return Daemon(process.pid, stat[1] if stat else -1)


def end(daemons: Iterable[Daemon], grace: float = 0.0) -> None:
    """End processes: SIGTERM and `grace` seconds, then SIGKILL; return when all are gone.

    Raises:
        ClusterError: one of them lives on.
    """
    living = [each for each in daemons if each.alive()]
    for each in living:
        if grace:
            each.send(signal.SIGTERM)
        each.send(signal.SIGCONT)
    deadline = time.monotonic() + grace
    while grace and any(each.alive() for each in living) and time.monotonic() < deadline:
        time.sleep(0.01)
    for each in living:
        each.send(signal.SIGKILL)
    wait_for(lambda: not any(each.alive() for each in living), 20, "processes to end after SIGKILL")


def with_environment(variables: Iterable[tuple[str, str]]) -> list[Daemon]:
    """The processes that have one of these variables with this value, without this one and its ancestors."""
    wanted = [f"{key}={value}".encode() for key, value in variables]
    spared = _ancestors()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in spared:
            continue
        daemon = Daemon.of(int(entry))
        try:
            words = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if daemon and any(word in words for word in wanted):
            found.append(daemon)
    return found


def environment_of(daemon: Daemon) -> dict[str, str]:
    """The environment that a process was started with; empty if it is gone."""
    try:
        words = Path(f"/proc/{daemon.pid}/environ").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return {}
    return {key: value for key, _, value in (word.partition("=") for word in words) if key}


def name_of(daemon: Daemon) -> str:
    """The kernel's name for a process, of 15 letters at most; empty if it is gone."""
    try:
        return Path(f"/proc/{daemon.pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _ancestors() -> set[int]:
    found, pid = set(), os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            break
        pid = int(text.rpartition(")")[2].split()[1])
    return found


def wait_for(condition: Callable[[], object], seconds: float, what: str | Callable[[], str]) -> None:
    """Wait until a condition holds.

    Raises:
        ClusterError: it did not within `seconds` times FURU_TEST_SCALE; says what was waited for.
    """
    deadline = time.monotonic() + seconds * SCALE
    pause = 0.005
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(
                f"after {seconds * SCALE:g} s still waiting for {what if isinstance(what, str) else what()}"
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def tail(path: Path, lines: int = 20) -> str:
    """The end of a log."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"({path} cannot be read)"
    return "\n".join(text.splitlines()[-lines:])
