"""What several runs want at the same time is executed once: how one of them lets go."""

from __future__ import annotations

from furu_async._executors.base import Request, RunPort
from furu_async._plan.events import TakenBack


def withdraw(after: list[Request], run: RunPort) -> bool:
    """Take back what a run asked for while the work was being ended; True if that was all it wanted."""
    return bool(_take_out(after, run))


def leave(requests: list[Request], run: RunPort) -> bool:
    """Take a run off the work; True if the work goes on without it, because others want it too."""
    mine = sum(request.run is run for request in requests)
    if mine == len(requests):
        return not mine
    _take_out(requests, run)
    return True


def _take_out(requests: list[Request], run: RunPort) -> list[Request]:
    mine = [request for request in requests if request.run is run]
    for request in mine:
        requests.remove(request)
        run.post(TakenBack(request.node.hash, request.ticket))
    return mine
