"""One measurement of ours in a process of its own; prints one line of JSON. Called by ``bench_slurm.py``.

``ours.py pool|dag wide COUNT | layers DEPTH | busy COUNT SECONDS | held HOLD | submit COUNT``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import nodes
import psutil

from furu_async import Furu, SlurmDag, SlurmPool, run_dag, submit_dag


def cpu_seconds() -> float:
    """Of this process and its keeper, up to now."""
    me = psutil.Process()
    times = [each.cpu_times() for each in (me, *me.children(recursive=True))]
    return sum(each.user + each.system for each in times)


async def ticker(late: list[float], period: float = 0.005) -> None:
    """Notes by how many seconds a periodic task of the caller's loop is late."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + period
        await asyncio.sleep(period)
        late.append(loop.time() - due)


def targets_of(shape: str, words: list[str]) -> list[Furu[Any]]:
    """What is to be computed."""
    if shape == "submit":
        return targets_of(words[0], words[1:])
    if shape == "wide":
        return list(nodes.wide(int(words[0])))
    if shape == "layers":
        return list(nodes.layers(int(words[0])))
    if shape == "busy":
        return [nodes.Busy(index=index, secs=float(words[1])) for index in range(int(words[0]))]
    return [nodes.Held(hold=words[0])]


async def main() -> None:
    """Run, and tell how long it took, what it cost, how late the loop was."""
    backend, shape, *words = sys.argv[1:]
    targets = targets_of(shape, words)
    late = [0.0]
    watch = asyncio.create_task(ticker(late))
    before, begin = cpu_seconds(), time.perf_counter()
    result: dict[str, float] = {}
    if shape == "submit":
        submission = await submit_dag(targets, executor=SlurmDag())
        result["submitted"] = time.perf_counter() - begin
        result["late"] = max(late)
        await submission.cancel()
    else:
        executor = SlurmPool(workers=4) if backend == "pool" else SlurmDag()
        await run_dag(targets, executor=executor, progress=False)
    result["seconds"] = time.perf_counter() - begin
    result["cpu"] = (cpu_seconds() - before) / result["seconds"]
    result.setdefault("late", max(late))
    watch.cancel()
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
