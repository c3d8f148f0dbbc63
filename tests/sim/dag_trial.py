"""One small run of a `SlurmDag` on virtual time, made to go wrong at some point, and what has to be true afterwards."""

from __future__ import annotations

import asyncio
import random
import secrets
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.laboratory import Counts
from tests.sim.dag_sim import Jobs, Line, Part, SimDag
from tests.sim.simulate import path_of

from furu_async import FuruConfig, SlurmDag, run_dag
from furu_async._dag.executor import DagExecutor
from furu_async._slurm.names import belongs_to
from furu_async._store.artifacts import look
from furu_async._store.layout import RunPaths
from furu_async._store.marker import read_end
from furu_async._store.runs import look_run
from furu_async._testing.slurm import SimSettings, SimulatedSlurm
from furu_async.testing import Fails, FakeExecutor, Outcome, Returns

GONE_SECS = 30.0
"""Within so many seconds after the end of a call nothing of it is left."""

AGAIN_SECS = 120.0
"""A call in which nothing happens any more ends within so many."""

SETTINGS = SimSettings(slots=4, kill_wait=2.0, requeue_delay=5.0, message_timeout=5.0, acct_lag=1.0)
OURS = ("furu scheduler", "furu run", "furu dag", "furu slurm", "furu journal", "furu validate", "furu plan")
"""How the names of a controller's tasks begin; jobs have none of these."""

THEIRS = Part(name="theirs")
A = Part(name="a")
B = Part(name="b")
C = Part(name="c", parts=(A, B))
D = Part(name="d", parts=(THEIRS, A))
TOP = Part(name="top", parts=(C, D))
ALL = (THEIRS, A, B, C, D, TOP)


@dataclass
class Trial:
    """One store, one cluster, and what became of the calls there.

    ``A`` and ``B`` are an array. The first attempt at ``C`` fails in its job, which makes another one by itself; the
    first job of ``D`` runs out of memory, and another one is submitted. ``THEIRS`` is computed by the job of another
    run, whose controller has left.

    Attributes:
        computed: how often each node was, by name.
        theirs: name of the other run.
        dag: of the last call.
    """

    root: Path
    computed: Counter[str] = field(default_factory=Counter)
    theirs: str = ""
    dag: SimDag | None = None

    def __post_init__(self) -> None:
        self.config = FuruConfig(path=self.root, record_git="off", infra_secs=60.0)
        self.once = {"c", "d"}
        self.jobs = Jobs(self.config, FakeExecutor(self._script), [TOP])
        self.slurm = SimulatedSlurm(SETTINGS, self.jobs)

    def _script(self, obj: Any, attempt: int) -> Outcome:
        if obj.name in self.once:
            self.once.discard(obj.name)
            return Fails("compute" if obj.name == "c" else "oom")
        return Returns(self._compute, after=6.0 if obj.name == "theirs" else 2.0)

    def _compute(self, obj: Any) -> int:
        self.computed[obj.name] += 1
        return 1

    def call(self, target: Part = TOP, **options: Any) -> asyncio.Task[Any]:
        """Begin a call."""
        self.dag = SimDag(Line(self.slurm), SlurmDag())
        work = run_dag(target, executor=self.dag, config=self.config, progress=False, **options)
        return asyncio.get_running_loop().create_task(work, name="the call")

    async def begin_theirs(self) -> None:
        """Another run begins with one of the nodes, and its controller leaves."""
        call = self.call(THEIRS, on_cancel="detach")
        while not self.jobs.acted[THEIRS.furu_hash]:
            await asyncio.sleep(0.5)
        call.cancel()
        await asyncio.wait([call])
        (self.theirs,) = self.runs()

    def went_on(self) -> bool:
        """Whether the last call went on with an earlier one's run."""
        return (
            self.dag is not None
            and self.dag.executor is not None
            and bool(self.dag.executor.shared.held.continued)
        )

    def runs(self) -> list[str]:
        """Names of the runs in the store."""
        return sorted(each.name for each in (self.root / "runs").glob("[!.]*"))

    def living(self) -> list[str]:
        """Jobs in Slurm, other than theirs."""
        return [
            job.id
            for job in self.slurm.jobs
            if not job.ended and not (self.theirs and belongs_to(job.name, self.theirs))
        ]

    async def gone(self) -> None:
        """Wait until no job of ours is left."""
        until = asyncio.get_running_loop().time() + GONE_SECS
        while self.living():
            assert asyncio.get_running_loop().time() < until, f"still in Slurm: {self.living()}"
            await asyncio.sleep(0.5)

    def verdicts(self) -> dict[str, str]:
        """What the store says of each node."""
        return {part.name: look(path_of(str(self.root), part)).verdict for part in ALL}

    def check_over(self, counts: Counts, runs: bool = True) -> None:
        """Nothing is claimed for a run but theirs; and none is held, unless that is not to be looked at."""
        for run_id in self.runs() if runs else ():
            verdict = look_run(RunPaths(str(self.root), run_id)).verdict
            if verdict == "held" and run_id != self.theirs:
                counts.harm("orphans")
                raise AssertionError(f"{run_id} is left claimed")
        for part in ALL:
            seen = look(path_of(str(self.root), part))
            assert seen.verdict != "damaged", seen
            if seen.verdict == "claimed" and (seen.claim is None or seen.claim.run_id != self.theirs):
                counts.harm("orphans")
                raise AssertionError(f"{part.name} is left claimed: {seen}")

    def check_ends(self, counts: Counts) -> None:
        """Everything was published, each once."""
        for part in ALL:
            paths = path_of(str(self.root), part)
            assert look(paths).verdict == "published", part.name
            ends = [int(each.name) for each in Path(paths.ends).glob("*") if each.name.isdigit()]
            good = [n for n in ends if read_end(paths, paths.end(n), n).status == "success"]
            if len(good) > 1:
                counts.harm("doubles")
                raise AssertionError(f"{part.name} was published in generations {good}")

    async def again(self, counts: Counts, runs: bool = True) -> None:
        """The same call: it succeeds soon, and what is there is not made again. See `check_over` for ``runs``."""
        loop = asyncio.get_running_loop()
        there = [name for name, verdict in self.verdicts().items() if verdict == "published"]
        computed, began = Counter(self.computed), loop.time()
        call = self.call(timeout=10 * AGAIN_SECS, check=False)
        report = await call
        assert report.ok, [f"{node.label}: {node.failure}" for node in report if node.failure]
        took = loop.time() - began
        counts.most("seconds of the same call", took)
        assert took < AGAIN_SECS, f"the same call took {took} s"
        for name in there:
            if self.computed[name] != computed[name]:
                counts.harm("lost")
                raise AssertionError(f"{name} was there and was made again")
        await self.gone()
        self.check_over(counts, runs)
        self.check_ends(counts)


@contextmanager
def drawn(seed: int) -> Iterator[None]:
    """Inside, what is drawn by chance (tokens, jitter) is a function of the seed, and so is every turn of the loop."""
    source, state = random.Random(seed), random.getstate()
    random.seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DagExecutor, "seed", seed)
        patch.setattr(secrets, "token_hex", lambda size=16: source.randbytes(size).hex())
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=source.getrandbits(128)))
        yield
    random.setstate(state)


async def end_all() -> None:
    """At the end of a trial no task is left."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert not tasks, [task.get_name() for task in tasks]


def left_of_controller() -> list[str]:
    """Tasks of controllers that are still there."""
    return [name for task in asyncio.all_tasks() if (name := task.get_name()).startswith(OURS)]
