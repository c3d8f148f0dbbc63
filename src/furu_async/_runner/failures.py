"""From whatever user code raised to a `Failure`: kind, bounded text, traceback without locals or our own frames.

Shared by child processes, threads and the inline mode. Exceptions never leave the process in which they were
raised: what crosses is text made here, so an exception that cannot be pickled, or whose ``str()`` raises, is
as good as any other.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from furu_async._runner import text
from furu_async.errors import (
    FuruComputeError,
    FuruMissingArtifact,
    FuruProtocolError,
    FuruSpecMismatch,
    FuruStoreError,
    FuruValidationError,
)
from furu_async.report import Failure, FailureKind

Phase = Literal["build", "prepare", "create", "save", "validate", "publish"]

_SICK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS})
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PHASES = {
    "build": "while the artifact was built in the worker",
    "prepare": "while the attempt's folder was made",
    "save": "while the result was stored",
    "validate": "in _validate, right after a successful _create",
    "publish": "while the attempt's files were listed",
}


def failure_of(
    error: BaseException,
    phase: Phase,
    *,
    wants: Any = None,
    stopped: bool = False,
    declared: Iterable[str] = (),
    log_path: str = "",
    log_tail: str = "",
) -> Failure:
    """Translate an exception.

    Args:
        phase: what was being done.
        wants: the `Retry` of the class, or None where it is not known.
        stopped: we had asked the attempt to stop; whatever came of that is ``cancelled``.
        declared: hashes of the artifact's declared dependencies.
    """
    kind, run_wide = _kind(error, phase, frozenset(declared))
    if stopped and phase in ("create", "save", "validate"):
        kind, run_wide = "cancelled", False
    retryable = None
    if kind == "compute":
        retryable = _retryable(error, phase, wants)
    message = message_of(error)
    if phase != "create":
        message = f"{_PHASES[phase]}: {message}"
    return Failure(
        kind=kind,
        error_type=type_name(error),
        message=text.bounded(message, text.MESSAGE_BYTES),
        traceback=traceback_of(error),
        log_path=log_path,
        log_tail=log_tail,
        retryable=retryable,
        run_wide=run_wide,
    )


def _retryable(error: BaseException, phase: Phase, wants: Any) -> bool | None:
    if phase in ("save", "publish") and isinstance(error, FuruComputeError):
        return False  # what _create returns or leaves in its folder will be of the same kind next time
    if wants is None:
        return None
    try:
        return bool(wants.wants(error))
    except Exception:
        return None


def _kind(error: BaseException, phase: Phase, declared: frozenset[str]) -> tuple[FailureKind, bool]:
    kinds = {_kind_of_one(leaf, phase, declared) for leaf in leaves(error)}
    if len(kinds) == 1:
        return kinds.pop()
    for kind in kinds:  # in a group of mixed ones, what no retry can cure decides
        if kind[0] in ("protocol", "oom"):
            return kind
    return "compute", False


def _kind_of_one(error: BaseException, phase: Phase, declared: frozenset[str]) -> tuple[FailureKind, bool]:
    if isinstance(error, MemoryError):
        return "oom", False
    if phase == "build":
        return "protocol", True
    if isinstance(error, FuruMissingArtifact):
        known = error.declared or any(name in error.missing for name in declared)
        return ("inputs" if known else "protocol"), False
    if isinstance(error, FuruProtocolError):
        return "protocol", isinstance(error, FuruSpecMismatch)
    if isinstance(error, FuruStoreError):
        return "infrastructure", False
    if isinstance(error, OSError) and (phase in ("prepare", "save", "publish") or error.errno in _SICK):
        return "infrastructure", False
    return "compute", False


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, however nested; the exception itself if it is none."""
    stack = [error]
    while stack:
        found = stack.pop()
        if isinstance(found, BaseExceptionGroup):
            stack.extend(reversed(found.exceptions))
        else:
            yield found


def type_name(error: BaseException) -> str:
    """Qualified name of an exception's class, on one line; builtins without their module."""
    try:
        kind = type(error)
        module = str(kind.__module__)
        name = str(kind.__qualname__)
    except BaseException:
        return "exception of an unreadable class"
    full = name if module == "builtins" else f"{module}.{name}"
    return text.one_line(full)[:200]


def message_of(error: BaseException) -> str:
    """``str(error)``, bounded and harmless, whatever its ``__str__`` does."""
    try:
        shown = str(error)
    except BaseException as second:
        return f"<str() of this {type_name(error)} raised {type_name(second)}>"
    message = text.bounded(text.lines(text.bounded(shown, 4 * text.MESSAGE_BYTES)), text.MESSAGE_BYTES)
    return message if message.strip() else f"{type_name(error)} without a message"


def traceback_of(error: BaseException) -> str:
    """The traceback with its causes, without locals, our own frames cut off, bounded."""
    try:
        shown = traceback.TracebackException(
            type(error), error, error.__traceback__, capture_locals=False, compact=True, lookup_lines=False
        )
        for part in _parts(shown):
            _cut(part)
        formatted = "".join(shown.format())
    except BaseException:  # an exception class can break even its formatting
        frames = traceback.format_list(traceback.extract_tb(error.__traceback__, limit=-20))
        formatted = "Traceback (most recent call last):\n" + "".join(frames) + type_name(error)
    return text.bounded(text.lines(formatted), text.TRACEBACK_BYTES)


def _parts(shown: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    stack, seen = [shown], set()
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        stack += [other for other in (part.__cause__, part.__context__) if other is not None]
        stack += getattr(part, "exceptions", None) or []


def _cut(part: traceback.TracebackException) -> None:
    """Remove the frames before the first one of the user's."""
    frames = list(part.stack)
    first = next((at for at, frame in enumerate(frames) if not _ours(frame.filename)), None)
    if first:
        del part.stack[:first]


def _ours(filename: str) -> bool:
    return filename.startswith(_HERE) or os.path.basename(os.path.dirname(filename)) == "asyncio"


def not_valid(answer: object) -> FuruValidationError:
    """The error for a ``_validate`` that does not accept what ``_create`` has just made."""
    said = (
        "False"
        if answer is False
        else text.one_line(repr(type(answer).__name__)) + " (neither True nor False)"
    )
    return FuruValidationError(
        f"the result is not valid right after a successful _create: _validate() returned {said}",
        "either _create does not make what _validate looks for, or _validate looks in another place than furu_dir",
    )
