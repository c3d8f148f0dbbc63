"""A simulated Slurm: the same port, in this process, on the loop's time, and with every misfortune on demand.

Jobs are coroutines. What the commands show may lag; ``sbatch`` may fail and submit all the same; the controller may be
stopped, killed, or forget; nodes may fail while their jobs live on. What it does where nothing goes wrong follows the
real one: `tests/contract/test_slurm_contract.py` runs on both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable

from furu_async._slurm.answers import read_sbatch
from furu_async._slurm.port import Done, Found, JobRequest, JobRow, Limits, Rows, Silence, SubmitAnswer
from furu_async._testing.slurm_controller import Mishap, SimController
from furu_async._testing.slurm_jobs import Copy, Program, SimJob, SimSettings, shell

__all__ = ["Copy", "Mishap", "Program", "SimJob", "SimSettings", "SimulatedSlurm", "shell"]

_FAILED = "sbatch: error: Batch job submission failed: "
_TIMED_OUT = "Socket timed out on send/recv operation"
_UNREACHABLE = "Unable to contact slurm controller (connect failure)"
_NO_DATABASE = "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection"


class SimulatedSlurm(SimController):
    """See the module; see `SlurmPort` for the methods.

    Args:
        program: what jobs do; by default what a shell would do with their command line, as far as `shell` knows it.

    Attributes:
        counts: how often each verb of the port was used.
        copies: of all jobs ever started, in order, also those that Slurm has lost sight of.
        controller: ``up``; ``stopped``: requests reach it and are answered when it goes on; ``dead``.
        accounting: ``on``; ``down``; ``off``: none is kept.
    """

    async def submit(self, request: JobRequest) -> SubmitAnswer:
        """As `SlurmPort.submit`."""
        self.counts["submit"] += 1
        await asyncio.sleep(0.01)
        if self._mishaps:
            mishap, delay = self._mishaps.pop(0)
            if mishap == "ghost":
                self._loop.call_later(delay, self._accept, request)
            return read_sbatch(1, "", _FAILED + _TIMED_OUT)
        if self.controller == "stopped":
            self._backlog.append(request)
            await asyncio.sleep(self.settings.message_timeout)
            return read_sbatch(1, "", _FAILED + _TIMED_OUT)
        if self.controller == "dead":
            return read_sbatch(1, "", _FAILED + _UNREACHABLE)
        return self._accept(request)

    async def query(self) -> Rows | Silence:
        """As `SlurmPort.query`."""
        self.counts["query"] += 1
        silence = await self._silence("squeue: error: slurm_load_jobs error: ")
        if silence is not None:
            return silence
        at = self._loop.time() - self.settings.queue_lag
        rows = (_as_of(job.seen, at) for job in (*self._jobs.values(), *self._forgotten))
        return Rows(tuple(row for row in rows if row is not None))

    async def account(
        self, ids: Collection[str], names: Collection[str] = (), back_secs: float = 86400.0
    ) -> Rows | Silence:
        """As `SlurmPort.account`."""
        self.counts["account"] += 1
        await asyncio.sleep(0.05)
        if self.accounting == "off":
            return Silence("sacct: Slurm accounting storage is disabled", off=True)
        if self.accounting != "on":
            return Silence(
                "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection"
            )
        at = self._loop.time() - self.settings.acct_lag
        rows = [row for row in (_as_of(record, at) for record in self._records) if row is not None]
        wanted = [row for row in rows if row.id in ids or row.base_id in ids or row.name in names]
        return Rows(tuple(sorted(wanted, key=lambda row: row.submitted)))

    async def find(self, name: str) -> Found:
        """As `SlurmPort.find`."""
        self.counts["find"] += 1
        queue = await self.query()
        if isinstance(queue, Silence):
            return Found((), False, queue.words)
        rows = tuple(row for row in queue.rows if row.name == name)
        if not rows:
            accounting = await self.account((), [name])
            rows = accounting.rows if isinstance(accounting, Rows) else ()
        return Found(rows)

    async def cancel(self, ids: Collection[str]) -> Done:
        """As `SlurmPort.cancel`."""
        return await self._change("scancel", ids, self.scancel)

    async def hold(self, ids: Collection[str]) -> Done:
        """As `SlurmPort.hold`."""
        return await self._change("hold", ids, lambda job: self._set_held(job, True))

    async def release(self, ids: Collection[str]) -> Done:
        """As `SlurmPort.release`."""
        return await self._change("release", ids, lambda job: self._set_held(job, False))

    async def limits(self) -> Limits:
        """As `SlurmPort.limits`."""
        if await self._silence("") is not None:
            return Limits()
        settings = self.settings
        return Limits(
            max_array_size=settings.max_array_size,
            max_job_count=settings.max_job_count,
            min_job_age=settings.min_job_age,
            message_timeout=settings.message_timeout,
            known=True,
        )

    async def _silence(self, command: str) -> Silence | None:
        await asyncio.sleep(0.01)
        if self.controller == "stopped":
            await asyncio.sleep(self.settings.message_timeout)
            return Silence(command + _TIMED_OUT)
        return Silence(command + _UNREACHABLE) if self.controller == "dead" else None

    async def _change(self, verb: str, ids: Collection[str], change: Callable[[SimJob], None]) -> Done:
        self.counts[verb] += 1
        silence = await self._silence(f"{verb}: error: ")
        if silence is not None:
            return Done(False, silence.words)
        for each in ids:
            for job in self._of(each):
                change(job)
        return Done()


def _as_of(seen: Iterable[tuple[float, JobRow | None]], at: float) -> JobRow | None:
    latest: JobRow | None = None
    for when, row in seen:
        if when > at:
            break
        latest = row
    return latest
