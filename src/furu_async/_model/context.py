"""What user code is running right now, and whether it was asked to stop. No I/O, no decisions.

``current`` is a context variable, so it follows tasks and (through ``contextvars.copy_context``) threads that the
library starts. The stop flag is an ordinary object: a signal handler sets it, any thread reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from furu_async.errors import FuruDefinitionError

if TYPE_CHECKING:
    from furu_async._model.artifact import Furu

current: ContextVar[Furu[Any] | None] = ContextVar("furu_async_current", default=None)
"""The artifact whose ``_create``, ``_load`` or ``_validate`` runs here; while it is set, others are only loaded."""


class StopFlag:
    """Whether one attempt was asked to stop. Where attempts share a process, each has its own."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False


_process_flag = StopFlag()
attempt_flag: ContextVar[StopFlag | None] = ContextVar("furu_async_stop", default=None)
"""The stop flag of the attempt that runs here, where several share a process (``thread`` and ``inline`` modes)."""

importing_in_child = False
"""True while a child imports the user's modules; whatever would start a run then reports the missing guard."""


def stop_requested() -> bool:
    """Whether this attempt should save a checkpoint and end.

    For long synchronous ``_create`` bodies: ask now and then. An asynchronous ``_create`` is cancelled instead.
    """
    flag = attempt_flag.get()
    return _process_flag.is_set or (flag is not None and flag.is_set)


def request_stop(flag: StopFlag | None = None) -> None:
    """Ask the attempt of ``flag``, or everything in this process, to stop. Safe in a signal handler."""
    (flag or _process_flag).is_set = True


def clear_stop() -> None:
    """Forget an earlier request; called before a process starts its next attempt."""
    _process_flag.is_set = False


@contextmanager
def running(obj: Furu[Any], flag: StopFlag | None = None) -> Iterator[None]:
    """While open, ``obj`` is what runs here: `current` is set, and so is its stop flag if it has one of its own."""
    token = current.set(obj)
    flag_token = attempt_flag.set(flag) if flag is not None else None
    try:
        yield
    finally:
        if flag_token is not None:
            attempt_flag.reset(flag_token)
        current.reset(token)


@contextmanager
def importing() -> Iterator[None]:
    """While open, modules are being imported in a child process."""
    global importing_in_child
    before = importing_in_child
    importing_in_child = True
    try:
        yield
    finally:
        importing_in_child = before


def refuse_while_importing(what: str) -> None:
    """Called first by everything that starts work.

    Raises:
        FuruDefinitionError: a child process is importing the user's script, which starts a run when imported.
    """
    if importing_in_child:
        raise FuruDefinitionError(
            f"{what} was called while a worker process imported your module to find its classes: "
            'the call is not below an `if __name__ == "__main__":`',
            hint='put what starts the work below `if __name__ == "__main__":` at the end of the script',
        )
