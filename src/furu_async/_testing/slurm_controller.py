"""The controller and the nodes of the simulated Slurm: its jobs, what becomes of them, and what a test can do to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Literal

from furu_async._slurm.answers import read_sbatch
from furu_async._slurm.port import JobRequest, JobRow, SubmitAnswer, Submitted, base_id
from furu_async._testing.slurm_jobs import (
    EPOCH,
    Copy,
    Program,
    SimJob,
    SimSettings,
    dependencies,
    shell,
    tasks_of,
    walltime,
)

_FAILED = "sbatch: error: Batch job submission failed: "
_FULL = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
_POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"

Mishap = Literal["ghost", "lost"]


class SimController:
    """What a simulated cluster is without the commands that speak to it; see `SimulatedSlurm`."""

    def __init__(self, settings: SimSettings | None = None, program: Program = shell) -> None:
        self.settings: SimSettings = settings or SimSettings()
        self.program: Program = program
        self.counts: Counter[str] = Counter()
        self.copies: list[Copy] = []
        self.controller: Literal["up", "stopped", "dead"] = "up"
        self.accounting: str = self.settings.accounting
        self.down: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[str, SimJob] = {}
        self._forgotten: list[SimJob] = []
        self._records: list[list[tuple[float, JobRow]]] = []
        self._next_id = 1
        self._mishaps: list[tuple[Mishap, float]] = []
        self._backlog: list[JobRequest] = []
        self._scheduled = False

    # -- what a test can do ----------------------------------------------------------------------------------

    def mishap(self, kind: Mishap, delay: float = 1.0) -> None:
        """The next ``sbatch`` times out; a ``ghost`` is submitted all the same, ``delay`` seconds later."""
        self._mishaps.append((kind, delay))

    def stop_controller(self) -> None:
        """SIGSTOP: requests time out, and those to submit are carried out when it goes on."""
        self.controller = "stopped"

    def kill_controller(self) -> None:
        """SIGKILL: nobody answers; jobs go on."""
        self.controller = "dead"

    def start_controller(self) -> None:
        """SIGCONT, or a restart."""
        self.controller = "up"
        backlog, self._backlog = self._backlog, []
        for request in backlog:
            self._accept(request)
        self._schedule_soon()

    def job(self, job_id: str) -> SimJob:
        """One job that the controller knows."""
        return self._jobs[job_id]

    @property
    def jobs(self) -> list[SimJob]:
        """All jobs that the controller knows, ended ones too."""
        return list(self._jobs.values())

    @property
    def living(self) -> list[Copy]:
        """Programs that run, whether Slurm knows of them or not."""
        return [copy for copy in self.copies if copy.task is not None and not copy.task.done()]

    def scancel(self, job: SimJob | str) -> None:
        """Cancel a job, as anybody might."""
        job = self._jobs[job] if isinstance(job, str) else job
        if job.copy is None and not job.ended:
            self._end(job, "CANCELLED")
        elif not job.ended:
            self._terminate(job, "CANCELLED")

    def requeue(self, job_id: str, *, hold: str = "") -> None:
        """``scontrol requeue``, or with ``hold`` (``JobHeldUser``, ``SPECIAL_EXIT``) ``requeuehold``."""
        job = self._jobs[job_id]
        if job.copy is None:
            self._again(job, "REQUEUED", hold)
        else:
            self._terminate(job, f"REQUEUED {hold}".strip())

    def preempt(self, job_id: str) -> None:
        """A job of a higher partition takes its place."""
        job = self._jobs[job_id]
        self._terminate(job, "AGAIN PREEMPTED" if self.settings.requeue else "PREEMPTED")

    def fail_node(self, node: str) -> None:
        """The controller gives a node up. What runs there lives on, and is started again elsewhere."""
        self.down.add(node)
        for job in [each for each in self._jobs.values() if each.node == node and each.copy is not None]:
            assert job.copy is not None
            job.copy.lost = True
            job.copy = None
            if self.settings.requeue:
                self._again(job, "NODE_FAIL")
            else:
                self._end(job, "NODE_FAIL")

    def resume_node(self, node: str) -> None:
        """It is back; what still ran there is ended."""
        self.down.discard(node)
        for copy in self.living:
            if copy.node == node and copy.lost:
                copy.kill()
        self._schedule_soon()

    def force(self, job_id: str, state: str, reason: str = "None") -> None:
        """Show a job in any state, for the states that do not come by themselves."""
        job = self._jobs[job_id]
        job.state, job.reason = state, reason
        self._touch(job)

    def purge(self, job_id: str) -> None:
        """The controller forgets an ended job, as it does by itself after ``min_job_age``."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            job.purged = True
            job.seen.append((self._loop.time(), None))
            self._forgotten.append(job)

    def forget_everything(self) -> None:
        """The controller's state is lost: jobs are ended, ids begin again. Accounting stays."""
        for job in list(self._jobs.values()):
            if job.copy is not None:
                job.copy.lost = True
                job.copy.kill()
            job.copy = None
            self.purge(job.id)
        self._next_id = 1

    # -- the controller --------------------------------------------------------------------------------------

    def _of(self, job_id: str) -> list[SimJob]:
        if job_id in self._jobs:
            return [self._jobs[job_id]]
        return [job for job in self._jobs.values() if str(job.base) == base_id(job_id) == job_id]

    def _accept(self, request: JobRequest) -> SubmitAnswer:
        settings = self.settings
        partition = request.options.get("partition", settings.partitions[0])
        if partition not in settings.partitions:
            return read_sbatch(1, "", f"{_FAILED}Invalid partition name specified")
        try:
            tasks = tasks_of(request)
        except ValueError:
            tasks = []
        if not tasks or max(tasks) >= settings.max_array_size:
            return read_sbatch(1, "", f"{_FAILED}Invalid job array specification")
        live = sum(not job.ended for job in self._jobs.values())
        if settings.max_submit and live + len(tasks) > settings.max_submit:
            return read_sbatch(1, "", f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{_FAILED}{_POLICY}")
        if len(self._jobs) + len(tasks) > settings.max_job_count:
            return read_sbatch(None, "", _FULL)
        base, self._next_id = self._next_id, self._next_id + 1
        for task in tasks:
            job = SimJob(base, task, request, self._now())
            job.held = bool(request.options.get("hold"))
            job.reason = "JobHeldUser" if job.held else "None"
            self._jobs[job.id] = job
            self._new_record(job)
            self._touch(job)
        self._schedule_soon()
        return Submitted(str(base))

    def _now(self) -> int:
        return EPOCH + int(self._loop.time())

    def _touch(self, job: SimJob, accounted: JobRow | None = None) -> None:
        now = self._loop.time()
        if not job.purged:
            job.seen.append((now, job.row()))
        state = "CANCELLED by 1000" if job.state == "CANCELLED" else job.state
        job.record.append((now, accounted or job.row(state)))

    def _new_record(self, job: SimJob) -> None:
        job.record = []
        self._records.append(job.record)

    def _set_held(self, job: SimJob, held: bool) -> None:
        if job.ended or job.copy is not None:
            return
        job.held, job.state, job.reason = held, "PENDING", "JobHeldUser" if held else "None"
        self._touch(job)
        self._schedule_soon()

    def _schedule_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._schedule)

    def _schedule(self) -> None:
        self._scheduled = False
        if self.controller != "up":
            return
        for job in sorted(self._jobs.values(), key=lambda each: (each.base, each.task)):
            if job.state != "PENDING" or job.held or job.copy is not None:
                continue
            reason = self._why_not(job)
            if reason == "":
                self._start(job)
            elif (
                reason == "DependencyNeverSatisfied"
                and job.request.options.get("kill-on-invalid-dep") == "yes"
            ):
                job.reason = reason
                self._end(job, "CANCELLED", accounted=job.row("CANCELLED", "Dependency"))
            elif reason != job.reason:
                job.reason = reason
                self._touch(job)

    def _why_not(self, job: SimJob) -> str:
        for kind, bases in dependencies(job.request):
            answer = self._dependency(job, kind, bases)
            if answer:
                return answer
        if job.begin_at > self._loop.time():
            return "BeginTime"
        return "" if self._free_node() else "Resources"

    def _dependency(self, job: SimJob, kind: str, bases: list[int]) -> str:
        """Jobs that the controller does not know any more count as what was wanted of them."""
        if kind == "singleton":
            same = (each for each in self._jobs.values() if each.name == job.name and each.base < job.base)
            return "Dependency" if any(not each.ended for each in same) else ""
        parents = [each for each in self._jobs.values() if each.base in bases]
        if kind == "afterok" and any(each.ended and each.state != "COMPLETED" for each in parents):
            return "DependencyNeverSatisfied"
        return "Dependency" if any(not each.ended for each in parents) else ""

    def _free_node(self) -> str:
        used = Counter(job.node for job in self._jobs.values() if job.copy is not None)
        for node in self.settings.nodes:
            if node not in self.down and used[node] < self.settings.slots:
                return node
        return ""

    def _start(self, job: SimJob) -> None:
        job.state, job.reason, job.node = "RUNNING", "None", self._free_node()
        copy = job.copy = Copy(job, job.node)
        job.generation += 1
        self.copies.append(copy)
        copy.task = self._loop.create_task(self._run(copy), name=f"simulated job {job.id} r{job.restarts}")
        copy.task.add_done_callback(lambda task: self._copy_ended(job, copy, task))
        limit = walltime(job.request)
        notice = float(str(job.request.options.get("signal", "@0")).rpartition("@")[2])
        if limit > notice > 0:
            self._loop.call_later(limit - notice, copy.warned.set)
        self._loop.call_later(limit, self._time_out, job, copy)
        self._touch(job)

    async def _run(self, copy: Copy) -> int:
        await asyncio.sleep(self.settings.start_secs)
        return await self.program(copy)

    def _time_out(self, job: SimJob, copy: Copy) -> None:
        if job.copy is copy and not job.ending:
            self._terminate(job, "TIMEOUT")

    def _terminate(self, job: SimJob, then: str) -> None:
        """SIGTERM, and SIGKILL after a while; then the job is what was wanted."""
        copy = job.copy
        if copy is None:
            return
        if job.ending:
            job.ending = then if then == "CANCELLED" else job.ending
            return
        job.ending, job.state = then, "COMPLETING"
        self._touch(job)
        copy.term.set()
        self._loop.call_later(self.settings.kill_wait, copy.kill)

    def _copy_ended(self, job: SimJob, copy: Copy, task: asyncio.Task[int]) -> None:
        signal = 9 if copy.killed else 0
        code = 0 if task.cancelled() else (1 if task.exception() is not None else task.result())
        if copy.lost or job.copy is not copy:
            return
        job.copy = None
        then, job.ending = job.ending, ""
        job.exit_code, job.signal = code, signal
        if then.startswith("REQUEUED"):
            self._again(job, "REQUEUED", then.removeprefix("REQUEUED").strip())
        elif then.startswith("AGAIN"):
            self._again(job, then.removeprefix("AGAIN").strip())
        elif then:
            self._end(job, then)
        else:
            self._end(job, "COMPLETED" if code == 0 and not signal else "FAILED")

    def _again(self, job: SimJob, accounted: str, hold: str = "") -> None:
        self._touch(job, job.row(accounted))
        before = job.submitted
        job.restarts += 1
        job.submitted = max(self._now(), before + 1)
        job.node, job.exit_code, job.signal = "", None, None
        job.state, job.reason, job.held = "PENDING", "BeginTime", bool(hold)
        if hold == "SPECIAL_EXIT":
            job.state, job.reason = "SPECIAL_EXIT", "JobHeldUser"
        elif hold:
            job.reason = hold
        job.begin_at = self._loop.time() + self.settings.requeue_delay
        self._loop.call_at(job.begin_at + 0.001, self._schedule_soon)
        self._new_record(job)
        self._touch(job)
        self._schedule_soon()

    def _end(self, job: SimJob, state: str, accounted: JobRow | None = None) -> None:
        job.state = state
        if job.exit_code is None:
            job.exit_code, job.signal = 0, 0
        self._touch(job, accounted)
        generation = job.generation
        self._loop.call_later(self.settings.min_job_age, self._purge_ended, job, generation)
        self._schedule_soon()

    def _purge_ended(self, job: SimJob, generation: int) -> None:
        if job.ended and job.generation == generation and self._jobs.get(job.id) is job:
            self.purge(job.id)
