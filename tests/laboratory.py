"""What the campaigns of the laboratory share: how many trials are wanted, and where their counts go.

A campaign asks `wanted` for its number of trials and hands its counts to `record`. `make test` runs the numbers that
are written in the tests, `make chaos` larger ones (it sets ``FURU_LAB_<CAMPAIGN>``); both print the table of what was
counted. Several tests may record under one name, also from several processes: their numbers add up.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shlex
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".stamps" / "laboratory"

FIGURES = {
    "core": 200_000,
    "whole-runs": 3_500,
    "cluster-runs": 1_500,
    "cluster-outages": 200,
    "races-of-2": 300,
    "races-of-8": 50,
    "kills": 100,
    "zombies": 20,
    "mount-races": 20,
    "nth-operation": 900,
    "nth-await": 700,
    "crash-states": 1_900,
    "nth-operation-slurm": 300,
    "nth-await-slurm": 300,
}
"""Trials of each campaign in `make test`, which fails if the table shows fewer.

The three kinds of simulated runs are 5,200 together; ``nth-operation``, ``nth-await`` and ``crash-states`` try every
case there is, whose number follows from the product. Those of Slurm try some of theirs, see `spread`.
"""

HARMS = ("doubles", "torn", "lost", "endless", "orphans")
"""What must never happen: published twice (or computed twice where nobody was silent), a result that is not whole, a
published result that is gone, a run without an end, a process or temporary file or claim that is left."""


@dataclass
class Counts:
    """What one test has counted.

    Attributes:
        campaign: name of its line in the table.
        trials: how many were tried.
        harms: how often each of `HARMS` was seen; every one of them also fails the test.
        facts: further numbers for the table: seconds measured, kills delivered; the largest of several is shown.
    """

    campaign: str
    trials: int = 0
    harms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HARMS, 0))
    facts: dict[str, float] = field(default_factory=dict)

    def harm(self, kind: str, times: int = 1) -> None:
        """Count something that must never happen."""
        self.harms[kind] += times

    def most(self, fact: str, value: float) -> None:
        """Keep the largest of a measured value."""
        self.facts[fact] = max(self.facts.get(fact, value), value)


def wanted(campaign: str) -> int:
    """How many trials of a campaign: what ``FURU_LAB_<CAMPAIGN>`` says, else what is in `FIGURES`."""
    return int(os.environ.get(f"FURU_LAB_{campaign.upper().replace('-', '_')}", FIGURES[campaign]))


@contextmanager
def counting(campaign: str) -> Iterator[Counts]:
    """Counts for one test, written down at its end, also where it fails."""
    counts = Counts(campaign)
    try:
        yield counts
    finally:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{uuid.uuid4().hex}.json").write_text(json.dumps(asdict(counts)), encoding="utf-8")


def chosen(trial: int) -> bool:
    """Whether a trial is to be made: one of many that failed is made alone with ``FURU_LAB_TRIAL``."""
    only = os.environ.get("FURU_LAB_TRIAL")
    return only is None or only == str(trial)


def command(trial: int | None = None) -> str:
    """The command line that repeats the test that runs now, or one trial of it."""
    kept = [f"{name}={value}" for name, value in sorted(os.environ.items()) if _is_ours(name)]
    if trial is not None:
        kept.append(f"FURU_LAB_TRIAL={trial}")
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    return " ".join([*kept, "python -m pytest -p no:randomly", shlex.quote(test)])


def _is_ours(name: str) -> bool:
    return (name.startswith("FURU_LAB_") and name != "FURU_LAB_TRIAL") or name == "FURU_CHAOS_SEED"


@contextmanager
def repeatable(what: str, trial: int | None = None) -> Iterator[None]:
    """Let what is raised inside say what was tried, and the command that repeats it."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"{what}; again with: {command(trial)}")
        raise


def split(campaign: str, parts: int) -> list[tuple[int, int]]:
    """The trials of a campaign in parts for several processes: (first, number) of each."""
    total = wanted(campaign)
    edges = [total * part // parts for part in range(parts + 1)]
    return [(low, high - low) for low, high in itertools.pairwise(edges) if high > low]


def spread(campaign: str, cases: int, share: int) -> list[int]:
    """Which of its cases, numbered from 1, one test of a campaign tries: evenly spread ones, from a place drawn.

    Args:
        cases: how many there are.
        share: how many are tried at the length of `make test`; in proportion to `wanted` else, all at the most.
    """
    only = os.environ.get("FURU_LAB_TRIAL")
    if only is not None:
        return [int(only)]
    number = min(cases, round(share * wanted(campaign) / FIGURES[campaign]))
    place = random.Random(os.environ.get("FURU_CHAOS_SEED", "1")).random()
    return [int((k + place) * cases / number) + 1 for k in range(number)]


def too_few() -> list[str]:
    """Campaigns of which less was counted than `FIGURES` says, each as a line of text."""
    rows = _rows()
    found = {name: rows[name].trials if name in rows else 0 for name in FIGURES}
    return [f"{name}: {found[name]} of {least}" for name, least in FIGURES.items() if found[name] < least]


def _rows() -> dict[str, Counts]:
    rows: dict[str, Counts] = {}
    for path in sorted(FOLDER.glob("*.json")) if FOLDER.exists() else ():
        one = Counts(**json.loads(path.read_text(encoding="utf-8")))
        row = rows.setdefault(one.campaign, Counts(one.campaign))
        row.trials += one.trials
        for harm, times in one.harms.items():
            row.harm(harm, times)
        for fact, value in one.facts.items():
            row.most(fact, value)
    return rows


def table() -> list[str]:
    """What was counted, as lines of text."""
    rows = _rows()
    if not rows:
        return []
    width = max(len(name) for name in rows)
    lines = [f"{'campaign':<{width}} {'trials':>9} " + " ".join(f"{harm:>8}" for harm in HARMS)]
    for name, row in sorted(rows.items()):
        facts = "  ".join(f"{fact} {value:.3g}" for fact, value in sorted(row.facts.items()))
        harms = " ".join(f"{row.harms[harm]:>8}" for harm in HARMS)
        lines.append(f"{name:<{width}} {row.trials:>9} {harms}  {facts}".rstrip())
    return lines
