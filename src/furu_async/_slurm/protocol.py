"""What the submission protocol hears and asks for: the events and commands of `_slurm.submission`. Frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from furu_async._slurm.port import Done, Found, SubmitAnswer, Submitted
from furu_async._store.submissions import Ruling, Submission

Step = Literal["record", "sbatch", "look", "drop", "note", "close", "scancel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRules:
    """Times in seconds.

    Attributes:
        look_apart: between the first and the last look that find nothing, before a try is given up.
        infra_secs: how long Slurm, or the disk, may give trouble.
        cancel_secs: how long a job that may turn up is searched for after a cancel; later it ends itself.
    """

    look_first: float = 2.0
    look_apart: float = 30.0
    look_every: float = 10.0
    infra_secs: float = 900.0
    again_first: float = 1.0
    again_most: float = 60.0
    cancel_secs: float = 20.0


# -- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is on disk of this submission; the first event."""

    submission: Submission


@dataclass(frozen=True, slots=True)
class Recorded:
    """Answer to `Record`; not ``ok``: somebody else has written that try."""

    ok: bool = True


@dataclass(frozen=True, slots=True)
class Answered:
    """Answer to `Sbatch`."""

    answer: SubmitAnswer


@dataclass(frozen=True, slots=True)
class Looked:
    """Answer to `Look`."""

    found: Found


@dataclass(frozen=True, slots=True)
class Ruled:
    """Answer to `Drop`: what counts now."""

    ruling: Ruling


@dataclass(frozen=True, slots=True)
class Noted:
    """Answer to `Note`."""


@dataclass(frozen=True, slots=True)
class ClosedNow:
    """Answer to `Close`."""


@dataclass(frozen=True, slots=True)
class Scancelled:
    """Answer to `Scancel`."""

    done: Done
    last: bool = True


@dataclass(frozen=True, slots=True)
class Trouble:
    """The store could not carry out a step."""

    step: Step
    words: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The job is not wanted any more."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """The time of the last `Wake` has come."""


Event = (
    Loaded | Recorded | Answered | Looked | Ruled | Noted | ClosedNow | Scancelled | Trouble | Cancel | Tick
)


# -- commands ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """Write try ``k`` with a new random token."""

    k: int


@dataclass(frozen=True, slots=True)
class Sbatch:
    """Submit try ``k``, shielded from cancellation."""

    k: int


@dataclass(frozen=True, slots=True)
class Look:
    """Search for the job of try ``k`` by its name."""

    k: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Give try ``k`` up, unless a job has taken it."""

    k: int
    why: str


@dataclass(frozen=True, slots=True)
class Note:
    """Write the job's id where it is missing or different."""

    k: int
    job: Submitted


@dataclass(frozen=True, slots=True)
class Close:
    """Write that nobody wants it any more: the intent, before any ``scancel``."""

    why: str


@dataclass(frozen=True, slots=True)
class Scancel:
    """Cancel these jobs; not ``last``: only stray ones, which its job leaves behind."""

    ids: tuple[str, ...]
    last: bool = True


@dataclass(frozen=True, slots=True)
class Wake:
    """Send a `Tick` at this time; a later one replaces it."""

    at: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """For people: why it is not submitted yet."""

    kind: Literal["limit", "busy"]
    words: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last command.

    Attributes:
        how: ``placed``: ``job`` is in Slurm, or was; ``rejected``: it never will be; ``infrastructure``: given up
            because of trouble; ``gone``: cancelled, and nothing of it is left that could act.
        k: the try.
    """

    how: Literal["placed", "rejected", "infrastructure", "gone"]
    job: Submitted | None = None
    k: int = 0
    words: str = ""


Command = Record | Sbatch | Look | Drop | Note | Close | Scancel | Wake | Waiting | Finished
