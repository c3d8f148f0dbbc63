"""The table of failures, line by line, in whole runs on virtual time; and what breaks at the boundary of a task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sim.sim_artifacts import Item, Stubborn

from furu_async import Furu, FuruConfig, RunEvent, RunReport, dependency, run_dag
from furu_async._executors import planner
from furu_async._executors.access import ACCESS
from furu_async.errors import FuruError, FuruRunFailed
from furu_async.report import FailureKind
from furu_async.testing import Fails, FakeExecutor, Raises, Returns, run_virtual, tmp_root

BUDGET: dict[FailureKind, int] = {
    # retries that follow before the node has failed
    "compute": 3, "protocol": 0, "inputs": 3, "timeout": 0, "oom": 0, "killed": 3, "lost": 3, "preempted": 5,
    "cancelled": 0,
}  # fmt: skip
DELAYED = {"compute": 1.0, "killed": 0.25}


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL + 1)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def ran(
    *targets: Furu[Any], script: Any, seed: int = 0, **options: Any
) -> tuple[RunReport, list[RunEvent], float]:
    events: list[RunEvent] = []

    async def main() -> tuple[RunReport, float]:
        executor = FakeExecutor(script, seed=seed)
        report = await run_dag(
            targets, executor=executor, **{"check": False, "on_event": events.append, **options}
        )
        return report, asyncio.get_running_loop().time()

    report, took = run_virtual(main())
    return report, events, took


@pytest.mark.parametrize("retry_failed", [True, False])
@pytest.mark.parametrize("kind", BUDGET)
def test_each_kind_has_its_budget_and_is_told(kind: FailureKind, retry_failed: bool) -> None:
    bad, fine, above = Item(number=1), Item(number=2), Item(number=3, inputs=(Item(number=1),))
    script = {bad: Fails(kind, f"it was {kind}"), Item: Returns(1)}
    report, events, took = ran(bad, fine, above, script=script, retry_failed=retry_failed)
    retries = 0 if kind == "compute" and not retry_failed else BUDGET[kind]
    node = report[bad]
    assert node.failure is not None
    assert (node.status, node.attempts, node.failure.kind) == ("failed", 1 + retries, kind)
    assert (report[fine].status, report[above].status, report[above].root) == (
        "created",
        "skipped",
        bad.furu_hash,
    )
    assert len(node.history) == retries
    told = [event for event in events if event.kind == "node_retry" and event.hash == bad.furu_hash]
    assert [event.attempt for event in told] == list(range(2, retries + 2))
    assert all(f"{kind}: it was {kind}; again in" in event.message for event in told)
    waited = took - (1 + retries)
    most = DELAYED.get(kind, 0.0) * sum(2.0**k for k in range(retries))
    assert most / 2 <= waited <= most + 0.1


def test_one_more_try_than_retries_and_it_is_created() -> None:
    for number, (kind, retries) in enumerate(BUDGET.items()):
        item = Item(number=number)
        report, _, _ = ran(item, script={item: [*[Fails(kind)] * retries, Returns(1)]})
        assert (report[item].status, report[item].attempts) == ("created", retries + 1)


def test_budgets_are_apart() -> None:
    item = Item(number=1)
    each = [Fails(kind) for kind, retries in BUDGET.items() for _ in range(retries)]
    report, _, _ = ran(item, script={item: [*each, Returns(1)]})
    assert (report[item].status, report[item].attempts) == ("created", 1 + sum(BUDGET.values()))


def test_a_protocol_failure_of_the_run_ends_it_at_once() -> None:
    bad, slow = Item(number=1), Item(number=2)
    script = {bad: Fails("protocol", "other code", run_wide=True), slow: Returns(1, after=500.0)}
    with pytest.raises(FuruRunFailed, match="other code") as caught:
        ran(bad, slow, script=script, check=True)
    report = caught.value.report
    assert report is not None
    assert (report[slow].status, report.duration < 60) == ("cancelled", True)


def test_trouble_of_the_storage_is_waited_out_then_ends_the_run(root: FuruConfig) -> None:
    bad = Item(number=1)
    report, events, took = ran(bad, script={bad: [*[Fails("infrastructure", "ENOSPC /x")] * 8, Returns(1)]})
    assert (report[bad].status, took < root.infra_secs) == ("created", True)
    with pytest.raises(FuruRunFailed, match="ENOSPC /y") as caught:
        ran(Item(number=2), script={Item: Fails("infrastructure", "ENOSPC /y")}, check=True)
    assert caught.value.report is not None
    assert root.infra_secs <= caught.value.report.duration <= root.infra_secs + 60
    delays = [(event.until or 0.0) - event.at for event in events if event.kind == "node_retry"]
    assert all(delay <= 60.0 for delay in delays)


@pytest.mark.parametrize(
    "error", [TypeError, NameError, AttributeError, ImportError, SyntaxError, NotImplementedError]
)
def test_what_another_try_cannot_mend_is_not_tried_again(error: type[Exception]) -> None:
    item = Item(number=1)
    report, _, _ = ran(item, script={item: Raises(error("no"))})
    assert (report[item].status, report[item].attempts) == ("failed", 1)


def test_a_class_says_how_often() -> None:
    item = Stubborn(number=1)
    report, _, took = ran(item, script={item: Raises(ValueError("no"))}, retries=7)
    assert report[item].attempts == 2
    assert 2 + 2.5 <= took <= 2 + 5.1


def test_delays_come_from_the_seed_and_differ_between_seeds() -> None:
    took = [
        ran(Item(number=k), script={Item: Fails("compute")}, seed=seed)[2] for k, seed in enumerate([1, 1, 2])
    ]
    assert took[0] == pytest.approx(took[1], abs=1e-6)
    assert took[0] != pytest.approx(took[2], abs=1e-3)


# -- the boundaries of tasks -------------------------------------------------------------------------------------


class Below(Item):
    """What it needs cannot be told."""

    @dependency
    def more(self) -> Furu[int]:
        raise ZeroDivisionError("in a dependency method")


class Nasty(Item):
    """What is asked about its result raises."""

    def _validate(self) -> bool:
        raise ZeroDivisionError("in validate")


def test_a_dependency_method_that_raises_is_named_and_nothing_hangs() -> None:
    with pytest.raises(FuruError, match="in a dependency method") as caught:
        ran(Below(number=1), Item(number=2), script={Item: Returns(1)})
    assert "Below" in str(caught.value)


def test_an_artifact_whose_every_hook_raises_ends_neither_planner_nor_run() -> None:
    item, fine = Nasty(number=1), Item(number=2)
    for _ in range(2):
        report, _, took = ran(item, fine, script={Item: Returns(1)})
        assert report.nodes[item.furu_hash].status == "failed"
        assert report.nodes[fine.furu_hash].status in ("created", "cached")
        assert took < 60


def test_a_look_that_raises_what_nobody_thought_of_is_trouble_of_its_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    item, fine = Item(number=1), Item(number=2)
    real = planner._probe_one
    left = [3]

    def probe(paths: Any, *more: Any) -> Any:
        if paths.hash == item.furu_hash and left[0]:
            left[0] -= 1
            raise KeyError("a bug")
        return real(paths, *more)

    monkeypatch.setattr(planner, "_probe_one", probe)
    report, events, _ = ran(item, fine, script={Item: Returns(1)})
    assert report.counts["created"] == 2
    told = [event.message for event in events if event.kind == "node_retry"]
    assert len(told) == 3
    assert all("KeyError" in message for message in told)


def test_exists_quiet_is_yes_or_no(root: FuruConfig) -> None:
    item = Nasty(number=1)
    assert ACCESS.exists_quiet(item) is False
    Path(root.path).write_text("no folder")
    assert ACCESS.exists_quiet(item) is False
    assert run_virtual(ACCESS.aexists_quiet(item)) is False
