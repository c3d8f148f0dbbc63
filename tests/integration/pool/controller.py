"""A controller in a process of its own: ``python controller.py <store> <calls> <count>``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pool_local_artifacts import Sleeps

from furu_async import FuruConfig, SlurmPool, run_dag


async def main(store: str, calls: str, count: int) -> None:
    targets = [Sleeps(calls=calls, number=n) for n in range(count)]
    config = FuruConfig(path=Path(store), poll_interval_secs=5, lease_secs=20, heartbeat_secs=1)
    report = await run_dag(
        targets, executor=SlurmPool(workers=2, cluster="local"), config=config, progress=False
    )
    print(report.run_id, report.counts["created"], sum(node.attempts for node in report))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
