"""`SlurmPool` as a description, and what its executor does before there is any worker."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import pytest
from pool_artifacts import BIG, SPEC, Choosy, Leaf

from furu_async import FuruConfig, Local, Scheduler, SlurmPool, SlurmSpec, run_dag
from furu_async._executors.base import Node
from furu_async._model.artifact import class_info, specs_of
from furu_async._pool.executor import PoolExecutor
from furu_async._slurm.parameters import Wish, request
from furu_async.errors import FuruConfigError, FuruDefinitionError


@pytest.mark.fault("F83")
@pytest.mark.parametrize(
    "given",
    [
        {"workers": 0},
        {"workers": -1},
        {"workers": True},
        {"workers": 1.5},
        {"workers": {}},
        {"workers": {"gpu": 1}},
        {"workers": {SlurmSpec(): 0}},
        {"max_workers": 0},
        {"slots": 0},
        {"idle": -1},
        {"idle": float("nan")},
        {"idle": float("inf")},
        {"idle": True},
        {"cluster": "pbs"},
        {"setup": [1]},
        {"slurm_additional_parameters": ["x"]},
    ],
)
def test_nonsense_is_refused_at_once(given: dict[str, Any]) -> None:
    with pytest.raises(FuruDefinitionError, match=next(iter(given))):
        SlurmPool(**given)


def test_what_cannot_be_an_option_is_refused_at_once() -> None:
    with pytest.raises(FuruConfigError, match="wait"):
        SlurmPool(slurm_additional_parameters={"wait": True})


def test_descriptions_are_values() -> None:
    one = SlurmPool(workers={SPEC: 2}, slurm_additional_parameters={"account": "a"}, setup="module load x")
    two = SlurmPool(workers={SPEC: 2}, slurm_additional_parameters={"account": "a"}, setup=["module load x"])
    assert one == two
    assert hash(one) == hash(two)
    assert one != SlurmPool(workers={SPEC: 3})
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.fault("F82")
def test_the_pools_options_are_merged_and_the_specs_win() -> None:
    pool = SlurmPool(
        slurm_additional_parameters={"account": "lab", "constraint": "fast", "dependency": "singleton"},
        setup=["module load x"],
    )
    spec = SlurmSpec(
        extra={
            "setup": ["export A=1"],
            "slurm_constraint": "big",
            "slurm_additional_parameters": {"qos": "long"},
        }
    )
    made = request(pool.with_options(spec), Wish("furu-x", ("true",), "/logs", dependency="afterok:1"))
    assert made.options["account"] == "lab"
    assert made.options["constraint"] == "big"
    assert made.options["qos"] == "long"
    assert made.options["dependency"] == "singleton,afterok:1"
    assert made.setup == ("module load x", "export A=1")


def test_options_do_not_make_another_spec() -> None:
    pool = SlurmPool(workers={SPEC: 2}, slurm_additional_parameters={"account": "lab"})
    assert pool.limit(SPEC) == 2
    assert pool.limit(BIG) == 0
    assert SlurmPool(workers=3).limit(BIG) == 3
    assert SlurmPool().with_options(SPEC) == SPEC


async def test_only_specs_with_workers_are_accepted(tmp_path: Path) -> None:
    executor = PoolExecutor(SlurmPool(workers={BIG: 1}), FuruConfig(path=tmp_path))
    assert executor.has_limits
    assert not PoolExecutor(SlurmPool(), FuruConfig(path=tmp_path)).has_limits
    refused = executor.check(node(Leaf()), specs_of(Leaf()))
    assert refused is not None
    assert SPEC.key in refused
    assert executor.check(node(Choosy()), specs_of(Choosy())) is None
    await executor.aclose()


def node(obj: Any) -> Node:
    info = class_info(type(obj))
    return Node(obj, obj.furu_hash, info.name, info)


async def test_a_run_with_nothing_to_do_submits_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    config = FuruConfig(path=tmp_path / "store", record_git="off")
    await run_dag(Leaf(n=3), executor=Local(mode="inline"), config=config, progress=False)
    before = sorted((tmp_path / "store" / "runs").iterdir())
    report = await run_dag(Leaf(n=3), executor=SlurmPool(cluster="local"), config=config, progress=False)
    assert report.counts["cached"] == 1
    assert sorted((tmp_path / "store" / "runs").iterdir()) == before
    assert not (tmp_path / "store" / "submitit").exists()


async def test_a_pool_serves_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("furu_async._pool.control.Control.resize", lambda self: None)  # no workers here
    one, two = (FuruConfig(path=tmp_path / name, record_git="off") for name in ("one", "two"))
    async with Scheduler(SlurmPool(cluster="local"), config=one) as scheduler:
        first = scheduler.start(Leaf(n=1), check=False)
        async with asyncio.timeout(30):
            while not list((tmp_path / "one").glob("runs/*/queue/todo/*/*/*")):
                await asyncio.sleep(0.02)
        report = await scheduler.start(Leaf(n=1), config=two, check=False)
        failure = report[Leaf(n=1)].failure
        assert failure is not None
        assert "serves" in failure.message
        assert "no workers yet" in first.why(Leaf(n=1))
        first.cancel()
        await first.ended()
        assert not list((tmp_path / "one").glob("runs/*/queue/todo/*/*/*")), "its entry was taken back"
