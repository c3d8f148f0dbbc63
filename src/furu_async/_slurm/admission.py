"""The job's side: which job this process is, and whether it may act.

A job may start that nobody waits for any more: its ``sbatch`` reported an error and another was submitted in its
place, its run has ended, or it was cancelled while it was on its way. It finds that out here, before anything else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from furu_async._store import submissions
from furu_async._store.layout import SubmissionPaths


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Which job this process runs in.

    Attributes:
        base_id: of an array or a heterogeneous job, the id of the whole; what ``sbatch`` printed.
        id: as ``squeue`` prints it.
        task: index in the array, or -1.
        restarts: how often Slurm has started it again.
        end_time: when its walltime ends, in seconds since the epoch on this node's clock; 0 if not told.
    """

    base_id: str
    id: str
    task: int = -1
    restarts: int = 0
    end_time: int = 0


def this_job(env: Mapping[str, str] | None = None) -> JobIdentity | None:
    """From the environment that Slurm gives to a job; None outside of one."""
    env = os.environ if env is None else env
    job_id = env.get("SLURM_JOB_ID", "")
    if not job_id:
        return None
    restarts, end_time = _number(env, "SLURM_RESTART_COUNT", 0), _number(env, "SLURM_JOB_END_TIME", 0)
    array, task = env.get("SLURM_ARRAY_JOB_ID", ""), _number(env, "SLURM_ARRAY_TASK_ID", -1)
    if array and task >= 0:
        return JobIdentity(array, f"{array}_{task}", task, restarts, end_time)
    leader = env.get("SLURM_HET_JOB_ID", "")
    if leader:
        return JobIdentity(leader, leader, -1, restarts, end_time)
    return JobIdentity(job_id, job_id, -1, restarts, end_time)


def admitted(
    paths: SubmissionPaths, k: int, token: str, job: JobIdentity, run_end: str = ""
) -> tuple[bool, str]:
    """Whether this job may act for its submission, and if not, why not. The first job of a token that asks is the one.

    Blocks: a few operations on the store.

    Args:
        k, token: from the job's command line.
        run_end: path whose existence says that the run has ended; empty: not looked at.

    Raises:
        OSError: it cannot be told now.
    """
    if run_end and os.path.lexists(run_end):
        return False, "its run has ended"
    return submissions.take(paths, k, token, job.base_id)


def _number(env: Mapping[str, str], name: str, otherwise: int) -> int:
    text = env.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else otherwise
