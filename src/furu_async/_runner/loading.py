"""Loading a published result: what `aload`, `exists` and the load-only accessors inside ``_create`` stand on.

Blocking; called in threads of the door and in children. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from furu_async._model import context
from furu_async._model.artifact import Binding, Furu, bind, class_info
from furu_async._model.dag import dependencies
from furu_async._store import atomic, fs, results
from furu_async._store.artifacts import look, read_success
from furu_async._store.layout import ArtifactPaths, data_folder
from furu_async._store.manifest import verify_manifest
from furu_async._store.records import Damaged, End
from furu_async.errors import FuruComputeError, FuruMissingArtifact, FuruStoreError

T = TypeVar("T")


@contextmanager
def acting_for(obj: Furu[Any]) -> Iterator[None]:
    """Inside, accessors of other artifacts only load (they run on behalf of ``obj``'s own hook)."""
    token = context.current.set(obj)
    try:
        yield
    finally:
        context.current.reset(token)


def published(obj: Furu[Any], root: str) -> tuple[int, End, ArtifactPaths] | None:
    """The published generation of an artifact, its record and its paths; None if there is none.

    Raises:
        OSError: the store cannot be read.
    """
    paths = ArtifactPaths(root, class_info(type(obj)).name, obj.furu_hash)
    success = read_success(paths)
    if success is None:
        seen = look(paths)
        if seen.verdict != "published" or seen.end is None:
            return None
        success = (seen.generation, seen.end)
    return success[0], success[1], paths


def bound_to_published(obj: Furu[T], root: str) -> tuple[Furu[T], End, ArtifactPaths] | None:
    """A copy of ``obj`` whose ``furu_dir`` is the published folder, with its record; None if nothing is published."""
    found = published(obj, root)
    if found is None:
        return None
    generation, end, paths = found
    return bind(obj, Binding(paths.attempt(generation), None, generation)), end, paths


def load_result(obj: Furu[T], root: str) -> T:
    """Load the published result.

    Raises:
        FuruMissingArtifact: nothing is published, or its files are gone or damaged.
        FuruComputeError: ``_load`` raised, or the stored value cannot be read.
    """
    found = bound_to_published(obj, root)
    if found is None:
        raise missing(obj, root)
    copy, end, paths = found
    problems = verify_manifest(paths, end.generation, end)
    if problems:
        raise missing(obj, root, "its result is damaged: " + "; ".join(problems[:3]))
    if class_info(type(obj)).has_load:
        with acting_for(copy):
            return copy._load()
    try:
        value: T = results.load(paths.attempt(end.generation), end.result, bytes(end.value))
    except (FileNotFoundError, Damaged) as error:
        raise missing(obj, root, f"its result is damaged: {error}") from error
    except FuruComputeError as error:
        raise FuruComputeError(
            f"the stored result of {obj!r} cannot be loaded: {error.message}", error.hint
        ) from error
    return value


def missing(obj: Furu[Any], root: str, why: str = "nothing is published") -> FuruMissingArtifact:
    """The error for an artifact that was to be loaded and is not there; names who wanted it."""
    wanted_by = context.current.get()
    where = ArtifactPaths(root, class_info(type(obj)).name, obj.furu_hash).base
    if wanted_by is None:
        return FuruMissingArtifact(
            f"{obj!r} [{obj.furu_hash[:12]}] has no result: {why} in {where}",
            "compute it with `await obj.aget()` or `await run_dag([obj])`",
            obj.furu_hash,
        )
    declared = any(child.furu_hash == obj.furu_hash for child in dependencies(wanted_by))
    if declared:
        hint = "it is a declared dependency; it was removed or set aside after the planner had seen it"
    else:
        hint = (
            "inside _create, _load and _validate artifacts are only loaded, never computed: make it a field, "
            "or return it from a method marked @dependency"
        )
    return FuruMissingArtifact(
        f"{wanted_by!r} asked for {obj!r} [{obj.furu_hash[:12]}], which has no result: {why} in {where}",
        hint,
        obj.furu_hash,
        wanted_by.furu_hash,
        declared,
    )


def published_directory(obj: Furu[Any], root: str) -> str:
    """Folder of the published attempt.

    Raises:
        FuruMissingArtifact: nothing is published.
    """
    found = published(obj, root)
    if found is None:
        raise missing(obj, root)
    return found[2].attempt(found[0])


def look_through(root: str) -> None:
    """See whether the folder of the results, which need not be there yet, can be reached.

    Raises:
        OSError: it cannot: no permission, or something else is in its place or above it.
    """
    data = data_folder(root)
    try:
        fs.stat(f"{data}/.")
    except FileNotFoundError:
        atomic.check_place(root)
        atomic.check_place(data)
    except NotADirectoryError:
        atomic.check_place(data)
        raise


def check_readable(root: str) -> None:
    """Raise FuruStoreError if the root, or the folder of the results in it, is there and cannot be used as a folder."""
    try:
        look_through(root)
    except OSError as error:
        raise FuruStoreError(
            f"the store {root} cannot be read: {error.strerror} ({error.filename or root})",
            "check FURU_PATH and its permissions",
            root,
            str(error),
        ) from error
