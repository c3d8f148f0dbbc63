"""What a DAG does where it cannot claim, cannot write what its jobs need, or its jobs are refused, for a while."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sim.dag_sim import Line, SimDag, mortal
from tests.sim.test_dag_ends import end_all_tasks
from tests.sim.test_dag_runs import World

from furu_async import FuruConfig, SlurmDag
from furu_async._dag import claims, orders, submitting
from furu_async._pool.objects_log import ObjectsReader
from furu_async._slurm.port import Done, JobRequest, Refused, Silence, SubmitAnswer
from furu_async._store.layout import RunPaths
from furu_async._testing.strangers import Stranger
from furu_async.errors import FuruRunTimeout
from furu_async.report import RunReport
from furu_async.testing import Hangs, faulty_storage, run_virtual, tmp_root


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def went_well(world: World, report: RunReport) -> None:
    """Everything was computed, once."""
    assert report.ok, [node.failure for node in report if node.failure]
    assert report.counts["created"] == len(world.jobs.objs) == len(world.jobs.acted)
    assert set(world.jobs.acted.values()) == {1}
    assert world.living() == []


@pytest.mark.fault("F19")
@pytest.mark.parametrize("skip", [0, 3])
def test_claims_that_cannot_be_made_are_made_later(root: FuruConfig, skip: int) -> None:
    async def main() -> None:
        world = World(root)
        with faulty_storage(errno.EIO, path="*/claims/*", operation="link", times=3, skip=skip) as faulty:
            report = await world.run(world.controller())
        assert len(faulty.hits) == 3
        went_well(world, report)

    run_virtual(main(), seed=1)


@pytest.mark.fault("F17", "F19")
@pytest.mark.parametrize("skip", [0, 1])
def test_every_artifact_is_in_the_file_from_which_jobs_take_them(
    root: FuruConfig, monkeypatch: pytest.MonkeyPatch, skip: int
) -> None:
    """Also those that could not be written the first time."""
    monkeypatch.setattr(submitting, "_BATCH", 3)  # several parts

    async def main() -> None:
        world = World(root)
        with faulty_storage(
            errno.ENOSPC, path="*/objects.jsonl", operation="write", times=2, skip=skip
        ) as faulty:
            report = await world.run(world.controller())
        assert len(faulty.hits) == 2
        went_well(world, report)
        entries = ObjectsReader(orders.objects_path(RunPaths(str(root.path), report.run_id))).read()
        assert {entry.hash for entry in entries} == set(world.jobs.objs)

    run_virtual(main(), seed=1)


class Refusing(Line):
    """A cluster that refuses some requests."""

    def __init__(self, world: World, refuses: Callable[[JobRequest], bool], words: str) -> None:
        super().__init__(world.slurm)
        self.refuses, self.words = refuses, words
        self.refused = 0

    async def submit(self, request: JobRequest) -> SubmitAnswer:
        if self.refuses(request):
            self.refused += 1
            return Refused("rejected", self.words)
        return await super().submit(request)


@pytest.mark.parametrize("arrays", [True, False])
def test_jobs_that_are_refused_for_their_dependencies_are_submitted_again(
    root: FuruConfig, arrays: bool
) -> None:
    """Slurm has forgotten a parent meanwhile: which ones it still knows is seen when they are wired anew."""

    async def main() -> None:
        world = World(root)
        line = Refusing(
            world,
            lambda request: "dependency" in request.options and line.refused < 3,
            "Batch job submission failed: Job dependency problem",
        )
        report = await world.run(SimDag(line, SlurmDag(arrays=arrays)))
        assert line.refused == 3
        went_well(world, report)

    run_virtual(main(), seed=1)


@pytest.mark.fault("F35")
def test_a_job_that_is_refused_for_good_fails_its_nodes_and_nothing_else(root: FuruConfig) -> None:
    async def main() -> None:
        world = World(root)
        words = "Batch job submission failed: Invalid account"
        line = Refusing(world, lambda request: "dependency" not in request.options, words)
        report = await world.run(SimDag(line, SlurmDag()))
        failed = [node for node in report if node.failure]
        assert {node.status for node in report} == {"failed", "skipped"}
        assert len(failed) == 3, "the first layer"
        for node in failed:
            assert node.failure is not None
            assert node.failure.kind == "protocol"
            assert words in node.failure.message
        assert world.slurm.jobs == []

    run_virtual(main(), seed=1)


@pytest.mark.fault("F07")
@pytest.mark.parametrize("whole", [False, True], ids=["no order", "an order"])
def test_nodes_that_were_claimed_for_jobs_that_never_came_get_others(
    root: FuruConfig, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """A controller dies when it has claimed nodes, before or after it has written which job is to make which."""
    mortal(monkeypatch)
    write = submitting._write_orders

    async def main() -> None:
        world = World(root)
        first = world.controller()

        def dying(paths: RunPaths, written: Any) -> None:
            if whole:
                write(paths, written)
            first.line.dead.set()

        monkeypatch.setattr(submitting, "_write_orders", dying)
        asyncio.create_task(world.run(first))  # noqa: RUF006
        await first.line.dead.wait()
        await first.die()
        monkeypatch.setattr(submitting, "_write_orders", write)
        assert world.slurm.jobs == []
        report = await world.run(world.controller(), timeout=600.0)
        went_well(world, report)
        await end_all_tasks()

    run_virtual(main(), seed=1)


@pytest.mark.fault("F51")
def test_an_array_that_is_taken_back_for_smaller_parts_is_not_joined_again(root: FuruConfig) -> None:
    """Also where it cannot be written that nobody wants it any more."""

    async def main() -> None:
        world = World(root, max_submit=2)
        with faulty_storage(errno.EIO, path="*/closed", operation="link", times=None) as faulty:
            report = await world.run(world.controller(), timeout=2000.0)
        assert faulty.hits
        went_well(world, report)

    run_virtual(main(), seed=1)


@pytest.mark.fault("F70")
def test_an_array_has_no_task_for_a_node_that_somebody_else_has_made(
    root: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result comes when the array's nodes are being claimed."""
    claim_all = claims.claim_all
    sizes: list[int] = []

    class Counting(Line):
        async def submit(self, request: JobRequest) -> SubmitAnswer:
            last = request.options.get("array", "0-0").partition("-")[2]
            sizes.append(int(last) + 1)
            return await super().submit(request)

    async def main() -> None:
        world = World(root)
        theirs = next(obj for obj in world.jobs.objs.values() if getattr(obj, "name", "") == "a1")

        def late(store: str, run_id: str, wanted: Any) -> Any:
            other = Stranger(store, theirs)
            if other.claim():
                assert other.publish(1)
            return claim_all(store, run_id, wanted)

        monkeypatch.setattr(claims, "claim_all", late)
        report = await world.run(SimDag(Counting(world.slurm), SlurmDag()))
        assert report.ok, [node.failure for node in report if node.failure]
        assert report[theirs].status == "cached"
        assert sum(sizes) == len(world.jobs.acted) == len(world.jobs.objs) - 1
        assert world.living() == []

    run_virtual(main(), seed=1)


