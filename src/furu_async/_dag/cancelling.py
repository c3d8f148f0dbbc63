"""Cancelling jobs of a DAG: what has come together at once, the intent on disk before any ``scancel``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from furu_async._dag import claims
from furu_async._dag.claims import Ending
from furu_async._dag.tracks import Core, Sub, Told
from furu_async._dag.units import Unit
from furu_async._slurm.port import Silence
from furu_async._slurm.states import Alive, Ended
from furu_async._store import submissions
from furu_async._store.layout import RunPaths
from furu_async.report import Failure

_AGAIN_SECS = 2.0
_SCANCEL_SECS = 20.0
_SEE_OFF_SECS = 20.0


class Cancelling:
    """See the module.

    Args:
        told: hears when jobs were cancelled.
    """

    def __init__(self, core: Core, told: Told) -> None:
        self.core = core
        self._told = told
        self._drops: list[tuple[Unit, str]] = []
        self._dropping: asyncio.Task[None] | None = None

    def drop(self, unit: Unit, node: str) -> None:
        """Cancel the job of a node, soon."""
        sub = self.core.subs.get(unit.uid)
        if sub is not None and node not in sub.dropped:
            sub.dropped.add(node)
            # Whoever claims the node next must not join what is about to be cancelled.
            self.core.tracks[node].done_with.add(sub.sid)
            self._drops.append((unit, node))
            if self._dropping is None or self._dropping.done():
                self._dropping = self.core.spawn(self._drop_all(), "furu dag cancel")

    async def _drop_all(self) -> None:
        """Cancel what has come together: the intent is on disk before any ``scancel``."""
        core = self.core
        await asyncio.sleep(0)
        while self._drops:
            drops, self._drops = self._drops, []
            kind_text = "cancelled with its run" if core.stopping else "a job that it waited for has failed"
            endings: list[Ending] = []
            jobs: list[tuple[Sub, str, str]] = []
            closing: list[Sub] = []
            for unit, digest in drops:
                sub, track = core.subs[unit.uid], core.tracks[digest]
                whole = set(unit.nodes) <= sub.dropped
                if whole and sub not in closing:
                    closing.append(sub)
                if sub.job_id:
                    element = f"{sub.job_id}_{unit.nodes.index(digest)}" if sub.size > 1 else sub.job_id
                    jobs.append((sub, digest, element))
                if track.uid != unit.uid or not track.runs:
                    failure = Failure(kind="cancelled", message=kind_text)
                    endings.append(
                        Ending(name=track.node.name, hash=digest, wid=f"{sub.sid}-0", failure=failure)
                    )
            await core.patiently(_intend, core.paths, [sub.sid for sub in closing], kind_text)
            for sub in closing:
                if sub.pending is not None and not sub.job_id:
                    sub.pending.cancel(kind_text)
            await core.patiently(claims.end_all, core.run.root, core.run.run_id, endings)
            await self._scancel(await self._still_ours(jobs))
            for unit, digest in drops:
                self._told.dropped(core.tracks[digest], unit.uid)
        await self._see_off()

    async def _see_off(self) -> None:
        """Somebody waits for what was cancelled: ask Slurm until it is gone, more often than the poller would."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _SEE_OFF_SECS
        while loop.time() < until and any(track.stopping for track in self.core.tracks.values()):
            await self.core.shared.poller.snapshot()

    async def _still_ours(self, jobs: list[tuple[Sub, str, str]]) -> list[str]:
        """Those that have not ended; the id of one that ended before we came may be somebody else's by now."""
        sure, unsure = [], {}
        for sub, digest, element in jobs:
            watch = sub.watches.get(digest)
            verdict = watch.verdict if watch is not None else None
            if isinstance(verdict, Alive) or (verdict is None and not sub.adopted):
                sure.append(element)
            elif not isinstance(verdict, Ended):
                unsure[element] = sub.name
        if unsure:
            answer = await self.core.shared.poller.snapshot()
            if isinstance(answer, Silence):
                return sure + list(unsure)
            sure += [row.id for row in answer.rows if unsure.get(row.id) == row.name]
        return sure

    async def _scancel(self, ids: list[str]) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _SCANCEL_SECS
        while ids:
            done = await self.core.shared.port.cancel(ids)
            self.core.shared.poller.poke()
            if done.ok or loop.time() > until:
                return
            await asyncio.sleep(_AGAIN_SECS)


def _intend(paths: RunPaths, sids: Sequence[str], why: str) -> None:
    for sid in sids:
        submissions.close(paths.submission(sid), "cancel", why)
