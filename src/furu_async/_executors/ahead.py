"""The port of executors that want to know a plan as a whole before anything of it starts.

Most are told of a node when it may start. One that leaves the order to somebody else, as to Slurm, submits all nodes
at once; what it is then told of single nodes it joins to what it has submitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from furu_async._executors.base import Executor, Node, RunPort
from furu_async._model.artifact import specs_of
from furu_async._plan.events import Policy
from furu_async._plan.machine import State
from furu_async._plan.states import FIRST_FINAL, Phase


@dataclass(frozen=True, slots=True)
class ToDo:
    """One node of a plan that has no result.

    Attributes:
        spec: index of the specification to use.
        parents: hashes of those it needs that have no result either.
        elsewhere: somebody else is at it.
    """

    node: Node
    spec: int
    parents: tuple[str, ...]
    elsewhere: bool


@runtime_checkable
class PlansAhead(Protocol):
    """An `Executor` that is told more. It ``has_limits``, so that nothing starts before the plan is complete."""

    def planned(self, run: RunPort, policy: Policy, todo: Sequence[ToDo]) -> None:
        """Everything that the run has to compute, what others need first; before any of it is started."""

    def forget(self, run: RunPort, node: str) -> None:
        """A node will not be started any more: it was skipped, put aside, or has failed for good."""


def ahead_of(executor: Executor) -> PlansAhead | None:
    """The same executor, if it is one that is told ahead."""
    return executor if isinstance(executor, PlansAhead) else None


def spec_count(executor: Executor, node: Node) -> int:
    """How many specifications of a node are tried one after the other, after `timeout` and `oom`."""
    return len(specs_of(node.obj)) if executor.specs_in_turn else 1


def todo_of(state: State, nodes: Mapping[str, Node]) -> list[ToDo]:
    """What a plan that has just become complete leaves to do, what others need first. Linear in the graph."""
    open_ = [node for node in state.nodes.values() if node.phase < FIRST_FINAL]
    open_.sort(key=lambda node: -node.level)
    return [
        ToDo(
            nodes[node.id],
            node.spec,
            tuple(dep.id for dep in node.deps or () if dep.phase < FIRST_FINAL),
            node.phase is Phase.ELSEWHERE,
        )
        for node in open_
    ]
