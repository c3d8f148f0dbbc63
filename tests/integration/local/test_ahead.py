"""What children are given ahead of its turn: it comes back where its turn does not come."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from furu_async import Furu, Local, RunEvent, Scheduler, field
from furu_async._runtime.config import active_config

SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))
pytestmark = pytest.mark.usefixtures("furu_tmp_root")


class Step(Furu[int]):
    """Takes no time, or waits for a file and then fails if it is so called."""

    n: int
    below: tuple[Furu[int], ...] = ()
    gate: str = ""
    folder: str = field(default="", identity=False)

    def _create(self) -> int:
        end = time.monotonic() + 60 * SCALE
        while self.gate and not Path(self.folder, self.gate).exists() and time.monotonic() < end:
            time.sleep(0.01)
        if self.gate == "fails":
            raise TypeError("as it was told")
        return self.n


class Bench:
    """Targets that have children take several at once, and then one that takes long with more behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[RunEvent] = []
        self.quick = [Step(n=n) for n in range(150)]
        self.slow = [Step(n=1000 + n, gate="gate", folder=str(folder)) for n in range(20)]

    def begun(self) -> set[str]:
        slow = {each.furu_hash for each in self.slow}
        return {event.hash for event in self.events if event.kind == "node_started"} & slow

    def open_claims(self) -> int:
        """Claims without an end."""
        data = Path(active_config().path, "data")
        return len(list(data.glob("**/.furu/claims/*"))) - len(list(data.glob("**/.furu/ends/*")))

    async def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + 30 * SCALE
        while not condition():
            assert time.monotonic() < end, what
            await asyncio.sleep(0.02)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_what_waits_behind_a_long_task_is_free_for_others(bench: Bench) -> None:
    async with Scheduler(Local(workers=1)) as scheduler:
        run = scheduler.start([*bench.quick, *bench.slow], on_event=bench.events.append)
        await bench.until(bench.begun, "a slow one begins")
        await bench.until(lambda: bench.open_claims() == 1, "claims that cannot be used are let go")
        await asyncio.sleep(0.5)
        assert bench.open_claims() == 1, "and not taken again"
        (bench.folder / "gate").touch()
        report = await run
    assert report.counts["created"] == 170
    assert all(node.attempts == 1 for node in report)


async def test_a_run_that_drains_begins_nothing_that_was_given_ahead(bench: Bench) -> None:
    bad = Step(n=-1, gate="fails", folder=str(bench.folder))
    above = Step(n=-2, below=(bad,))  # so that it goes before the slow ones
    async with Scheduler(Local(workers=2)) as scheduler:
        run = scheduler.start(
            [*bench.quick, above, *bench.slow], on_event=bench.events.append, on_failure="drain", check=False
        )
        await bench.until(bench.begun, "a slow one begins")
        (bench.folder / "fails").touch()
        await bench.until(
            lambda: sum(event.status == "skipped" for event in bench.events) >= 19, "the others are skipped"
        )
        (bench.folder / "gate").touch()
        report = await run
    # Another one may have begun where the failed one left room.
    assert 1 <= sum(report[each].status == "created" for each in bench.slow) <= 2
    assert report[bad].status == "failed"
