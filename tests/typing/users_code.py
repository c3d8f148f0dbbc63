"""What users write, as type checkers see it. Checked by ``mypy --strict`` and ``pyright``, not run.

A line that must be refused has a ``type: ignore`` with its rule: mypy complains when it is not needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, assert_type

from furu_async import (
    Failure,
    Furu,
    FuruConfig,
    Local,
    NodeOutcome,
    Retry,
    RunEvent,
    RunReport,
    Scheduler,
    SlurmSpec,
    aget_all,
    dependency,
    field,
    run_dag,
    run_dag_sync,
    stop_requested,
    use_config,
)
from furu_async.errors import FuruMissingArtifact, FuruRunFailed, FuruValidationError

T = TypeVar("T")


class Dataset(Furu[list[str]]):
    name: str = "toy"

    def _create(self) -> list[str]:
        return [self.name]


class Train(Furu[float], version="2"):
    dataset: Dataset = field(default_factory=Dataset)
    lr: float = 1e-3
    layers: tuple[int, ...] = (64, 64)
    tags: dict[str, int] = field(default_factory=dict[str, int])
    threads: int = field(default=1, identity=False)
    added: str | None = field(default=None, since=True)

    _time_limit = 3600
    _retry = Retry(retries=2, backoff=1.0, on=(OSError,), never=(FileNotFoundError,))
    _resumable = True
    _mode = "thread"

    async def _create(self) -> float:
        words = await self.dataset.aget()
        assert_type(words, list[str])
        assert_type(self.dataset.get(), list[str])
        assert_type(self.furu_dir, Path)
        (self.furu_dir / "weights.txt").write_text(" ".join(words))
        assert_type(self.furu_checkpoint_dir, Path)
        assert_type(stop_requested(), bool)
        return self.lr * len(words)

    def _load(self) -> float:
        return float((self.furu_dir / "weights.txt").read_text())

    def _validate(self) -> bool:
        if not (self.furu_dir / "weights.txt").exists():
            raise FuruValidationError("no weights")
        return True

    def _spec(self) -> SlurmSpec:
        return SlurmSpec(partition="gpu", gpus=1, cpus=8, mem_gb=32, time_min=90, extra={"nodes": 1})


class Choosy(Furu[None], name="pkg.Choosy"):
    source: Furu[float]
    many: Sequence[Furu[Any]] = ()

    def _create(self) -> None:
        assert_type(self.source.get(), float)

    def _spec(self) -> list[SlurmSpec]:
        return [SlurmSpec(gpus=1), SlurmSpec()]

    @dependency
    def more(self) -> Sequence[Furu[Any]]:
        return [Dataset(name="more")]


class Stage(Furu[T], Generic[T]):
    """An abstract class in between."""

    scale: float = 1.0

    def scaled(self) -> float:
        return self.scale * 2


class Words(Stage[list[str]]):
    count: int

    def _create(self) -> list[str]:
        return ["a"] * self.count


class EitherWay(Furu[int]):
    """The hook as the base has it: sync or async."""

    def _create(self) -> int | Awaitable[int]:
        return 1


def constructing() -> None:
    Train()
    Train(lr=1)
    Train(dataset=Dataset(), lr=0.1, layers=(1,), tags={}, threads=2, added="x")
    Words(count=1, scale=2.0)
    assert_type(Words(count=1).scaled(), float)
    assert_type(Train().lr, float)
    assert_type(Choosy(source=Train()).more(), Sequence[Furu[Any]])
    Choosy(source=Train(), many=[Dataset(), Train()])

    Train(Dataset())  # type: ignore[call-arg]
    Dataset("toy")  # type: ignore[call-arg]
    Train(lr="fast")  # type: ignore[arg-type]
    Train(rate=1.0)  # type: ignore[call-arg]
    Words()  # type: ignore[call-arg]
    Choosy(source=Dataset())  # type: ignore[arg-type]
    Train().lr = 1.0  # type: ignore[misc]
    field(default=1, default_factory=int)  # type: ignore[call-overload]


def wants_wider(wider: Furu[float | None], items: Sequence[Furu[object]]) -> None:
    assert_type(wider.get(), float | None)
    assert_type(items[0].get(), object)


def covariant(artifact: Furu[float]) -> Furu[object]:
    wants_wider(artifact, [artifact, Dataset(), Train()])
    narrower: Furu[bool] = artifact  # type: ignore[assignment]
    del narrower
    return artifact


class WrongResult(Furu[int]):
    def _create(self) -> str:  # type: ignore[override]
        return "a"


class WrongLoad(Furu[int]):
    def _create(self) -> int:
        return 1

    def _load(self) -> str:  # type: ignore[override]
        return "a"


async def results() -> None:
    train = Train()
    assert_type(await train.aget(), float)
    assert_type(await train.aget(executor=Local(workers=2)), float)
    assert_type(await train.aload(), float)
    assert_type(train.load_existing(), float)
    assert_type(train.get(), float)
    assert_type(train.exists(), bool)
    assert_type(await train.aexists(), bool)
    assert_type(train.get_state(), dict[str, Any])
    assert_type(await train.aget_state(), dict[str, Any])
    assert_type(train.get_metadata(), dict[str, Any])
    assert_type(await train.aget_metadata(), dict[str, Any])
    assert_type(await Words(count=2).aget(), list[str])
    assert_type(await aget_all([Train(lr=1), Train(lr=2)]), list[float])
    assert_type(train.furu_hash, str)
    assert_type(train.to_dict(), dict[str, Any])
    assert_type(Train.from_dict(train.to_dict()), Train)
    assert_type(train.to_python(), str)
    assert_type(train == Train(), bool)
    assert_type({train: 1}[train], int)


def print_event(event: RunEvent) -> None:
    print(event.kind, event.name, event.message)


async def running() -> None:
    train = Train()
    report = await run_dag(
        [train, Dataset()],
        executor=Local(workers=2, mode="process", cpus=4, gpus=0, mem_gb=8, max_inline=10),
        on_failure="continue",
        max_failures=3,
        timeout=60,
        retry_failed=True,
        retries=1,
        rerun=["pkg.Train"],
        on_cancel="cancel",
        check=False,
        progress=False,
        on_event=print_event,
    )
    assert_type(report, RunReport)
    assert_type(await run_dag(train), RunReport)
    assert_type(report.ok, bool)
    assert_type(report.counts, dict[str, int])
    assert_type(report.nodes, Mapping[str, NodeOutcome])
    assert_type(report[train].failure, Failure | None)
    assert_type(await report.load(train), float)
    await run_dag(3)  # type: ignore[arg-type]
    await run_dag(train, on_failure="explode")  # type: ignore[arg-type]

    async with Scheduler(Local()) as scheduler:
        run = scheduler.start([train])
        async for event in run.events():
            assert_type(event, RunEvent)
        assert_type(await run, RunReport)
        run.cancel()
        await scheduler.drain()

    with use_config(FuruConfig(path=Path("data"))):
        try:
            await run_dag([train])
        except FuruRunFailed as error:
            assert_type(error.failures, Sequence[NodeOutcome])
        except FuruMissingArtifact as error:
            assert_type(error.missing, str)


def blocking() -> None:
    assert_type(run_dag_sync(Train(), executor=Local()), RunReport)


if __name__ == "__main__":
    asyncio.run(running())
