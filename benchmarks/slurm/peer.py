"""The same work by furu 0.0.12, in an environment of its own; prints one line of JSON. Called by ``bench_slurm.py``.

``peer.py pool|dag wide COUNT | layers DEPTH``. The pool's intervals are turned up as far as they go: with its own
defaults it needs a minute a layer, or gives up.
"""

from __future__ import annotations

import json
import os
import sys
import time

import peer_nodes
from furu.execution import run_slurm_pool, submit_slurm_dag


def main() -> None:
    """Run, wait for the end, and tell how long it took; when the nodes began is in their marks."""
    backend, shape, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    targets = peer_nodes.wide(number) if shape == "wide" else peer_nodes.layers(number)
    begin = time.perf_counter()
    if backend == "pool":
        run_slurm_pool(
            targets,
            max_workers_total=4,
            idle_timeout_sec=20.0,
            poll_interval_sec=0.2,
            plan_refresh_interval_sec=0.5,
        )
        print(json.dumps({"seconds": time.perf_counter() - begin}))
        return
    submit_slurm_dag(targets)
    submitted = time.perf_counter() - begin
    while not all(os.path.exists(f"{target.furu_dir}/value") for target in targets):
        time.sleep(0.05)
    print(json.dumps({"seconds": time.perf_counter() - begin, "submitted": submitted}))


if __name__ == "__main__":
    main()
