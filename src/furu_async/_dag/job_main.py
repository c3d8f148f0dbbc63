"""Main of a node's job: which one it is, whether it may act, and what its controller's process was like."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import furu_async
from furu_async._dag import orders
from furu_async._dag.job import PATIENCE_SECS, STORE_SECS, Assignment, JobExecutor, NodeJob, assigned
from furu_async._executors.identity import Identity
from furu_async._executors.joined import like_the_controller
from furu_async._executors.local import Local, LocalExecutor
from furu_async._model.artifact import Furu
from furu_async._pool.objects_log import Table
from furu_async._runtime import clock, exit_codes
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import FuruConfig, use_config
from furu_async._slurm.admission import JobIdentity, admitted, this_job
from furu_async._store.layout import RunPaths

T = TypeVar("T")

_PAUSE = 1.0


def say(text: str) -> None:
    """A line in the job's log."""
    print(f"{clock.utc(clock.wall())} {text}", flush=True)


def main(args: argparse.Namespace) -> int:
    """Compute the node; the exit code."""
    job = this_job() or JobIdentity("local", "local")
    paths = RunPaths(args.root, args.run)
    say(f"job {job.id}, start {job.restarts + 1}, of run {args.run} on {os.uname().nodename}")
    try:
        return asyncio.run(_main(args, paths, job))
    except OSError as error:
        say(f"the store {args.root} cannot be used: {error}")
        return exit_codes.CANNOT_START


async def _main(args: argparse.Namespace, paths: RunPaths, job: JobIdentity) -> int:
    submission = paths.submission(args.sid)
    ok, why = await _patiently(lambda: admitted(submission, args.number, args.token, job))
    if not ok:
        say(f"it may not act: {why}")
        return exit_codes.NOT_WANTED
    settings = await _patiently(lambda: orders.read_settings(paths))
    order = await _patiently(lambda: orders.read_order(submission))
    node = assigned(order, job) if order is not None else None
    if settings is None or node is None:
        missing = orders.settings_path(paths) if settings is None else orders.order_path(submission)
        say(f"{missing} is missing, damaged, or says nothing about this job; its controller wrote it before")
        return exit_codes.CANNOT_START
    config = FuruConfig(**settings.config)
    like_the_controller(settings.path, settings.argv, settings.cwd, say)
    table = Table(orders.objects_path(paths))

    def load(wanted: str) -> Furu[Any]:
        table.has(wanted)
        return table.get(wanted)

    work = NodeJob(
        Assignment(
            root=args.root,
            run_id=args.run,
            sid=args.sid,
            node=node,
            job=job,
            config=config,
            policy=orders.policy_of(settings),
            load=load,
        ),
        open_local,
        say,
    )
    if settings.library != furu_async.__version__:
        say(f"furu_async {furu_async.__version__} here, {settings.library} where the run was started")
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, work.stop, "SIGTERM")
    loop.add_signal_handler(signal.SIGINT, work.stop, "SIGINT")
    loop.add_signal_handler(signal.SIGUSR2, work.warn)
    with use_config(config):
        return await work.run()


async def _patiently(step: Callable[[], T]) -> T:
    """A step on the store, again and again while that gives errors."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_SECS
    while True:
        try:
            return await DOOR.files.run(step, deadline=STORE_SECS)
        except (OSError, TimeoutError) as error:
            if loop.time() >= until:
                raise OSError(str(error)) from error
            say(f"tried again: {error}")
        await asyncio.sleep(_PAUSE)


def open_local(one: Assignment) -> JobExecutor:
    """An executor for one node, which works for the run of a controller elsewhere."""
    identity = Identity(backend="dag", worker_id=one.wid, job_id=one.job.id, restart_count=one.job.restarts)
    return LocalExecutor(Local(workers=1), one.config, identity)
