"""One measurement in a process of its own; prints one line of JSON. Called by ``benchmarks/bench_local.py``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import nodes
import psutil

from furu_async import Furu, FuruConfig, Local, RunEvent, run_dag
from furu_async._executors.local import LocalExecutor  # noqa: F401  (imports belong to the baseline)


def rss_mb() -> float:
    """Resident memory of this process in MiB."""
    return psutil.Process().memory_info().rss / 2**20


async def ticker(stop: asyncio.Event, late: list[float], period: float = 0.005) -> None:
    """Notes by how many seconds a periodic task of the caller's loop is late."""
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        due = loop.time() + period
        await asyncio.sleep(period)
        late.append(loop.time() - due)


async def one_run(targets: Any, root: str, tick: bool) -> dict[str, float]:
    """Run, and tell how long it took, when the first node began, how late the loop was."""
    stop, late = asyncio.Event(), [0.0]
    watch = asyncio.create_task(ticker(stop, late)) if tick else None
    first: list[float] = []

    def on_event(event: RunEvent) -> None:
        if not first and event.kind == "node_started":
            first.append(time.perf_counter())

    config = FuruConfig(path=root, record_git="off")  # type: ignore[arg-type]
    before = rss_mb()
    begin = time.perf_counter()
    report = await run_dag(
        targets, executor=Local(workers=2), config=config, progress=False, on_event=on_event
    )
    seconds = time.perf_counter() - begin
    after = rss_mb()
    stop.set()
    if watch is not None:
        await watch
    late.sort()
    return {
        "seconds": seconds,
        "first_start": first[0] - begin if first else 0.0,
        "late_max": late[-1],
        "late_p99": late[int(len(late) * 0.99)],
        "memory_mb": after - before,
        "created": report.counts["created"],
        "cached": report.counts["cached"],
    }


def warm_floor(objs: list[nodes.Noop], root: str) -> float:
    """Hashing and one ``stat`` each, for artifacts whose hash is not known yet."""
    begin = time.perf_counter()
    for obj in objs:
        try:
            os.stat(f"{root}/data/nodes/Noop/{obj.furu_hash}/SUCCESS.json")
        except FileNotFoundError:
            pass
    return time.perf_counter() - begin


def main() -> None:
    """``measure.py wide|chain|warm COUNT ROOT``."""
    what, count, root = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    targets: list[nodes.Noop] | Furu[Any]
    if what == "warm":
        floor = warm_floor(nodes.wide(count), root)
        result = asyncio.run(one_run(nodes.wide(count), root, tick=False))
        result["floor"] = floor
    else:
        targets = nodes.wide(count) if what == "wide" else nodes.chain(count)
        result = asyncio.run(one_run(targets, root, tick=len(sys.argv) > 4))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
