"""What `LocalExecutor` asks of whatever runs its jobs: the `Dispatcher` of child processes, or a script in a test."""

from __future__ import annotations

from typing import Protocol

from furu_async._executors.base import Node, RunPort
from furu_async._executors.jobs import Job
from furu_async._runner.validity import Validation


class Checking(Protocol):
    """Asks published results."""

    async def ask(self, run: RunPort, node: Node, files: bool) -> Validation:
        """The verdict of a published node's ``_validate``; ``unknown`` if there is none in time."""


class Workers(Protocol):
    """Runs jobs, as many at a time as there is room for; their protocol steps are asked of `Steps`."""

    @property
    def checks(self) -> Checking:
        """Where ``_validate`` is asked."""

    def add(self, job: Job) -> None:
        """Queue a job."""

    def poke(self) -> None:
        """Something changed, such as that a job is no longer wanted."""

    def take_back(self, job: Job) -> None:
        """Return a job that is past the queue, unless a process has begun it."""

    def on_claimed(self, job: Job) -> None:
        """The claim that was asked for is held."""

    def on_claim_over(self, job: Job) -> None:
        """The claim that was asked for will not be had; the job is over."""

    def stop(self, job: Job, kind: str, text: str) -> None:
        """End a job that is past the queue; if it ends because of that, as a failure of this kind."""

    def hurry(self) -> None:
        """Give what was stopped no more time."""

    async def aclose(self) -> None:
        """End what runs, within a bound."""
