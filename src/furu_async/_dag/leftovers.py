"""Jobs that earlier controllers have left in Slurm and that nobody wants any more: found by their names, and cancelled.

Two kinds. Of a run that is gone on with: what its earlier controller had written that it would cancel, and was killed
before it did. Of any run of this store: a job that is held, though its run has ended or has given it up: its ``sbatch``
gave no answer, and it turned up when nobody looked for it any more. Nobody would ever release it.

The functions that read the store block.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from furu_async._dag import orders
from furu_async._dag.claims import Ending, end_claim
from furu_async._dag.tracks import Core
from furu_async._slurm.names import belongs_to, read_name, run_tag
from furu_async._slurm.port import JobRow, Rows
from furu_async._slurm.states import Alive
from furu_async._store import atomic, fs, runs, submissions
from furu_async._store.beat import read_beat
from furu_async._store.layout import RunPaths, SubmissionPaths, beat_path
from furu_async.errors import FuruError
from furu_async.report import Failure

_GIVEN_UP = re.compile(r"cancel-(?P<sid>[0-9a-f]{16})-(?P<k>[0-9]{1,9})\Z")
_AGAIN_SECS = 2.0
_INTEND_SECS = 5.0
_MOST = 10_000
_MOST_RUNS = 100_000


@dataclass(frozen=True, slots=True)
class Unwanted:
    """Jobs that were to be cancelled.

    Attributes:
        whole: names of jobs (of arrays: all tasks of them).
        tasks: (name, index) of single tasks of arrays.
    """

    whole: set[str] = field(default_factory=set)
    tasks: set[tuple[str, int]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.whole or self.tasks)

    def ids(self, rows: Iterable[JobRow]) -> list[str]:
        """Those of them that are in Slurm."""
        return [row.id for row in rows if isinstance(row.verdict(), Alive) and self._has(row)]

    def _has(self, row: JobRow) -> bool:
        task = row.id.partition("_")[2]
        return row.name in self.whole or (task.isdigit() and (row.name, int(task)) in self.tasks)


async def cancel_unwanted(core: Core) -> None:
    """Finish what the earlier controller of this run had begun to cancel."""
    found: Unwanted = await core.patiently(unwanted, core.paths)
    if not found:
        return
    loop = asyncio.get_running_loop()
    until = loop.time() + core.shared.config.infra_secs
    while loop.time() < until:
        answer = await core.shared.poller.snapshot()
        if isinstance(answer, Rows):
            ids = found.ids(answer.rows)
            if not ids or (await core.shared.port.cancel(ids)).ok:
                return
        await asyncio.sleep(_AGAIN_SECS)


async def cancel_rest(core: Core) -> None:
    """Cancel all that this run has in Slurm, whoever has submitted it, and wait until it is gone."""
    with anyio.move_on_after(_INTEND_SECS):  # a store that gives trouble does not keep jobs in Slurm
        await core.patiently(give_up_all, core.run.root, core.paths)
    cancelled: set[str] = set()
    while True:
        answer = await core.shared.poller.snapshot()
        if not isinstance(answer, Rows):
            await asyncio.sleep(_AGAIN_SECS)
            continue
        ids = [
            row.id
            for row in answer.rows
            if belongs_to(row.name, core.run.run_id) and isinstance(row.verdict(), Alive)
        ]
        if not ids:
            return
        fresh = [each for each in ids if each not in cancelled]
        if fresh and (await core.shared.port.cancel(fresh)).ok:
            cancelled.update(fresh)


def give_up_all(root: str, paths: RunPaths) -> None:
    """Say of all submissions of a run that nobody wants them any more, and end the claims of jobs that have not begun.

    Blocks.

    Raises:
        OSError: it is not known whether all of that was done.
    """
    failure = Failure(kind="cancelled", message="cancelled with its run")
    for sid in _list(f"{paths.base}/submissions")[:_MOST]:
        submission = paths.submission(sid)
        submissions.close(submission, "cancel", failure.message)
        order = orders.read_order(submission)
        for node in order.nodes if order is not None else ():
            if read_beat(root, beat_path(paths.run_id, node.wid)) is None:
                ending = Ending(name=node.name, hash=node.hash, wid=node.wid, failure=failure)
                end_claim(root, paths.run_id, ending)


def unwanted(paths: RunPaths) -> Unwanted:
    """What an earlier controller of this run meant to cancel. Blocks; best effort."""
    found = Unwanted()
    for sid in _list(f"{paths.base}/submissions")[:_MOST]:
        try:
            _look_at(paths.submission(sid), found)
        except (OSError, FuruError):
            continue
    return found


def _look_at(paths: SubmissionPaths, found: Unwanted) -> None:
    files = _list(paths.base)
    closed = "closed" in files
    given_up = [match for match in map(_GIVEN_UP.match, files) if match is not None]
    if not closed and not given_up:
        return
    names = [each.name for each in submissions.read(paths).tries if each.name]
    if closed:
        found.whole.update(names)
        return
    order = orders.read_order(paths)
    places = (
        {orders.first_wid(node.wid): k for k, node in enumerate(order.nodes)} if order is not None else {}
    )
    for match in given_up:
        k = places.get(f"{match['sid']}-{match['k']}")
        if k is not None:
            found.tasks.update((name, k) for name in names)


def forgotten(root: str, rows: Sequence[JobRow], run_ids: Iterable[str] = ()) -> list[str]:
    """Ids of those of these jobs that nobody will ever release: see the module. Blocks; best effort.

    Args:
        rows: what is in the queue.
        run_ids: of runs that are being carried out here, whose jobs are left alone.
    """
    wanted: dict[str, list[JobRow]] = {}
    busy = {run_tag(run_id) for run_id in run_ids}
    for row in rows:
        parts = read_name(row.name)
        if parts is not None and parts.run not in busy and row.held:
            wanted.setdefault(parts.run, []).append(row)
    if not wanted:
        return []
    ids: list[str] = []
    for run_id in _list(f"{root}/runs")[:_MOST_RUNS]:
        some = wanted.get(run_tag(run_id))
        if some is None or run_id.startswith("."):
            continue
        try:
            paths = RunPaths(root, run_id)
            names = _names(paths, {row.name for row in some})
            over = runs.look_run(paths).verdict == "over"
            ids += [row.id for row in some if row.name in names and (over or names[row.name])]
        except (OSError, FuruError):
            continue
    return ids


def _names(paths: RunPaths, names: set[str]) -> Mapping[str, bool]:
    """Which of these names the run's submissions have given out, and whether it has given the job up."""
    found: dict[str, bool] = {}
    for sid in _list(f"{paths.base}/submissions")[:_MOST]:
        submission = paths.submission(sid)
        if not atomic.exists(orders.order_path(submission)):
            continue  # of a pool, whose workers may serve other runs than the one that they are named after
        there = submissions.read(submission)
        for each in there.tries:
            if each.name in names:
                dropped = each.ruling is not None and each.ruling.decision == "dropped"
                found[each.name] = dropped or there.closed is not None
    return found


def _list(folder: str) -> list[str]:
    try:
        return sorted(fs.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
