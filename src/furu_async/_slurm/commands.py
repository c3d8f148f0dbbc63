"""Running Slurm's commands: off the loop, with a deadline, in an environment without the controller's own job.

A command runs in a process group of its own and in a thread of its own lane, so a caller that is cancelled loses no
process, and a hung one starves nothing else. At the deadline the whole group is killed.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from furu_async._runtime import clock
from furu_async._runtime.blocking import BlockingTimeout, Lane

LANE: Lane = Lane("slurm", 4)
"""For nothing but Slurm's commands, which may hang as long as their deadline allows."""

LIMIT = 64 * 1024 * 1024
_ERRORS = 64 * 1024
_CHUNK = 1 << 16
_REAP_SECS = 5.0

_PREFIXES = (
    "SLURM_",
    "SLURMD_",
    "SBATCH_",
    "SQUEUE_",
    "SACCT_",
    "SCANCEL_",
    "SCONTROL_",
    "SINFO_",
    "SRUN_",
    "SALLOC_",
)
_KEPT = (
    "SLURM_CONF",
    "SLURM_CONF_SERVER",
    "SLURM_CLUSTERS",
    "SBATCH_CLUSTERS",
    "SLURM_JWT",
)
_SUBMIT_DEFAULTS = {"SBATCH_ACCOUNT": "account", "SBATCH_QOS": "qos", "SBATCH_RESERVATION": "reservation"}
"""What a person sets for all their jobs; ``sbatch`` would let it win over the script, so only where that is silent."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command did.

    Attributes:
        code: exit status, negative if ended by a signal; None if it was ended by us: at the deadline, or ``stop_on``.
        truncated: it printed more than was kept.
    """

    code: int | None
    out: str
    err: str
    truncated: bool = False


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Without whatever Slurm put there for a job that this process may itself be part of, or a person for defaults."""
    return {name: value for name, value in env.items() if name in _KEPT or not name.startswith(_PREFIXES)}


def asking_environment(env: Mapping[str, str]) -> dict[str, str]:
    """For commands that ask: plain English, times as seconds since the epoch, whole lists of array tasks."""
    return {**clean_environment(env), "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}


def submitting_environment(env: Mapping[str, str], options: Collection[str]) -> dict[str, str]:
    """For ``sbatch``, which hands its own environment to the job.

    Args:
        options: long options that the script sets.
    """
    kept = {
        name: env[name]
        for name, option in _SUBMIT_DEFAULTS.items()
        if env.get(name) and option not in options
    }
    return {**clean_environment(env), **kept}


async def run(
    argv: Sequence[str],
    *,
    deadline: float,
    env: Mapping[str, str],
    stdin: str = "",
    stop_on: Sequence[str] = (),
) -> Output:
    """Run one command to its end, or to the deadline.

    Cancelling the caller does not end the command. Never raises for what the command does, nor if it cannot be
    started: then the exit status is 127 (there is no such command) or 126.

    Args:
        deadline: seconds from the start of the process.
        stop_on: it is ended as soon as one of these is in a line of its standard error.
    """
    try:
        return await LANE.run(
            _run, tuple(argv), deadline, dict(env), stdin, tuple(stop_on), deadline=deadline + 2 * _REAP_SECS
        )
    except BlockingTimeout as error:
        return Output(None, "", str(error))


def _run(
    argv: tuple[str, ...], deadline: float, env: dict[str, str], stdin: str, stop_on: tuple[str, ...]
) -> Output:
    until = clock.monotonic() + deadline
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        return Output(127, "", f"{argv[0]}: command not found ({error})")
    except OSError as error:
        return Output(126, "", f"{argv[0]} cannot be started, try again: {error}")
    reader = _Reader(process, stdin.encode(), stop_on)
    ended = reader.read(until)
    if ended:
        try:
            process.wait(max(0.0, until - clock.monotonic()))
        except subprocess.TimeoutExpired:
            ended = False
    if not ended:
        _kill(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    return Output(process.returncode if ended else None, reader.out(), reader.err(), reader.truncated)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        process.wait(_REAP_SECS)
    except subprocess.TimeoutExpired:
        pass  # it hangs in the kernel; init will have it


class _Reader:
    """Feeds a process and reads what it prints, both streams at once, keeping a bounded part."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, stop_on: tuple[str, ...]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._kept: dict[int, bytearray] = {}
        self._most = {process.stdout.fileno(): LIMIT, process.stderr.fileno(): _ERRORS}
        self._numbers = (process.stdout.fileno(), process.stderr.fileno())
        self._stop_on = tuple(text.encode() for text in stop_on)
        self._unsent = memoryview(stdin)
        self._selector = selectors.DefaultSelector()
        self.truncated = False
        for pipe in (process.stdout, process.stderr):
            self._kept[pipe.fileno()] = bytearray()
            self._selector.register(pipe, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin, selectors.EVENT_WRITE)

    def read(self, until: float) -> bool:
        """Until both streams are closed; False if the time is over or it is to be stopped."""
        with self._selector:
            while any(key.events & selectors.EVENT_READ for key in self._selector.get_map().values()):
                left = until - clock.monotonic()
                if left <= 0:
                    return False
                for key, events in self._selector.select(left):
                    pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]
                    if events & selectors.EVENT_WRITE:
                        self._feed(pipe)
                    elif not self._take(pipe):
                        return False
            return True

    def _feed(self, pipe: IO[bytes]) -> None:
        try:
            self._unsent = self._unsent[os.write(pipe.fileno(), self._unsent[:4096]) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = self._unsent[:0]  # it does not want the rest
        if not self._unsent:
            self._selector.unregister(pipe)
            pipe.close()

    def _take(self, pipe: IO[bytes]) -> bool:
        number = pipe.fileno()
        data = os.read(number, _CHUNK)
        if not data:
            self._selector.unregister(pipe)
            return True
        kept = self._kept[number]
        room = self._most[number] - len(kept)
        kept += data[:room]
        self.truncated = self.truncated or len(data) > room
        return not (number == self._numbers[1] and any(text in kept for text in self._stop_on))

    def out(self) -> str:
        return self._kept[self._numbers[0]].decode("utf-8", "replace")

    def err(self) -> str:
        return self._kept[self._numbers[1]].decode("utf-8", "replace")
