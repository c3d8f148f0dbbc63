"""A second process for the tests of this folder: runs artifacts given as expressions, says in JSON lines what happens.

``python contender.py '{"make": ["Num(n=1)"], "workers": 1}'``; with ``"meet": [folder, name, how many]`` it meets the
others before each of ``rounds`` rounds (``{k}`` in an expression is the round).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import local_artifacts

from furu_async import Local, Scheduler
from furu_async.errors import FuruError
from furu_async.report import RunEvent


def say(**what: Any) -> None:
    """One JSON line."""
    print(json.dumps(what), flush=True)


async def meet(folder: str, name: str, size: int, k: int) -> None:
    """Wait until everybody is at round ``k``."""
    Path(folder, f"{k}-{name}").touch()
    async with asyncio.timeout(60):
        while sum(entry.startswith(f"{k}-") for entry in os.listdir(folder)) < size:
            await asyncio.sleep(0.001)


def tell(event: RunEvent) -> None:
    """An event, as it happens."""
    say(event=event.kind, message=event.message, status=event.status, name=event.name, attempt=event.attempt)


async def main(wanted: dict[str, Any]) -> None:
    """All rounds, in one scheduler."""
    async with Scheduler(Local(workers=wanted.get("workers", 1))) as scheduler:
        for k in range(wanted.get("rounds", 1)):
            objs = [eval(text.replace("{k}", str(k)), vars(local_artifacts)) for text in wanted["make"]]
            if "meet" in wanted:
                await meet(*wanted["meet"], k)
            begin = time.monotonic()
            run = scheduler.start(objs, check=False, on_event=tell, **wanted.get("options", {}))
            try:
                report = await run
            except FuruError as error:
                say(error=type(error).__name__, text=str(error))
                continue
            failures = [node.failure.line() for node in report if node.failure is not None]
            history = [line for node in report for line in node.history]
            values = [await report.load(obj) for obj in objs] if report.ok else []
            say(
                ok=report.ok,
                counts=report.counts,
                values=values,
                failures=failures,
                history=history,
                run_id=report.run_id,
                notes=list(report.notes),
                seconds=time.monotonic() - begin,
            )


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
