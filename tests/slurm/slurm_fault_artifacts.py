"""Artifacts for tests of what Slurm does to a pool: each leaves a line for every attempt, and waits as it is told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from furu_async import Furu, SlurmSpec, field

SPEC = SlurmSpec(cpus=1, mem_gb=0.1, time_min=5)


class Task(Furu[int]):
    """Adds 1 to the sum of its parts; a line in ``<folder>/<name>`` for each attempt: job, restarts, time, node.

    ``what``: ``gate``: every attempt waits for ``<folder>/open-<name>``; ``first``: only the first one waits, and for
    ever; ``stubborn``: like ``first``, and it notes SIGTERM in ``<folder>/<name>.term`` and goes on.
    """

    name: str
    parts: tuple[Furu[int], ...] = ()
    what: str = ""
    folder: Path = field(default=Path("/nonexistent"), identity=False)
    specs: tuple[SlurmSpec, ...] = field(default=(SPEC,), identity=False)

    def _spec(self) -> Sequence[SlurmSpec]:
        return self.specs

    def _create(self) -> int:
        if self.what == "stubborn":
            signal.signal(signal.SIGTERM, self.term)
        attempt = self.note()
        if self.what == "gate":
            self.wait_for(self.folder / f"open-{self.name}")
        elif self.what in ("first", "stubborn") and attempt == 1:
            self.wait_for(self.folder / "never")
        return 1 + sum(part.get() for part in self.parts)

    def note(self) -> int:
        env = os.environ
        words = (env.get("SLURM_JOB_ID"), env.get("SLURM_RESTART_COUNT", "0"), time.time())
        path = self.folder / self.name
        with open(path, "a", encoding="ascii") as file:
            print(*words, env.get("SLURMD_NODENAME"), file=file)
        return len(path.read_text().splitlines())

    def term(self, *_: object) -> None:
        with open(self.folder / f"{self.name}.term", "a", encoding="ascii") as file:
            print(time.time(), file=file)

    def wait_for(self, path: Path) -> None:
        while not path.exists():
            time.sleep(0.02)


class Limited(Task):
    """Has a time limit of its own."""

    _time_limit = 20.0


class Saving(Task):
    """Goes on from its checkpoint: told to stop, it takes three seconds to save."""

    _resumable = True

    def term(self, *_: object) -> None:
        time.sleep(3)
        (self.furu_checkpoint_dir / "saved").touch()
        super().term()
        os._exit(1)

    def _create(self) -> int:
        if (self.furu_checkpoint_dir / "saved").exists():
            self.note()
            return 7
        return super()._create()


class Unlucky(Task):
    """Whatever its worker did, its job fails."""

    def _spec(self) -> SlurmSpec:
        return SlurmSpec(cpus=1, mem_gb=0.1, time_min=5, extra={"slurm_teardown": ["exit 9"]})
