"""The narrow port between the runs (who want nodes executed) and an executor (who executes them).

A run never learns how a node is executed; an executor never learns why. What several runs want at the same time
is executed once: the executor keys its work by store and artifact, and tells every run that asked.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from furu_async._model.artifact import ClassInfo, Furu
from furu_async._model.resources import SlurmSpec
from furu_async._plan.events import Event
from furu_async._runner.validity import Validation
from furu_async._runtime.config import FuruConfig
from furu_async._slurm.port import Found
from furu_async._store.runs import Ending, Unfinished
from furu_async.errors import FuruError
from furu_async.report import Failure, FailureKind

Find = Callable[[str], Awaitable[Found]]


@dataclass(slots=True, eq=False)
class Node:
    """What the shell knows of one node of one run.

    Attributes:
        supersede: generation whose result is to be set aside before the node runs (it was invalid, or is to be
            computed again); 0 for none.
        takeover: generation whose owner was found lost and may be replaced; 0 for none.
        silent_at: that owner's beat when it was judged; another one since then says that it is back.
        held: generation that a claim met, which a listing of the store may not show for a while; 0 for none.
        counted: up to this generation, attempts that an earlier controller of the run began are counted.
        spent: failures that an earlier controller of the run counted, by kind.
        started_at, ended_at: wall time, for the report.
    """

    obj: Furu[Any]
    hash: str
    name: str
    info: ClassInfo
    supersede: int = 0
    takeover: int = 0
    silent_at: bytes | None = None
    held: int = 0
    generation: int = 0
    attempts: int = 0
    counted: int = 0
    spent: Mapping[FailureKind, int] = field(default_factory=dict)
    started_at: float | None = None
    ended_at: float | None = None
    worker: str = ""
    history: tuple[str, ...] = ()
    last_failure: Failure | None = None


class RunPort(Protocol):
    """What an executor may ask of, and tell, a run.

    Attributes:
        key: of the call that began it; a run that dies with its controller is found by it.
        keep: False: nothing of the run need be left if it ends well.
        on_cancel: ``detach``: what works for it in Slurm is to go on when it is cancelled, and without a controller.
        detached: it was left like that: nothing of it is to be ended.
        hurry: somebody wants to leave though the run has ended: no more waiting for what ends by itself.
    """

    run_id: str
    key: str
    keep: bool
    root: str
    config: FuruConfig
    token: str
    context: contextvars.Context
    on_cancel: Literal["cancel", "detach"]
    hurry: asyncio.Event

    @property
    def detached(self) -> bool: ...

    def post(self, event: Event) -> None:
        """Tell the run what happened; never blocks."""

    def begun(self, node: Node, attempt: int, worker: str) -> None:
        """A process is at the node's attempt now."""

    def tried_again(self, node: Node, attempt: int, why: str) -> None:
        """Who executes it has begun this attempt by itself, because of how the one before ended."""

    def opened(self) -> None:
        """The run's folder is there."""

    def ending(self) -> tuple[Ending, dict[str, int]]:
        """How the run has ended, and how many of its nodes ended in which way."""

    def fail(self, error: FuruError) -> None:
        """Nothing of the run can go on: end it with this error."""

    def jitter(self) -> float:
        """A number in [0, 1) for `Failed`."""

    def note(self, text: str) -> None:
        """Something a person should read that fails nothing."""

    def workers(self, counts: Mapping[str, int], text: str) -> None:
        """How its workers or jobs are: how many are in which state, and a sentence for people."""


@dataclass(slots=True, eq=False)
class Request:
    """One node that one run wants executed; answers repeat its ticket.

    Attributes:
        whole: it is to have the whole walltime of a worker.
        share: what of that it had; told where it is ended because that is over.
    """

    run: RunPort
    node: Node
    attempt: int
    priority: int
    spec: int
    ticket: int
    whole: bool = False
    share: Literal["", "part", "whole"] = ""


class Executor(Protocol):
    """Carries out `Start`, `TakeBack` and `Kill` for any number of runs.

    Attributes:
        kind: for `run.json`.
        seed: of what its runs draw at random (the jitter of backoffs); None: from the system.
        specs_in_turn: after `timeout` and `oom` a node goes on with the next of its specs.
        can_detach: a run may be left while its work goes on.
    """

    kind: str
    seed: int | None
    specs_in_turn: bool
    can_detach: bool

    def check(self, node: Node, specs: Sequence[SlurmSpec]) -> str | None:
        """Say why this node can never run here, or None."""

    @property
    def has_limits(self) -> bool:
        """`check` may refuse a node, so a plan must be complete before anything starts."""

    @property
    def find_job(self) -> Find | None:
        """Looks in its Slurm for jobs of a name; None: it has none of its own."""

    def why(self, run: RunPort, node: str) -> str:
        """Why a node that was asked for does not run, in words; empty if nothing can be said."""

    async def adopt(self, run: RunPort, found: Unfinished) -> bool:
        """Go on with a dead controller's run: claim it for ``run``; False if that cannot be had. Bounded in time."""

    def start(self, request: Request) -> None:
        """Execute when there is room; answers by `RunPort.post`."""

    def take_back(self, run: RunPort, node: str) -> None:
        """Return the node if nothing of it has begun."""

    def kill(self, run: RunPort, node: str) -> None:
        """End the node's attempt, unless another run wants it too."""

    async def validate(self, run: RunPort, node: Node, files: bool) -> Validation:
        """Ask the ``_validate`` of a published node, where this executor runs such nodes; never raises for it."""

    async def release(self, run: RunPort) -> None:
        """The run is over: it asks for nothing more."""

    def no_more(self) -> None:
        """All runs are about to be cancelled: tell what works elsewhere, lest it outlive this process."""

    async def aclose(self) -> None:
        """End everything that runs, bounded in time; leave no process behind."""


def collapse(error: BaseException) -> BaseException:
    """The single error inside an exception group, or the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class ExecutorLike:
    """What ``executor=`` takes: the description of an executor, frozen and reusable. Base of `Local` and its like."""

    __slots__ = ()

    def open(self, config: FuruConfig) -> Executor:
        """Make the executor of one scheduler, on the running loop; it starts nothing before it is given work.

        Args:
            config: the scheduler's settings.
        """
        raise NotImplementedError
