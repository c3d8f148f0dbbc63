"""The laboratory's campaigns at full length, and the table of what was counted: ``python tools/chaos.py --length 1``.

``--length`` scales the numbers below; each campaign runs under the name that its test gives it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CAMPAIGNS = {
    "core": 2_000_000,
    "whole-runs": 40_000,
    "cluster-runs": 10_000,
    "cluster-outages": 10_000,
    "races-of-2": 1_700,
    "races-of-8": 300,
    "kills": 500,
    "zombies": 100,
    "nth-operation-slurm": 100_000,
    "nth-await-slurm": 100_000,
}
"""Trials at length 1. The three kinds of simulated runs are 60,000 together, the two kinds of races 2,000. Of the last
two it is more than there are: each is tried once.
"""


def main() -> int:
    """1 if anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=float, default=1.0, help="1.0: the full numbers, an hour")
    parser.add_argument("--only", choices=sorted(CAMPAIGNS), action="append", help="may be repeated")
    options = parser.parse_args()
    environment = dict(os.environ, FURU_LAB="chaos")
    for name, trials in CAMPAIGNS.items():
        chosen = not options.only or name in options.only
        number = max(1, round(trials * options.length)) if chosen else 0
        environment[f"FURU_LAB_{name.upper().replace('-', '_')}"] = str(number)
    return subprocess.run(
        [sys.executable, "tools/check.py", "campaigns"], cwd=ROOT, env=environment, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
