"""Follows the jobs of a DAG: what the store and Slurm say becomes what the core is told.

Success is read from the store. There are two sources: a look at the store every few tenths of a second, at nodes that
the core waits for and at those whose job has ended; and the poller, which tells how a job ended where the job could not
say so itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from furu_async._dag import claims
from furu_async._dag.claims import Answer, Ending, Sight, Watched
from furu_async._dag.foreign import resolve
from furu_async._dag.telling import Telling
from furu_async._dag.tracks import Core, Sub, Track
from furu_async._plan.events import Elsewhere, Failed, Started, Succeeded, TakenBack
from furu_async._runtime import exit_codes
from furu_async._slurm.states import Alive, Ended
from furu_async._slurm.tracking import Change
from furu_async.errors import FuruExecutorError
from furu_async.report import Failure, FailureKind

VISIBLE_SECS = 30.0
"""How long a result may take to be seen here after its job has ended well."""

_FIRST, _SLOWEST, _GROWTH = 0.1, 1.5, 1.1
"""Seconds between looks: a result is seen within a tenth of the time that it was waited for, or the slowest."""

_TELL_SECS = 5.0
"""After which it is told that the store gives no information."""

_BATCH = 256


class Following:
    """See the module."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._wake = asyncio.Event()
        self._interval = _FIRST
        self._closed = False
        self._telling = Telling(core, core.run.note)

    # -- what is told ----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look soon."""
        self._interval = _FIRST
        self._wake.set()

    def close(self) -> None:
        """End `run`."""
        self._closed = True
        self._telling.close()
        self._wake.set()

    def foreign(self, track: Track, answer: Answer) -> None:
        """Somebody else has its claim."""
        track.foreign = answer.text
        track.node.held = answer.generation
        track.uid = 0
        # A run that has jobs in Slurm does not throw them away because of one node.
        under_way = any(sub.job_id for sub in self.core.subs.values())
        self.core.spawn(resolve(self.core, track, again=under_way), "furu dag dependency elsewhere")
        if track.request is not None:
            self.answer_foreign(track)

    def answer_foreign(self, track: Track) -> None:
        """The core wants it: let the core's watcher wait."""
        request, track.request = track.request, None
        track.stopping = False
        text, track.foreign = track.foreign, ""
        if request is not None:
            self.core.run.post(Elsewhere(track.node.hash, text, request.ticket))

    def published(self, track: Track, generation: int) -> None:
        """Its result was there when it was to be claimed."""
        track.over, track.created = True, False
        track.node.generation = generation
        self.answer_success(track)

    def lost(self, track: Track, failure: Failure) -> None:
        """It has failed, without a job."""
        track.uid = 0
        self._tell_failure(track, failure)

    def changed(self, track: Track, sub: Sub, change: Change) -> None:
        """Slurm says something new of its job."""
        if track.uid != sub.uid:
            return
        verdict = change.verdict
        self._telling.soon()
        if change.restarted:
            self._restarted(track, change)
        if isinstance(verdict, Ended):
            track.ended = verdict
            track.since = asyncio.get_running_loop().time()
            self.wake()
        elif isinstance(verdict, Alive):
            was, track.alive = track.alive, verdict
            if verdict.phase == "running" and (was is None or was.phase != "running"):
                self.wake()

    def _restarted(self, track: Track, change: Change) -> None:
        """The same job, another start of it: another attempt."""
        track.restarts = change.job.restarts
        track.ended = None
        # One that the core did not see begin is told of when the node has its result.
        if track.started:
            track.restarts_told += 1
            text = f"Slurm has started its job {track.job_id} again ({track.restarts} times so far)"
            self._tell_failure(track, Failure(kind="preempted", message=text), keeps_job=True)

    def dropped(self, track: Track, uid: int) -> None:
        """Its job was cancelled by our own wish."""
        if track.uid == uid and track.stopping and not track.runs:
            track.uid = 0
            self.take_back(track)

    def take_back(self, track: Track) -> None:
        track.stopping = False
        request, track.request = track.request, None
        if request is not None:
            self.core.run.post(TakenBack(track.node.hash, request.ticket))

    # -- looking ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """The task that looks."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            due = [track for track in self.core.tracks.values() if self._is_due(track)]
            if due:
                await self._round(due, loop.time())
                # Where all wait in Slurm's queue, its poller says when that changes.
                idle = not any(track.runs for track in due)
                slowest = max(_SLOWEST, self.core.shared.config.poll_interval_secs) if idle else _SLOWEST
                self._interval = min(self._interval * _GROWTH, slowest)
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), self._interval if due else None)
            except TimeoutError:
                continue
            # What woke us may come with more of its kind.
            await asyncio.sleep(_FIRST / 4)

    def _is_due(self, track: Track) -> bool:
        if track.over:
            return False
        return track.request is not None or (track.uid != 0 and track.ended is not None)

    async def _round(self, due: list[Track], now: float) -> None:
        run = self.core.run
        for start in range(0, len(due), _BATCH):
            part = due[start : start + _BATCH]
            far = [track for track in part if track.ended is None]
            near = [track for track in part if track.ended is not None]
            for tracks, closely in ((far, False), (near, True)):
                items = [_watched(track) for track in tracks]
                uids = [track.uid for track in tracks]
                if not items:
                    continue
                sights: list[Sight] = await self.core.patiently(
                    claims.see_all, run.root, run.run_id, items, closely
                )
                judged = zip(tracks, uids, sights, strict=True)
                await self._judge([(t, sight) for t, uid, sight in judged if t.uid == uid], now)

    async def _judge(self, seen: Iterable[tuple[Track, Sight]], now: float) -> None:
        endings: list[tuple[Track, Failure]] = []
        for number, (track, sight) in enumerate(seen):
            if number % 50 == 49:
                await asyncio.sleep(0)
            if sight.error:
                self._no_information(track, sight.error, now)
                continue
            if sight.generation > track.node.supersede:  # which is set aside when its job is claimed
                self._succeeded(track, sight)
                continue
            if not track.uid:  # what an earlier job of it left says nothing about the next one
                continue
            if sight.beating or (track.alive is not None and track.alive.phase == "running"):
                self._begun(track)
            failure = self._failure(track, sight, now)
            if failure is not None:
                endings.append((track, failure))
        if endings:
            await self._end(endings)

    def _no_information(self, track: Track, error: str, now: float) -> None:
        """The store does not say how a job that is over ended: told, and waited out like any trouble.

        Raises:
            FuruExecutorError: it has not for ``FURU_INFRA_SECS``.
        """
        waited = now - track.since if track.ended is not None and track.since is not None else 0.0
        if waited < _TELL_SECS:
            return
        text = f"job {track.job_id} of {track.node.name} has ended, and the store does not say how: {error}"
        if waited >= self.core.shared.config.infra_secs:
            raise FuruExecutorError(f"the store {self.core.run.root} gives trouble: {text}")
        self.core.run.note(text)

    def _succeeded(self, track: Track, sight: Sight) -> None:
        track.over, track.created = True, sight.created
        track.node.generation = sight.generation
        if sight.created and track.request is not None:
            self._begun(track)
            self._learn(track, track.attempt, sight)
        self.core.do(self.core.wiring.done(track.node.hash))
        self.answer_success(track)
        self.wake()

    def _learn(self, track: Track, attempt: int, sight: Sight) -> None:
        """Attempts of which only the store tells: the job's own, and starts between two looks at Slurm."""
        node = track.node
        restarts = sight.restarts - track.restarts_told
        lines = list(sight.history[len(node.history) :])
        if lines:
            node.history = sight.history
        if restarts > 0:
            unseen = [f"preempted: Slurm has started its job {track.job_id} again"] * restarts
            node.history = (*node.history, *unseen)[-20:]
            lines += unseen
        self._tried_again(track, attempt, lines)

    def _tried_again(self, track: Track, attempt: int, lines: Sequence[str]) -> None:
        """Tell of the attempts that came after this one: for each, how the one before it ended."""
        node, last = track.node, attempt + len(lines)
        for number, line in enumerate(lines, attempt + 1):
            self.core.run.tried_again(node, number, line)
        if last > node.attempts:
            self.core.run.begun(node, last, f"job {track.job_id}")

    def answer_success(self, track: Track) -> None:
        """Tell the core, if it waits."""
        request, track.request = track.request, None
        track.stopping = False
        if request is not None:
            self.core.run.post(Succeeded(track.node.hash, track.created, request.ticket))

    def _begun(self, track: Track) -> None:
        request = track.request
        if track.started or request is None:
            return
        track.started = True
        self.core.run.begun(request.node, track.attempt, f"job {track.job_id}")
        self.core.run.post(Started(track.node.hash, request.ticket))

    # -- ends without a result -------------------------------------------------------------------------------

    def _failure(self, track: Track, sight: Sight, now: float) -> Failure | None:
        """How its job ended, once that can be said."""
        ended = track.ended
        said = sight.outcome
        if said is not None and said.failures and (track.stopping or not said.interrupted):
            self._count(track, sight.left, said.generations[-1] if said.generations else 0)
            last = said.failures[-1]
            return msgspec.structs.replace(last, retryable=False) if said.final else last
        if ended is None:
            return None
        if ended.by_dependency:
            return Failure(kind="cancelled", message="a job that it waited for has failed")
        if ended.how == "completed" and track.since is not None and now - track.since < VISIBLE_SECS:
            return None
        failure = _by_slurm(track, ended, sight)
        self._count(track, sight.left, sight.failed if failure is sight.failure else 0)
        return failure

    def _count(self, track: Track, left: Sequence[tuple[int, Failure]], last: int) -> None:
        """Attempts that the job made by itself, one after the other, but for the one that is told of as its end."""
        node = track.node
        failures = [failure for n, failure in left if n != last]
        for failure in failures:
            track.used[failure.kind] = track.used.get(failure.kind, 0) + 1
            node.history = (*node.history, failure.line())[-20:]
        if failures and track.request is not None:
            self._begun(track)
            self._tried_again(track, track.attempt, [failure.line() for failure in failures])
        track.by_itself += len(failures)

    async def _end(self, endings: list[tuple[Track, Failure]]) -> None:
        """The claims of jobs that are gone have to end, before anybody goes on."""
        core = self.core
        items = [
            Ending(
                name=track.node.name,
                hash=track.node.hash,
                wid=track.wid,
                failure=failure,
            )
            for track, failure in endings
        ]
        uids = [track.uid for track, _ in endings]
        await core.patiently(claims.end_all, core.run.root, core.run.run_id, items)
        for (track, failure), uid in zip(endings, uids, strict=True):
            if track.uid != uid:
                continue
            by_dependency = track.ended is not None and track.ended.by_dependency
            track.uid = 0
            track.done_with.add(track.sid)
            digest = track.node.hash
            if track.stopping:
                self._stopped(track)
            elif by_dependency:
                core.do(core.wiring.killed(uid, digest))
            else:
                core.do(core.wiring.failed(uid, digest))
                self._tell_failure(track, failure)

    def _stopped(self, track: Track) -> None:
        track.stopping = False
        if not track.started:
            self.take_back(track)
            return
        failure = Failure(kind="cancelled", message="cancelled with its run")
        self._tell_failure(track, failure)

    def _tell_failure(self, track: Track, failure: Failure, keeps_job: bool = False) -> None:
        """Tell the core now, or when it asks."""
        if failure.kind not in ("cancelled", "infrastructure"):
            track.used[failure.kind] = track.used.get(failure.kind, 0) + 1
        if not failure.log_path and track.log:
            failure = msgspec.structs.replace(failure, log_path=track.log)
        track.started = False
        if not keeps_job:
            track.stopping = False
        request, track.request = track.request, None
        if request is not None:
            self.core.run.post(Failed(track.node.hash, failure, self.core.run.jitter(), request.ticket))
        elif not keeps_job:
            track.failure = failure


def _watched(track: Track) -> Watched:
    node = track.node
    return Watched(name=node.name, hash=node.hash, sid=track.sid, wid=track.running_wid, counted=node.counted)


def _by_slurm(track: Track, ended: Ended, sight: Sight) -> Failure:
    """What Slurm's word makes of an end about which the job did not say why."""
    kind: FailureKind | None = ended.kind
    said = f"job {track.job_id}: {ended.state or 'gone from Slurm'}"
    if ended.reason and ended.reason != "None":
        said += f" ({ended.reason})"
    if kind is None:
        if sight.failure is not None and sight.failure.kind not in ("preempted", "cancelled"):
            return sight.failure
        kind = "lost" if ended.how == "completed" or ended.signal else "preempted"
        if sight.outcome is None and not ended.signal and ended.how == "failed":
            kind = "lost"
        if ended.exit_code:
            said += f", exit code {ended.exit_code}"
        if ended.exit_code == exit_codes.CANNOT_START:
            said += ": it could not begin, its log says why"
    if kind == "cancelled":
        said += ": cancelled by somebody"
    return Failure(kind=kind, message=said)
