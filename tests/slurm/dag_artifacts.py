"""Artifacts for tests of `SlurmDag`: what they do is said by their fields and by files in a folder."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from furu_async import Furu, Retry, SlurmSpec, field

SPEC = SlurmSpec(cpus=1, mem_gb=0.1, time_min=5)


class Step(Furu[int]):
    """Adds up what it needs; leaves a line for each attempt in ``<folder>/<name>``.

    ``what``: ``gate`` waits for ``<folder>/open-<name>``; ``fail`` raises; ``fail-once`` the first time; ``die`` is
    killed by SIGKILL; ``sleep`` for a long time. ``after``: a dependency of the user's.
    """

    name: str
    parts: tuple[Furu[int], ...] = ()
    what: str = ""
    folder: Path = field(default=Path("/nonexistent"), identity=False)
    spec: SlurmSpec = field(default=SPEC, identity=False)
    after: str = field(default="", identity=False)

    _retry = Retry(retries=1, backoff=0.05)

    def _spec(self) -> SlurmSpec:
        if self.after:
            return replace(self.spec, extra={"dependency": self.after})
        return self.spec

    def _create(self) -> int:
        with open(self.folder / self.name, "a", encoding="ascii") as file:
            file.write(f"{os.environ.get('SLURM_JOB_ID')} {os.environ.get('SLURM_RESTART_COUNT', '0')}\n")
        attempts = len((self.folder / self.name).read_text().splitlines())
        match self.what:
            case "gate":
                while not (self.folder / f"open-{self.name}").exists():
                    time.sleep(0.02)
            case "fail":
                raise ValueError(f"{self.name} fails")
            case "fail-once" if attempts == 1:
                raise ValueError(f"{self.name} fails once")
            case "die":
                os.kill(os.getpid(), 9)
            case "sleep":
                time.sleep(1000)
        return 1 + sum(part.get() for part in self.parts)


class Other(Step):
    """Of another class, with the same specification."""


class Patient(Step):
    """A second specification for when the first one's time is over."""

    def _spec(self) -> list[SlurmSpec]:
        return [self.spec, SlurmSpec(cpus=2, mem_gb=0.1, time_min=5)]

    def _create(self) -> int:
        if os.environ.get("SLURM_CPUS_PER_TASK") == "2":
            return 7
        if self.what == "memory":
            raise MemoryError("all of it")
        (self.folder / self.name).write_text(f"{os.environ.get('SLURM_JOB_ID')} 0\n", encoding="ascii")
        time.sleep(1000)
        return 0


class Unlucky(Step):
    """Its job fails after it has its result."""

    def _spec(self) -> SlurmSpec:
        return replace(self.spec, extra={"teardown": ["exit 3"]})


class Checkpointed(Furu[int]):
    """Goes on from its checkpoint when it is started again."""

    folder: Path = field(default=Path("/nonexistent"), identity=False)

    _resumable = True

    def _spec(self) -> SlurmSpec:
        return SPEC

    def _create(self) -> int:
        kept = self.furu_checkpoint_dir / "steps"
        steps = int(kept.read_text()) if kept.exists() else 0
        kept.write_text(str(steps + 1))
        with open(self.folder / "steps", "a", encoding="ascii") as file:
            file.write(f"{steps}\n")
        while steps == 0:
            time.sleep(0.05)
        return steps


def chain(folder: Path, *steps: str) -> list[Step]:
    """``a`` or ``a:fail``: each needs the one before."""
    made: list[Step] = []
    for step in steps:
        name, _, what = step.partition(":")
        made.append(Step(name=name, what=what, parts=tuple(made[-1:]), folder=folder))
    return made


def layers(folder: Path, depth: int, width: int) -> list[Step]:
    """The last of ``depth`` layers, each of which needs all of the one before."""
    made = [Step(name=f"s0-{k}", folder=folder) for k in range(width)]
    for layer in range(1, depth):
        made = [Step(name=f"s{layer}-{k}", parts=tuple(made), folder=folder) for k in range(width)]
    return made
