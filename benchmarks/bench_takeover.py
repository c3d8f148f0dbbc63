"""How soon work goes on after a death: from the SIGKILL to the moment when ``_create`` runs again.

Usage: ``python benchmarks/bench_takeover.py [--repeat K]``.

Each figure is a median. Exit code 1 if one is over its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from furu_async import Furu, FuruConfig, Local, run_dag

WAIT_SECS = 60.0


class Held(Furu[int]):
    """Notes who began with it and when; ends when the file ``hold`` is away."""

    folder: str

    def _create(self) -> int:
        with open(f"{self.folder}/begun", "a") as file:
            file.write(f"{time.monotonic()} {os.getpid()}\n")
        while os.path.exists(f"{self.folder}/hold"):
            time.sleep(0.002)
        return 1


def begun(folder: str) -> list[tuple[float, int]]:
    """When ``_create`` began, on the clock that all processes of this machine share, and in which process."""
    try:
        lines = Path(folder, "begun").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(float(line.split()[0]), int(line.split()[1])) for line in lines]


def await_begun(folder: str, times: int) -> tuple[float, int]:
    """Wait until ``_create`` has begun so often; the last of them."""
    deadline = time.monotonic() + WAIT_SECS
    while len(begun(folder)) < times:
        if time.monotonic() > deadline:
            raise SystemExit(f"_create did not begin within {WAIT_SECS:g} s; look at {folder}")
        time.sleep(0.002)
    return begun(folder)[times - 1]


def run(folder: str) -> None:
    """Have it computed by this process."""
    config = FuruConfig(path=Path(folder, "store"), record_git="off")
    asyncio.run(run_dag(Held(folder=folder), executor=Local(workers=1), config=config, progress=False))


def start(folder: str) -> subprocess.Popen[bytes]:
    """Have it computed by a process of its own."""
    return subprocess.Popen([sys.executable, __file__, "--run", folder])


def kill(*pids: int) -> float:
    """SIGKILL; when that was."""
    at = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return at


def keeper_of(pid: int) -> int:
    """The keeper of a controller."""
    (found,) = [
        each.pid for each in psutil.Process(pid).children() if "keeper_main" in " ".join(each.cmdline())
    ]
    return found


def worker_killed(folder: str) -> float:
    """The child is killed; its controller starts the task again."""
    owner = start(folder)
    at = kill(await_begun(folder, 1)[1])
    again, _ = await_begun(folder, 2)
    os.unlink(f"{folder}/hold")
    owner.wait(WAIT_SECS)
    return again - at


def taken_over(folder: str, keeper: bool, imported: bool) -> float:
    """The controller is killed, with its keeper or without; the same call is made again.

    Args:
        imported: by this process, else by a fresh interpreter.
    """
    owner = start(folder)
    await_begun(folder, 1)
    pids = [owner.pid, keeper_of(owner.pid)] if keeper else [owner.pid]
    os.unlink(f"{folder}/hold")  # the second time it need not last
    at = kill(*pids)
    if imported:
        run(folder)
    else:
        start(folder).wait(WAIT_SECS)
    owner.wait(WAIT_SECS)
    found = [moment for moment, _ in begun(folder) if moment > at]
    if not found:
        raise SystemExit(f"nothing was computed after the kill; look at {folder}")
    return found[0] - at


FIGURES: list[tuple[str, Callable[[str], float], float]] = [
    ("killed worker: its task runs again", worker_killed, 1.0),
    ("killed controller: process that has imported", lambda at: taken_over(at, False, True), 2.0),
    ("killed controller: from process start", lambda at: taken_over(at, False, False), 2.0),
    ("killed controller and keeper: imported", lambda at: taken_over(at, True, True), 2.0),
    ("killed controller and keeper: process start", lambda at: taken_over(at, True, False), 2.0),
]


def main() -> None:
    """Print the table; say which figure is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dir", default=None, help="folder on the file system to measure")
    parser.add_argument("--run", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run)
        return
    base = tempfile.mkdtemp(prefix="furu-bench-", dir=options.dir)
    over = False
    print(f"medians of {options.repeat}, most in parentheses")
    for number, (what, measure, limit) in enumerate(FIGURES):
        seconds = []
        for k in range(options.repeat):
            folder = f"{base}/{number}-{k}"
            os.mkdir(folder)
            Path(folder, "hold").touch()
            seconds.append(measure(folder))
        middle = statistics.median(seconds)
        over |= middle > limit
        bad = "   OVER" if middle > limit else ""
        print(f"  {what:46} {middle:6.2f} s ({max(seconds):5.2f}) limit {limit:g} s{bad}", flush=True)
    shutil.rmtree(base)
    sys.exit(over)


if __name__ == "__main__":
    main()
