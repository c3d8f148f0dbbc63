"""What the tests of a pool's queue, workers and controllers on a real cluster have in common."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from tests.slurm.cluster import Cluster
from tests.slurm.daemons import Daemon
from tests.slurm.job import Job
from tests.slurm.work_artifacts import Work

from furu_async import Furu, FuruConfig, RunReport, SlurmPool, run_dag

SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))
PROJECT = Path(__file__).resolve().parents[2]

_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED")
_CONTROLLER = """
import json, sys
from tests.slurm.work_helpers import control
control(json.loads(sys.argv[1]))
"""


class Lab:
    """One store, and what runs for it on the cluster.

    Attributes:
        folder: where artifacts leave their lines.
        processes: controllers that were started as processes of their own.
    """

    def __init__(self, slurm: Cluster, path: Path, **settings: Any) -> None:
        self.slurm = slurm
        self.folder: Path = path
        self.config: FuruConfig = FuruConfig(path=path / "store")
        self.settings(**settings)
        self.processes: list[subprocess.Popen[str]] = []
        self._tasks: list[asyncio.Task[RunReport]] = []
        self._before = {(job.id, job.name) for job in slurm.jobs().values()}

    def settings(self, **changed: Any) -> None:
        """Have other settings for runs that begin from now on."""
        usual = {"poll_interval_secs": 5.0, "infra_secs": 60.0}
        self.config = FuruConfig(path=self.config.path, **{**usual, **changed})

    def work(self, name: str, what: str = "", *parts: Furu[int], cls: type[Work] = Work) -> Work:
        """An artifact of this test."""
        return cls(name=name, what=what, parts=parts, folder=self.folder)

    async def run(self, *targets: Furu[Any], workers: int = 1, **options: Any) -> RunReport:
        """`run_dag` here, bounded, without raising for what nodes do."""
        pool = {"workers": workers} | options.pop("pool", {})
        given = {"check": False, "timeout": 90 * SCALE, "config": self.config, "progress": False, **options}
        return await run_dag(targets, executor=SlurmPool(**pool), **given)

    def start(self, *targets: Furu[Any], **options: Any) -> asyncio.Task[RunReport]:
        """The same in a task of its own."""
        made = asyncio.create_task(self.run(*targets, **options))
        self._tasks.append(made)
        return made

    async def block(self, *others: Furu[Any], **options: Any) -> asyncio.Task[RunReport]:
        """Start a run whose only worker stands at the gate of ``a``, while ``others`` wait in the queue."""
        first = self.work("a", "gate")
        running = self.start(self.work("top", "", first), *others, **options)  # what others need goes first
        await self.begun("a")
        assert all(self.waiting(each) for each in others)
        return running

    def control(self, *names: str, **options: Any) -> subprocess.Popen[str]:
        """The same in a process of its own; what it says at its end is one line of JSON."""
        told = {
            "folder": str(self.folder),
            "targets": names,
            "settings": {
                "path": str(self.config.path),
                **{
                    key: getattr(self.config, key)
                    for key in ("lease_secs", "heartbeat_secs", "poll_interval_secs")
                },
            },
            **options,
        }
        made = subprocess.Popen(
            [sys.executable, "-c", _CONTROLLER, json.dumps(told)],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(made)
        return made

    # -- what is there

    @property
    def home(self) -> Path:
        """The folder of the only run."""
        (run,) = self.runs()
        return run

    def runs(self) -> list[Path]:
        """Folders of all runs that have a queue."""
        base = self.config.path / "runs"
        return sorted(path.parent for path in base.glob("*/queue"))

    @property
    def queue(self) -> Path:
        """The queue of the only run."""
        return self.home / "queue"

    def waiting(self, obj: Furu[Any]) -> Path | None:
        """The entry of an artifact that no worker has taken."""
        if not self.runs():
            return None
        return next(self.queue.glob(f"todo/*/*/{obj.furu_hash}.*"), None)

    def taken(self, obj: Furu[Any]) -> Path | None:
        """The entry of an artifact that a worker has."""
        return next(self.queue.glob(f"running/*/{obj.furu_hash}.*"), None)

    def began(self) -> list[str]:
        """Names of the entries that workers say they are at."""
        return [
            name
            for path in self.home.glob("workers/*/status.json")
            for name in json.loads(path.read_text()).get("began", ())
        ]

    def attempts(self, name: str) -> list[list[str]]:
        """Of each attempt of an artifact: the job's id, the worker's process."""
        path = self.folder / name
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def open(self, *names: str) -> None:
        """Let artifacts go on that wait at their gates."""
        for name in names:
            (self.folder / f"open-{name}").touch()

    def jobs(self) -> dict[str, Job]:
        """Every job that was submitted since the test began, by id."""
        jobs = self.slurm.jobs().values()
        return {job.id: job for job in jobs if (job.id, job.name) not in self._before and "furu-" in job.name}

    def living(self) -> list[str]:
        """Jobs that have not ended."""
        return [
            f"{job.number} {job.name} {job.state}" for job in self.jobs().values() if job.state not in _OVER
        ]

    def processes_of(self, job_id: str) -> list[Daemon]:
        """The processes of a job that this library started: worker, keeper, children."""
        found = []
        for each in self.slurm.processes(job_id):
            try:
                words = psutil.Process(each.pid).cmdline()
            except psutil.Error:
                continue
            if any("furu" in word for word in words) and "bash" not in Path(words[0]).name:
                found.append(each)
        return found

    async def begun(self, name: str, times: int = 1) -> list[str]:
        """Wait until an artifact has begun so many times; job and process of the last."""
        try:
            await until(lambda: len(self.attempts(name)) >= times, f"{name} begins ({times})", 60)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None
        return self.attempts(name)[times - 1]

    def story(self) -> str:
        """What queue, workers and journal say, for the message of a test that fails."""
        told = []
        for run in self.runs():
            told += [str(path) for path in sorted((run / "queue").rglob("*.*"))]
            for path in (*run.glob("workers/*/status.json"), *run.glob("logs/*"), run / "journal.jsonl"):
                told.append(f"== {path}\n{path.read_text()[-2000:]}")
        return "\n".join(told + self.living())

    async def nothing_left(self, seconds: float = 30) -> None:
        """No job and no process of it is left, at once or within some seconds."""
        await until(lambda: not self.living(), f"the end of all jobs: {self.living()}", seconds)
        await until(lambda: not self.slurm.processes(), "the end of all processes of jobs", seconds)

    async def close(self) -> None:
        """End what still runs here; then no job and no process of it is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        await self.nothing_left()


