"""Every exception that furu_async raises, under one root.

What may live here: exception classes, nothing else; this module imports nothing of the project.

A node that fails is *data* (`NodeOutcome` in the report). A mistake or a broken environment is an
*exception*. Each message says what happened, to which artifact and where, what the library did about it, and
what the reader can do. Errors cross processes, so the raw fields go to ``Exception.__init__`` (that is what pickle
gives back) and the text is made in ``__str__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from furu_async.report import Failure, NodeOutcome, RunReport

__all__ = [
    "FuruClaimLost",
    "FuruComputeError",
    "FuruConfigError",
    "FuruDefinitionError",
    "FuruError",
    "FuruExecutorError",
    "FuruInternalError",
    "FuruMissingArtifact",
    "FuruProtocolError",
    "FuruRunCancelled",
    "FuruRunFailed",
    "FuruRunTimeout",
    "FuruSpecMismatch",
    "FuruStoreError",
    "FuruValidationError",
    "FuruWaitTimeout",
]

_SHOWN = 3


class FuruError(Exception):
    """Root of all errors of furu_async.

    Args:
        message: what happened, to what, and what was done about it.
        hint: what the reader can do; shown on a line of its own.
    """

    def __init__(self, message: str = "", hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class FuruDefinitionError(FuruError):
    """A class, a value, a DAG or an argument is wrong; raised before anything runs."""


class FuruConfigError(FuruDefinitionError, ValueError):
    """A setting (a ``FURU_*`` variable or a `FuruConfig` field) is malformed."""


class FuruValidationError(FuruError):
    """Raise it in ``_validate`` to say: this result is not usable, and why."""


class FuruComputeError(FuruError):
    """``_create`` (or loading what it made) failed; carries the recorded `Failure` where there is one."""

    def __init__(self, message: str = "", hint: str = "", failure: Failure | None = None) -> None:
        super().__init__(message, hint)
        self.args: tuple[Any, ...] = (message, hint, failure)
        self.failure = failure


class FuruProtocolError(FuruError):
    """A task cannot be run as asked; never retried."""


class FuruMissingArtifact(FuruProtocolError):
    """A result was to be loaded and is not there.

    Inside ``_create``, ``_load`` and ``_validate`` an artifact is only ever loaded, never computed.
    """

    def __init__(
        self,
        message: str = "",
        hint: str = "",
        missing: str = "",
        wanted_by: str = "",
        declared: bool = False,
    ) -> None:
        super().__init__(message, hint)
        self.args: tuple[Any, ...] = (message, hint, missing, wanted_by, declared)
        self.missing = missing
        self.wanted_by = wanted_by
        self.declared = declared


class FuruSpecMismatch(FuruProtocolError):
    """A worker was handed a task of another resource specification, or of other code."""


class FuruStoreError(FuruError):
    """The store cannot be read or written.

    Attributes:
        path: the file or folder.
        reason: the operating system's words, or ours.
    """

    def __init__(self, message: str = "", hint: str = "", path: str = "", reason: str = "") -> None:
        super().__init__(message, hint)
        self.args: tuple[Any, ...] = (message, hint, path, reason)
        self.path = path
        self.reason = reason


class FuruClaimLost(FuruError):
    """Another owner has taken the claim over; what this one still reports changes nothing."""


class FuruExecutorError(FuruError):
    """An executor cannot do its work (Slurm refused, workers die at start, …).

    Attributes:
        command: the command that failed, if one did.
        stderr: what it said.
    """

    def __init__(self, message: str = "", hint: str = "", command: str = "", stderr: str = "") -> None:
        super().__init__(message, hint)
        self.args: tuple[Any, ...] = (message, hint, command, stderr)
        self.command = command
        self.stderr = stderr


class FuruWaitTimeout(FuruError, TimeoutError):
    """Waiting for somebody else's work took longer than ``FURU_MAX_WAIT_SECS``."""


class FuruInternalError(FuruError):
    """A bug in furu_async: an illegal transition, with the node's story."""


class _RunError(FuruError):
    """An error that carries the run's report."""

    def __init__(self, message: str = "", hint: str = "", report: RunReport | None = None) -> None:
        super().__init__(message, hint)
        self.args: tuple[Any, ...] = (message, hint, report)
        self.report = report


class FuruRunFailed(_RunError):
    """The run is over and at least one node failed.

    Attributes:
        report: the whole `RunReport`; what succeeded is in it and stays in the store.
    """

    @property
    def failures(self) -> Sequence[NodeOutcome]:
        """Every root failure, in the order they happened."""
        if self.report is None:
            return ()
        return tuple(node for node in self.report.nodes.values() if node.status == "failed")

    def __str__(self) -> str:
        parts = [super().__str__()]
        failures = self.failures
        parts.extend(node.describe_failure() for node in failures[:_SHOWN])
        if len(failures) > _SHOWN:
            parts.append(f"… and {len(failures) - _SHOWN} more; all of them are in error.failures")
        return "\n".join(parts)


class FuruRunTimeout(_RunError, TimeoutError):
    """The run did not end within ``timeout`` seconds and was cancelled."""


class FuruRunCancelled(_RunError):
    """The run was cancelled by ``run.cancel()`` or by the scheduler's end, not by the awaiting task."""
