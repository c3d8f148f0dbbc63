"""What the store says of one artifact, for people: is it there, since when, where; how its last attempt ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from furu_async._cli.failures import TAIL
from furu_async._cli.text import clean, clock_time, duration, number, shorten
from furu_async.report import Failure

if TYPE_CHECKING:
    from furu_async._model.artifact import Furu

__all__ = ["describe_state", "state_lines"]


def state_lines(targets: Iterable[Furu[Any]]) -> Iterator[str]:
    """A few lines per artifact. Reads the store; blocking.

    Raises:
        FuruStoreError: the store cannot be read.
    """
    for obj in targets:
        yield f"{shorten(clean(repr(obj)), 160)} [{obj.furu_hash}]"
        state = obj.get_state()
        metadata = obj.get_metadata() if state["status"] == "published" else {}
        for line in describe_state(state, metadata):
            yield f"  {line}"


def describe_state(state: Mapping[str, Any], metadata: Mapping[str, Any]) -> Iterator[str]:
    """The lines about one artifact, without indentation; ``metadata`` is that of a published one. Pure."""
    status, attempt, failure = state["status"], state["generation"], state.get("failure")
    if status == "published":
        began, ended = metadata.get("started_at"), metadata.get("ended_at")
        took = f", took {duration(ended - began)}" if began is not None and ended is not None else ""
        yield f"there     since {clock_time(ended)}{took}, by attempt {attempt}"
        yield f"run       {clean(str(metadata.get('run_id', '-')))}{_origin(metadata)}"
        sizes = metadata.get("files") or {}
        if sizes:
            yield f"files     {number(len(sizes), 'file')}, {sum(sizes.values()):,} bytes"
    elif status == "claimed":
        yield f"computed  attempt {attempt} now: {clean(state['holder'])}"
    elif failure is not None:
        yield from _failure(attempt, msgspec.convert(failure, Failure))
    else:
        yield "absent    never computed" if not attempt else "absent    its last attempt did not end"
    yield f"folder    {clean(state['directory'])}"
    yield from (f"note      {shorten(clean(note), 400)}" for note in state.get("notes", ()))


def _failure(attempt: int, failure: Failure) -> Iterator[str]:
    yield f"failed    attempt {attempt}: {shorten(clean(failure.line()), 400)}"
    tail = (failure.log_tail or failure.traceback).rstrip().splitlines()[-TAIL:]
    yield from (f"          | {shorten(clean(line), 400)}" for line in tail)
    if failure.log_path:
        yield f"log       {clean(failure.log_path)}"


def _origin(metadata: Mapping[str, Any]) -> str:
    parts = [str(metadata[key]) for key in ("host",) if metadata.get(key)]
    commit = str(metadata.get("git_commit", ""))
    if commit:
        parts.append(f"commit {commit[:12]}{' with changes' if metadata.get('git_dirty') else ''}")
    return f" ({clean(', '.join(parts))})" if parts else ""
