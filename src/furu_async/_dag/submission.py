"""`submit_dag`: wire a DAG in Slurm, and leave; what it returns can wait for the end, or cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from furu_async._dag.dag import SlurmDag
from furu_async._dag.executor import DagExecutor
from furu_async._dag.submitting import log_dir
from furu_async._executors.arguments import check_config, check_targets
from furu_async._executors.runs import Run
from furu_async._executors.scheduler import Scheduler
from furu_async._model import context
from furu_async._model.artifact import Furu
from furu_async._runtime.config import FuruConfig, active_config
from furu_async._store.layout import RunPaths
from furu_async.errors import FuruDefinitionError, FuruRunCancelled
from furu_async.report import RunReport


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmDagSubmission:
    """A DAG that is in Slurm, and goes on without this process.

    Attributes:
        run_id: name of the run, also of its folder.
        log_dir: where the jobs' output goes.
        job_id_by_hash: of each node that has a job, by ``furu_hash``: the id of its present job, also of one that was
            submitted by another run.
        root_job_ids: jobs of the targets.
        report: if there was nothing to submit, or the run has ended already.
    """

    run_id: str
    log_dir: str
    job_id_by_hash: dict[str, str]
    root_job_ids: tuple[str, ...]
    report: RunReport | None = None
    _targets: tuple[Furu[Any], ...] = field(default=(), repr=False)
    _executor: SlurmDag = field(default_factory=SlurmDag, repr=False)
    _options: dict[str, Any] = field(default_factory=dict, repr=False, hash=False)

    async def wait(self, *, check: bool = True) -> RunReport:
        """Follow the run to its end, as `run_dag` with the same targets does: jobs are joined, not submitted again.

        Args:
            check: raise if a node failed.

        Raises:
            FuruRunFailed: with ``check``, a node failed.
            asyncio.CancelledError: the jobs go on; wait again to join them again.
        """
        if self.report is not None and self.report.ok:
            return self.report
        async with Scheduler(self._executor, config=self._options["config"]) as scheduler:
            run = scheduler.start(self._targets, check=check, on_cancel="detach", **self._options)
            return await _unless_left(scheduler, run)

    async def cancel(self) -> RunReport:
        """Cancel all jobs of the run that are left, and end it; within 30 s."""
        if self.report is not None:
            return self.report
        options = {**self._options, "rerun": ()}
        async with Scheduler(self._executor, config=self._options["config"]) as scheduler:
            run = scheduler.start(self._targets, check=False, **options)
            executor = scheduler.executor
            assert isinstance(executor, DagExecutor)
            joined = asyncio.ensure_future(executor.submitted())
            ended = asyncio.ensure_future(run.ended())
            await asyncio.wait([joined, ended], return_when=asyncio.FIRST_COMPLETED)
            run.cancel()
            joined.cancel()
            await ended
            report = run.report
        assert report is not None
        return report


async def submit_dag(
    targets: Furu[Any] | Iterable[Furu[Any]],
    *,
    executor: SlurmDag | None = None,
    config: FuruConfig | None = None,
    retry_failed: bool | None = None,
    retries: int | None = None,
    rerun: Sequence[str] = (),
) -> SlurmDagSubmission:
    """Submit one Slurm job for each node that has to be computed, wired with ``afterok``, and return.

    Returns when all jobs are in Slurm and released; a DAG with more jobs than the cluster takes at a time goes in
    waves, so that takes until the last of them is in. What needs somebody who follows the run (another specification
    after a timeout, a job in place of one that was lost) waits for `SlurmDagSubmission.wait`, or for `run_dag` with the
    same targets.

    Args:
        targets: an artifact or several.
        executor: default `SlurmDag()`.
        config: settings; default: the active ones.
        retry_failed, retries, rerun: as of `run_dag`.

    Raises:
        FuruDefinitionError: an argument, a class or the DAG is wrong; nothing was submitted.
        FuruExecutorError: a dependency is being computed where no job can wait for it; Slurm does not work.
        asyncio.CancelledError: what was submitted has been cancelled.
    """
    context.refuse_while_importing("submit_dag")
    dag = executor if executor is not None else SlurmDag()
    if not isinstance(dag, SlurmDag):
        raise FuruDefinitionError(f"submit_dag(executor={executor!r}): use SlurmDag(...)")
    settings = check_config(config) or active_config()
    objs = check_targets(targets)
    options: dict[str, Any] = {"config": settings, "retry_failed": retry_failed, "retries": retries}
    async with Scheduler(dag, config=settings) as scheduler:
        run = scheduler.start(objs, check=False, rerun=rerun, **options)
        jobs = await _submitted(scheduler, run)
        report = run.report
        run.detach()
        await run.ended()
        if report is not None:
            run.result()
    return SlurmDagSubmission(
        run_id=run.run_id,
        log_dir=log_dir(RunPaths(str(settings.path), run.run_id)),
        job_id_by_hash=jobs,
        root_job_ids=tuple(jobs[obj.furu_hash] for obj in objs if obj.furu_hash in jobs),
        report=report,
        _targets=tuple(objs),
        _executor=dag,
        _options=options,
    )


async def _submitted(scheduler: Scheduler, run: Run) -> dict[str, str]:
    """Wait until all is in Slurm, or the run has ended; the jobs by node."""
    executor = scheduler.executor
    assert isinstance(executor, DagExecutor)
    submitting = asyncio.ensure_future(executor.submitted())
    ended = asyncio.ensure_future(run.ended())
    try:
        await asyncio.wait([submitting, ended], return_when=asyncio.FIRST_COMPLETED)
        if not submitting.done():
            return {}
        dag = submitting.result()
        found = {digest: track.job_id for digest, track in dag.tracks.items() if track.job_id}
        foreign = {digest: item.job for digest, item in dag.wiring.items.items() if item.job}
        return {**foreign, **found}
    finally:
        submitting.cancel()
        ended.cancel()
        await asyncio.gather(submitting, ended, return_exceptions=True)


async def _unless_left(scheduler: Scheduler, run: Run) -> RunReport:
    try:
        return await run
    except asyncio.CancelledError:
        await scheduler.aclose()
        raise
    except FuruRunCancelled as error:
        if run.detached:
            raise FuruRunCancelled(f"run {run.run_id} was left: its jobs go on", "", error.report) from None
        raise
