"""The processes of this machine's jobs: how one is started, told something, and ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess

from furu_async._runner.processes import ROOM, TOKEN_VARIABLE, processes
from furu_async._runtime import clock
from furu_async._slurm.local_files import LocalJob, read_environment


def start(job: LocalJob, task: str, number: int, index: int) -> subprocess.Popen[bytes]:
    """Start a job in a session of its own, its output into its log.

    Args:
        task: what ``squeue`` would call it.
        number: the job's.
        index: of the task in an array, or -1.

    Raises:
        OSError: it cannot be started.
    """
    base = str(number)
    log = job.log.replace("%%", "\0").replace("%j", task).replace("%A", base).replace("%a", str(index))
    log = log.replace("\0", "%") or os.devnull
    env = read_environment(job.env)
    env.update(SLURM_JOB_ID=base, SLURM_JOB_NAME=job.name, SLURM_RESTART_COUNT="0")
    env[TOKEN_VARIABLE] = ROOM
    if index >= 0:
        env.update(SLURM_ARRAY_JOB_ID=base, SLURM_ARRAY_TASK_ID=str(index))
    if job.limit:
        env["SLURM_JOB_END_TIME"] = str(int(clock.wall() + job.limit))
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with open(log, "ab") as output:
        return subprocess.Popen(
            ["/bin/bash", "-c", job.script],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=job.cwd if os.path.isdir(job.cwd) else "/",
            env=env,
            start_new_session=True,
        )


def send(pid: int, number: signal.Signals, *, group: bool = False) -> None:
    """Send a signal to a process, or to all of its group; one that is gone is no error."""
    try:
        (os.killpg if group else os.kill)(pid, number)
    except OSError:
        pass


def kill_session(leader: int) -> None:
    """Everything of a job: its process group, and whatever is left in its session."""
    send(leader, signal.SIGKILL, group=True)
    for pid in processes():
        try:
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
