"""How long the publication of a result is tried again: what was computed is not thrown away for a full disk."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

from furu_async._executors.base import RunPort
from furu_async._plan.retry import backoff

_FIRST = 0.5
_LONGEST = 10.0

#: What somebody has to put right first: a run that has nothing to lose yet is refused at once.
NEEDS_A_PERSON = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
        errno.EUCLEAN,
    }
)


class Patience:
    """With the trouble of one publication, for up to ``infra_secs`` of its run."""

    __slots__ = ("_run", "_since", "_tries")

    def __init__(self, run: RunPort) -> None:
        self._run = run
        self._since = asyncio.get_running_loop().time()
        self._tries = 0

    def delay(self, reply: dict[str, Any]) -> float | None:
        """Seconds until the next try after this answer of the keeper; None: no more tries."""
        number = reply.get("errno", 0)
        waited = asyncio.get_running_loop().time() - self._since
        left = self._run.config.infra_secs - waited
        if not number or number == errno.EUCLEAN or left <= 0:
            return None
        self._tries += 1
        if self._tries == 1:
            where = reply.get("path", "")
            self._run.note(
                f"a result cannot be published yet, which is tried again: {reply.get('text', '')} ({where})"
            )
        return min(left, backoff(_FIRST, _LONGEST, self._tries, self._run.jitter()))
