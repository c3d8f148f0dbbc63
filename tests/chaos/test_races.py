"""Races: processes that want the same artifacts at the same moment compute each of them once."""

from __future__ import annotations

import os
import random
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from failpoints import JITTER
from lab import Controller, Trouble, Zygote, begun, check_gone, check_store
from tests.laboratory import chosen, command, counting, split

SEED = int(os.environ.get("FURU_CHAOS_SEED", "1"))
WAYS = ("start", "aget", "start", "aget", "start", "aget", "implicit", "start", "run_dag", "get")
MODES = ("process", "thread", "inline")


class Shape:
    """A DAG to race for.

    Attributes:
        text: of each node, by name.
        below: what each needs, itself included.
        wishes: what one may want of it: names.
    """

    def __init__(self, chance: random.Random, log: Path, key: str) -> None:
        self.text: dict[str, str] = {}
        self.below: dict[str, set[str]] = {}
        self._rest = f"log={str(log)!r}, secs={chance.choice((0.0, 0.0, 0.001, 0.01))}"
        self._key = key
        self._add(chance.choice(("Leaf", "Files")), "a")
        self.kind = chance.choice(("one", "one", "chain", "diamond"))
        self.wishes = ["a"]
        if self.kind == "chain":
            self._add("Join", "b", "a")
            self.wishes = ["b", "a", "ab"]
        elif self.kind == "diamond":
            self._add("Join", "b", "a")
            self._add("Join", "c", "a")
            self._add("Join", "d", "b", "c")
            self.wishes = ["d", "bc", "cb", "da"]

    def _add(self, kind: str, name: str, *parts: str) -> None:
        below = f", parts=({', '.join(self.text[part] for part in parts)},)" if parts else ""
        self.text[name] = f"{kind}(key='{self._key}{name}', {self._rest}{below})"
        self.below[name] = {name}.union(*(self.below[part] for part in parts))


class Crowd:
    """Processes that race again and again."""

    def __init__(self, zygote: Zygote, folder: Path, size: int, jitter: float) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.marker = uuid.uuid4().hex
        env = {JITTER: str(jitter)}
        self.racers: list[Controller] = [
            zygote.start(folder, self.marker, env, do="race") for _ in range(size)
        ]
        self.artifacts = 0

    def race(self, seed: int) -> None:
        """One race.

        Raises:
            Trouble: something was computed twice, or not at all.
        """
        chance = random.Random(seed)
        shape = Shape(chance, self.log, f"{seed}-")
        before = len(begun(self.log))
        wishes = [chance.choice(shape.wishes) for _ in self.racers]
        ways = [(chance.choice(WAYS), chance.choice(MODES)) for _ in self.racers]
        moment = time.monotonic() + 0.002 + 0.0005 * len(self.racers)
        for racer, wish, (how, mode) in zip(self.racers, wishes, ways, strict=True):
            racer.say(how=how, mode=mode, make=[shape.text[name] for name in wish], moment=moment)
        answers = [racer.next_line() for racer in self.racers]
        story = f"{shape.kind}: {[(wish, *way) for wish, way in zip(wishes, ways, strict=True)]}"
        failed = [answer for answer in answers if not answer["ok"]]
        if failed:
            raise Trouble("endless", f"{len(failed)} calls failed: {failed}\n{story}")
        wanted = {name for wish in wishes for each in wish for name in shape.below[each]}
        done = sorted(begun(self.log)[before:])
        if done != [(f"{seed}-{name}", 1) for name in sorted(wanted)]:
            raise Trouble("doubles", f"of {sorted(wanted)} computed: {done}\n{story}")
        self._compare(wishes, answers, story)
        self.artifacts += len(wanted)

    def _compare(self, wishes: list[str], answers: list[dict[str, Any]], story: str) -> None:
        values: dict[str, set[str]] = {}
        for wish, answer in zip(wishes, answers, strict=True):
            for name, value in zip(wish, answer["values"], strict=True):
                values.setdefault(name, set()).add(value)
        if any(len(different) > 1 for different in values.values()):
            raise Trouble("doubles", f"different values: {values}\n{story}")

    def close(self) -> None:
        """Let them end in order, and look at what they leave."""
        for racer in self.racers:
            racer.hang_up()
        for racer in self.racers:
            racer.next_line()
        check_gone([self.marker])
        check_store(self.folder / "store", self.artifacts)


def campaign(name: str, size: int, first: int, number: int, zygote: Zygote, folder: Path) -> None:
    """Races with these seeds."""
    part = first // number
    crowd = Crowd(zygote, folder, size, jitter=0.004 * (part % 2))
    began = time.monotonic()
    with counting(name) as counts:
        try:
            for seed in range(SEED * 1_000_000 + first, SEED * 1_000_000 + first + number):
                if not chosen(seed):
                    continue
                counts.trials += 1
                crowd.race(seed)
            crowd.close()
        except Trouble as trouble:
            counts.harm(trouble.kind)
            again = f"again with: {command(seed)}"
            raise AssertionError(f"{name}: {trouble}\n{crowd.racers[0].story()}\n{again}") from None
        finally:
            counts.most("seconds_each", (time.monotonic() - began) / max(1, counts.trials))
            for racer in crowd.racers:
                racer.close()


@pytest.mark.fault("F65", "F69", "F70")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("first", "number"), split("races-of-2", 4))
def test_races_of_two(first: int, number: int, zygote: Zygote, tmp_path: Path) -> None:
    campaign("races-of-2", 2, first, number, zygote, tmp_path)


@pytest.mark.fault("F65", "F69", "F70")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("first", "number"), split("races-of-8", 2))
def test_races_of_eight(first: int, number: int, zygote: Zygote, tmp_path: Path) -> None:
    campaign("races-of-8", 8, first, number, zygote, tmp_path)
