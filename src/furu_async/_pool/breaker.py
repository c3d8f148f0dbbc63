"""When a spec's workers die young, one after the other, there is no sense in sending more. Pure."""

from __future__ import annotations

from dataclasses import dataclass

YOUNG_SECS = 60.0
MOST_YOUNG = 5
LONGEST_PAUSE = 60.0
"""Seconds between workers that die young, as long as others work."""

_AT_ONCE = 2
MOST_REPLACED = 2
"""How often workers that somebody cancelled are replaced; whoever cancels them again means it."""


@dataclass(frozen=True, slots=True)
class Death:
    """The end of one worker that nobody planned.

    Attributes:
        lived: seconds since its process began, 0 if it never did.
        finished: tasks that it had ended.
        cancelled: somebody else cancelled it.
        unable: it said that it could not work, and had taken nothing; that is as bad, however long it tried.
        text: how it ended, with the end of its log.
    """

    lived: float
    finished: int
    cancelled: bool = False
    text: str = ""
    unable: bool = False


@dataclass(slots=True)
class Breaker:
    """The deaths of one spec's workers.

    Attributes:
        young: deaths in a row within `YOUNG_SECS` of the start, or unable to work, and without a finished task.
        cancelled: workers that somebody cancelled.
        why: why nothing is submitted any more; empty while something is.
        not_before: after young deaths, on the loop's clock: when others may be sent.
    """

    young: int = 0
    cancelled: int = 0
    why: str = ""
    not_before: float = 0.0
    _pauses: int = 0
    _tripped: bool = False

    @property
    def open(self) -> bool:
        """Workers may be submitted."""
        return not self.why

    def died(self, death: Death, now: float = 0.0) -> bool:
        """A worker died; True if that was one too many.

        Args:
            now: on the loop's clock. Where others work meanwhile, what dies young is sent again ever more slowly.
        """
        if self.why:
            return False
        if death.cancelled:
            self.cancelled += 1
            if self.cancelled > MOST_REPLACED:
                self.why = (
                    f"{self.cancelled} of its workers were cancelled by somebody else; "
                    f"they are replaced at most {MOST_REPLACED} times"
                )
            return bool(self.why)
        if death.finished or (death.lived > YOUNG_SECS and not death.unable):
            self.worked()
            return False
        self.young += 1
        self._pauses += 1
        if self._pauses > _AT_ONCE:
            self.not_before = now + min(LONGEST_PAUSE, 2.0 ** min(self._pauses - _AT_ONCE, 10))
        if self.young >= MOST_YOUNG:
            self._tripped = True
            self.why = (
                f"{self.young} workers in a row died within {YOUNG_SECS:g} s of their start, or could not "
                f"work, without finishing a task; the last: {death.text}"
            )
        return bool(self.why)

    def worked(self) -> None:
        """A worker has finished a task, or lived for a while: there are places where they can work."""
        self.young = 0
        if self._tripped:
            self._tripped, self.why = False, ""

    def reject(self, words: str) -> None:
        """Slurm will never take such a job."""
        self.why = self.why or f"Slurm rejects its jobs: {words}"
