"""From the options of the command line to an executor, and what a dry run says of its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from furu_async._cli.text import clean, number

if TYPE_CHECKING:
    from furu_async._dag.submission import SlurmDagSubmission
    from furu_async._executors.base import ExecutorLike
    from furu_async._executors.inspect import PlannedNode

__all__ = ["EXECUTORS", "job_lines", "make_executor", "submission_lines"]

EXECUTORS = ("local", "slurm-pool", "slurm-dag")
_ONLY = {
    "mode": ("local",),
    "workers": ("local", "slurm-pool"),
    "slots": ("slurm-pool",),
    "idle": ("slurm-pool",),
    "cluster": ("slurm-pool", "slurm-dag"),
    "max_jobs": ("slurm-dag",),
}


def make_executor(options: Mapping[str, Any]) -> ExecutorLike:
    """The executor that the options describe; those that were not given are left to it.

    Raises:
        click.UsageError: an option that it does not have was given.
        FuruDefinitionError: a value is not allowed.
    """
    kind = options["executor"]
    given = {name: options[name] for name in _ONLY if options.get(name) is not None}
    for name in given:
        if kind not in _ONLY[name]:
            raise click.UsageError(
                f"--{name.replace('_', '-')} is an option of --executor {' and '.join(_ONLY[name])}, not of {kind}"
            )
    if options.get("detach") and kind == "local":
        raise click.UsageError("--detach leaves Slurm jobs running; --executor local has none")
    if kind == "slurm-pool":
        from furu_async import SlurmPool

        return SlurmPool(**given)
    if kind == "slurm-dag":
        from furu_async import SlurmDag

        return SlurmDag(**given)
    from furu_async import Local

    return Local(**given)


def job_lines(executor: ExecutorLike, nodes: Sequence[PlannedNode], *, shown: int | None) -> list[str]:
    """The Slurm jobs that would be submitted for a plan; none for a local executor."""
    from furu_async import Local

    if isinstance(executor, Local):
        return []
    from furu_async import SlurmDag, SlurmPool
    from furu_async._cli.jobs_table import dag_lines, pool_lines

    if isinstance(executor, SlurmPool):
        return pool_lines(nodes, executor.limit, executor.max_workers, executor.slots)
    if isinstance(executor, SlurmDag):
        return dag_lines(nodes, shown=shown)
    return []


def submission_lines(submission: SlurmDagSubmission) -> list[str]:
    """What was submitted, and how to go on."""
    jobs = sorted(set(submission.job_id_by_hash.values()), key=_by_number)
    shown = " ".join(jobs[:20]) + (f" … and {len(jobs) - 20:,} more" if len(jobs) > 20 else "")
    return [
        f"run {clean(submission.run_id)}: {number(len(jobs), 'job')} in Slurm: {shown}",
        f"targets: {' '.join(submission.root_job_ids)}",
        f"logs in {clean(submission.log_dir)}",
        "`furu-async run` with --executor slurm-dag and the same target follows them",
    ]


def _by_number(job_id: str) -> list[int]:
    return [int(part) for part in job_id.replace("+", "_").split("_") if part.isdigit()]
