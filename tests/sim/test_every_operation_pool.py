"""A run in a pool in which the n-th operation on the store goes wrong, for every n: its controller's or a worker's."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.laboratory import Counts, counting, repeatable, spread
from tests.sim.pool_trial import ALL, COMPUTED, LEASE_SECS, Processes, Trial, live, quiet
from tests.sim.test_every_operation import ERRORS, REFUSED, SENT_AGAIN, SPELL_SECS, WORDS, Nth

from furu_async._testing.faulty import BY_DESCRIPTOR
from furu_async._testing.storage_troubles import can_concern

CAMPAIGN = "nth-operation-slurm"

SLOW_SECS = LEASE_SECS
"""A run in which something fails ends within so many seconds: it waits for nobody's lease."""

HARMLESS = ("infrastructure", "elsewhere: infrastructure", "compute: PermissionError")
"""What the story of a node may say that has not paid for it. That a user's code lacks a permission is its failure."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


async def operations(root: Path, changing: bool) -> list[str]:
    """The operations of a run in which nothing fails, by name."""
    nothing = Nth(0, errno.EIO, changing)
    trial = Trial(root)
    with nothing.installed():
        assert await trial.ended(trial.call())
    assert trial.error is None
    return nothing.names


def can_fail(number: int, name: str) -> bool:
    """Whether such an operation can end in this error."""
    return can_concern(number, name) and not (number == errno.EACCES and name in BY_DESCRIPTOR)


async def failing(root: Path, faulty: Nth, counts: Counts, once: bool) -> None:
    """Make the call with this fault, and then without.

    Args:
        once: it makes nobody compute anything again.
    """
    trial = Trial(root)
    with faulty.installed():
        assert await trial.ended(trial.call())
        await trial.gone(counts)
    assert faulty.hits
    assert trial.took < SLOW_SECS, f"it took {trial.took} s"
    there = trial.there(counts)
    if trial.error is None:
        assert set(there) == set(ALL)
        # Where an attempt meets an error in what it computes from, or has made, it was in vain.
        most = 1 if once else 2
        assert all(times <= most for times in COMPUTED.values()), COMPUTED
        assert trial.report is not None
        lines = [line for node in trial.report for line in node.history]
        paid = [line for line in lines if not line.startswith(HARMLESS)]
        assert paid == ["compute: ConnectionError: once"], lines
    else:
        assert faulty._number in REFUSED, trial.error
        text = str(trial.error)
        assert str(root) in text, text
        assert any(words in text for words in WORDS), text
    await trial.again(counts, there)
    await trial.gone(counts)


def try_each(folder: Path, share: int, faults: list[tuple[int, Any]], once: bool) -> None:
    """Trials, each in a store of its own.

    Args:
        faults: number of the operation, and the other arguments of `Nth`.
    """
    with counting(CAMPAIGN) as counts:
        for trial in spread(CAMPAIGN, len(faults), share):
            counts.trials += 1
            n, given = faults[trial - 1]
            root = folder / str(trial)
            with repeatable(f"operation {n} fails: {given}", trial):
                live(failing(root, Nth(n, **given), counts, once))
            shutil.rmtree(root)


def faults_of(folder: Path, changing: bool, spell: float, numbers: tuple[int, ...]) -> list[tuple[int, Any]]:
    """Each operation of a run with each error, or in turn where they go on for a while."""
    names = live(operations(folder / "whole", changing))
    assert len(names) > 150
    return [
        (n, {"number": number, "changing": changing, "spell": spell})
        for n, name in enumerate(names, 1)
        for number in ([numbers[n % len(numbers)]] if spell else numbers)
        if can_fail(number, name)
    ]


@pytest.mark.fault("F17", "F18", "F19")
@pytest.mark.timeout(7200)
def test_any_operation_of_controller_or_worker_that_fails_is_waited_out_or_said(tmp_path: Path) -> None:
    """Nothing is computed for a second time because of it, and no attempt pays for it."""
    try_each(tmp_path, 60, faults_of(tmp_path, True, 0.0, ERRORS), True)


@pytest.mark.fault("F22")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("again", [False, True])
def test_any_operation_of_controller_or_worker_whose_reply_is_lost_is_found_out(
    again: bool, tmp_path: Path
) -> None:
    """With an error, or with what a server says that was asked for a second time."""
    names = live(operations(tmp_path / "whole", True))
    numbers = [(n, SENT_AGAIN.get(name) if again else errno.EIO) for n, name in enumerate(names, 1)]
    faults = [
        (n, {"number": number, "changing": True, "done": True}) for n, number in numbers if number is not None
    ]
    try_each(tmp_path, 25, faults, True)


@pytest.mark.fault("F17", "F18", "F19")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("changing", [True, False], ids=["changing", "looking"])
def test_a_store_that_is_away_for_a_while_is_waited_for_by_all(changing: bool, tmp_path: Path) -> None:
    """Everything fails from the n-th operation on for five seconds, with each error in turn."""
    try_each(tmp_path, 25, faults_of(tmp_path, changing, SPELL_SECS, ERRORS), False)


@pytest.mark.fault("F19")
@pytest.mark.timeout(7200)
def test_any_look_of_controller_or_worker_that_fails_is_tried_again(tmp_path: Path) -> None:
    try_each(tmp_path, 25, faults_of(tmp_path, False, 0.0, (errno.EIO, errno.ESTALE)), False)


async def steps(root: Path) -> int:
    """How many operations that change something a controller makes."""
    trial = Trial(root)
    trial.world.processes = Processes()
    with trial.world.processes.installed():
        assert await trial.ended(trial.call())
    return trial.world.processes.seen


async def dying(root: Path, n: int, counts: Counts) -> None:
    """Kill the controller before this operation; make the call again from another process."""
    trial = Trial(root)

    def watch(kill: Callable[[], None]) -> None:
        assert trial.world.processes is not None
        trial.world.processes.at_operation(n, kill)

    await trial.outlived(counts, watch, 0.0)


@pytest.mark.fault("F07")
@pytest.mark.filterwarnings(
    "ignore:coroutine:RuntimeWarning"
)  # of tasks that were killed before their first step
@pytest.mark.timeout(7200)
def test_the_run_of_a_controller_that_dies_before_any_of_its_operations_goes_on(tmp_path: Path) -> None:
    with counting(CAMPAIGN) as counts:
        for n in spread(CAMPAIGN, live(steps(tmp_path / "whole")), 20):
            counts.trials += 1
            root = tmp_path / str(n)
            with repeatable(f"the controller dies before its operation {n}", n):
                live(dying(root, n, counts))
            shutil.rmtree(root)
