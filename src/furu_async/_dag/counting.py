"""What has failed of a node: counted by its job, and read from the ends that the job left in the store.

A job repeats an attempt by itself, and may be killed, preempted or started again before it can say how often. The ends
of its generations are the account that outlives it.
"""

from __future__ import annotations

from furu_async._dag.orders import IN_ITS_JOB, OrderNode, sid_of
from furu_async._plan import retry
from furu_async._store.layout import ArtifactPaths
from furu_async._store.look import look
from furu_async._store.marker import read_end
from furu_async._store.records import Damaged
from furu_async.report import Failure, FailureKind

_MOST = 200


def left_by(paths: ArtifactPaths, sid: str, after: int) -> list[tuple[int, Failure]]:
    """Failures that the jobs of a submission repeated by themselves, in all their starts: generation and failure.

    Args:
        after: the generation before the first one that counts.

    Raises:
        OSError: it cannot be read now.
    """
    newest = look(paths).generation
    found = []
    for n in range(max(after + 1, newest - _MOST, 1), newest + 1):
        try:
            end = read_end(paths, paths.end(n), n)
        except (FileNotFoundError, Damaged):
            continue
        if end.failure is not None and end.failure.kind in IN_ITS_JOB and sid_of(end.token) == sid:
            found.append((n, end.failure))
    return found


class Counting:
    """Failures of the run at this node; infrastructure trouble lasts until something else happens.

    Args:
        before: of earlier starts of the same job.
    """

    def __init__(self, node: OrderNode, before: list[tuple[int, Failure]]) -> None:
        self._used: dict[FailureKind, int] = dict(node.used)
        self._spec = node.spec
        self._since: float | None = None
        self._troubles = 0
        for _, failure in before:
            self._add(failure.kind)

    def _add(self, kind: FailureKind) -> None:
        self._used[kind] = self._used.get(kind, 0) + 1

    def after(self, failure: Failure, now: float) -> retry.Counters:
        """What has been counted, with one more failure, at this loop time."""
        self._add(failure.kind)
        if failure.kind != "infrastructure":
            self._since, self._troubles = None, 0
            return retry.Counters(used=self._used, spec=self._spec)
        self._since = now if self._since is None else self._since
        self._troubles += 1
        waited = now - self._since
        return retry.Counters(used=self._used, spec=self._spec, trouble_secs=waited, troubles=self._troubles)
