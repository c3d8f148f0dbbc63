"""Cancelling jobs of a DAG: what has come together at once, the intent on disk before any ``scancel``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from furu_async._dag import claims, orders
from furu_async._dag.claims import Ending
from furu_async._dag.tracks import Core, Sub, Told
from furu_async._dag.units import Unit
from furu_async._slurm.withdrawing import Target, is_fresh, still_ours
from furu_async._store import submissions
from furu_async._store.layout import RunPaths
from furu_async.report import Failure

_AGAIN_SECS = 2.0
_PART = 100
_SCANCEL_SECS = 20.0

_ASK_SECS = 8.0
"""How long the queue is asked which jobs are still ours; the end of a run leaves that much, and time to cancel them."""
_SEE_OFF_SECS = 20.0


class Cancelling:
    """See the module.

    Args:
        told: hears when jobs were cancelled.
        claiming: held while claims are made: one that is just being made is ended after that, not before.
    """

    def __init__(self, core: Core, told: Told, claiming: asyncio.Lock) -> None:
        self.core = core
        self._told = told
        self._claiming = claiming
        self._drops: list[tuple[Unit, str]] = []
        self._dropping: asyncio.Task[None] | None = None

    @property
    def busy(self) -> asyncio.Task[None] | None:
        """What is under way, if anything is."""
        return self._dropping if self._dropping is not None and not self._dropping.done() else None

    async def claims_made(self) -> None:
        """Wait until the claims that are just being made are known, and with them what of it is to be cancelled."""
        async with self._claiming:
            pass

    def drop(self, unit: Unit, node: str) -> None:
        """Cancel the job of a node, soon."""
        sub = self.core.subs.get(unit.uid)
        if sub is not None and node not in sub.dropped:
            sub.dropped.add(node)
            # Whoever claims the node next must not join what is about to be cancelled.
            self.core.tracks[node].done_with.add(sub.sid)
            self._drops.append((unit, node))
            if self.busy is None:
                self._dropping = self.core.spawn(self._drop_all(), "furu dag cancel")

    async def _drop_all(self) -> None:
        """Cancel what has come together: the intent is on disk before any ``scancel``."""
        while self._drops:
            known = -1
            while known < len(self._drops):  # a run that is stopped drops its nodes a part at a time
                known = len(self._drops)
                await asyncio.sleep(0)
            drops, self._drops = self._drops, []
            await self._drop_some(drops)
        await self._see_off()

    async def _drop_some(self, drops: list[tuple[Unit, str]]) -> None:
        core = self.core
        kind_text = "cancelled with its run" if core.stopping else "a job that it waited for has failed"
        endings: list[Ending] = []
        targets: list[Target] = []
        closing: dict[int, Sub] = {}
        singly: list[tuple[str, str]] = []
        for number, (unit, digest) in enumerate(drops):
            if number % _PART == _PART - 1:
                await asyncio.sleep(0)
            sub, track = core.subs[unit.uid], core.tracks[digest]
            if unit.live <= sub.dropped:
                closing[unit.uid] = sub
            if sub.job_id:
                targets.append(self._target(unit, sub, digest))
            if track.uid != unit.uid or not track.runs:
                failure = Failure(kind="cancelled", message=kind_text)
                endings.append(Ending(name=track.node.name, hash=digest, wid=f"{sub.sid}-0", failure=failure))
            elif unit.uid not in closing:
                singly.append((sub.sid, track.wid))
        sids = [sub.sid for sub in closing.values()]
        await core.patiently(_intend, core.paths, sids, singly, kind_text)
        for sub in closing.values():
            if sub.pending is not None and not sub.job_id:
                sub.pending.cancel(kind_text)
        async with self._claiming:
            await core.patiently(claims.end_all, core.run.root, core.run.run_id, endings)
        now = asyncio.get_running_loop().time()
        ours = await still_ours(core.shared.poller, targets, now + _ASK_SECS)
        await self._scancel(ours, now + _SCANCEL_SECS)
        for number, (unit, digest) in enumerate(drops):
            if number % _PART == _PART - 1:
                await asyncio.sleep(0)
            self._told.dropped(core.tracks[digest], unit.uid)

    def _target(self, unit: Unit, sub: Sub, digest: str) -> Target:
        element = f"{sub.job_id}_{unit.nodes.index(digest)}" if sub.size > 1 else sub.job_id
        return Target(element, sub.name, sub.watches.get(digest), is_fresh(sub.placed_at))

    async def _see_off(self) -> None:
        """Somebody waits for what was cancelled: ask Slurm until it is gone, more often than the poller would."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _SEE_OFF_SECS
        while loop.time() < until and any(track.stopping for track in self.core.tracks.values()):
            await self.core.shared.poller.snapshot()

    async def _scancel(self, ids: list[str], until: float) -> None:
        loop = asyncio.get_running_loop()
        while ids:
            done = await self.core.shared.port.cancel(ids)
            self.core.shared.poller.poke()
            if done.ok or loop.time() > until:
                return
            await asyncio.sleep(_AGAIN_SECS)


def _intend(paths: RunPaths, sids: Sequence[str], singly: Sequence[tuple[str, str]], why: str) -> None:
    for sid in sids:
        submissions.close(paths.submission(sid), "cancel", why)
    for sid, wid in singly:
        if sid not in sids:
            orders.give_up(paths.submission(sid), wid, why)
