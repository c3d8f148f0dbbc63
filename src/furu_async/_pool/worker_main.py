"""Main of a pool's worker: may it act, what does its controller want, and then `Pilot` until there is a reason to end.

A job may start that nobody waits for any more, on a node that does not see the store, or with other code than the
controller's. It finds that out before it touches anything, says so in its log, and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

import furu_async
from furu_async._executors.base import Node
from furu_async._executors.identity import Identity
from furu_async._executors.joined import like_the_controller
from furu_async._executors.local import Local, LocalExecutor, Mode
from furu_async._pool import queue, walltime
from furu_async._pool.entries import PoolSettings, WorkerStatus, worker_id
from furu_async._pool.pilot import Pilot
from furu_async._pool.work import PilotPlan
from furu_async._runtime import clock, exit_codes
from furu_async._runtime.blocking import DOOR
from furu_async._slurm.admission import JobIdentity, admitted, this_job
from furu_async._store import atomic, runs
from furu_async._store.layout import QueuePaths, RunPaths, WorkerPaths
from furu_async._store.records import Damaged, decode, encode
from furu_async.errors import FuruError

T = TypeVar("T")

_PATIENCE_SECS = 60.0
"""For what the file system of this node may not show or give yet."""

_RECORD_SECS = 10.0
"""For the record of its submission, which was there before the job was."""

_LOOK_SECS = 0.5
_SIGNALS = {
    signal.SIGTERM: "SIGTERM",
    signal.SIGINT: "SIGINT",
    signal.SIGUSR1: "SIGUSR1",
    signal.SIGUSR2: "SIGUSR2",
}


class _End(Exception):
    """The worker ends before it has begun.

    Attributes:
        code: to exit with.
    """

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class PoolLocal(LocalExecutor):
    """Runs every task in a child process, whatever mode its class asks of `Local`."""

    def mode_of(self, node: Node) -> Mode:
        """Always ``process``: what a task does must not stop the worker from hearing a signal."""
        return "process"


def log(text: str) -> None:
    """A line in the job's log."""
    print(f"{clock.utc(clock.wall())} {text}", flush=True)


