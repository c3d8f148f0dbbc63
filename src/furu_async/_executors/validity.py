"""Asks a published artifact's ``_validate`` off the loop, in a thread; see `_runner.validity` for the verdicts."""

from __future__ import annotations

from typing import Any

from furu_async._model.artifact import Furu
from furu_async._runner.validity import Validation, judge
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._runtime.config import FuruConfig

VALIDATE_SECS = 60.0
"""How long one ``_validate`` may take before the answer counts as unknown."""


async def validate_stored(
    obj: Furu[Any], config: FuruConfig, files: bool = False, content: bool = False
) -> Validation:
    """Ask a published artifact's ``_validate`` off the loop, with a time limit; never raises for the artifact.

    Args:
        files: also compare names and sizes with the manifest.
        content: also read the result.
    """
    try:
        return await DOOR.user.run(judge, obj, config, files, content, deadline=VALIDATE_SECS)
    except BlockingTimeout:
        return no_answer(obj)


def no_answer(obj: Furu[Any]) -> Validation:
    """The verdict for a ``_validate`` that does not come back."""
    return Validation("unknown", f"_validate of {obj!r} gave no answer in {VALIDATE_SECS:g} s")
