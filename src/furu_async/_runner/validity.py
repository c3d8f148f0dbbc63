"""Is a published result usable? Three verdicts: valid, invalid, unknown. Blocking; runs in threads and in children.

*unknown* (an I/O error, no answer in time) is waited out and never leads to computing again. An exception that is
not about I/O is asked for a second time and then counts as *not there*; it is caught here, at the boundary of what
probes one artifact.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, Literal

from furu_async._model.artifact import Furu, class_info
from furu_async._runner.loading import acting_for, bound_to_published
from furu_async._runtime.config import FuruConfig, use_config
from furu_async._store.manifest import verify_manifest
from furu_async.errors import FuruMissingArtifact, FuruValidationError


@dataclass(frozen=True, slots=True)
class Validation:
    """A verdict with its reason.

    Attributes:
        raised: ``_validate`` raised something that is neither a `FuruValidationError` nor about I/O.
    """

    verdict: Literal["valid", "invalid", "unknown"]
    detail: str = ""
    raised: bool = False


def judge(obj: Furu[Any], config: FuruConfig, files: bool = True) -> Validation:
    """The blocking part: look, run ``_validate``, classify."""
    verdict = _judge_once(obj, config, files)
    if verdict.raised:
        verdict = _judge_once(obj, config, files)
    return verdict


def _judge_once(obj: Furu[Any], config: FuruConfig, files: bool) -> Validation:
    root = str(config.path)
    try:
        found = bound_to_published(obj, root)
        if found is None:
            return Validation("invalid", "nothing is published")
        copy, end, paths = found
        if files:
            problems = verify_manifest(paths, end.generation, end)
            if problems:
                return Validation("invalid", "; ".join(problems[:3]))
        if not class_info(type(obj)).has_validate:
            return Validation("valid")
    except OSError as error:
        return Validation("unknown", f"{error.strerror or error}: {error.filename or root}")
    try:
        with use_config(config), acting_for(copy):
            answer = copy._validate()
    except (FuruValidationError, FuruMissingArtifact, FileNotFoundError) as error:
        return Validation("invalid", f"{type(error).__name__}: {error}")
    except OSError as error:
        return Validation("unknown", f"_validate of {obj!r}: {error}")
    except BaseException as error:
        text = "".join(traceback.format_exception(error, limit=-8))
        return Validation(
            "invalid", f"_validate of {obj!r} raised, so it counts as not there:\n{text}", raised=True
        )
    if answer is True or answer:
        return Validation("valid")
    return Validation("invalid", f"_validate of {obj!r} returned {answer!r}")
