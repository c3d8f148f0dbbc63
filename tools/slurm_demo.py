"""The example on a Slurm cluster that is started for it: ``make demo-slurm [EXECUTOR=slurm-dag]``. As root.

A cluster that is up already (``SLURM_CONF`` is set) is used and left alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.slurm.cluster import Cluster, guard, room, why_not  # noqa: E402


@contextmanager
def cluster() -> Iterator[None]:
    """Slurm's commands mean a cluster."""
    if "SLURM_CONF" in os.environ:
        yield
        return
    if (reason := why_not(True)) is not None:
        raise SystemExit(reason)
    one = Cluster(Path(tempfile.mkdtemp(prefix="furu-slurm-", dir=room())))
    keeper = guard(one.folder)
    try:
        one.start()
        os.environ["SLURM_CONF"] = str(one.place.conf)
        yield
    finally:
        one.stop()
        keeper.communicate()


def main() -> int:
    """The exit code of the run."""
    parser = argparse.ArgumentParser(description="The digits example on Slurm.")
    parser.add_argument("--executor", choices=["slurm-pool", "slurm-dag"], default="slurm-pool")
    parser.add_argument("--workers", type=int, default=4, help="pilot jobs of a slurm-pool")
    parser.add_argument("--root", default="furu-data-slurm", help="where results are kept")
    given = parser.parse_args()
    target = "examples/digits/pipeline.py:leaderboard"
    call = [Path(sys.executable).parent / "furu-async", "run", target, "--executor", given.executor]
    call += ["--root", given.root]
    if given.executor == "slurm-pool":
        call += ["--workers", str(given.workers)]
    with cluster():
        for words in ([*call, "--dry-run"], call):
            done = subprocess.run(words, cwd=ROOT, check=False)
            if done.returncode:
                return done.returncode
        queue = subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout
        print(f"left in Slurm: {queue.strip() or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
