"""The floor of comparison: a process pool of two, and per task the files that any durable cache needs.

Per task: a folder, a result file, a state file by temp-and-rename, and a marker. Driven by a few lines of scheduling
of its own, one task a trip.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait


def task(folder: str, index: int) -> int:
    """What a task's record costs at least."""
    os.makedirs(folder)
    with open(f"{folder}/result.json", "w") as file:
        file.write(json.dumps(index))
    with open(f"{folder}/state.tmp", "w") as file:
        file.write(json.dumps({"state": "done", "index": index}))
    os.rename(f"{folder}/state.tmp", f"{folder}/state.json")
    with open(f"{folder}/SUCCESS.json", "w") as file:
        file.write("{}")
    return index


def run(root: str, count: int, chained: bool, workers: int = 2) -> float:
    """Seconds from the first submission to the last result."""
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(abs, range(workers * 4)))  # processes up, imports done
        begin = time.perf_counter()
        todo = iter(range(count))
        pending = set()
        ahead = 1 if chained else workers * 16
        for index in todo:
            pending.add(pool.submit(task, f"{root}/{index:06d}", index))
            if len(pending) >= ahead:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        wait(pending)
        return time.perf_counter() - begin


if __name__ == "__main__":
    count, chained = int(sys.argv[1]), sys.argv[2] == "chain"
    with tempfile.TemporaryDirectory(dir=sys.argv[3], ignore_cleanup_errors=True) as root:
        print(json.dumps({"seconds": run(root, count, chained)}), flush=True)
        os._exit(0)  # leave the tree: deleting it would slow down whatever is measured next
