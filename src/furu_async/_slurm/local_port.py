"""This machine behind the port of Slurm: what ``cluster="local"`` means.

submitit writes the script of a job, as for Slurm, and ``bash`` runs it here. submitit's own local executor is not
used: its jobs are known only to the process that started them (nobody else can ask how one ended, or end it), a
cancelled one is interrupted once and may stay, and it knows neither dependencies nor held jobs. Here a small daemon
(`local_main`) looks after the jobs, which outlives the controller as Slurm does, is started when there is a job, and
leaves a moment after the last one. Jobs find ``SLURM_JOB_ID`` and the like in their environment, so that a worker need
not know the difference.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Mapping

from furu_async._runtime import clock
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._slurm import local_files as files
from furu_async._slurm.commands import clean_environment
from furu_async._slurm.local_files import LocalJob, LocalPaths
from furu_async._slurm.parameters import signal_secs
from furu_async._slurm.port import (
    Done,
    Found,
    JobRequest,
    JobRow,
    Limits,
    Refused,
    Rows,
    Silence,
    SubmitAnswer,
    Submitted,
    Unclear,
)
from furu_async._slurm.real import script
from furu_async._slurm.states import ENDED

_SECS = 30.0


class LocalPort:
    """See the module, and `SlurmPort` for the methods.

    Args:
        root: the store's; jobs are kept below it.
        at_once: how many jobs may run at the same time; 0: any number.
        env: environment of the jobs; None for this process's own.
    """

    def __init__(self, root: str, *, at_once: int = 0, env: Mapping[str, str] | None = None) -> None:
        self.paths: LocalPaths = LocalPaths.of(root)
        self._at_once = at_once
        self._env = env
        self._jobs: dict[int, LocalJob] = {}
        self._over: dict[str, JobRow] = {}

    async def submit(self, request: JobRequest) -> SubmitAnswer:
        """As `SlurmPort.submit`."""
        try:
            return await DOOR.process.run(self._submit, request, deadline=_SECS)
        except (BlockingTimeout, subprocess.TimeoutExpired) as error:
            return Unclear(str(error))
        except OSError as error:
            return Refused("limit", f"{error.filename or self.paths.base}: {error.strerror or error}")

    async def query(self) -> Rows | Silence:
        """As `SlurmPort.query`; no job is ever forgotten while others are newer."""
        try:
            return Rows(tuple(await DOOR.process.run(self._rows, deadline=_SECS)))
        except (BlockingTimeout, OSError, subprocess.TimeoutExpired) as error:
            return Silence(str(error))

    async def account(
        self, ids: Collection[str], names: Collection[str] = (), back_secs: float = 86400.0
    ) -> Rows | Silence:
        """There is none: `query` remembers."""
        return Silence("a single machine keeps no accounting", off=True)

    async def find(self, name: str) -> Found:
        """As `SlurmPort.find`."""
        answer = await self.query()
        if isinstance(answer, Silence):
            return Found((), False, answer.words)
        return Found(tuple(row for row in answer.rows if row.name == name))

    async def cancel(self, ids: Collection[str]) -> Done:
        """SIGTERM, and SIGKILL after ten seconds."""
        return await self._ask(ids, "cancel")

    async def hold(self, ids: Collection[str]) -> Done:
        """As `SlurmPort.hold`."""
        return await self._ask(ids, "hold")

    async def release(self, ids: Collection[str]) -> Done:
        """As `SlurmPort.release`."""
        return await self._ask(ids, "release")

    async def limits(self) -> Limits:
        """There are none worth speaking of."""
        return Limits(known=True)

    # -- blocking --------------------------------------------------------------------------------------------

    async def _ask(self, ids: Collection[str], verb: str) -> Done:
        try:
            await DOOR.process.run(self._leave, ids, verb, deadline=_SECS)
        except (BlockingTimeout, OSError, subprocess.TimeoutExpired) as error:
            return Done(False, str(error))
        return Done()

    def _leave(self, ids: Collection[str], verb: str) -> None:
        self.paths.make()
        for job_id in ids:
            files.ask(self.paths, job_id, verb)
        self._see_to_daemon()

    def _submit(self, request: JobRequest) -> SubmitAnswer:
        self.paths.make()
        options = request.options
        env = clean_environment(os.environ if self._env is None else self._env)
        limit = files.seconds(str(options.get("time", "")))
        job = LocalJob(
            name=request.name,
            script=script(request),
            array=_array(options.get("array")),
            cwd=os.getcwd(),
            env=files.keep_environment(env),
            log=str(options.get("output", "")),
            limit=limit,
            notice=float(signal_secs(limit / 60.0)),
            dependency=str(options.get("dependency", "")),
            hold=bool(options.get("hold", False)),
            at_once=self._at_once,
            submitted=int(clock.wall()),
        )
        try:
            job_id = files.add_job(self.paths, job)
        except OSError:
            files.forget_environment(self.paths, job.env)
            raise
        self._see_to_daemon()
        return Submitted(job_id)

    def _see_to_daemon(self) -> None:
        if files.daemon_lives(self.paths) and files.wake(self.paths):
            return
        with open(self.paths.log, "ab") as log:
            starter = subprocess.Popen(
                [sys.executable, "-m", "furu_async._slurm.local_main", self.paths.base],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_plain_environment(),
                start_new_session=True,
            )
        starter.wait(_SECS)  # it forks, so that the daemon is nobody's child

    def _rows(self) -> list[JobRow]:
        rows = []
        unfinished = False
        ids = files.job_ids(self.paths)
        for job_id in ids:
            job = self._jobs.get(job_id) or files.read_job(self.paths, job_id)
            if job is None:
                continue
            self._jobs[job_id] = job
            for task in job.tasks(str(job_id)):
                row = self._over.get(task) or self._row(job, task)
                unfinished = unfinished or row.state not in ENDED
                rows.append(row)
        if unfinished and not files.daemon_lives(self.paths):
            self._see_to_daemon()
        if len(self._jobs) > 2 * len(ids):
            self._jobs = {job_id: self._jobs[job_id] for job_id in ids if job_id in self._jobs}
            self._over = {row.id: row for row in rows if row.state in ENDED}
        return rows

    def _row(self, job: LocalJob, task: str) -> JobRow:
        said = files.read_state(self.paths, task) or files.LocalState(state="PENDING")
        row = JobRow(
            id=task,
            name=job.name,
            state=said.state,
            reason=said.reason,
            restarts=0,
            submitted=job.submitted,
            nodes=os.uname().nodename if said.pid else "",
            exit_code=said.exit_code,
            signal=said.signal,
        )
        if said.state in ENDED:
            self._over[task] = row
        return row


def _plain_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")
        or name.startswith("LC_")
    }


def _array(value: str | bool | None) -> int:
    """Tasks of ``0-7`` or ``0-7%2``; 0 for no array."""
    if not isinstance(value, str):
        return 0
    return int(value.partition("%")[0].rpartition("-")[2]) + 1
