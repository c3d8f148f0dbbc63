"""Kills: whatever dies, and wherever it is at, the same call made again ends well, and nothing is lost or left."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from chaos_artifacts import HURRY
from failpoints import AT
from lab import (
    Controller,
    Hits,
    Trouble,
    Zygote,
    begun,
    check_claims,
    check_gone,
    check_kept,
    check_runs,
    check_store,
    notes,
    published,
    send,
    state,
    until,
)
from tests.laboratory import Counts, chosen, command, counting, split

SEED = int(os.environ.get("FURU_CHAOS_SEED", "1"))

POINTS = {
    "keeper": (
        *("before-beat", "after-beat", "before-card", "after-card"),
        *("before-claim", "after-claim", "before-child", "after-child"),
        *("before-end-open", "after-end-open", "before-end-write", "after-end-write"),
        *("before-end", "after-end", "before-marker", "after-marker", "before-away", "after-away"),
    ),
    "child": (
        *("before-prepare", "before-create", "inside", "after-create", "after-store"),
        *("before-manifest", "after-manifest", "after-conclude"),
    ),
    "controller": (
        *(
            "ask-open",
            "told-open",
            "ask-claim",
            "told-claim",
            "ask-child",
            "told-child",
            "before-give",
            "after-give",
        ),
        *("ask-publish", "told-publish", "ask-close_run"),
    ),
}
OFTEN = (
    "beat",
    "claim",
    "child",
    "end",
    "marker",
    "prepare",
    "create",
    "store",
    "manifest",
    "conclude",
    "publish",
)
"""Points that are passed more than once, so that one may mean the second or third time."""

VICTIMS = (
    ("itself",),
    ("controller",),
    ("keeper",),
    ("child",),
    ("controller", "keeper"),
    ("keeper", "child"),
    ("controller", "keeper", "child"),
)

TELLING = (
    ("child/inside/1", ("controller", "keeper")),
    ("keeper/before-marker/1", ("controller", "keeper")),
    ("child/inside/1", ("controller",)),
    ("keeper/before-end/2", ("controller", "keeper")),
    ("child/inside/1", ("child",)),
    ("keeper/after-claim/1", ("controller", "keeper")),
    ("child/inside/1", ("keeper",)),
)
"""Where one promise alone keeps things right. A ``_create`` that is killed inside would not have ended by itself."""


@dataclass(frozen=True)
class Plan:
    """What is done to one call.

    Attributes:
        point: where it is done, as `failpoints.AT`; empty: after ``delay`` seconds.
        victims: roles, or ``itself``.
        endless: ``_create`` does not end by itself; only of calls that are not killed.
        patient: the next call is made only when all that was left of the first has ended by itself.
        again: after how many seconds the second try is killed, too; 0: it is not.
    """

    seed: int
    point: str
    delay: float
    victims: tuple[str, ...]
    endless: bool
    patient: bool
    again: float
    mode: str

    def __str__(self) -> str:
        when = f"at {self.point}" if self.point else f"after {self.delay:.3f} s"
        when += " in an endless _create" if self.endless else ""
        again = f", and the next controller after {self.again:.3f} s" if self.again else ""
        return f"trial {self.seed} ({self.mode}): kill {' and '.join(self.victims)} {when}{again}"


def plans(seed: int) -> Iterator[Plan]:
    """Plans without end: three of five kill at a point, and these go round all pairs of points and victims.

    One of ten is of `TELLING`.
    """
    chance = random.Random(seed)
    pairs = [
        (f"{role}/{point}", victims)
        for role, points in POINTS.items()
        for point in points
        for victims in VICTIMS
    ]
    # Each point once before any comes again, with other victims each time.
    rounds = [
        chance.sample(pairs[k :: len(VICTIMS)], len(pairs) // len(VICTIMS)) for k in range(len(VICTIMS))
    ]
    telling = itertools.cycle(TELLING)
    at = itertools.cycle(itertools.chain.from_iterable(rounds))
    for number in itertools.count():
        if number % 10 == 9:
            point, victims = next(telling)
            endless = point.startswith("child/inside")
            yield Plan(seed * 1_000_000 + number, point, 0.0, victims, endless, True, 0.0, "process")
            continue
        point, victims = next(at) if number % 5 < 3 else ("", chance.choice(VICTIMS[1:]))
        if point:
            often = any(point.endswith(f"-{word}") for word in OFTEN) or point.endswith("/inside")
            point += f"/{chance.choice((1, 1, 2, 3)) if often else 1}"
        again = chance.uniform(0.005, 0.4) if chance.random() < 0.2 else 0.0
        mode = "process" if point or chance.random() < 0.8 else chance.choice(("thread", "inline"))
        endless = mode == "process" and point in ("", "child/inside/1") and chance.random() < 0.5
        delay, patient = chance.uniform(0.0, 0.45), chance.random() < 0.5
        yield Plan(seed * 1_000_000 + number, point, delay, victims, endless, patient, again, mode)


class Trial:
    """One plan carried out on a store of its own."""

    def __init__(self, zygote: Zygote, folder: Path, plan: Plan, counts: Counts) -> None:
        folder.mkdir()
        self.folder = folder
        self.plan = plan
        self.counts = counts
        self.log, self.hold = folder / "log", folder / "hold"
        if plan.endless:
            self.hold.touch()
        self.hits = Hits(folder)
        self.missed = 0
        self.workers_too = True
        self._zygote = zygote
        self._started: list[Controller] = []
        secs = random.Random(plan.seed).choice((0.0, 0.002, 0.02))
        rest = f"log={str(self.log)!r}, hold={str(self.hold)!r}, secs={secs}"
        parts = f"Files(key='a', {rest}), Leaf(key='b', {rest})"
        self._make = [f"Join(key='c', parts=({parts}), {rest})"]

    def controller(self, env: dict[str, str]) -> Controller:
        """A process that makes the call."""
        self._started.append(
            self._zygote.start(
                self.folder,
                uuid.uuid4().hex,
                {"FURU_HEARTBEAT_SECS": "0.05", "FURU_LEASE_SECS": "60", **env},
                do="run_dag",
                make=self._make,
                mode=self.plan.mode,
            )
        )
        return self._started[-1]

    def run(self) -> None:
        """Kill, look, call again, compare.

        Raises:
            Trouble: something that must never happen.
        """
        plan = self.plan
        stopped: int | None = None
        before: dict[str, tuple[object, ...]] = {}
        first = self.controller({AT: plan.point})
        if plan.point:
            until(lambda: self.hits.ready() or not state(first.pid), f"{plan.point}: {first.story()}")
            stopped = self.hits.wait()
            self.missed += stopped is None
        else:
            time.sleep(plan.delay)
        killed = self._kill(first, stopped, plan.victims)
        if first.pid in killed:
            if plan.patient:
                self._ends_by_itself(first, killed)
            before, computed = published(self.folder / "store"), self._computed()
            if plan.again:
                second = self.controller({HURRY: "1"})
                time.sleep(plan.again)
                self._kill(
                    second,
                    None,
                    ("controller", random.Random(plan.seed).choice(("keeper", "child", "controller"))),
                )
                check_kept(before, now := published(self.folder / "store"))
                self._check_computed(before, computed)
                before, computed = now, self._computed()
            began = time.monotonic()
            last = self.controller({HURRY: "1"})
            last.answer()
            self._measure(began, "takeover_s")
            self._check_computed(before, computed)
        else:
            self._measure_retry(first, time.monotonic())
        self._finish(before)

    def _ends_by_itself(self, dead: Controller, killed: set[int]) -> None:
        """What a controller leaves behind ends without anybody's help; if its keeper lives, the claims do, too."""
        keepers = dead.family()["keeper"]
        check_gone([dead.marker])
        if keepers and not killed.intersection(keepers):
            check_claims(self.folder / "store")

    def _measure_retry(self, first: Controller, began: float) -> None:
        self.hold.unlink(missing_ok=True)
        first.answer()
        if self.plan.victims == ("child",):
            self._measure(began, "retry_s")

    def _kill(self, one: Controller, stopped: int | None, victims: tuple[str, ...]) -> set[int]:
        """SIGKILL; who was stopped and is to live goes on. The pids that were killed."""
        family = one.family()
        killed: set[int] = set()
        for role in victims:
            killed.update([stopped] if role == "itself" and stopped else family.get(role, []))
        # All at once: in the moment that one lives longer it would start another keeper, or end the children.
        send(signal.SIGSTOP, killed)
        send(signal.SIGKILL, killed)
        if one.pid in killed and not set(family["keeper"]) - killed:
            self.workers_too = False  # of a run that had ended by then nobody would ever come across the rest
        if stopped is not None and stopped not in killed:
            send(signal.SIGCONT, [stopped])
        return killed

    def beats(self) -> int:
        """What the newest beat says; 0 if there is none."""
        return max(
            (int(path.read_text() or 0) for path in self.folder.glob("store/runs/*/workers/*/beat")),
            default=0,
        )

    def _computed(self) -> dict[str, int]:
        """How often each `_create` has begun so far."""
        keys = [key for key, _ in begun(self.log)]
        return {key: keys.count(key) for key in set(keys)}

    def _check_computed(self, before: dict[str, tuple[object, ...]], then: dict[str, int]) -> None:
        """What was published when its owner died was not begun again."""
        now = self._computed()
        kinds = {"Files": "a", "Leaf": "b", "Join": "c"}
        for base in before:
            key = kinds[Path(base).parent.name]
            if now[key] != then[key]:
                raise Trouble("doubles", f"{key} was published and is computed again: {notes(self.log)}")

    def _measure(self, began: float, fact: str) -> None:
        """Seconds from a kill to the first `_create` after it."""
        later = [one.at for one in notes(self.log) if one.what == "begin" and one.at > began]
        if later:
            self.counts.most(fact, min(later) - began)

    def _finish(self, before: dict[str, tuple[object, ...]]) -> None:
        store = self.folder / "store"
        check_kept(before, now := published(store))
        values = {one.answer()["values"][0] for one in (self.controller({HURRY: "1"}),)}
        check_kept(now, published(store))
        done = begun(self.log)
        if len(done) != len(set(done)):
            raise Trouble("doubles", f"a generation was computed twice: {notes(self.log)}")
        if any(value.count("+") != 2 for value in values):
            raise Trouble("torn", f"{values}")
        self._check_apart()
        check_gone([one.marker for one in self._started])
        check_store(store, 3)
        check_runs(store, self.workers_too)

    def _check_apart(self) -> None:
        """No `_create` of an artifact began while the process of an earlier one was at it."""
        if any(one.what == "meets" for one in notes(self.log)):
            raise Trouble("doubles", f"two at one artifact at the same time: {notes(self.log)}")
        ends = {(one.key, one.generation): one.at for one in notes(self.log) if one.what == "end"}
        began: dict[str, tuple[int, float]] = {}
        for one in notes(self.log):
            if one.what != "begin":
                continue
            known = began.get(one.key)
            if known is not None:
                ended = ends.get((one.key, known[0]))
                if ended is not None and ended > one.at:
                    raise Trouble("doubles", f"two at {one.key} at the same time: {notes(self.log)}")
            began[one.key] = one.generation, one.at

    def close(self) -> None:
        """End whatever is left."""
        for one in self._started:
            one.close()
        self.hits.close()


