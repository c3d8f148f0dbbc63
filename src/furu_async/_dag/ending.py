"""The end of a DAG's run: what is left of it in Slurm is cancelled, or waited for, within one deadline.

After a run that went well its last jobs are about to end by themselves: each says so in the store, by removing its
beat, a tenth of a second after its result is there; then Slurm is asked whether it has ended them. So nothing of the
run is left when its report is there, and that costs less than waiting for Slurm alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import anyio

from furu_async._dag import leftovers
from furu_async._dag.cancelling import Cancelling
from furu_async._dag.tracks import Core, Sub
from furu_async._runtime.blocking import DOOR
from furu_async._slurm.names import belongs_to
from furu_async._slurm.port import JobRow, Rows
from furu_async._slurm.states import Alive, Ended
from furu_async._store.beat import read_beat
from furu_async._store.layout import beat_path

MOST_SECS = 26.0
"""For all of it, where nobody gives a deadline."""

GONE_SECS = 5.0
"""How long jobs that end by themselves are waited for."""

_KEEPER_SECS = 2.0
_STRAY_SECS = 3.0
_SETTLE_SECS = 6.0
_WORD_SECS = 2.0
_QUICK_SECS = 0.25
_TELL_AFTER = 1.0
_LOOK_SECS = 0.02
_SHOWN = 5
_PART = 100


class Closing:
    """See the module.

    Args:
        continued: an earlier controller had begun the run.
    """

    def __init__(self, core: Core, cancelling: Cancelling, continued: bool) -> None:
        self.core = core
        self._cancelling = cancelling
        self._continued = continued
        self._loop = asyncio.get_running_loop()
        self._left: list[str] = []
        self._ending: set[str] = set()
        # What comes after this (the end of the run in the store) belongs into the same deadline.
        given = anyio.current_effective_deadline() - self._loop.time()
        seconds = min(MOST_SECS, max(given / 2, given - _KEEPER_SECS))
        self._until = self._loop.time() + seconds
        self._before_strays = self._until - min(_STRAY_SECS, seconds / 3)

    async def cancel_all(self) -> None:
        """Cancel what is not over, and wait until it is gone."""
        core = self.core
        for number, (digest, track) in enumerate(list(core.tracks.items())):
            if not track.over and digest in core.wiring.items:
                core.do(core.wiring.forget(digest))
            if number % _PART == _PART - 1:
                await asyncio.sleep(0)
        await self._within(self._cancelling.claims_made(), self._before_strays)
        # A person's patience, not the poller's: what was cancelled is asked about until it is gone.
        while (busy := self._cancelling.busy) is not None or self._dropped():
            waited = busy if busy is not None else core.shared.poller.snapshot()
            if not await self._within(waited, self._before_strays):
                break
        self._left += [job for job in self._dropped() if job not in self._left]

    async def cancel_rest(self) -> None:
        """Of a run that was stopped before all jobs of its earlier controller were joined: cancel those, too."""
        await self._within(leftovers.cancel_rest(self.core), self._before_strays)

    async def settle(self, strays: bool) -> None:
        """Wait for submissions that are being taken back; then look for jobs of which nobody has heard.

        Args:
            strays: there may be some, or in a continued run, jobs of the earlier controller.
        """
        seconds = min(_SETTLE_SECS, max(0.0, self._before_strays - self._loop.time()))
        await self.core.shared.submitter.settle(seconds)
        if strays:
            await self._within(self._cancel_strays(), min(self._until, self._loop.time() + _STRAY_SECS))

    async def see_off(self) -> None:
        """Wait until Slurm has ended the jobs that were not cancelled; not any more when the caller wants to leave."""
        core, poller = self.core, self.core.shared.poller
        if not any(sub.job_id for sub in core.subs.values()):
            return
        until = min(self._until, self._loop.time() + GONE_SECS)
        if self._is_unsure():
            await self._within(self._words(), min(until, self._loop.time() + _WORD_SECS), may_leave=True)
            await self._within(self._gone(), until, may_leave=True)
        if isinstance(poller.latest, Rows):
            await self._within(self._forgotten(poller.latest.rows), self._until, may_leave=True)

    def tell(self) -> None:
        """Say what may still be in Slurm."""
        note = self.core.run.note
        if self._left:
            note(f"still in Slurm when the run ended: {_some(self._left)}; see `squeue`, `scancel`")
        names = [name for sub in self.core.subs.values() if (name := _unheard_of(sub))]
        if names:
            note(
                f"`sbatch` gave no answer for {len(names)} of the run's jobs, and Slurm does not know them. One that "
                "turns up ends itself when it starts; one that is held is cancelled at the end of the next run, or by: "
                + "; ".join(f"scancel --name={name}" for name in names[:_SHOWN])
            )

    # -- inside ----------------------------------------------------------------------------------------------

    async def _within(
        self, work: Coroutine[Any, Any, Any] | asyncio.Task[Any], until: float, may_leave: bool = False
    ) -> bool:
        """Whether it came to its end in time. A task goes on after that, a coroutine does not."""
        task = work if isinstance(work, asyncio.Task) else self.core.spawn(work, "furu dag end")
        waited: list[asyncio.Task[Any]] = [task]
        if may_leave:
            leaving = self.core.run.hurry.wait()
            waited.append(self._loop.create_task(leaving, name="furu dag end hurry"))
        try:
            await asyncio.wait(
                waited, timeout=max(0.0, until - self._loop.time()), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for each in waited if task is not work else waited[1:]:
                each.cancel()
        return task.done()

    def _is_unsure(self) -> bool:
        """Slurm has not said of all jobs that they have ended."""
        subs = self.core.subs.values()
        return self._mute() or any(sub.job_id and len(sub.watches) < sub.size for sub in subs)

    def _dropped(self) -> list[str]:
        """Jobs that were cancelled, and of which Slurm has not said that they have ended."""
        return [
            watch.job.id
            for sub in self.core.subs.values()
            for node, watch in sub.watches.items()
            if node in sub.dropped and not isinstance(watch.verdict, Ended)
        ]

    async def _cancel_strays(self) -> None:
        """Jobs of tries that were given up, or not heard of, and that are there after all.

        They end themselves when they start, but one that is held would stay for ever. Of what runs in a continued run
        it is not known whether an earlier controller has given it up: it may be about to end well.
        """
        core = self.core
        placed = {sub.name for sub in core.subs.values() if sub.job_id and len(sub.dropped) < sub.size}
        answer = await core.shared.poller.snapshot()
        rows = answer.rows if isinstance(answer, Rows) else ()
        strays = [row for row in rows if row.name not in placed and belongs_to(row.name, core.run.run_id)]
        ids = [row.id for row in await _alive(strays) if row.idle or not self._continued]
        if ids:
            await core.shared.port.cancel(ids)

    def _mute(self) -> bool:
        """There are jobs that neither Slurm nor they themselves say anything of."""
        watches = (watch for sub in self.core.subs.values() for watch in sub.watches.values())
        return any(
            not isinstance(watch.verdict, Ended) and watch.job.id not in self._ending for watch in watches
        )

    async def _words(self) -> None:
        """Wait until the jobs whose end Slurm has not told have said themselves that they end."""
        core = self.core
        beats = {}
        for sub in core.subs.values():
            for node, watch in sub.watches.items():
                track = core.tracks[node]
                if track.sid == sub.sid and not isinstance(watch.verdict, Ended):
                    beats[beat_path(core.run.run_id, track.running_wid)] = watch.job.id
        while beats:
            beating = await DOOR.files.run(_beating, core.run.root, list(beats))
            self._ending |= {job for beat, job in beats.items() if beat not in beating}
            beats = {beat: beats[beat] for beat in beating}
            if beats:
                await asyncio.sleep(_LOOK_SECS)

    async def _gone(self) -> None:
        """Ask Slurm until it has ended them: a few times at once, and longer for those that have not said anything."""
        core, poller = self.core, self.core.shared.poller
        names = {sub.name for sub in core.subs.values() if sub.job_id}
        began, cancelled = self._loop.time(), False
        while True:
            quick = self._loop.time() - began < _QUICK_SECS
            answer = await poller.last_look() if quick else None
            if answer is None:
                if not self._left and not self._mute():
                    return
                answer = await poller.snapshot()
            if not isinstance(answer, Rows):
                return  # Slurm is away: that says nothing about the run, which is over
            living = await _alive([row for row in answer.rows if row.name in names])
            self._left = [f"{row.id} ({row.state})" for row in living if row.id not in self._ending]
            if not living:
                return
            idle = [row.id for row in living if row.idle]
            if idle and not cancelled:  # somebody else has made what they were for
                cancelled = True
                await core.shared.port.cancel(idle)
            if self._loop.time() - began > _TELL_AFTER:
                text = f"the run is over; Slurm is still ending {_some(self._left)}"
                core.run.workers({"ending": len(self._left)}, text)

    async def _forgotten(self, rows: Sequence[JobRow]) -> None:
        """Cancel jobs of earlier runs of this store that are held and that nobody will ever release."""
        core = self.core
        ids = await DOOR.probe.run(leftovers.forgotten, core.run.root, rows, [core.run.run_id])
        if ids:
            await core.shared.port.cancel(ids)
            core.run.note(f"cancelled held jobs of earlier runs, which nobody waits for: {_some(ids)}")


def may_have_strays(sub: Sub) -> bool:
    """It has had more than one try, or of its only one it is not known what became of it."""
    tries = sub.pending.state.k if sub.pending is not None else sub.tries
    return tries > 1 or bool(_unheard_of(sub))


def _unheard_of(sub: Sub) -> str:
    """The name of a job that Slurm may have taken without our having heard of it; else empty."""
    pending = sub.pending
    if pending is None or pending.state.job is not None or pending.ticket is None:
        return ""
    state = pending.state
    return pending.ticket.name if state.sent == "unclear" or "sbatch" in state.outstanding else ""


async def _alive(rows: Sequence[JobRow]) -> list[JobRow]:
    """Those that have not ended."""
    found = []
    for number, row in enumerate(rows):
        if isinstance(row.verdict(), Alive):
            found.append(row)
        if number % _PART == _PART - 1:
            await asyncio.sleep(0)
    return found


def _beating(root: str, beats: Sequence[str]) -> list[str]:
    return [beat for beat in beats if read_beat(root, beat) is not None]


def _some(jobs: Sequence[str]) -> str:
    more = f" and {len(jobs) - _SHOWN} more" if len(jobs) > _SHOWN else ""
    return ", ".join(jobs[:_SHOWN]) + more
