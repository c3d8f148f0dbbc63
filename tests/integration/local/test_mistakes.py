"""Mistakes in a DAG are found before anything runs; bugs of ours end the run loudly and leave nothing running."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from local_artifacts import ASleeps, Counted, Num

from furu_async import Furu, Local, Scheduler, dependency, run_dag
from furu_async.errors import FuruDefinitionError

pytestmark = pytest.mark.usefixtures("furu_tmp_root")
ONE = Local(workers=1)


class Around(Furu[int]):
    """Depends on another one of its kind, in a circle."""

    n: int
    beside: Furu[int]

    @dependency
    def next(self) -> Around:
        return Around(n=(self.n + 1) % 3, beside=self.beside)

    def _create(self) -> int:
        return 1


class Itself(Furu[int]):
    """Depends on itself."""

    @dependency
    def me(self) -> Itself:
        return Itself()

    def _create(self) -> int:
        return 1


class Careless(Furu[int]):
    """Its method does not give artifacts."""

    beside: Furu[int]

    @dependency
    def other(self) -> Any:
        raise KeyError("oops")

    def _create(self) -> int:
        return 1


@pytest.mark.fault("F77")
@pytest.mark.parametrize("what", ["cycle", "self", "raising"])
async def test_a_mistake_is_named_and_nothing_has_run(what: str, tmp_path: Path) -> None:
    calls = Counted(path=str(tmp_path / "calls"))
    target: Furu[int] = {
        "cycle": Around(n=0, beside=calls),
        "self": Itself(),
        "raising": Careless(beside=calls),
    }[what]
    with pytest.raises(FuruDefinitionError) as caught:
        await run_dag([calls, target], executor=ONE, progress=False)
    assert type(target).__name__ in str(caught.value)
    assert not (tmp_path / "calls").exists()


@pytest.mark.fault("F99")
async def test_a_bug_of_ours_ends_the_run_and_what_it_had_running(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Scheduler(ONE) as scheduler:
        run = scheduler.start(ASleeps(n=1))
        async with asyncio.timeout(20):
            async for event in run.events():
                if event.kind == "node_started":
                    break

        def broken(*_: Any) -> Any:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr("furu_async._executors.driver.advance", broken)
        run.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(ZeroDivisionError, match="a bug"):
                await run
        monkeypatch.undo()
        assert ASleeps(n=1).get_state()["failure"]["kind"] == "cancelled"
        assert (await scheduler.start(Num(n=1))).ok, "the scheduler and its other runs go on"


@pytest.mark.fault("F99")
async def test_a_watcher_that_fails_now_and_then_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from furu_async._executors import watcher

    real, troubles = watcher._see, iter([True, True, False])

    def shaky(*arguments: Any) -> Any:
        if next(troubles, False):
            raise ZeroDivisionError("a bug")
        return real(*arguments)

    slow = ASleeps(n=2, secs=0.5)
    async with Scheduler(ONE) as first, Scheduler(ONE) as second:
        one = first.start(slow)
        async with asyncio.timeout(20):
            async for event in one.events():
                if event.kind == "node_started":
                    break
        monkeypatch.setattr(watcher, "_see", shaky)
        two = second.start(slow)
        assert (await one).counts["created"] == 1
        assert (await two).counts["cached"] == 1


class Mutable(Furu[int]):
    """Its list can be changed behind its back."""

    items: list[int]

    def _create(self) -> int:
        return len(self.items)


async def test_an_artifact_changed_after_it_was_hashed_is_an_error_of_its_node_only() -> None:
    bad = Mutable(items=[1])
    assert bad.furu_hash
    bad.items.append(2)
    async with asyncio.timeout(20):
        report = await run_dag([bad, Num(n=1)], executor=ONE, progress=False, check=False)
    failure = report[bad].failure
    assert failure is not None
    assert failure.kind == "protocol"
    assert "changed" in failure.message
    assert report[Num(n=1)].status == "created"


@pytest.mark.parametrize(
    "wrong",
    [
        {"rerun": ["nope"]},
        {"rerun": 5},
        {"rerun": Num},
        {"retry_failed": "no"},
        {"config": {}},
        {"on_event": 5},
        {"on_event": asyncio.sleep},
    ],
)
async def test_arguments_that_would_do_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FuruDefinitionError, match=next(iter(wrong))):
        await run_dag(Num(n=1), executor=ONE, progress=False, **wrong)
