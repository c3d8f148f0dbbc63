"""Refuses a DAG that can never run, with an error that names the artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from furu_async._executors.base import Executor, Node
from furu_async._model.artifact import Furu, specs_of
from furu_async.errors import FuruDefinitionError


def must_fit(executor: Executor, node: Node) -> None:
    """Raise FuruDefinitionError if a node can never run on an executor."""
    why = executor.check(node, specs_of(node.obj))
    if why is not None:
        raise FuruDefinitionError(f"{node.obj!r} can never run on this executor: {why}")


def must_be_same(known: Node, obj: Furu[Any]) -> None:
    """Raise FuruDefinitionError if an artifact with a node's hash is of another class."""
    if known.obj is not obj and type(known.obj) is not type(obj):
        raise FuruDefinitionError(
            f"two artifacts share the hash {known.hash}: {known.obj!r} and {obj!r}",
            "their classes have the same store name; give one of them another name=",
        )


def cycle_error(nodes: Mapping[str, Node], cycle: Sequence[str]) -> FuruDefinitionError:
    """What to say of artifacts, by hash, each of which depends on the next and the last on the first."""
    shown = [repr(nodes[node].obj) for node in (*cycle[:20], cycle[0])]
    return FuruDefinitionError(
        f"{len(cycle)} artifacts depend on each other in a circle: {' -> '.join(shown)}",
        "a method marked @dependency leads back to where it started",
    )
