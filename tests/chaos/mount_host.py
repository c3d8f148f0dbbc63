"""A host of the mount tests: a process that nothing can be known of directly, as it says that it is elsewhere.

``python mount_host.py '{"host": "a", "root": "/mnt", "make": ["Leaf(marks='/m', n=1)"]}'`` runs the artifacts and says
in JSON lines what happens. ``meet`` ([folder, how many]) meets the others before each of ``rounds`` rounds, ``{k}``
in an expression is the round; ``options`` go to the run. Its wall clock goes ``skew`` seconds wrong. With ``read`` it
loads them over and over instead, until a file of that name is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import mount_artifacts

from furu_async import Furu, Local, RunEvent, run_dag
from furu_async._runtime import clock
from furu_async._runtime.config import FuruConfig, use_config
from furu_async._store import liveness
from furu_async.errors import FuruError


def say(**what: Any) -> None:
    """One JSON line, with the time on the clock that all processes of this machine share."""
    print(json.dumps({**what, "at": time.monotonic()}), flush=True)


async def meet(folder: str, size: int, host: str, k: int) -> None:
    """Wait until everybody is at round ``k``."""
    Path(folder, f"{k}-{host}").touch()
    async with asyncio.timeout(60):
        while sum(name.startswith(f"{k}-") for name in os.listdir(folder)) < size:
            await asyncio.sleep(0.001)


def tell(event: RunEvent) -> None:
    """An event, as it happens."""
    say(event=event.kind, message=event.message, status=event.status, label=event.label)


def objects(wanted: dict[str, Any], k: int) -> list[Furu[Any]]:
    """The artifacts of a round."""
    return [eval(text.replace("{k}", str(k)), vars(mount_artifacts)) for text in wanted["make"]]


async def one_round(wanted: dict[str, Any], k: int) -> None:
    """One run, told at its end."""
    objs = objects(wanted, k)
    if "meet" in wanted:
        await meet(*wanted["meet"], wanted["host"], k)
    begin = time.monotonic()
    executor = Local(workers=wanted.get("workers", 1), mode=wanted.get("mode", "process"))
    try:
        report = await run_dag(
            objs, executor=executor, check=False, progress=False, on_event=tell, **wanted.get("options", {})
        )
    except (FuruError, TimeoutError) as error:
        say(error=type(error).__name__, text=str(error), seconds=time.monotonic() - begin)
        return
    failures = [(node.failure.kind, node.failure.message) for node in report if node.failure is not None]
    values = [await report.load(obj) for obj in objs] if report.ok else []
    history = [line for node in report for line in node.history]
    seconds = time.monotonic() - begin
    say(
        ok=report.ok, counts=report.counts, values=values, failures=failures, history=history, seconds=seconds
    )


async def read(wanted: dict[str, Any]) -> None:
    """Load until it is told to stop: what was whole, what was not."""
    salts: set[str] = set()
    loads, troubles = 0, []
    (obj,) = objects(wanted, 0)
    say(reading=True)
    while not os.path.exists(wanted["read"]):
        try:
            value = await obj.aload()
        except FuruError as error:
            troubles.append(f"{type(error).__name__}: {error}")
            continue
        loads += 1
        salts.add(value["salt"])
        if value["fill"] != value["salt"] * (len(value["fill"]) // 32):
            troubles.append("torn")
    say(ok=not troubles, loads=loads, salts=len(salts), troubles=troubles[:5], failed=len(troubles))


async def main(wanted: dict[str, Any]) -> None:
    """All rounds, or reading."""
    with use_config(FuruConfig.from_env().with_path(wanted["root"])):
        if "read" in wanted:
            await read(wanted)
        else:
            for k in range(wanted.get("rounds", 1)):
                await one_round(wanted, k)


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    identity = (order["host"], f"boot of {order['host']}", order["host"])
    liveness.this_host = lambda: identity
    clock.wall = lambda: time.time() + order.get("skew", 0)
    asyncio.run(main(order))
