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
from furu_async._store import results
from furu_async._store.layout import ArtifactPaths
from furu_async._store.manifest import verify_manifest
from furu_async._store.records import Damaged, End
from furu_async.errors import FuruError, FuruMissingArtifact, FuruValidationError


@dataclass(frozen=True, slots=True)
class Validation:
    """A verdict with its reason.

    Attributes:
        raised: ``_validate`` raised something that is neither a `FuruValidationError` nor about I/O.
    """

    verdict: Literal["valid", "invalid", "unknown"]
    detail: str = ""
    raised: bool = False


def judge(obj: Furu[Any], config: FuruConfig, files: bool = True, content: bool = False) -> Validation:
    """The blocking part: look, run ``_validate``, classify.

    Args:
        files: compare names and sizes with the manifest.
        content: somebody could not use the result: read it, and compare checksums where there are any.
    """
    verdict = _judge_once(obj, config, files, content)
    if verdict.raised:
        verdict = _judge_once(obj, config, files, content)
    return verdict


def _read(paths: ArtifactPaths, end: End) -> None:
    try:
        results.load(paths.attempt(end.generation), end.result, bytes(end.value))
    except Damaged:
        raise
    except FuruError:  # of this process's code, such as another version of a class in the result
        pass


def _judge_once(obj: Furu[Any], config: FuruConfig, files: bool, content: bool) -> Validation:
    root = str(config.path)
    try:
        found = bound_to_published(obj, root)
        if found is None:
            return Validation("invalid", "nothing is published")
        copy, end, paths = found
        if files or content:
            problems = verify_manifest(paths, end.generation, end, checksums=content)
            if problems:
                return Validation("invalid", "; ".join(problems[:3]))
        if content and not class_info(type(obj)).has_load:
            _read(paths, end)
        if not class_info(type(obj)).has_validate:
            return Validation("valid")
    except (Damaged, FileNotFoundError) as error:
        return Validation("invalid", str(error))
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