async def until(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Wait until this gives something; that. The condition may ask Slurm, so it runs in a thread."""
    end = time.monotonic() + seconds * SCALE
    while True:
        got = await asyncio.to_thread(condition)
        if got:
            return got
        assert time.monotonic() < end, f"it did not come: {what}"
        await asyncio.sleep(0.05)


def hold_until(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """The same while the loop, and with it the controller on it, stands still."""
    end = time.monotonic() + seconds * SCALE
    while not (got := condition()):
        assert time.monotonic() < end, f"it did not come: {what}"
        time.sleep(0.01)
    return got


def stop(processes: list[Daemon], on: bool = True) -> None:
    """SIGSTOP, and return when they stand; SIGCONT with ``on=False``."""
    for each in processes:
        each.send(signal.SIGSTOP if on else signal.SIGCONT)
    if on:
        hold_until(lambda: all(each.stopped() or not each.alive() for each in processes), "processes stop")


def control(told: dict[str, Any]) -> None:
    """Main of a controller of its own."""
    settings = told.pop("settings")
    folder, names = Path(told.pop("folder")), told.pop("targets")
    targets = [Work(name=each.split("/")[0], what=each.partition("/")[2], folder=folder) for each in names]
    config = FuruConfig(**{**settings, "path": Path(settings["path"])})
    pool = SlurmPool(**{"workers": 2, **told.pop("pool", {})})
    report = asyncio.run(run_dag(targets, executor=pool, config=config, check=False, progress=False, **told))
    said = {node.hash: [node.status, node.attempts, str(node.failure)] for node in report}
    print(json.dumps({"run_id": report.run_id, "counts": report.counts, "nodes": said}))
