"""What runs in Slurm jobs: ``python -m furu_async.worker pool ...`` or ``dag ...``; arguments are plain data."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

__all__ = ["main"]

_MAINS = {"dag": "furu_async._dag.job_main", "pool": "furu_async._pool.worker_main"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker or job to its end; the code that the process is to exit with (`_runtime.exit_codes`)."""
    return _work(_parser().parse_args(argv))


def _work(args: argparse.Namespace) -> int:
    module: Any = import_module(_MAINS[args.command])
    gc.enable()
    code: int = module.main(args)
    return code


def run() -> NoReturn:
    """The process of a job, or of what it forks, from its first import to its end."""
    gc.disable()  # nothing of what is imported is ever garbage; `_work` and a forked child turn it on
    args = _parser().parse_args()
    from furu_async._runner import spares

    fork = spares.prepare()
    code = fork() if fork is not None else _work(args)
    if fork is not None:
        threading._shutdown()  # type: ignore[attr-defined]  # a user's threads
    # What is to be written is written: whoever waits for this process need not wait for the end of its interpreter.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # there is none, it is full, it is closed
            stream.flush()
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m furu_async.worker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pool = commands.add_parser("pool", help="take tasks from a pool's queue")
    pool.add_argument("--root", required=True, help="the store's root")
    pool.add_argument("--home", required=True, help="the run in whose folder the queue is")
    pool.add_argument("--sid", required=True, help="the submission that this job belongs to")
    pool.add_argument("--try", dest="number", type=int, default=1, help="which try of it")
    pool.add_argument("--token", required=True, help="of that try")
    pool.add_argument("--spec-key", required=True, help="the spec whose tasks to take")
    pool.add_argument("--slots", type=int, default=1, help="tasks at the same time")
    pool.add_argument("--idle", type=float, default=60.0, help="seconds without work after which to end")
    pool.add_argument("--detached", action="store_true", help="go on without a controller")
    dag = commands.add_parser("dag", help="compute one node of a DAG")
    dag.add_argument("--root", required=True, help="the store's root")
    dag.add_argument("--run", required=True, help="the run that wants it")
    dag.add_argument("--sid", required=True, help="the submission that this job belongs to")
    dag.add_argument("--try", dest="number", type=int, default=1, help="which try of it")
    dag.add_argument("--token", required=True, help="of that try")
    return parser


if __name__ == "__main__":
    run()
