"""Zombies: owners that are stopped for longer than a lease are replaced, and harmless when they wake up.

The observer believes to be on another host, so it can know nothing of the owner but its beat.
"""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from failpoints import AT, HOST
from lab import (
    SCALE,
    Controller,
    Hits,
    Trouble,
    Zygote,
    begun,
    check_gone,
    check_kept,
    check_store,
    notes,
    published,
    send,
    until,
)
from tests.laboratory import Counts, chosen, command, counting, split

SEED = int(os.environ.get("FURU_CHAOS_SEED", "1"))
LEASE = 2.0 * max(1.0, SCALE)
BEAT = LEASE / 8
AT_ONCE = 5
"""They mostly wait."""

KINDS = (
    ("owner", "child/inside/1"),
    ("owner", "keeper/before-end/1"),
    ("owner", "child/after-conclude/1"),
    ("owner", "controller/ask-publish/1"),
    ("keeper", "child/inside/1"),
    ("keeper", "keeper/before-end/1"),
    ("keeper", "keeper/after-end-write/1"),
    ("controller", "child/inside/1"),
    ("observer", "child/inside/1"),
    ("both", "child/inside/1"),
)
"""Who is stopped, and where the owner is then. Of an owner that beats nobody may take anything."""


@dataclass(frozen=True)
class Plan:
    """What is done to one owner.

    Attributes:
        who: whose processes are stopped.
        point: where.
        waiting: the observer waits already when that happens.
        early: the zombie is woken while the new owner still computes, not after it has published.
    """

    seed: int
    who: str
    point: str
    waiting: bool
    early: bool

    def __str__(self) -> str:
        when = "while the other computes" if self.early else "after the other has published"
        what = f"stop {self.who} at {self.point}, the observer {'waits' if self.waiting else 'comes later'}"
        return f"trial {self.seed}: {what}; wake it {when}"


def plan_of(number: int) -> Plan:
    """The plan with this number."""
    chance = random.Random(SEED * 1_000_000 + number)
    who, point = KINDS[number % len(KINDS)]
    waiting = who in ("observer", "both") or chance.random() < 0.5
    return Plan(SEED * 1_000_000 + number, who, point, waiting, chance.random() < 0.5)


