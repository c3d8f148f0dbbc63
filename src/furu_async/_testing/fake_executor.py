"""`FakeExecutor`: runs follow a script instead of computing.

Only the attempts themselves are made up. What plans, claims, publishes, retries, waits for others and takes over is
what also runs in earnest, on a real store, so a test needs a temporary one. On a `VirtualLoop` no time passes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from furu_async._executors.base import Executor, ExecutorLike, Node, RunPort
from furu_async._executors.jobs import Job, Step
from furu_async._executors.local import Local, LocalExecutor
from furu_async._executors.validity import validate_stored
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runner.validity import Validation
from furu_async._runtime.config import FuruConfig
from furu_async._testing.keeper import InProcessKeeper
from furu_async._testing.script import Outcome, Returns, Script
from furu_async._testing.scripted import ScriptedWorkers


@dataclass(frozen=True, slots=True)
class FakeExecutor(ExecutorLike):
    """An executor for tests, without processes: ``run_dag(target, executor=FakeExecutor({Train: Fails("oom")}))``.

    Attributes:
        script: what becomes of attempts: a dict from artifact, hash or class (base classes count) to an outcome, or to
            a list of them, one per attempt, of which the last goes on for ever; or a function of artifact and attempt.
        default: the outcome of what the script does not name.
        workers: attempts at the same time.
        seed: of the jitter of backoffs, so that the same run takes the same time.
    """

    script: Script = field(default_factory=dict)
    default: Outcome = field(default_factory=Returns)
    workers: int = 4
    seed: int = 0

    def open(self, config: FuruConfig) -> Executor:
        """Make its executor, on the running loop."""
        return _Scripted(self, config)


class _Scripted(LocalExecutor):
    """A `LocalExecutor` with a script in place of its children and a keeper in this process."""

    kind = "fake"

    def __init__(self, fake: FakeExecutor, config: FuruConfig) -> None:
        self._fake = fake
        super().__init__(Local(workers=fake.workers), config)
        self.seed = fake.seed

    def _make_keeper(self) -> KeeperClient:
        return InProcessKeeper()

    def _make_workers(self) -> ScriptedWorkers:
        fake = self._fake
        self._workers = ScriptedWorkers(
            self.steps, self.size, fake.script, fake.default, self.config.heartbeat_secs
        )
        return self._workers

    async def _start_keeper(self) -> None:
        await self.keeper.start()  # without asking git who we are

    async def validate(self, run: RunPort, node: Node, files: bool) -> Validation:
        """In a thread: there are no children."""
        return await validate_stored(node.obj, run.config, files, files)

    def _route(self, job: Job) -> None:
        self._workers.add(job)

    def _over(self, job: Job, was: Step) -> None:
        super()._over(job, was)
        self._workers.on_over(job)
