"""What the store says of one artifact, for people: `get_state`, `get_metadata`, `exists`, the dry run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from furu_async._executors.base import Node
from furu_async._executors.planner import Found, describe_claim, probe_many
from furu_async._model.artifact import Furu, class_info, specs_of
from furu_async._model.dag import dependencies
from furu_async._model.resources import SlurmSpec
from furu_async._runner.loading import acting_for, bound_to_published, check_readable, missing, published
from furu_async._runner.validity import judge
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import FuruConfig, active_config, use_config
from furu_async._store.artifacts import look
from furu_async._store.layout import ArtifactPaths
from furu_async._store.manifest import verify_manifest
from furu_async.report import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactState:
    """What the store says of one artifact.

    Attributes:
        status: ``absent``, ``published``, ``claimed`` or ``failed``.
        generation: the newest attempt ever claimed, 0 if none.
        directory: the artifact's folder, whether it exists or not.
        holder: for ``claimed``: who, where.
        failure: for ``failed``.
        notes: what was damaged and how it was repaired.
    """

    status: Literal["absent", "published", "claimed", "failed"]
    generation: int
    directory: str
    holder: str = ""
    failure: Failure | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNode:
    """One line of a dry run.

    Attributes:
        depends_on: hashes of its direct dependencies; of a cached node, which is not looked into, none.
        specs: what its ``_spec`` asks for; of a cached node nothing.
    """

    hash: str
    name: str
    label: str
    status: Literal["cached", "create", "failed", "busy", "unknown"]
    reason: str
    directory: str
    depends_on: tuple[str, ...] = field(default=(), repr=False)
    specs: tuple[SlurmSpec, ...] = field(default=(), repr=False)


def state_of(obj: Furu[Any], root: str) -> dict[str, Any]:
    """`ArtifactState` as JSON-able data; blocking."""
    state: dict[str, Any] = msgspec.to_builtins(_state_of(obj, root))
    return state


def _state_of(obj: Furu[Any], root: str) -> ArtifactState:
    check_readable(root)
    paths = ArtifactPaths(root, class_info(type(obj)).name, obj.furu_hash)
    seen = look(paths)
    notes = tuple(seen.notes)
    if seen.verdict == "published":
        return ArtifactState(
            status="published",
            generation=seen.generation,
            directory=paths.attempt(seen.generation),
            notes=notes,
        )
    if seen.verdict == "claimed":
        holder = describe_claim(seen.claim)
        return ArtifactState(
            status="claimed", generation=seen.generation, directory=paths.base, holder=holder, notes=notes
        )
    failure = seen.end.failure if seen.end is not None else None
    status: Literal["failed", "absent"] = "failed" if failure is not None else "absent"
    return ArtifactState(
        status=status, generation=seen.generation, directory=paths.base, failure=failure, notes=notes
    )


def metadata_of(obj: Furu[Any], root: str) -> dict[str, Any]:
    """Blocking.

    Raises:
        FuruMissingArtifact: nothing is published.
    """
    found = published(obj, root)
    if found is None:
        raise missing(obj, root)
    generation, end, paths = found
    return {
        **end.metadata,
        "generation": generation,
        "run_id": end.run_id,
        "started_at": end.started_at,
        "ended_at": end.ended_at,
        "directory": paths.attempt(generation),
        "files": {item.path: item.size for item in end.manifest},
    }


def exists(obj: Furu[Any], config: FuruConfig) -> bool:
    """Published, files complete, ``_validate()`` true; exceptions of ``_validate`` and of the store come through."""
    from furu_async.errors import FuruValidationError

    root = str(config.path)
    check_readable(root)
    found = bound_to_published(obj, root)
    if found is None:
        return False
    copy, end, paths = found
    if verify_manifest(paths, end.generation, end):
        return False
    if not class_info(type(obj)).has_validate:
        return True
    try:
        with use_config(config), acting_for(copy):
            return bool(copy._validate())
    except (FuruValidationError, FileNotFoundError):
        return False


async def explain_dag(
    targets: Furu[Any] | Iterable[Furu[Any]],
    *,
    retry_failed: bool | None = None,
    rerun: Sequence[str] = (),
    config: FuruConfig | None = None,
) -> list[PlannedNode]:
    """What `run_dag` would do with each node, and why; dependencies first. Writes nothing but repairs of markers."""
    config = config or active_config()
    retry = config.retry_failed if retry_failed is None else retry_failed
    objs = [targets] if isinstance(targets, Furu) else list(targets)
    again = {*rerun, *config.always_rerun}
    return await DOOR.user.run(_explain, objs, retry, again, config)


def _explain(objs: list[Furu[Any]], retry: bool, again: set[str], config: FuruConfig) -> list[PlannedNode]:
    check_readable(str(config.path))
    planned: dict[str, PlannedNode] = {}
    children: dict[str, tuple[Furu[Any], ...]] = {}
    stack = list(reversed(objs))
    while stack:
        obj = stack[-1]
        if obj.furu_hash not in planned:
            node = Node(obj, obj.furu_hash, class_info(type(obj)).name, class_info(type(obj)))
            line = _plan_one(node, retry, again, config)
            children[obj.furu_hash] = () if line.status == "cached" else dependencies(obj)
            if line.status != "cached":
                below = tuple(child.furu_hash for child in children[obj.furu_hash])
                line = replace(line, depends_on=below, specs=specs_of(obj))
            planned[obj.furu_hash] = line
            stack.extend(child for child in children[obj.furu_hash] if child.furu_hash not in planned)
        else:
            stack.pop()
    return _dependencies_first(planned, children)


def _dependencies_first(
    planned: dict[str, PlannedNode], children: dict[str, tuple[Furu[Any], ...]]
) -> list[PlannedNode]:
    order: dict[str, PlannedNode] = {}
    for start in planned:
        stack = [start]
        while stack:
            digest = stack[-1]
            waiting = [c.furu_hash for c in children[digest] if c.furu_hash not in order]
            if waiting and digest not in order:
                stack.extend(waiting)
            else:
                order.setdefault(digest, planned[digest])
                stack.pop()
    return list(order.values())


def _plan_one(node: Node, retry: bool, again: set[str], config: FuruConfig) -> PlannedNode:
    root = str(config.path)
    found: Found = probe_many(root, [(node.name, node.hash)])[0]
    status: Literal["cached", "create", "failed", "busy", "unknown"]
    if found.verdict == "valid":
        verdict = judge(node.obj, config, files=False)
        if "ALL" in again or node.name in again:
            status, reason = "create", "to be computed again (rerun)"
        elif verdict.verdict == "valid":
            status, reason = "cached", "published"
        elif verdict.verdict == "unknown":
            status, reason = "unknown", verdict.detail
        else:
            status, reason = "create", f"its result is not valid: {verdict.detail}"
    elif found.verdict == "failed" and found.failure is not None:
        status = "create" if retry else "failed"
        reason = ("tried again after " if retry else "its last attempt failed: ") + found.failure.line()
    elif found.verdict == "busy":
        status, reason = "busy", found.detail
    elif found.verdict == "unknown":
        status, reason = "unknown", found.detail
    else:
        status = "create"
        reason = "never computed" if not found.generation else "its last attempt did not end"
    return PlannedNode(
        hash=node.hash,
        name=node.name,
        label=repr(node.obj),
        status=status,
        reason=reason,
        directory=ArtifactPaths(root, node.name, node.hash).base,
    )
