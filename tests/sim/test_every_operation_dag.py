"""A run in Slurm, a job for each node, in which the n-th operation on the store goes wrong, for every n, in every way.

It is the controller's or a job's. Each trial is a run and the same call once more, without faults.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.laboratory import Counts, counting, repeatable, spread
from tests.sim.dag_trial import ALL, Trial, drawn, end_all, left_of_controller
from tests.sim.test_every_operation import ERRORS, REFUSED, SENT_AGAIN, SPELL_SECS, WORDS, Nth
from tests.sim.turns import Turns

from furu_async import RunReport
from furu_async._testing.faulty import BY_DESCRIPTOR
from furu_async._testing.storage_troubles import can_concern
from furu_async.errors import FuruError

CAMPAIGN = "nth-operation-slurm"
SHARE = 25
"""Trials of each test in `make test`."""

SLOW_SECS = 60.0
"""A run in which something fails ends within so many seconds."""

SCRIPTED = ("compute: as the script says", "oom: as the script says")
"""What the nodes pay for, once; nobody pays for trouble of the store."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


async def failing(root: Path, faulty: Nth, counts: Counts, spell: bool, most: int) -> None:
    """Make the call with this fault, and then without.

    Args:
        spell: much fails.
        most: how often a node may be computed.
    """
    loop, trial = asyncio.get_running_loop(), Trial(root)
    await trial.begin_theirs()
    report: RunReport | None = None
    error: FuruError | None = None
    began = loop.time()
    with faulty.installed():
        try:
            report = await trial.call(check=False)
        except FuruError as raised:
            error = raised
        took = loop.time() - began
        left = left_of_controller()
        assert not left, f"tasks are left: {left}"
        await trial.gone()
    assert took < SLOW_SECS, f"it took {took} s"
    if report is not None:
        check_report(report)
        assert set(trial.verdicts().values()) == {"published"}
        assert len(trial.computed) == len(ALL)
        assert max(trial.computed.values()) <= most, trial.computed
    else:
        assert faulty._number in REFUSED, error
        text = str(error)
        assert str(root) in text, text
        assert any(words in text for words in WORDS), text
    trial.check_over(counts, runs=not spell)
    await trial.again(counts, runs=not spell)
    await end_all()


def check_report(report: RunReport) -> None:
    """All went well, and what the nodes have paid for is what the script says."""
    assert report.ok, [f"{node.label}: {node.failure}" for node in report if node.failure]
    lines = [line for node in report for line in node.history]
    paid = [line for line in lines if "infrastructure: " not in line]
    assert sorted(paid) == sorted({*paid} & {*SCRIPTED}), lines


def live(root: Path, faulty: Nth, counts: Counts, spell: bool = False, most: int = 1) -> None:
    """One trial in a fresh store."""
    with drawn(1), asyncio.Runner(loop_factory=lambda: Turns(0, horizon=10_000.0)) as runner:
        runner.run(failing(root, faulty, counts, spell, most))
    shutil.rmtree(root)


def operations(root: Path, changing: bool) -> list[str]:
    """The operations of a run in which nothing fails, by name."""
    nothing = Nth(0, errno.EIO, changing)
    live(root, nothing, Counts(CAMPAIGN))
    assert len(nothing.names) > 300
    return nothing.names


def try_some(folder: Path, faults: list[tuple[int, dict[str, Any]]], most: int = 1) -> None:
    """Trials with these: number of the operation, and the other arguments of `Nth`."""
    with counting(CAMPAIGN) as counts:
        for trial in spread(CAMPAIGN, len(faults), SHARE):
            n, given = faults[trial - 1]
            faulty = Nth(n, **given)
            with repeatable(f"operation {n} fails: {given}", trial):
                live(folder / str(trial), faulty, counts, bool(given.get("spell")), most)
                assert faulty.hits
            counts.trials += 1


def can_fail(number: int, name: str) -> bool:
    """Whether such an operation can end in this error."""
    return can_concern(number, name) and not (number == errno.EACCES and name in BY_DESCRIPTOR)


@pytest.mark.fault("F17", "F18", "F19")
@pytest.mark.timeout(3600)
def test_any_operation_of_controller_or_job_that_fails_is_waited_out_or_said(tmp_path: Path) -> None:
    """Nothing is computed for a second time because of it, and nobody pays for it."""
    faults = [
        (n, {"number": number, "changing": True})
        for n, name in enumerate(operations(tmp_path / "whole", True), 1)
        for number in ERRORS
        if can_fail(number, name)
    ]
    try_some(tmp_path, faults)


@pytest.mark.fault("F22")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("again", [False, True])
def test_any_operation_of_controller_or_job_whose_reply_is_lost_is_found_out(
    again: bool, tmp_path: Path
) -> None:
    """With an error, or with what a server says that was asked for a second time."""
    names = operations(tmp_path / "whole", True)
    numbers = [(n, SENT_AGAIN.get(name) if again else errno.EIO) for n, name in enumerate(names, 1)]
    faults = [
        (n, {"number": number, "changing": True, "done": True}) for n, number in numbers if number is not None
    ]
    try_some(tmp_path, faults)


@pytest.mark.fault("F17", "F18", "F19")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("changing", [True, False], ids=["changing", "looking"])
def test_a_store_that_is_away_for_a_while_is_waited_for_by_controller_and_jobs(
    changing: bool, tmp_path: Path
) -> None:
    """Everything fails from the n-th operation on for five seconds, with each error in turn."""
    faults = [
        (n, {"number": number, "changing": changing, "spell": SPELL_SECS})
        for n, name in enumerate(operations(tmp_path / "whole", changing), 1)
        if can_fail(number := ERRORS[n % len(ERRORS)], name)
    ]
    try_some(tmp_path, faults, most=2)


@pytest.mark.fault("F19")
@pytest.mark.timeout(3600)
def test_any_look_of_controller_or_job_that_fails_is_tried_again(tmp_path: Path) -> None:
    faults = [
        (n, {"number": number, "changing": False})
        for n, _ in enumerate(operations(tmp_path / "whole", False), 1)
        for number in (errno.EIO, errno.ESTALE)
    ]
    try_some(tmp_path, faults, most=2)
