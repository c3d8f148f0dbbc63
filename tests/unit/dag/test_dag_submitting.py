"""What becomes of a submission whose nodes have gone other ways meanwhile."""

from __future__ import annotations

from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

from furu_async._dag.submitting import Submitting
from furu_async._dag.tracks import Sub, Track
from furu_async._dag.units import Unit
from furu_async._store.layout import RunPaths


def node_of(digest: str, uid: int, **fields: Any) -> Track:
    """A node that belongs to a submission."""
    node: Any = SimpleNamespace(name="m.A", hash=digest)
    return Track(node, uid=uid, wid=f"s{uid}-0", generation=uid, **fields)


def test_an_id_is_given_to_those_nodes_only_that_still_belong_to_the_submission() -> None:
    """One was cancelled while the array was submitted, and has a job of its own by now."""
    noted: list[tuple[Any, ...]] = []

    def spawn(work: Coroutine[Any, Any, None], name: str) -> None:
        noted.extend(work.cr_frame.f_locals["notes"])  # type: ignore[attr-defined]
        work.close()

    core: Any = SimpleNamespace(paths=RunPaths("/root", "r"), spawn=spawn)
    core.tracks = {
        "a": node_of("a", 1),
        "b": node_of("b", 2, job_id="50", log="of 50"),
        "c": node_of("c", 1),
    }
    unit = Unit(1, ["a", "b", "gone", "c"], 0, "k", phase="placed")
    submitting = Submitting(core, SimpleNamespace())  # type: ignore[arg-type]
    submitting._has_id(unit, Sub(1, "s1", 4, job_id="40", name="furu"))
    assert {digest: track.job_id for digest, track in core.tracks.items()} == {
        "a": "40_0",
        "b": "50",
        "c": "40_3",
    }
    assert core.tracks["b"].log == "of 50"
    assert [(note[1], note[2], note[4]) for note in noted] == [("a", 1, "40_0"), ("c", 1, "40_3")]
