"""Dependencies that another run is computing: wire to their jobs, or say at once why the run cannot go on."""

from __future__ import annotations

import asyncio

from furu_async._dag import orders
from furu_async._dag.tracks import Core, Track
from furu_async._executors.planner import describe_claim
from furu_async._plan.events import WatchEnded
from furu_async._runtime import clock
from furu_async._slurm.port import Silence, base_id
from furu_async._slurm.states import Alive, Ended, Verdict
from furu_async._store import submissions
from furu_async._store.beat import see_beat
from furu_async._store.layout import ArtifactPaths, RunPaths
from furu_async._store.look import Look, look
from furu_async._store.records import Claim
from furu_async._store.submissions import read_note
from furu_async.errors import FuruExecutorError
from furu_async.report import Failure

ID_SECS = 60.0
"""How long the id of a job is waited for that another run is just submitting."""

_PAUSE = 0.5
_GROWTH = 1.1
_GONE_SECS = 30.0
_CHOICES = (
    "wait until that is over and start the run again, use an executor that waits for such work (SlurmPool, Local), "
    "or cancel it"
)


class _Seen:
    __slots__ = ("beat", "blind", "job", "look", "names")

    def __init__(
        self, seen: Look, job: str, names: tuple[str, ...], beat: bytes | None = None, blind: bool = False
    ) -> None:
        self.look = seen
        self.job = job
        self.names = names
        self.beat = beat
        self.blind = blind


def _see(root: str, name: str, digest: str) -> _Seen:
    """An artifact, its job's id and beat, and the names under which that may be in Slurm. Blocks."""
    paths = ArtifactPaths(root, name, digest)
    seen = look(paths)
    note = read_note(f"{paths.jobs}/{seen.generation}")
    wid = orders.wid_of_claim(seen.claim) if seen.claim is not None else ""
    names: tuple[str, ...] = ()
    blind, beat = False, None
    try:
        beat = see_beat(root, seen.claim.beat) if seen.claim is not None else None
    except OSError:  # nothing is known of its owner: its claim is not to be taken from it
        blind = True
    if wid and seen.claim is not None:
        there = submissions.read(RunPaths(root, seen.claim.run_id).submission(orders.sid_of(wid)))
        names = tuple(each.name for each in there.tries if each.name)
        if note is None and there.last is not None and there.last.job is not None:
            return _Seen(seen, _element(root, seen.claim, wid, there.last.job.job_id), names, beat, blind)
    return _Seen(seen, note.job_id if note is not None else "", names, beat, blind)


def _element(root: str, claim: Claim, wid: str, job_id: str) -> str:
    order = orders.read_order(RunPaths(root, claim.run_id).submission(orders.sid_of(wid)))
    wids = [node.wid for node in order.nodes] if order is not None else []
    return f"{job_id}_{wids.index(wid)}" if len(wids) > 1 and wid in wids else job_id


async def resolve(core: Core, track: Track, again: bool = False) -> None:
    """Find out what is to be done about a node that somebody else has claimed; tells the wiring, or ends the run.

    Args:
        again: the run has jobs in Slurm. It goes on then, whoever is at the node: the core's watcher follows it, too.
    """
    loop = asyncio.get_running_loop()
    node, root = track.node, core.run.root
    began, until, pause = clock.wall(), loop.time() + ID_SECS, _PAUSE
    lost = False
    gone_since: float | None = None
    while core.wiring.items[node.hash].phase == "foreign":
        seen: _Seen = await core.patiently(_see, root, node.name, node.hash)
        if core.wiring.items[node.hash].phase != "foreign":
            return
        if seen.look.verdict == "published":
            core.do(core.wiring.done(node.hash))
            return
        claim = seen.look.claim
        if seen.look.verdict != "claimed":
            # Whoever follows the node sees that, too, and goes by the run's policy.
            if track.foreign and core.policy.retry_failed:
                _is_ours(core, track)
                return
            until = loop.time() + ID_SECS
        elif claim is None or claim.backend != "dag":
            if not again:
                _refuse(core, track, f"is being computed elsewhere: {describe_claim(claim)}", began)
                return
        elif (verdicts := await _in_slurm(core, seen)) is not None:
            if seen.job and any(isinstance(verdict, Alive) for verdict in verdicts):
                core.do(core.wiring.foreign(node.hash, seen.job))
                return
            absent = not any(isinstance(verdict, Alive) for verdict in verdicts)
            if seen.blind or not absent or not (seen.job or loop.time() > until):
                gone_since = None
            elif gone_since is None:
                gone_since = loop.time()
            else:
                # The store was asked before Slurm: only what it says after Slurm's word counts, and a result of
                # another host may take its time to be seen.
                ended = next((verdict for verdict in verdicts if isinstance(verdict, Ended)), None)
                patience = 0.0 if ended is not None and ended.how != "completed" else _GONE_SECS
                if not lost and loop.time() - gone_since >= patience:
                    lost = True
                    _left_behind(core, track, seen, ended)
        if not again and loop.time() > until + core.shared.config.infra_secs:
            what = f"is claimed for a Slurm job of which nothing is known: {seen.job or 'no id'}"
            _refuse(core, track, what, began)
            return
        await asyncio.sleep(pause)
        pause = min(pause * _GROWTH, core.shared.config.poll_interval_secs)


async def _in_slurm(core: Core, seen: _Seen) -> list[Verdict] | None:
    """What Slurm says of a node's job; None if it does not answer."""
    answer = await core.shared.poller.snapshot()
    if isinstance(answer, Silence):
        return None
    rows = [row for row in answer.rows if row.name in seen.names or (row.id == seen.job and not seen.names)]
    return [
        row.verdict()
        for row in rows
        if not seen.job or row.id == seen.job or row.base_id == base_id(seen.job)
    ]


def _left_behind(core: Core, track: Track, seen: _Seen, ended: Ended | None) -> None:
    """Slurm has no job of that token: the claim is nobody's, unless its beat goes on all the same."""
    node = track.node
    node.takeover, node.silent_at = seen.look.generation, seen.beat
    how = f"{ended.state} " if ended is not None else ""
    text = f"its job {how}is gone from Slurm and has left no result"
    if not track.foreign:
        core.run.post(WatchEnded(node.hash, "lost", Failure(kind="lost", message=text), text))
    elif core.policy.retry_failed:
        _is_ours(core, track)


def _is_ours(core: Core, track: Track) -> None:
    """A node of which the core has not been told that anybody was at it needs a job of this run."""
    track.foreign = ""
    item = core.wiring.items[track.node.hash]
    core.do(core.wiring.again(item.hash, item.spec, item.key))


def _refuse(core: Core, track: Track, what: str, began: float) -> None:
    core.run.fail(
        FuruExecutorError(
            f"{track.node.obj!r} {what} (seen at {clock.utc(began)}); jobs in Slurm cannot wait for it",
            _CHOICES,
        )
    )
