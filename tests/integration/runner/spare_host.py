"""A supervisor that has forked its keeper and its first child ahead, as a job does; prints one line of JSON.

Run as ``python spare_host.py FOLDER WHAT``, with the variable of the token as a job's script sets it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from furu_async._runner import spares

folder, what = Path(sys.argv[1]), sys.argv[2]


def say(**facts: Any) -> None:
    """Print the line, at once."""
    print(json.dumps(facts), flush=True)


def seen(pid: int) -> dict[str, Any]:
    """What the system shows of a process."""
    proc = Path(f"/proc/{pid}")
    return {
        "pid": pid,
        "session": os.getsid(pid),
        "token": [
            e for e in proc.joinpath("environ").read_bytes().decode().split("\0") if "FURU_ASYNC_CHILD=" in e
        ],
        "open": sorted(os.readlink(each).split(":")[0] for each in proc.joinpath("fd").iterdir()),
        "command": proc.joinpath("cmdline").read_bytes().decode().split("\0")[1:3],
    }


async def main() -> None:
    """Start what is asked for, in the way that the library does."""
    from runner_artifacts import Number
    from runner_bench import Bench, lives
    from spare_artifacts import Dies, Looks

    from furu_async._runner.keeper_client import KeeperClient

    bench = Bench(folder)
    there = {name: spare.process.pid for name, spare in spares._spares.items()}
    if what == "unused":
        say(pids=list(there.values()))
        return
    os.environ["OF_THE_JOB"] = "yes"
    os.umask(0o027)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    if what == "preloaded":
        os.environ["LD_PRELOAD"] = ""
    if what == "killed":
        os.kill(there["child"], signal.SIGKILL)
        os.kill(there["keeper"], signal.SIGKILL)
        await bench.until(lambda: not any(map(lives, there.values())))
    keeper = KeeperClient(0.5)
    await keeper.start()
    child = await bench.child()
    facts: dict[str, Any] = {
        "there": there,
        "keeper": seen(keeper.pid),
        "child": seen(child.pid),
        "wanted": child.token,
        "supervisor": os.getpid(),
        "answer": await keeper.ask(("child_gone", 0)),
    }
    if what == "hangs":
        say(**facts)
        await asyncio.Event().wait()
    if what == "dies":
        task = bench.give(child, Dies())
        gone = await bench.gone(child)
        facts["gone"] = [gone.returncode, gone.kind, gone.expected, gone.log_tail.strip()]
        assert gone.running is not None
        assert gone.running.id == task.id
    else:
        result = await bench.run(child, Looks())
        facts["result"] = json.loads(bytes(result.value)) if result.ok else str(result.failure)
        facts["stdout"] = (folder / "data" / Looks().furu_hash / "attempts" / "1" / "stdout").read_text()
    second = await bench.child()
    facts["second"] = [second.pid, (await bench.run(second, Number(n=5))).ok]
    for one in bench.children:
        await one.aclose()
    await keeper.aclose()
    facts["left"] = sorted(os.listdir(folder / "spools"))
    say(**facts)


if __name__ == "__main__":
    if what == "threaded":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    held = os.open(__file__, os.O_RDONLY)  # what the forks must not hold
    fork = spares.prepare()
    if fork is not None:
        sys.exit(fork())
    asyncio.run(main())