class Trial:
    """One plan carried out on a store of its own."""

    def __init__(self, zygote: Zygote, folder: Path, plan: Plan, counts: Counts) -> None:
        folder.mkdir()
        self.folder, self.plan, self.counts = folder, plan, counts
        self.log, self.hold = folder / "log", folder / "hold"
        self.hits = Hits(folder)
        self._zygote = zygote
        self._started: list[Controller] = []
        first = f"Files(key='a', log={str(self.log)!r}, hold={str(self.hold)!r})"
        self._make = [f"Join(key='b', parts=({first},), log={str(self.log)!r})"]

    def controller(self, host: str, point: str = "") -> Controller:
        """A process that makes the call, on a host of this name."""
        settings = {
            "FURU_LEASE_SECS": str(LEASE),
            "FURU_HEARTBEAT_SECS": str(BEAT),
            "FURU_HEARTBEAT_GRACE_SECS": str(LEASE),
        }
        env = {AT: point, HOST: host, **settings}
        marker = uuid.uuid4().hex
        self._started.append(self._zygote.start(self.folder, marker, env, do="run_dag", make=self._make))
        return self._started[-1]

    def run(self) -> None:
        """Stop, observe, wake, compare.

        Raises:
            Trouble: something that must never happen.
        """
        owner = self.controller("here", self.plan.point)
        until(self.hits.ready, f"the owner to come to {self.plan.point}: {owner.story()}")
        at_point = self.hits.wait()
        assert at_point is not None
        if self.plan.early or self.plan.who not in ("owner", "keeper"):
            self.hold.touch()
        if self.plan.who in ("owner", "keeper"):
            self._silent(owner, at_point)
        else:
            self._alive(owner, at_point)
        for one in self._started:
            one.answer()
        check_gone([one.marker for one in self._started])
        check_store(self.folder / "store", 2)
        if len({one.lines[-1]["values"][0] for one in self._started}) != 1:
            raise Trouble("doubles", f"different values: {[one.lines[-1] for one in self._started]}")

    def _observer(self) -> Controller:
        observer = self.controller("elsewhere")
        until(lambda: observer.saw("node_waiting"), f"the observer to wait: {observer.story()}")
        return observer

    def _silent(self, owner: Controller, at_point: int) -> None:
        """The owner's beat stops: it is replaced after a lease, not before."""
        observer = self._observer() if self.plan.waiting else None
        stopped = self._stop(owner, at_point)
        # A beat from just before may be the last that was seen.
        since = time.monotonic() - BEAT
        observer = observer or self.controller("elsewhere")
        until(lambda: ("a", 2) in begun(self.log), f"the observer to take over: {observer.story()}")
        took = next(one.at for one in notes(self.log) if (one.key, one.generation) == ("a", 2))
        if took - since < LEASE:
            raise Trouble(
                "doubles", f"taken over {took - since:.3f} s after the last beat, the lease is {LEASE} s"
            )
        self.counts.most("leases_waited", (took - since) / LEASE)
        before: dict[str, tuple[object, ...]] = {}
        if not self.plan.early:
            observer.answer()
            before = published(self.folder / "store")
        send(signal.SIGCONT, stopped)
        if self.plan.early:
            if "inside" not in self.plan.point:  # there both go on at the same time
                replaced = ("node_waiting", "node_retry")
                until(lambda: any(map(owner.saw, replaced)), f"the zombie to be fenced: {owner.story()}")
            self.hold.unlink()
        answers = [observer.answer(), owner.answer()]
        check_kept(before, published(self.folder / "store"))
        done = sorted(begun(self.log))
        if done != [("a", 1), ("a", 2), ("b", 1)]:
            raise Trouble("doubles", f"{done}\n{answers}")
        if answers[0]["counts"]["created"] + answers[1]["counts"]["created"] != 2:
            raise Trouble("doubles", f"{answers}")
        if not self.plan.early and answers[1]["counts"]["created"]:
            raise Trouble("doubles", f"the zombie says that it has created something: {answers}")

    def _stop(self, owner: Controller, at_point: int) -> list[int]:
        """Stop the owner altogether, or only its keeper; who was at the point and is not meant goes on."""
        family = owner.family()
        meant = (
            [pid for pids in family.values() for pid in pids]
            if self.plan.who == "owner"
            else family["keeper"]
        )
        if not meant:
            raise Trouble("endless", f"{self.plan.who} is not there: {family} {owner.story()}")
        send(signal.SIGSTOP, meant)
        if at_point not in meant:
            send(signal.SIGCONT, [at_point])
        return meant

    def _alive(self, owner: Controller, at_point: int) -> None:
        """The owner beats, or the observer was asleep: nothing is taken."""
        if self.plan.who == "controller":
            stopped = [owner.pid]
            send(signal.SIGSTOP, stopped)
            send(signal.SIGCONT, [at_point])
            observer = self._observer()
            self._pass(2.5 * LEASE)
            send(signal.SIGCONT, stopped)
        else:
            send(signal.SIGCONT, [at_point])
            observer = self._observer()
            asleep = [pid for pids in observer.family().values() for pid in pids]
            stopped = [pid for pids in owner.family().values() for pid in pids]
            stopped = stopped if self.plan.who == "both" else []
            send(signal.SIGSTOP, stopped)
            self._pass(0.5 * LEASE)
            send(signal.SIGSTOP, asleep)
            self._pass(1.5 * LEASE)
            # The observer wakes first: all that it sees for a while is a beat that is older than a lease.
            send(signal.SIGCONT, asleep)
            self._pass(0.4 * LEASE)
            send(signal.SIGCONT, stopped)
            self._pass(0.8 * LEASE)
        self.hold.unlink()
        answers = [owner.answer(), observer.answer()]
        if sorted(begun(self.log)) != [("a", 1), ("b", 1)]:
            raise Trouble("doubles", f"{notes(self.log)}\n{answers}")
        if answers[0]["counts"]["created"] + answers[1]["counts"]["created"] != 2:
            raise Trouble("doubles", f"{answers}")

    def _pass(self, seconds: float) -> None:
        """Let time pass, in which nothing may begin."""
        until_then = time.monotonic() + seconds
        while time.monotonic() < until_then:
            if len(begun(self.log)) > 1:
                raise Trouble("doubles", f"an owner that lives was replaced: {notes(self.log)}")
            time.sleep(0.02)

    def close(self) -> None:
        """End whatever is left."""
        for one in self._started:
            send(signal.SIGCONT, [pid for pids in one.family().values() for pid in pids])
            one.close()
        self.hits.close()


@pytest.mark.fault("F14", "F15", "F61", "F62", "F63", "F67")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("first", "number"), split("zombies", 2))
def test_zombies(first: int, number: int, zygote: Zygote, tmp_path: Path) -> None:
    with counting("zombies") as counts, ThreadPoolExecutor(AT_ONCE) as pool:

        def one(plan: Plan) -> str:
            trial = Trial(zygote, tmp_path / str(plan.seed), plan, counts)
            try:
                trial.run()
            except Trouble as trouble:
                counts.harm(trouble.kind)
                return f"{plan}: {trouble}\nagain with: {command(plan.seed)}"
            finally:
                trial.close()
            return ""

        plans = [plan for plan in map(plan_of, range(first, first + number)) if chosen(plan.seed)]
        counts.trials += len(plans)
        failures = [text for text in pool.map(one, plans) if text]
    assert not failures, "\n\n".join(failures)