@pytest.mark.fault("F01", "F02", "F03", "F04", "F05", "F06", "F07", "F09", "F10", "F32", "F66")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("first", "number"), split("kills", 10))
def test_kills(first: int, number: int, zygote: Zygote, tmp_path: Path) -> None:
    missed = 0
    with counting("kills") as counts:
        for plan in itertools.islice(plans(SEED), first, first + number):
            if not chosen(plan.seed):
                continue
            counts.trials += 1
            trial = Trial(zygote, tmp_path / str(plan.seed), plan, counts)
            try:
                trial.run()
            except Trouble as trouble:
                counts.harm(trouble.kind)
                again = f"again with: {command(plan.seed)}"
                raise AssertionError(f"{plan}: {trouble}\n{again}") from None
            finally:
                trial.close()
            missed += trial.missed
    assert missed <= 1 + number // 5, (
        f"{missed} of {number} never came to the point where they were to be killed"
    )


@pytest.mark.fault("F06", "F07")
@pytest.mark.parametrize("after", ["claim", "close_run"])
def test_a_keeper_that_was_started_again_knows_what_the_first_one_held(
    after: str, zygote: Zygote, tmp_path: Path
) -> None:
    point, endless = ("child/inside/1", True) if after == "claim" else ("controller/ask-close_run/1", False)
    plan = Plan(0, point, 0.0, ("keeper",), endless, True, 0.0, "process")
    with counting("kills") as counts:
        trial = Trial(zygote, tmp_path / "trial", plan, counts)
        try:
            owner = trial.controller({AT: point})
            until(trial.hits.ready, f"{point}: {owner.story()}")
            stopped = trial.hits.wait()
            assert stopped is not None
            (first,) = owner.family()["keeper"]
            send(signal.SIGKILL, [first])
            until(lambda: not state(first), "its end")
            beats = trial.beats()
            send(signal.SIGCONT, [stopped])
            if endless:
                until(lambda: trial.beats() > beats + 1, "the beat of another one")
                send(signal.SIGKILL, [owner.pid])
            else:
                owner.answer()
            check_gone([owner.marker])
            check_claims(trial.folder / "store")
            if endless:
                trial.controller({HURRY: "1"}).answer()
            check_runs(trial.folder / "store", workers=True)
        finally:
            trial.close()