@pytest.mark.fault("F36", "F46")
def test_adopted_jobs_of_which_slurm_says_nothing_are_not_cancelled_by_their_ids(
    root: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ids are old: whose they are by now nobody knows."""
    mortal(monkeypatch)
    cancelled: list[str] = []

    class Mute(Line):
        async def query(self) -> Silence:
            return Silence("slurmctld does not answer")

        async def cancel(self, ids: Collection[str]) -> Done:
            cancelled.extend(ids)
            return await super().cancel(ids)

    async def main() -> None:
        world = World(root, script=lambda obj, attempt: Hangs())
        first = world.controller()
        asyncio.create_task(world.run(first))  # noqa: RUF006
        while world.jobs.acted.total() < 3:
            await asyncio.sleep(0.5)
        await first.die()
        second = SimDag(Mute(world.slurm), SlurmDag())
        running = asyncio.create_task(world.run(second, timeout=60.0))
        await asyncio.sleep(5)
        assert second.executor is not None
        (dag,) = second.executor.runs.values()
        assert sum(bool(sub.job_id) for sub in dag.subs.values()) > 3
        for digest in world.jobs.acted:
            dag.kill(digest)
        await asyncio.sleep(40)
        assert cancelled == []
        with pytest.raises(FuruRunTimeout):
            await running
        await end_all_tasks()

    run_virtual(main(), seed=1)
