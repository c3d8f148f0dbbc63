"""The speed that is promised, measured against a floor in the same run.

Usage: ``python benchmarks/bench_local.py [--nodes N] [--repeat K]``.

Machines are noisy: floor and product run in turn, and each figure is a median. Exit code 1 if a figure is over its
limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def call(script: str, *args: object) -> dict[str, Any]:
    """Run one measurement in a fresh process."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, args)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{script} {args} failed:\n{done.stdout}\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def import_seconds() -> float:
    """What ``import furu_async`` adds to an empty interpreter."""

    def once(code: str) -> float:
        import time

        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begin

    rounds = [(once("import furu_async"), once("pass")) for _ in range(7)]
    return statistics.median(full - empty for full, empty in rounds)


def measure(nodes: int, hops: int, repeat: int, base: str) -> list[tuple[str, float, str, float]]:
    """All figures as (what, value, unit, limit)."""
    floors, wides, ticks, warms, chains = [], [], [], [], []
    for k in range(repeat):
        floors.append(call("floor.py", nodes, "wide", base)["seconds"])
        root = f"{base}/wide{k}"
        wides.append(call("measure.py", "wide", nodes, root))
        warms.append(call("measure.py", "warm", nodes, root))
        chains.append(call("measure.py", "chain", hops, f"{base}/chain{k}"))
        ticks.append(call("measure.py", "wide", nodes, f"{base}/tick{k}", "tick"))
    floor = statistics.median(floors)
    ratios = [wide["seconds"] / base_line for wide, base_line in zip(wides, floors, strict=True)]

    def middle(rows: list[dict[str, Any]], name: str) -> float:
        return statistics.median(row[name] for row in rows)

    warm = statistics.median((row["seconds"] - row["floor"]) / nodes * 1e6 for row in warms)
    return [
        ("floor, one node", floor / nodes * 1e6, "us", 0.0),
        ("wide cold, one node", middle(wides, "seconds") / nodes * 1e6, "us", 0.0),
        ("wide cold / floor", statistics.median(ratios), "x", 2.0),
        ("chain, one hop", middle(chains, "seconds") / hops * 1e3, "ms", 2.0),
        ("warm, one node above hash and stat", warm, "us", 25.0),
        ("memory for the run", middle(wides, "memory_mb"), "MiB", 40.0 * nodes / 10_000),
        ("call to first start", middle(wides, "first_start"), "s", 0.5),
        ("loop late, p99", middle(ticks, "late_p99") * 1e3, "ms", 10.0),
        ("loop late, most", middle(ticks, "late_max") * 1e3, "ms", 50.0),
        ("import furu_async", import_seconds(), "s", 0.25),
    ]


def main() -> None:
    """Print the table; say which figure is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--hops", type=int, default=2_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dir", default=None, help="folder on the file system to measure")
    options = parser.parse_args()
    base = tempfile.mkdtemp(prefix="furu-bench-", dir=options.dir)
    rows = measure(options.nodes, options.hops, options.repeat, base)
    over = False
    print(f"{options.nodes} nodes, 2 workers, medians of {options.repeat}, files below {base}")
    for what, value, unit, limit in rows:
        bad = bool(limit) and value > limit
        over |= bad
        bound = f"limit {limit:g} {unit}{'   OVER' if bad else ''}" if limit else ""
        print(f"  {what:38} {value:9.2f} {unit:4} {bound}")
    print(f"(remove {base} when nothing else is to be measured)")
    sys.exit(over)


if __name__ == "__main__":
    main()
