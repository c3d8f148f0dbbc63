"""A store whose root, or whose folders, are links: followed, or refused where they lead nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.sim.sim_artifacts import Item

from furu_async import FuruConfig, RunReport, run_dag
from furu_async._cli.commands import cli
from furu_async._executors.inspect import explain_dag
from furu_async._runtime.config import active_config
from furu_async._store import artifacts
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths, WorkerPaths
from furu_async._store.liveness import this_owner
from furu_async._store.records import Claim
from furu_async.errors import FuruStoreError
from furu_async.testing import FakeExecutor, run_virtual, tmp_root

NAME = "tests.sim.sim_artifacts.Item"
PLACES = ["", "data", "runs", "data/tests", f"data/{NAME.replace('.', '/')}"]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[FuruConfig]:
    with tmp_root(tmp_path / "a store", record_git="off") as config:
        yield config


def link(root: FuruConfig, place: str, target: Path) -> None:
    where = root.path / place
    if not place:
        where.mkdir(exist_ok=True)
        where.rmdir()
    where.parent.mkdir(parents=True, exist_ok=True)
    where.symlink_to(target)


async def compute(*items: Item, **options: Any) -> RunReport:
    return await run_dag(items, executor=FakeExecutor(), progress=False, **options)


def paths_of(item: Item) -> ArtifactPaths:
    return ArtifactPaths(str(active_config().path), NAME, item.furu_hash)


def claim_by_the_dead(item: Item) -> None:
    worker = WorkerPaths(str(active_config().path), "elsewhere", "1")
    owner = msgspec.structs.replace(this_owner(), start_time=1)
    card = Card(worker, Claim(token="t", backend="local", owner=owner))
    card.write()
    assert artifacts.claim(paths_of(item), 1, card).r == "claimed"


@pytest.mark.parametrize("place", PLACES)
def test_a_link_to_a_folder_is_followed(root: FuruConfig, tmp_path: Path, place: str) -> None:
    behind = tmp_path / "scratch"
    behind.mkdir()
    link(root, place, behind)
    below, left = Item(number=1), Item(number=2)
    above = Item(number=3, inputs=(below, left))
    claim_by_the_dead(left)
    report = run_virtual(compute(above))
    assert report.counts["created"] == 3, "that of a dead owner is taken over"
    assert run_virtual(compute(above, rerun=["ALL"])).counts["created"] == 3
    assert [artifacts.look(paths_of(each)).generation for each in (below, left, above)] == [2, 3, 2]
    assert asyncio.run(explain_dag(above))[0].status == "cached"
    assert above.exists()
    assert above.get_state()["status"] == "published"
    assert Path(report.run_dir).is_dir()
    assert (root.path / place).is_symlink()
    assert list(behind.rglob("*")), "it lies behind the link"
    assert not list(root.path.rglob("**/quarantine/*"))


@pytest.mark.parametrize("what", ["leads nowhere", "is a loop", "is a file"])
@pytest.mark.parametrize("place", ["", "data", "runs"])
def test_what_is_no_folder_is_refused_before_anything_runs(
    root: FuruConfig, tmp_path: Path, place: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "is a file":
        link(root, place, tmp_path / "x")
        (root.path / place).unlink()
        (root.path / place).write_text("mine")
    else:
        link(root, place, root.path / place if what == "is a loop" else tmp_path / "not mounted")
    with pytest.raises(FuruStoreError) as caught:
        run_virtual(compute(*(Item(number=k) for k in range(50))), horizon=5)
    text = str(caught.value)
    assert str(root.path / place) in text
    assert "FURU_PATH" in text
    assert {"leads nowhere": str(tmp_path / "not mounted"), "is a loop": "Too many levels", "is a file": ""}[
        what
    ] in text
    if place == "data":
        with pytest.raises(FuruStoreError, match="cannot be read"):
            asyncio.run(explain_dag(Item(number=1)))
        monkeypatch.syspath_prepend(str(tmp_path))
        (tmp_path / "links_target.py").write_text(
            "from tests.sim.sim_artifacts import Item\none = Item(number=1)\n"
        )
        said = CliRunner().invoke(cli, ["show", "links_target:one"])
        assert said.exit_code == 1
        assert str(root.path / place) in said.output
