"""What importing costs: medians over fresh processes, with the bare interpreter beside them, in milliseconds."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

STATEMENTS = {
    "python itself": "pass",
    "import furu_async": "import furu_async",
    "from furu_async import Furu": "from furu_async import Furu",
    "from furu_async import run_dag": "from furu_async import run_dag",
    "the command line": "import furu_async._cli.main",
}


def milliseconds(statement: str) -> float:
    """One fresh process that runs ``statement``."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return (time.perf_counter() - began) * 1000


def main(rounds: int = 15) -> None:
    """Interleaved, since the speed of a shared machine drifts."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            times[name].append(milliseconds(statement))
    for name, values in times.items():
        print(f"{name:<32} {statistics.median(values):7.1f} ms (from {min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
