"""What becomes of ends that cannot be written: results are kept, and no claim stays open while its owner lives on."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any

from furu_async._executors.base import Node, RunPort
from furu_async._plan.retry import backoff
from furu_async._runner.keeper_client import KeeperClient, Op

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


_OTHER = "or let FURU_PATH name a folder elsewhere"
_TO_DO = {
    (errno.ENOSPC,): f"make room there (`df -h`), also for files (`df -i`), {_OTHER}",
    (errno.EDQUOT,): f"your quota is used up (`quota -s`, `lfs quota`): remove what you can spare, {_OTHER}",
    (errno.EROFS,): f"it is mounted read-only: have it mounted with write access, {_OTHER}",
    (errno.EACCES, errno.EPERM): f"see whose it is, and its permissions (`ls -ld`, `namei -l`), {_OTHER}",
    (errno.ENOTDIR,): f"a file or a broken link is in the place of a folder: move it away, {_OTHER}",
    (errno.ELOOP,): f"links that lead to each other are in its path: mend them, {_OTHER}",
    (errno.ENAMETOOLONG,): "let FURU_PATH name a folder with a shorter path",
}


def what_to_do(number: int) -> str:
    """Advice to a person whose store cannot be written because of this error."""
    for numbers, advice in _TO_DO.items():
        if number in numbers:
            return advice
    return "check that FURU_PATH names a folder you may write to, with free space"


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


class LateEnds:
    """Ends of attempts without result that could not be written when it was time.

    They are tried again as long as there is a keeper: whoever else wants the artifact waits for as long as the claim is
    open and its owner beats, which may be as long as this process lives, and longer if we wait for them, too.
    """

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper
        self._timers: dict[Op, asyncio.TimerHandle] = {}

    def watched(
        self, op: Op, run: RunPort, reply: Callable[[Any], None], tries: int = 0
    ) -> Callable[[Any], None]:
        """The reply to give with a ``finish``: hands the answer on, and sees to it that an error is not the last."""

        def answered(answer: Any) -> None:
            if (
                answer["r"] == "error"
                and answer.get("errno") != errno.EUCLEAN
                and self._keeper.broken is None
            ):
                delay = backoff(_FIRST, _LONGEST, tries + 1, run.jitter())
                loop = asyncio.get_running_loop()
                self.forget(*op[1:5])
                self._timers[op[1:5]] = loop.call_later(delay, self._again, op, run, tries + 1)
            reply(answer)

        return answered

    def disclaim(self, run: RunPort, node: Node) -> None:
        """End what a claim that failed may have claimed all the same: an error came after the link."""
        op = ("disclaim", run.root, run.run_id, node.name, node.hash)
        self._keeper.request(op, self.watched(op, run, lambda _: None))

    def _again(self, op: Op, run: RunPort, tries: int) -> None:
        del self._timers[op[1:5]]
        self._keeper.request(op, self.watched(op, run, lambda _: None, tries))

    def forget(self, root: str, name: str, digest: str, generation: int) -> None:
        """The generation is in use again, by an attempt that has an end of its own."""
        timer = self._timers.pop((root, name, digest, generation), None)
        if timer is not None:
            timer.cancel()
