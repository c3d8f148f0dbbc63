"""Simulated child processes: they run what a script says, and die with or without their supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from tests.sim.processes import ClusterLoop, Process, here

from furu_async._executors.base import Executor, ExecutorLike
from furu_async._executors.jobs import Job
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runner.messages import TaskResult
from furu_async._runtime.config import FuruConfig
from furu_async._testing.fake_executor import FakeExecutor, _Scripted
from furu_async._testing.script import Fails, Hangs, Outcome, Raises, Returns
from furu_async._testing.scripted import ScriptedWorkers, _raised, _store
from furu_async.report import Failure


class Attempt:
    """One ``_create``, as the world sees it.

    Attributes:
        owner: the controller it belongs to.
        began, ended: true times.
    """

    def __init__(self, job: Job, owner: Process, child: Process, began: float) -> None:
        self.obj: Any = job.origin.node.obj
        self.hash = job.origin.node.hash
        self.generation = job.generation
        self.owner = owner
        self.child = child
        self.began = began
        self.ended: float | None = None


class Witness(Protocol):
    """Who is told of every ``_create``."""

    def begun(self, attempt: Attempt) -> str:
        """It begins now; gives what is wrong with its inputs."""

    def ended(self, attempt: Attempt) -> None:
        """It has ended, or was killed."""


class Child:
    """A persistent child process of one controller.

    Attributes:
        known: to the controller's keeper, which ends what the kernel leaves of it.
    """

    def __init__(self, loop: ClusterLoop, supervisor: Process, witness: Witness) -> None:
        self.loop = loop
        self.supervisor = supervisor
        self.witness = witness
        self.process = loop.start_process(supervisor.host, "child", supervisor.number)
        self.process.supervisor = supervisor
        self.process.born = loop.now
        self.attempt: Attempt | None = None
        self.known = False
        self._answer: asyncio.Future[TaskResult] | None = None
        self.process.on_death.append(self._died)
        supervisor.on_death.append(self._lifeline)

    def recorded(self, _: Any) -> None:
        """The keeper has answered."""
        self.known = True

    def run(self, job: Job, outcome: Outcome) -> asyncio.Future[TaskResult]:
        """Send it a task; the answer comes later."""
        answer: asyncio.Future[TaskResult] = self.loop.create_future()
        self._answer = answer
        if self.process.dead:
            self._died()
        self.loop.at(self.process, self.loop.rng.random() * 0.003, self._begin, job, outcome)
        return answer

    def _begin(self, job: Job, outcome: Outcome) -> None:
        self.attempt = Attempt(job, self.supervisor, self.process, self.loop.now)
        missing = self.witness.begun(self.attempt)
        if missing:
            outcome = Fails("inputs", missing, after=0.01)
        if not isinstance(outcome, Hangs):
            assert isinstance(outcome, Returns | Fails | Raises)
            self.loop.spawn(self.process, lambda: self._end(job, outcome), outcome.after)

    def _end(self, job: Job, outcome: Returns | Fails | Raises) -> None:
        if isinstance(outcome, Returns):
            value = outcome.value
            result = _store(job, value(job.origin.node.obj) if callable(value) else value)
        elif isinstance(outcome, Raises):
            result = _raised(job, outcome.error)
        else:
            failure = Failure(kind=outcome.kind, message=outcome.message, retryable=outcome.retryable)
            result = TaskResult(id=0, ok=False, failure=failure)
        self._over()
        self._tell(result, 0.003)

    def _over(self) -> None:
        if self.attempt is not None and self.attempt.ended is None:
            self.attempt.ended = self.loop.now
            self.witness.ended(self.attempt)

    def _died(self) -> None:
        self._over()
        failure = Failure(kind="killed", message="its process was killed")
        self._tell(TaskResult(id=0, ok=False, failure=failure), 0.05)

    def _tell(self, result: TaskResult, within: float) -> None:
        if self._answer is not None:
            self.loop.at(self.supervisor, self.loop.rng.random() * within, _set, self._answer, result)

    def _lifeline(self) -> None:
        """The kernel kills it when its supervisor dies; sometimes something of it lives on, for whoever takes over."""
        if not self.known or self.loop.rng.random() < 0.7:
            self.loop.at(None, self.loop.rng.random() * 0.01, self.loop.kill, self.process)


def _set(answer: asyncio.Future[TaskResult], result: TaskResult) -> None:
    if not answer.done():
        answer.set_result(result)


class ClusterWorkers(ScriptedWorkers):
    """Scripted workers whose attempts run in simulated processes."""

    witness: Witness

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        process = here.get()
        assert process is not None
        self._process = process
        self._children: set[Child] = set()
        self._idle: list[Child] = []

    async def _play(self, job: Job, outcome: Outcome) -> TaskResult:
        child = self._idle.pop() if self._idle else self._start()
        try:
            result = await child.run(job, outcome)
        except asyncio.CancelledError:
            self._gone(child)
            raise
        if child.process.dead:
            self._gone(child)
        else:
            self._idle.append(child)
        return result

    def _start(self) -> Child:
        loop = self._loop
        assert isinstance(loop, ClusterLoop)
        child = Child(loop, self._process, self.witness)
        self._children.add(child)
        process = child.process
        op = ("child", f"child {process.pid}", process.pid, process.start_time, f"token-{process.start_time}")
        self.steps.keeper.request(op, child.recorded)
        return child

    def _gone(self, child: Child) -> None:
        assert isinstance(self._loop, ClusterLoop)
        self._loop.kill(child.process)
        self._process.on_death.remove(child._lifeline)
        self._children.discard(child)
        self.steps.keeper.request(("child_gone", child.process.pid), lambda _: None)

    async def aclose(self) -> None:
        """As of any workers."""
        await super().aclose()
        for child in list(self._children):
            self._gone(child)


class ClusterExecutor(ExecutorLike):
    """The executor of a simulated controller.

    Args:
        fake: script and number of workers.
        witness: told of every attempt.
    """

    __slots__ = ("fake", "opened", "witness")

    def __init__(
        self, fake: FakeExecutor, witness: Witness, opened: Callable[[_ClusterExecutor], None]
    ) -> None:
        self.fake = fake
        self.witness = witness
        self.opened = opened

    def open(self, config: FuruConfig) -> Executor:
        """As of any executor."""
        executor = _ClusterExecutor(self.fake, config)
        executor._workers.witness = self.witness  # type: ignore[attr-defined]
        self.opened(executor)
        return executor


class _ClusterExecutor(_Scripted):
    """A `LocalExecutor` whose keeper and children are simulated processes."""

    def _make_keeper(self) -> KeeperClient:
        return KeeperClient(self.config.heartbeat_secs)

    def _make_workers(self) -> ClusterWorkers:
        fake = self._fake
        self._workers = ClusterWorkers(
            self.steps, self.size, fake.script, fake.default, self.config.heartbeat_secs
        )
        return self._workers
