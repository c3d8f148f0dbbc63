"""Foreign and damaged files in the folders that a DAG's controller and its jobs share, and a store that cannot say."""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.integration.local.test_bad_input import DAMAGE
from tests.sim.dag_sim import Jobs, Part
from tests.sim.test_dag_runs import World

from furu_async import FuruConfig
from furu_async._dag import claims, job
from furu_async._runtime import exit_codes
from furu_async._testing.slurm_jobs import Copy
from furu_async.errors import FuruExecutorError
from furu_async.report import RunEvent
from furu_async.testing import Fails, FakeExecutor, Returns, faulty_storage, run_virtual, tmp_root

KINDS = ("empty", "binary", "huge", "newer", "a folder", "a pipe", "a link to outside", "a loop")

PLACES = (
    "submissions/SID/order", "submissions/SID/outcome-WID", "submissions/SID/cancel-WID",
    "submissions/SID/try-1", "submissions/SID/ruling-1", "submissions/SID/job-1", "submissions/SID/closed",
    "submissions/foreign", "workers/foreign", "claims/1", "ends/1", "journal.jsonl", "run.json",
)  # fmt: skip


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[FuruConfig]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    with tmp_root(tmp_path / "store", record_git="off") as config:
        yield config
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def run_of(root: FuruConfig) -> Path:
    (folder,) = (each for each in (Path(root.path) / "runs").iterdir() if not each.name.startswith("."))
    return folder


@pytest.mark.fault("F78", "F112")
@pytest.mark.parametrize("place", PLACES)
def test_damage_to_what_controller_and_jobs_share_is_got_over(place: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("somebody else's")

    def spoil(folder: Path, what: str) -> None:
        sid = min(each.name for each in (folder / "submissions").iterdir() if each.name != "foreign")
        path = folder / place.replace("SID", sid).replace("WID", f"{sid}-0")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        DAMAGE[what](path, outside)

    async def one(config: FuruConfig, what: str) -> tuple[dict[str, int], list[str]]:
        world = World(config)

        async def soon() -> None:
            while not world.slurm.jobs:
                await asyncio.sleep(0.05)
            spoil(run_of(config), what)

        spoiling = asyncio.create_task(soon())
        report = await world.run(world.controller(), timeout=300.0)
        await spoiling
        return dict(report.counts), world.living()

    problems = []
    for number, what in enumerate(KINDS):
        with tmp_root(tmp_path / f"store-{number}", record_git="off") as config:
            try:
                counts, living = run_virtual(one(config, what), patience=20, seed=1)
            except Exception as error:
                problems.append(f"{what}: {error!r}")
                continue
        if counts["created"] != 11 or living:
            problems.append(f"{what}: {counts}, still in Slurm: {living}")
    assert not problems, "\n".join(problems)
    assert list((outside / "folder").iterdir()) == []
    assert (outside / "file").read_text() == "somebody else's"


@pytest.mark.fault("F19")
def test_a_store_that_does_not_say_how_a_job_ended_is_told_and_ends_the_run(
    root: FuruConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    see = claims._see

    def blind(place: str, run: Any, item: claims.Watched, closely: bool) -> claims.Sight:
        if item.hash == silent:
            raise OSError(errno.EIO, "Input/output error", "the folder of a node")
        return see(place, run, item, closely)

    async def main() -> tuple[str, Sequence[RunEvent], float]:
        nonlocal silent
        world, events = World(root), list[RunEvent]()
        silent = world.targets[0].furu_hash
        with pytest.raises(FuruExecutorError) as raised:
            await world.run(world.controller(), on_event=events.append)
        assert world.living() == []
        return str(raised.value), events, asyncio.get_running_loop().time()

    silent = ""
    monkeypatch.setattr(claims, "_see", blind)
    text, events, took = run_virtual(main(), seed=1)
    assert "does not say how" in text
    assert "the folder of a node" in text
    assert root.infra_secs < took < root.infra_secs + 60
    notes = [event.message for event in events if event.kind == "note"]
    assert any("the folder of a node" in note for note in notes), "why it waits is told meanwhile"


@pytest.mark.fault("F39")
def test_jobs_that_cannot_begin_say_where_the_reason_is(root: FuruConfig) -> None:
    async def cannot(copy: Copy) -> int:
        return exit_codes.CANNOT_START

    async def main() -> None:
        world = World(root)
        world.slurm.program = cannot
        report = await world.run(world.controller(), retries=0)
        failures = [node.failure for node in report if node.status == "failed"]
        assert failures
        for failure in failures:
            assert failure is not None
            assert "exit code 75: it could not begin, its log says why" in failure.message
        assert world.living() == []

    run_virtual(main(), seed=1)


@pytest.mark.fault("F19")
@pytest.mark.parametrize("step", ["_standing", "_missing"])
def test_a_job_waits_for_a_store_that_gives_errors_when_it_begins(
    root: FuruConfig, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """For a minute; no attempt is paid for it, and no further job submitted."""
    where: Any = job if step == "_missing" else job.NodeJob
    asked, real = Counter[str](), getattr(where, step)

    def failing(first: Any) -> Any:
        name = "its inputs" if step == "_missing" else first.assignment.node.hash
        asked[name] += 1
        if asked[name] <= 60:
            raise OSError(errno.EIO, "Input/output error", "the folder of a node")
        return real(first)

    async def main() -> None:
        world = World(root)
        report = await world.run(world.controller())
        assert report.ok
        assert {node.attempts for node in report} == {1}
        assert len(world.slurm.jobs) == 11

    monkeypatch.setattr(where, step, failing)
    run_virtual(main(), seed=1)
    assert min(asked.values()) > 60


@pytest.mark.fault("F17")
def test_a_job_that_the_store_refuses_once_tells_its_failures_once(root: FuruConfig) -> None:
    """Its executor answers, and so does the run that could not be opened: both mean the same attempt."""

    async def main() -> None:
        world = World(root)
        world.targets = [Part(name="x")]
        world.jobs = Jobs(root, FakeExecutor({Part: [Fails("compute"), Returns(1)]}), world.targets)
        world.slurm.program = world.jobs
        report = await world.run(world.controller())
        assert report.ok
        (node,) = report
        assert [line.split(":")[0] for line in node.history] == ["infrastructure", "compute"]
        assert node.attempts == 3

    with faulty_storage(errno.ENOSPC, path="*/workers/*-0/card-*", operation="create") as faulty:
        run_virtual(main(), seed=1)
    assert faulty.hits
