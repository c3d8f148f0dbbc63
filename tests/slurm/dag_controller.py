"""A controller of a DAG in a process of its own, to be killed: its arguments are a folder, and 1 for arrays."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.slurm.dag_artifacts import Step

from furu_async import FuruConfig, SlurmDag, run_dag


def diamond(folder: Path) -> Step:
    """Twelve nodes: three layers of four with the same parents are possible, but every second one has others."""
    one = [Step(name=f"x{k}", what="gate" if k == 0 else "", folder=folder) for k in range(4)]
    two = [Step(name=f"y{k}", parts=tuple(one[: 2 + k % 2]), folder=folder) for k in range(4)]
    three = [Step(name=f"z{k}", parts=(two[k], two[(k + 1) % 4]), folder=folder) for k in range(3)]
    return Step(name="top", parts=tuple(three), folder=folder)


async def run(folder: Path, arrays: bool) -> None:
    """Follow it to the end."""
    config = FuruConfig(path=folder / "store")
    await run_dag(diamond(folder), executor=SlurmDag(arrays=arrays), config=config, progress=False)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), sys.argv[2] == "1"))
