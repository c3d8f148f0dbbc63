"""A wave as a whole, and what of earlier ones Slurm still knows: looked at, and released."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Set

from furu_async._dag import claims
from furu_async._dag.tracks import Core
from furu_async._dag.units import Unit
from furu_async._slurm.port import JobRow, Silence
from furu_async.errors import FuruExecutorError

_AGAIN_SECS = 2.0

Known = Mapping[str, Set[str]]


class Waves:
    """See the module.

    Args:
        watch: follow the jobs of a unit.

    Attributes:
        adopted: units of an earlier controller, whose jobs may have been released.
    """

    def __init__(self, core: Core, watch: Callable[[Unit], None]) -> None:
        self.core = core
        self.adopted: set[int] = set()
        self._watch = watch

    async def check(self, uid: int, parents: tuple[tuple[str, str], ...]) -> None:
        """Which parents that were released long ago Slurm still knows, or has known."""
        core = self.core
        done: list[str] = []

        async def unknown(known: Known) -> list[str]:
            lacking = []
            for parent, job in parents:
                if self._knows(known, job, self._name_of(parent, job)) or parent in done:
                    continue
                if await core.patiently(claims.has_result, core.run.root, core.tracks[parent].node):
                    done.append(parent)
                else:
                    lacking.append(job)
            return lacking

        gone = await self._gone(unknown)
        core.do(core.wiring.checked(uid, done, [each for each in parents if each[1] in gone]))

    def _name_of(self, node: str, job: str) -> str:
        """The name of a node's job, if it is one of this run."""
        item = self.core.wiring.items[node]
        unit = item.unit
        return self.core.subs[unit.uid].name if unit is not None and unit.job_of(node) == job else ""

    @staticmethod
    def _knows(known: Known, job: str, name: str) -> bool:
        """Whether Slurm has this job: a controller of it that has lost its state gives the id to another one."""
        return job in known and (not name or name in known[job])

    async def _gone(self, unknown: Callable[[Known], Awaitable[list[str]]]) -> list[str]:
        """What Slurm does not know, look after look: what it shows may be some seconds old.

        Args:
            unknown: of what Slurm knows (names by id), which ids are lacking.
        """
        loop = asyncio.get_running_loop()
        since = loop.time()
        while True:
            rows = await self._rows()
            known: dict[str, set[str]] = {}
            for row in rows:
                known.setdefault(row.id, set()).add(row.name)
                known.setdefault(row.base_id, set()).add(row.name)
            lacking = await unknown(known)
            if not lacking or loop.time() - since >= self.core.shared.submitter.rules.look_apart:
                return lacking
            await asyncio.sleep(_AGAIN_SECS)

    async def _rows(self) -> list[JobRow]:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.core.shared.config.infra_secs
        while True:
            answer = await self.core.shared.poller.snapshot()
            if not isinstance(answer, Silence):
                return list(answer.rows)
            if loop.time() > until:
                raise FuruExecutorError(f"Slurm does not answer: {answer.words}")
            await asyncio.sleep(_AGAIN_SECS)

    async def verify(self, units: list[Unit]) -> None:
        """All jobs of a wave are in Slurm: release what is held of it."""
        core = self.core
        missing: list[int] = []
        ids: list[str] = []
        held = {unit.job: unit.uid for unit in units if unit.hold or unit.uid in self.adopted}
        if held:
            # What is held, or waits for what is held, cannot have ended; what was adopted may have.
            fresh = [unit for unit in units if unit.uid not in self.adopted and (unit.hold or unit.edges)]

            async def unknown(known: Known) -> list[str]:
                lacking = [unit for unit in fresh if unit.live]
                return [u.job for u in lacking if not self._knows(known, u.job, core.subs[u.uid].name)]

            gone = await self._gone(unknown)
            missing = [unit.uid for unit in fresh if unit.job in gone]
            rows = await self._rows() if self.adopted else []
            released = await _released([row for row in rows if row.base_id in held])
            ids = [job for job, uid in held.items() if uid not in missing and job not in released]
        loop = asyncio.get_running_loop()
        until = loop.time() + core.shared.config.infra_secs
        while ids:
            done = await core.shared.port.release(ids)
            if done.ok:
                break
            if loop.time() > until:
                raise FuruExecutorError(f"held jobs cannot be released: {done.words}")
            await asyncio.sleep(_AGAIN_SECS)
        core.do(core.wiring.verified([unit.uid for unit in units], missing))
        for number, unit in enumerate(units):
            self._watch(unit)
            if number % 50 == 49:
                await asyncio.sleep(0)


async def _released(rows: list[JobRow]) -> set[str]:
    """Jobs that are not held, or of which a task is not."""
    found = set()
    for number, row in enumerate(rows):
        if not row.held:
            found.add(row.base_id)
        if number % 100 == 99:
            await asyncio.sleep(0)
    return found
