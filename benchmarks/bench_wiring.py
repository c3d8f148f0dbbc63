"""How long the wiring of a DAG's jobs takes by itself: no store, no Slurm, every answer at once.

Usage: ``python benchmarks/bench_wiring.py [--nodes N]``.

Every event has to be short, because the loop waits for it, and all of them together have to be proportional to the
DAG. The garbage collector is off: what it takes depends on the whole process. Exit code 1 if a figure is over its
limit.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import deque
from collections.abc import Callable

from furu_async._dag.units import Bounds, Check, Claim, Command, GoOn, Item, Submit, Verify
from furu_async._dag.wiring import Wiring

Dag = list[tuple[str, tuple[str, ...]]]

WIDTH = 100
MOST_MS = 50.0
MOST_US_PER_NODE = 500.0


def wide(count: int) -> Dag:
    """Independent nodes."""
    return [(f"n{k}", ()) for k in range(count)]


def deep(count: int) -> Dag:
    """A chain."""
    return [(f"n{k}", (f"n{k - 1}",) if k else ()) for k in range(count)]


def layered(count: int) -> Dag:
    """Layers, each node with three parents."""
    return [
        (f"n{layer}-{k}", tuple(f"n{layer - 1}-{(k + j) % WIDTH}" for j in range(3) if layer))
        for layer in range(count // WIDTH)
        for k in range(WIDTH)
    ]


def fan(count: int) -> Dag:
    """One node that all others need."""
    return [("root", ()), *((f"n{k}", ("root",)) for k in range(count - 1))]


class Run:
    """One DAG from its plan to the last result; every event is timed."""

    def __init__(self, dag: Dag, bounds: Bounds) -> None:
        self.wiring = Wiring(bounds)
        self.commands: deque[Command] = deque()
        self.placed: deque[str] = deque()
        self.times: list[float] = []
        self.jobs = 0
        items = [Item(node, parents, 0, "k") for node, parents in dag]
        for start in range(0, len(items), 100):
            part, more = items[start : start + 100], start + 100 < len(items)
            self.time(self.wiring.plan, part, more)

    def time(self, event: Callable[..., list[Command]], *args: object) -> None:
        """Carry an event out."""
        begin = time.perf_counter()
        commands = event(*args)
        self.times.append(time.perf_counter() - begin)
        self.commands += commands

    def answer(self) -> None:
        """Whatever it asks for is answered as well as can be."""
        wiring = self.wiring
        while self.commands:
            match self.commands.popleft():
                case Claim(uids):
                    for uid in uids:
                        self.time(wiring.claimed, uid, list(wiring.units[uid].nodes))
                case Submit(uid, _):
                    self.jobs += 1
                    wiring.edges(uid)
                    self.time(wiring.placed, uid, str(self.jobs))
                case Verify(uids):
                    self.placed += [node for uid in uids for node in wiring.units[uid].nodes]
                    self.time(wiring.verified, uids)
                case Check(uid, _):
                    self.time(wiring.checked, uid, [], [])
                case GoOn():
                    self.time(wiring.go_on)

    def go_well(self) -> None:
        """All results come, one after the other."""
        self.answer()
        while self.placed:
            node = self.placed.popleft()
            self.time(self.wiring.done, node)
            self.answer()

    def lose_the_root(self) -> None:
        """The first node fails, Slurm ends all that need it, and it gets another job."""
        self.answer()
        wiring = self.wiring
        root, *others = wiring.items.values()
        units = [(item.unit, item.hash) for item in others]
        assert root.unit is not None
        self.time(wiring.failed, root.unit.uid, root.hash)
        for unit, node in units:
            assert unit is not None
            self.time(wiring.killed, unit.uid, node)
        self.time(wiring.again, root.hash, 1, "k1")
        self.answer()


def main() -> None:
    """Print the table; say which figure is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    count = parser.parse_args().nodes
    everything, single, waves = Bounds(jobs=10**6), Bounds(jobs=10**6, array=1), Bounds(jobs=200)
    cases = [
        (f"{shape.__name__}, {what}", shape, bounds, Run.go_well)
        for shape in (wide, deep, layered, fan)
        for what, bounds in (("arrays", everything), ("single jobs", single), ("waves of 200", waves))
    ]
    cases.append(("fan, the root's job is lost", fan, single, Run.lose_the_root))
    over = False
    print(f"{count} nodes")
    for what, shape, bounds, play in cases:
        gc.collect()
        gc.disable()
        run = Run(shape(count), bounds)
        play(run)
        gc.enable()
        longest, each = max(run.times) * 1e3, sum(run.times) / count * 1e6
        bad = longest > MOST_MS or each > MOST_US_PER_NODE
        over |= bad
        mark = "   OVER" if bad else ""
        print(f"  {what:28} {each:7.1f} us a node, longest event {longest:6.1f} ms, {run.jobs} jobs{mark}")
    print(f"limits: {MOST_US_PER_NODE:g} us a node, {MOST_MS:g} ms for an event")
    sys.exit(over)


if __name__ == "__main__":
    main()