def main(args: argparse.Namespace) -> int:
    """Work until there is a reason to end; the exit code."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("furu_async").addHandler(handler)
    try:
        return asyncio.run(_Worker(args).run())
    except _End as end:
        log(f"ending: {end}")
        return end.code
    except FuruError as error:
        log(f"cannot work: {error}")
        return exit_codes.CANNOT_START
    except Exception:
        log(f"an error of furu_async's own:\n{traceback.format_exc()}")
        return exit_codes.BUG


class _Worker:
    """One worker, from its command line to its end."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.root: str = os.path.abspath(args.root)
        self.paths = QueuePaths(self.root, args.home)
        self.job: JobIdentity = this_job() or JobIdentity(f"pid-{os.getpid()}", "")
        self.wid: str = worker_id(args.token, self.job.task, self.job.restarts)
        self._stopped: str = ""
        self._patient: bool = True
        self._pilot: Pilot | None = None

    async def run(self) -> int:
        self._listen()
        log(
            f"worker {self.wid} of pool {self.args.home}, job {self.job.id or 'none'}, spec {self.args.spec_key}"
        )
        await self._see_store()
        await self._ask_admission()
        try:
            settings = await self._settings()
        except _End as end:
            await self._say_ended(str(end))
            raise
        plan = PilotPlan(
            wid=self.wid,
            spec_key=self.args.spec_key,
            slots=self.args.slots,
            idle=self.args.idle,
            detached=self.args.detached,
            job_id=self.job.id,
            restart_count=self.job.restarts,
            walltime=await walltime.find(os.environ),
        )
        if self._stopped:
            raise _End(exit_codes.ENDED, self._stopped)
        pilot = self._pilot = self._make_pilot(plan, settings)
        why = await pilot.run()
        log(f"ended: {why} (after {pilot.work.finished} tasks)")
        return exit_codes.ENDED

    def _make_pilot(self, plan: PilotPlan, settings: PoolSettings) -> Pilot:
        config = settings.furu_config().with_path(self.root)
        logging.getLogger("furu_async").setLevel(config.log_level)
        like_the_controller(settings.path, settings.argv, settings.cwd, log)
        os.environ.update(config.environment())  # for child processes
        spool = f"{WorkerPaths(self.root, self.args.home, self.wid).base}/spool"
        identity = Identity(
            backend="pool",
            worker_id=self.wid,
            job_id=self.job.id,
            restart_count=self.job.restarts,
            spool=spool,
        )
        executor = PoolLocal(Local(workers=plan.slots), config, identity)
        return Pilot(plan, self.paths, config, executor, log)

    # -- signals ---------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number, name in _SIGNALS.items():
            loop.add_signal_handler(number, self._on_signal, name)

    def _on_signal(self, name: str) -> None:
        if self._pilot is None:
            self._stopped = name
        else:
            self._pilot.signal(name)

    # -- before it begins ------------------------------------------------------------------------------------

    async def _see_store(self) -> None:
        if not await self._until(lambda: os.path.isdir(self.root) or None):
            text = f"the store {self.root} cannot be seen from {os.uname().nodename}"
            raise _End(
                exit_codes.CANNOT_START, f"{text}: is it on a shared file system, mounted on this node?"
            )
        run = RunPaths(self.root, self.args.home).base
        if not await self._until(lambda: os.path.isdir(run) or None, _RECORD_SECS):
            text = f"{self.root} is there on {os.uname().nodename}, but not {run}"
            raise _End(exit_codes.CANNOT_START, f"{text}: is the shared file system mounted on this node?")

    async def _ask_admission(self) -> None:
        answer = await self._until(self._admission, _RECORD_SECS)
        if answer is None:
            text = f"{self.paths.base} cannot be read"
            raise _End(exit_codes.CANNOT_START, f"whether this job may act cannot be told: {text}")
        may, why = answer
        if not may:
            raise _End(exit_codes.ENDED, f"this job is not wanted: {why}")

    def _admission(self) -> tuple[bool, str] | None:
        """None: not to be told yet."""
        args = self.args
        run = RunPaths(self.root, args.home)
        seen = runs.look_run(run)
        if seen.verdict == "over" and not args.detached:
            return False, "its run has ended"
        if queue.is_closed(self.paths):
            return False, "its pool is closed"
        submission = run.submission(args.sid)
        if not atomic.exists(submission.attempt(args.number)) and not self._patient:
            return False, f"there is no record of it in {submission.base}"
        if not atomic.exists(submission.attempt(args.number)):
            return None
        return admitted(submission, args.number, args.token, self.job)

    async def _settings(self) -> PoolSettings:
        settings = await self._until(self._read_settings)
        if settings is None:
            raise _End(exit_codes.CANNOT_START, f"{self.paths.settings} cannot be read")
        if settings.library != furu_async.__version__:
            raise _End(
                exit_codes.VERSION_SKEW,
                f"version skew: the controller has furu_async {settings.library}, this worker "
                f"{furu_async.__version__} ({os.path.dirname(furu_async.__file__)})",
            )
        return settings

    def _read_settings(self) -> PoolSettings | None:
        path = self.paths.settings
        try:
            return decode(PoolSettings, atomic.read_bytes(path), path)
        except (FileNotFoundError, Damaged):
            return None

    async def _until(self, ask: Callable[[], T | None], seconds: float = _PATIENCE_SECS) -> T | None:
        """What ``ask`` says when it says something, off the loop; None if it does not in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        self._patient = True
        while True:
            if self._stopped:
                raise _End(exit_codes.ENDED, self._stopped)
            try:
                answer = await DOOR.files.run(ask, deadline=_PATIENCE_SECS)
            except OSError as error:  # a deadline that has passed, too
                answer = None
                log(f"the store does not answer: {error}")
            if answer is not None or not self._patient:
                return answer
            await asyncio.sleep(_LOOK_SECS)
            self._patient = loop.time() < until

    async def _say_ended(self, why: str) -> None:
        """For the controller, which may not see the job's log; best effort."""
        status = WorkerStatus(
            wid=self.wid,
            spec_key=self.args.spec_key,
            job_id=self.job.id,
            restart_count=self.job.restarts,
            host=os.uname().nodename,
            pid=os.getpid(),
            slots=self.args.slots,
            stage="ended",
            why=why,
        )
        path = WorkerPaths(self.root, self.args.home, self.wid).status
        try:
            await DOOR.files.run(atomic.replace, path, encode(status), deadline=_LOOK_SECS * 10)
        except OSError as error:
            log(f"{path} cannot be written: {error}")
