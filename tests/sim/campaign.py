"""Many simulated runs: ``python tests/sim/campaign.py --runs 1000 --seed 0``; one seed: ``--runs 1 --seed 17``.

Prints how many runs went by a second, and for each failure what was broken and the command that repeats it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.sim.simulate import simulate


def main() -> int:
    """1 if a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    parser.add_argument("--folder", default=None, help="where the temporary stores go")
    options = parser.parse_args()
    logging.getLogger("furu_async").setLevel(logging.ERROR)
    failed, began = 0, time.monotonic()
    for seed in range(options.seed, options.seed + options.runs):
        try:
            world = simulate(seed, options.folder)
        except Exception as error:
            failed += 1
            if options.runs == 1:
                traceback.print_exception(error)
            text = str(error).strip().splitlines()
            print(f"seed {seed}: {type(error).__name__}: {text[0] if text else ''}")
            print(f"  again with: python tests/sim/campaign.py --runs 1 --seed {seed}", flush=True)
        else:
            if options.trace:
                print(*world.trace, sep="\n")
            if options.runs == 1:
                print(world.digest())
    seconds = time.monotonic() - began
    print(f"{options.runs} runs in {seconds:.1f} s ({options.runs / seconds:.0f}/s), {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
