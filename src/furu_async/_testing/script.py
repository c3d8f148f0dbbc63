"""How the attempts of a `FakeExecutor` end: one outcome per attempt, in virtual (or real) seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from furu_async._model.artifact import Furu
from furu_async.report import FailureKind


@dataclass(frozen=True, slots=True)
class Returns:
    """The attempt ends with a result, which is stored, validated and published like any other.

    Attributes:
        value: what ``_create`` would return, or a function that is given the artifact and returns it.
        after: seconds that it takes.
    """

    value: Any = None
    after: float = 1.0


@dataclass(frozen=True, slots=True)
class Raises:
    """``_create`` raises this; kind and retries follow from it and from the class's ``_retry``."""

    error: BaseException
    after: float = 1.0


@dataclass(frozen=True, slots=True)
class Fails:
    """The attempt ends with a failure of this kind, whatever it would take to bring it about.

    Attributes:
        retryable: False: not to be tried again.
        run_wide: a ``protocol`` failure that ends the whole run.
    """

    kind: FailureKind
    message: str = "as the script says"
    after: float = 1.0
    retryable: bool | None = None
    run_wide: bool = False


@dataclass(frozen=True, slots=True)
class Hangs:
    """The attempt does not end by itself: only by its ``_time_limit``, or with its run."""


@dataclass(frozen=True, slots=True)
class Computes:
    """The class's own ``_create`` runs, in this process: async on the loop (where its sleeps cost nothing), sync in a
    thread.

    Attributes:
        after: seconds before it begins.
    """

    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Somebody on another host is a moment quicker and has the claim, so the run waits for them.

    Attributes:
        ends: they publish ``value``; or fail with ``kind``; or are ``lost``: after ``after`` they give no more sign of
            life, and the run takes over when their lease is over.
    """

    ends: Literal["published", "failed", "lost"] = "published"
    after: float = 10.0
    value: Any = None
    kind: FailureKind = "compute"


Outcome = Returns | Raises | Fails | Hangs | Computes | Elsewhere
Outcomes = Outcome | Sequence[Outcome]
Script = Mapping[Any, Outcomes] | Callable[[Furu[Any], int], Outcome]


def outcome_of(script: Script, default: Outcome, obj: Furu[Any], attempt: int) -> Outcome:
    """What the script says of an attempt, counted from 1; the last outcome of a list goes on for ever."""
    if callable(script):
        return script(obj, attempt)
    found: Outcomes | None = script.get(obj.furu_hash)
    if found is None:
        found = script.get(obj)
    for cls in type(obj).__mro__ if found is None else ():
        found = script.get(cls)
        if found is not None:
            break
    if found is None:
        return default
    return found[min(attempt, len(found)) - 1] if isinstance(found, Sequence) else found
