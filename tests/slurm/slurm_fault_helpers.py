"""What the tests of a pool under Slurm's faults have in common."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.slurm.cluster import Cluster
from tests.slurm.job import Job

from furu_async import FuruConfig, RunEvent, RunReport, SlurmPool, run_dag

SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED")


@dataclass(frozen=True)
class Attempt:
    """One line that a `Task` left."""

    job: str
    restarts: int
    at: float
    node: str


class Shims:
    """Commands put first on PATH, which the library and the cluster's verbs call; each call of them is noted.

    A script may use ``$real`` (the real command), ``$dir`` (a folder for flags) and ``$ours`` (1 for the library's
    calls of ``squeue`` and ``sacct``, else empty).
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._path = os.environ["PATH"]
        folder.mkdir()
        (folder / "bin").mkdir()
        for name in ("sbatch", "squeue", "sacct", "scancel"):
            self.put(name, 'exec "$real" "$@"')
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{self._path}")

    def put(self, name: str, script: str) -> None:
        """Replace a command."""
        real = shutil.which(name, path=self._path)
        assert real is not None
        lines = (
            "#!/bin/sh",
            f"real={shlex.quote(real)} dir={shlex.quote(str(self.folder))} ours=",
            'case " $* " in *" --noheader "*) ours=1 ;; esac',
            f'echo "$(date +%s.%N) $*" >> "$dir/{name}.calls"',
            script,
        )
        fresh = self.folder / "bin" / f".{name}"
        fresh.write_text("\n".join(lines) + "\n")
        fresh.chmod(0o755)
        fresh.replace(self.folder / "bin" / name)

    def calls(self, name: str, word: str = "") -> list[tuple[float, str]]:
        """When a command was called, and with what; only calls that have this word."""
        path = self.folder / f"{name}.calls"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [(float(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]
        return [each for each in found if word in each[1]]

    def flag(self, name: str, up: bool = True) -> None:
        """Raise or lower a flag that scripts look at as ``$dir/<name>``."""
        path = self.folder / name
        path.touch() if up else path.unlink()


class Bench:
    """A cluster, a folder for one test, and the run in it."""

    def __init__(self, slurm: Cluster, folder: Path, shims: Shims) -> None:
        self.slurm = slurm
        self.folder = folder
        self.shims = shims
        self.events: list[RunEvent] = []
        self._before = {(job.id, job.name) for job in slurm.jobs().values()}

    def config(self, **changed: Any) -> FuruConfig:
        """Settings with a store of this test's own."""
        beats = {"heartbeat_secs": changed["lease_secs"] / 8} if "lease_secs" in changed else {}
        return FuruConfig(path=self.folder / "store", **{"poll_interval_secs": 5.0, **beats, **changed})

    def start(
        self, *targets: Any, pool: SlurmPool | None = None, config: FuruConfig | None = None, **options: Any
    ) -> asyncio.Task[RunReport]:
        """Begin a run that gives its report whatever happens."""
        given: dict[str, Any] = {
            "executor": pool or SlurmPool(workers=1),
            "check": False,
            "progress": False,
            "timeout": 100 * SCALE,
            "on_event": self.events.append,
            "config": config or self.config(),
            **options,
        }
        return asyncio.create_task(run_dag(targets, **given))

    async def act(self, verb: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a verb of the cluster, off the loop."""
        return await asyncio.to_thread(verb, *arguments, **options)

    def attempts(self, name: str) -> list[Attempt]:
        """What a task has noted."""
        path = self.folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        words = [line.split() for line in lines]
        return [Attempt(each[0], int(each[1]), float(each[2]), each[3]) for each in words if len(each) == 4]

    async def began(self, name: str, times: int = 1, seconds: float = 30) -> Attempt:
        """Wait until a task has begun so often; the last attempt."""
        await self.until(lambda: len(self.attempts(name)) >= times, f"attempt {times} of {name}", seconds)
        return self.attempts(name)[times - 1]

    def open(self, *names: str) -> None:
        """Let tasks end that wait at their gates."""
        for name in names:
            (self.folder / f"open-{name}").touch()

    def jobs(self) -> dict[str, Job]:
        """The library's jobs of this test that slurmctld knows."""
        jobs = self.slurm.jobs().values()
        return {job.id: job for job in jobs if (job.id, job.name) not in self._before and "furu-" in job.name}

    def living(self) -> list[Job]:
        """Those that have not ended."""
        return [job for job in self.jobs().values() if job.state not in OVER]

    def kill_job(self, job_id: str) -> None:
        """SIGKILL everything of a job, as a crash would."""
        for each in self.slurm.processes(job_id):
            try:
                os.kill(each.pid, 9)
            except ProcessLookupError:
                pass

    async def save_state(self) -> Path:
        """A copy of what slurmctld has written down by now."""
        await self.act(self.slurm.save)
        return Path(shutil.copytree(self.slurm.folder / "ctld", self.folder / "saved"))

    async def give_id_again(self, saved: Path, job_id: str) -> None:
        """slurmctld loses what has come since a copy was made, and somebody else's job gets this id."""
        state = self.slurm.folder / "ctld"
        await self.act(self.slurm.kill, "slurmctld")
        shutil.rmtree(state)
        shutil.copytree(saved, state)
        await self.act(self.slurm.launch, "slurmctld")
        assert await self.act(self.slurm.submit, "exec sleep 1000", "-J", "stranger") == job_id

    async def stranger_is_spared(self, job_id: str) -> None:
        """Whatever the node makes of two jobs with one id, nobody has cancelled the other one for ours."""
        assert self.slurm.jobs()[job_id].name == "stranger"
        assert self.slurm.jobs()[job_id].state != "CANCELLED"
        assert not any(job_id in words.split() for _, words in self.shims.calls("scancel"))
        await self.act(self.slurm.run, "scancel", job_id, check=False)

    def said(self, *words: str) -> list[RunEvent]:
        """Events whose message has all these words."""
        return [event for event in self.events if all(word in event.message for word in words)]

    async def until(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        """Wait until this gives something; that. It is asked off the loop."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds * SCALE
        while True:
            got = await asyncio.to_thread(condition)
            if got:
                return got
            assert loop.time() < end, f"{what} did not come in {seconds:g} s; {self.story()}"
            await asyncio.sleep(0.05)

    def story(self) -> str:
        """What happened so far, for a failed test."""
        lines = [f"{event.kind} {event.status or ''} {event.message}" for event in self.events]
        jobs = [f"{job.id} {job.state} {job.reason}" for job in self.jobs().values()]
        return f"jobs: {jobs}\n" + "\n".join(lines[-30:])

    async def nothing_left(self, seconds: float = 10) -> None:
        """No job of this test is left in Slurm, no process on its nodes."""
        await self.until(lambda: not self.living(), "the end of all jobs", seconds)
        await self.until(lambda: not self.slurm.processes(), "the end of all processes", seconds)
