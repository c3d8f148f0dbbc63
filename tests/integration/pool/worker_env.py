"""A pool's home prepared by hand, and real worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker_artifacts import SPEC

from furu_async import Furu
from furu_async._model.artifact import class_info, specs_of
from furu_async._pool import queue
from furu_async._pool.entries import (
    PoolSettings,
    QueueEntry,
    Report,
    WorkerStatus,
    plain_config,
    read_report,
    worker_id,
)
from furu_async._pool.objects_log import ObjectsLog
from furu_async._runtime.config import FuruConfig
from furu_async._store import atomic, submissions
from furu_async._store.layout import ArtifactPaths, QueuePaths, RunPaths
from furu_async._store.records import decode, encode

HOME = "20260101-000000-1-aaaaaa"
TOKEN = "0123456789abcdef"
SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))


class Pool:
    """The controller's side, by hand. Leaving it ends its workers."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        self.tmp = tmp_path
        self.marks = tmp_path / "marks"
        self.marks.mkdir()
        self.root = str(tmp_path / "store")
        self.paths = QueuePaths(self.root, HOME)
        self.run = RunPaths(self.root, HOME)
        self.config = replace(FuruConfig(path=self.root, record_git="off"), **settings)  # type: ignore[arg-type]
        self.objects = ObjectsLog(self.paths.objects)
        self.buckets = queue.Buckets()
        self.processes: list[subprocess.Popen[str]] = []
        self.tickets = 0
        atomic.make_folders(self.paths.base)
        self.settings()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *args: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def settings(self, **changes: Any) -> None:
        made: dict[str, Any] = {
            "config": plain_config(self.config),
            "path": [os.path.dirname(__file__)],
            "cwd": str(self.tmp),
            "argv": ["script.py"],
        }
        atomic.replace(self.paths.settings, encode(PoolSettings(**{**made, **changes})))

    def make(self, cls: type[Any], n: int = 0, **fields: Any) -> Any:
        return cls(n=n, marks=str(self.marks), **fields)

    def put(self, obj: Furu[Any], **changes: Any) -> str:
        self.objects.append(self.objects.missing(obj))
        self.tickets += 1
        keys = [spec.key for spec in specs_of(obj)]
        made: dict[str, Any] = {
            "hash": obj.furu_hash,
            "name": class_info(type(obj)).name,
            "spec_key": keys[0],
            "executor_keys": keys,
            "ticket": self.tickets,
            "run_id": HOME,
        }
        entry = QueueEntry(**{**made, **changes})
        queue.put(self.paths, entry, self.buckets.place(entry))
        return entry.file

    def record(self, sid: str = "s1", token: str = TOKEN) -> None:
        """What is written before ``sbatch``."""
        assert submissions.begin(self.run.submission(sid), 1, token, "furu-p")

    def start(
        self,
        *args: str,
        token: str = TOKEN,
        sid: str = "s1",
        env: dict[str, str] | None = None,
        record: bool = True,
    ) -> subprocess.Popen[str]:
        """A worker, as its job starts it."""
        if record:
            self.record(sid, token)
        command = [sys.executable, "-m", "furu_async.worker", "pool", "--root", self.root, "--home", HOME]
        command += ["--sid", sid, "--token", token, "--spec-key", SPEC.key, *args]
        kept = {
            name: os.environ[name]
            for name in ("PATH", "HOME", "COVERAGE_PROCESS_START")
            if name in os.environ
        }
        environment = {**kept, "SLURM_JOB_ID": str(100 + len(self.processes)), **(env or {})}
        process = subprocess.Popen(
            command,
            env=environment,
            cwd="/",
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
        deadline = time.monotonic() + seconds * SCALE
        while not (found := condition()):
            if time.monotonic() > deadline:
                for process in self.processes:
                    process.kill()
                logs = "\n".join(process.communicate()[0] for process in self.processes)
                raise AssertionError(f"{what}: not within {seconds:g} s\n{logs}")
            time.sleep(0.02)
        return found

    def began(self, n: int = 0, what: str = "began") -> Callable[[], bool]:
        return lambda: bool(self.marks.joinpath(f"{n}.{what}").exists())

    def end(self, process: subprocess.Popen[str], seconds: float = 30.0) -> tuple[int, str]:
        """Exit code and log."""
        out, _ = process.communicate(timeout=seconds * SCALE)
        return process.returncode, out

    def reports(self) -> dict[str, Report]:
        found = {}
        for name in queue.failed(self.paths):
            path = f"{self.paths.failed}/{name}"
            found[name] = read_report(atomic.read_bytes(path), name, path)
        return found

    def done(self) -> list[str]:
        return sorted(queue.done(self.paths))

    def todo(self) -> list[str]:
        return sorted(name for places in queue.waiting(self.paths).values() for name in places)

    def status(self, token: str = TOKEN, task: int = -1, restarts: int = 0) -> WorkerStatus:
        path = self.run.worker(worker_id(token, task, restarts)).status
        if not os.path.exists(path):
            return WorkerStatus(wid="", spec_key="")
        return decode(WorkerStatus, atomic.read_bytes(path), path)

    def artifact(self, obj: Furu[Any]) -> ArtifactPaths:
        return ArtifactPaths(self.root, class_info(type(obj)).name, obj.furu_hash)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def term(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> None:
    """Signal the worker alone."""
    os.kill(process.pid, number)
