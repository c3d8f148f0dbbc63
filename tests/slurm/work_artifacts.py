"""Artifacts for tests of `SlurmPool` on a cluster: what they do is said by their fields and by files in a folder."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from furu_async import Furu, Retry, SlurmSpec, field, stop_requested

SPEC = SlurmSpec(cpus=1, mem_gb=0.1, time_min=5)
OTHER = SlurmSpec(cpus=2, mem_gb=0.1, time_min=5)


class Work(Furu[int]):
    """Adds up what it needs; leaves a line for each attempt (job, its worker's process) in ``<folder>/<name>``.

    ``what``, words that are obeyed in order: ``gate`` waits for ``<folder>/open-<name>``, or until it is to stop;
    ``fail`` raises; ``fail:<n>`` does in the first n attempts; ``mistake`` raises what is not tried again; ``poison``
    kills its worker; ``memory`` and ``slow`` have no end where there is one processor only; ``say`` writes.
    """

    name: str
    parts: tuple[Furu[int], ...] = ()
    what: str = ""
    folder: Path = field(default=Path("/nonexistent"), identity=False)

    _retry = Retry(retries=2, backoff=0.05)

    def _spec(self) -> SlurmSpec | list[SlurmSpec]:
        return SPEC

    def _create(self) -> int:
        with open(self.folder / self.name, "a", encoding="ascii") as file:
            file.write(f"{os.environ.get('SLURM_JOB_ID')} {os.getppid()}\n")
        attempts = len((self.folder / self.name).read_text().splitlines())
        for word in self.what.split():
            verb, _, most = word.partition(":")
            if verb == "gate":
                while not (self.folder / f"open-{self.name}").exists():
                    if stop_requested():
                        raise RuntimeError("stopped at the gate")
                    time.sleep(0.02)
            elif verb == "fail" and attempts <= int(most or 1000):
                raise ValueError(f"{self.name} fails")
            elif verb == "mistake":
                raise TypeError(f"{self.name} is wrong")
            elif verb == "poison":
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)
            elif verb == "say":
                print(f"{self.name} says hello")
            elif os.environ.get("SLURM_CPUS_PER_TASK") == "1":
                if verb == "memory":
                    raise MemoryError("too much for one processor")
                if verb == "slow":
                    time.sleep(60)
        return 1 + sum(part.get() for part in self.parts)


class Elsewhere(Work):
    """On the other spec."""

    def _spec(self) -> SlurmSpec | list[SlurmSpec]:
        return OTHER


class Modest(Work):
    """Tries the small spec first."""

    _time_limit = 3.0

    def _spec(self) -> SlurmSpec | list[SlurmSpec]:
        return [SPEC, OTHER]


class Skewed(Work, version="2" if "SLURM_JOB_ID" in os.environ else "1"):
    """Has another version in jobs than in the process that asks for it."""
