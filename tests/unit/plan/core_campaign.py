"""Explore many random runs of the pure core, one per seed: ``python tests/unit/plan/core_campaign.py --runs 100000``.

A failure prints the command that replays it, with a trace.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from plan_world import explore

# Every so many runs are checked after each event, the others now and then and at their end.
_EVERY_STEP = 8


def campaign(runs: int, seed: int) -> tuple[int, list[str]]:
    """Explore ``runs`` seeds from ``seed`` on; the number of events, and one text per failure (at most 5)."""
    events, failures = 0, []
    for number in range(seed, seed + runs):
        try:
            events += explore(number, check_every=1 if number % _EVERY_STEP == 0 else 64).steps
        except Exception:
            replay = f"python tests/unit/plan/core_campaign.py --runs 1 --seed {number} --trace"
            failures.append(f"{traceback.format_exc()}\nreplay: {replay}")
            if len(failures) == 5:
                break
    return events, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--trace", action="store_true", help="print every event and command; checks every step"
    )
    args = parser.parse_args()
    if args.trace:
        for number in range(args.seed, args.seed + args.runs):
            explore(number, trace=True)
        return 0
    start = time.perf_counter()
    events, failures = campaign(args.runs, args.seed)
    seconds = time.perf_counter() - start
    for text in failures:
        print(text, file=sys.stderr)
    print(
        f"{args.runs} runs, {events} events in {seconds:.1f} s: {args.runs / seconds:.0f} runs/s,"
        f" {events / seconds:.0f} events/s, {len(failures)} failures"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
