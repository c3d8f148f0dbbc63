"""How long four processes take for each claim of a queue: ``claims.py FOLDER COUNT``; prints one line of JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import statistics
import sys
import time

from furu_async._pool.entries import QueueEntry
from furu_async._pool.queue import Buckets, Taker, put
from furu_async._store import atomic
from furu_async._store.layout import QueuePaths

RUN = "20260101-000000-1-aaaaaa"
KEY = "default-g0-c1-0123456789abcdef"


def fill(paths: QueuePaths, count: int) -> None:
    """Put that many entries."""
    atomic.make_folders(paths.base)
    buckets = Buckets()
    for number in range(count):
        entry = QueueEntry(
            hash=f"{number:032x}",
            name="nodes.Noop",
            spec_key=KEY,
            executor_keys=[KEY],
            ticket=1,
            run_id=RUN,
        )
        put(paths, entry, buckets.place(entry))


def work(folder: str, number: int, most: int) -> list[float]:
    """Take entries, one at a time; the seconds each took."""
    taker = Taker(QueuePaths(folder, RUN), KEY, f"w{number}", random.Random(number))
    taker.prepare()
    took = []
    for _ in range(most):
        begin = time.perf_counter()
        got = taker.take(1)
        if got:
            took.append(time.perf_counter() - begin)
    return took


def main() -> None:
    """Fill the queue, and have a twentieth of it taken by four processes."""
    folder, count = sys.argv[1], int(sys.argv[2])
    paths = QueuePaths(folder, RUN)
    fill(paths, count)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        parts = pool.starmap(work, [(folder, number, count // 80) for number in range(4)])
    took = sorted(seconds for part in parts for seconds in part)
    left = sum(len(files) for _, _, files in os.walk(paths.todo_of(KEY)))
    assert left + len(took) == count, (left, len(took))
    print(json.dumps({"median": statistics.median(took), "p99": took[int(len(took) * 0.99)]}))


if __name__ == "__main__":
    main()
