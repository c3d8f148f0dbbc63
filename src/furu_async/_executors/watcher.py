"""Waits for work that somebody else does: an await that ends by result, by takeover or by timeout.

One task watches all such nodes of a run. It looks at the artifact's claims and ends (one hop per round for all
nodes), at what can be known directly of the owner (same host: is the process there?), and at the owner's beat.
Each wait is told to the run when it begins and whenever its reason changes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from furu_async._executors.base import Node
from furu_async._executors.planner import describe_claim
from furu_async._plan import leases
from furu_async._plan.events import WatchEnded
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._runtime.config import FuruConfig
from furu_async._store.artifacts import Look, look
from furu_async._store.layout import ArtifactPaths
from furu_async._store.liveness import known_dead

_FIRST = 0.2
_GROWTH = 1.5
_BEAT_BYTES = 64
_MOST_TROUBLES = 5

logger = logging.getLogger("furu_async")


@dataclass(slots=True)
class _Watched:
    node: Node
    since: float
    next_look: float
    interval: float = _FIRST
    seen: leases.Observation | None = None
    told: str = ""
    trouble_since: float | None = None


@dataclass(slots=True)
class _Sight:
    """What one look found; `dead` is direct knowledge, None where there is none."""

    look: Look | None = None
    dead: bool | None = None
    beat: bytes | None = None
    error: str = ""


def _see(root: str, items: Sequence[tuple[str, str]]) -> list[_Sight]:
    sights = []
    for name, digest in items:
        try:
            seen = look(ArtifactPaths(root, name, digest))
            sight = _Sight(seen)
            if seen.verdict == "claimed" and seen.claim is not None:
                sight.dead = known_dead(seen.claim.owner)
                sight.beat = _read_beat(root, seen.claim.beat)
        except OSError as error:
            sight = _Sight(error=f"{error.strerror or error}: {error.filename or name}")
        sights.append(sight)
    return sights


def _read_beat(root: str, beat: str) -> bytes | None:
    if not beat or os.path.isabs(beat) or ".." in beat.split("/"):
        return None
    try:
        fd = os.open(os.path.join(root, beat), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, _BEAT_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)


class Watcher:
    """Carries out `Watch` and `Unwatch` for one run.

    Args:
        post: takes `WatchEnded`.
        tell: takes (node, text): who is waited for, and when it will be decided.
    """

    def __init__(
        self,
        root: str,
        config: FuruConfig,
        post: Callable[[WatchEnded], None],
        tell: Callable[[Node, str], None],
    ) -> None:
        self.root = root
        self.config = config
        self.rules: leases.LeaseRules = leases.LeaseRules(
            lease=config.lease_secs, grace=config.heartbeat_grace_secs, stale=config.stale_after_secs
        )
        self._post = post
        self._tell = tell
        self._watched: dict[str, _Watched] = {}
        self._wake = asyncio.Event()
        self._closed = False
        self._troubles = 0

    def watch(self, node: Node) -> None:
        """Begin to watch; the first look is immediate."""
        now = asyncio.get_running_loop().time()
        known = self._watched.get(node.hash)
        self._watched[node.hash] = _Watched(node, known.since if known else now, now)
        self._wake.set()

    def unwatch(self, node: str) -> None:
        """Stop watching."""
        self._watched.pop(node, None)

    def close(self) -> None:
        """End `run`."""
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """The claim watcher's task."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            if not self._watched:
                await self._wake.wait()
                self._wake.clear()
                continue
            due = min(item.next_look for item in self._watched.values())
            with anyio.move_on_after(max(0.0, due - loop.time())):
                await self._wake.wait()
            self._wake.clear()
            if not self._closed:
                await self._careful_round(loop)

    async def _careful_round(self, loop: asyncio.AbstractEventLoop) -> None:
        """A round; one that fails is told and tried again, several in a row end the run."""
        try:
            await self._round(loop)
        except Exception:
            self._troubles += 1
            if self._troubles >= _MOST_TROUBLES:
                raise
            logger.exception("the claim watcher failed; it tries again")
            later = loop.time() + self._troubles
            for item in self._watched.values():
                item.next_look = max(item.next_look, later)
        else:
            self._troubles = 0

    async def _round(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        due = [item for item in self._watched.values() if item.next_look <= now + 0.01]
        if not due:
            return
        items = [(item.node.name, item.node.hash) for item in due]
        try:
            sights = await DOOR.probe.run(_see, self.root, items, deadline=60.0)
        except BlockingTimeout as error:
            sights = [_Sight(error=f"{error} ({self.root} does not answer)")] * len(due)
        now = loop.time()
        for item, sight in zip(due, sights, strict=True):
            if self._watched.get(item.node.hash) is item:
                self._judge(item, sight, now)

    def _judge(self, item: _Watched, sight: _Sight, now: float) -> None:
        item.interval = min(item.interval * _GROWTH, self.config.poll_interval_secs)
        item.next_look = now + item.interval
        seen = sight.look
        if seen is None:
            self._say(item, f"the store gives no information: {sight.error}")
            if item.seen is not None:
                item.seen.restart(now)
        elif seen.verdict == "published":
            item.node.generation = seen.generation
            self._end(item, WatchEnded(item.node.hash, "published"))
            return
        elif seen.verdict != "claimed":
            failure = seen.end.failure if seen.end is not None else None
            how = "ended" if failure is not None and failure.kind != "lost" else "lost"
            self._end(item, WatchEnded(item.node.hash, how, failure=failure))  # type: ignore[arg-type]
            return
        elif self._owner_lost(item, sight, seen, now):
            item.node.takeover = seen.generation
            self._end(item, WatchEnded(item.node.hash, "lost", detail=describe_claim(seen.claim)))
            return
        longest = self.config.max_wait_secs
        if longest is not None:
            item.next_look = min(item.next_look, item.since + longest)
            if now - item.since >= longest:
                text = f"waited {longest:g} s (FURU_MAX_WAIT_SECS); last seen: {item.told}"
                self._end(item, WatchEnded(item.node.hash, "timeout", detail=text))

    def _owner_lost(self, item: _Watched, sight: _Sight, seen: Look, now: float) -> bool:
        claim = seen.claim
        identity = f"{seen.generation}:{claim.token if claim is not None else ''}"
        if sight.dead is True:
            return True
        can_beat = claim is not None and bool(claim.beat) and claim.phase == "running"
        if item.seen is None or item.seen.identity != identity:
            item.seen = leases.begin(identity, sight.beat, can_beat, now)
            verdict: leases.Liveness = "waiting"
        else:
            verdict = leases.observe(item.seen, sight.beat, now, self.rules)
        # A process that is there may be stopped, or its keeper gone for good: where a beat is due, silence counts.
        # The owner is fenced before the next one starts, so it does no harm if it wakes up.
        if verdict == "lost" and (can_beat or sight.dead is not False):
            return True
        patience = leases.limit(item.seen, self.rules)
        # Looks far apart prove nothing (see `leases.observe`), so a short lease is looked at more often.
        item.next_look = min(item.next_look, now + patience / 5)
        self._say(item, f"waiting: {describe_claim(claim)}; taken over if silent for {patience:g} s")
        return False

    def _say(self, item: _Watched, text: str) -> None:
        if text != item.told:
            item.told = text
            self._tell(item.node, text)

    def _end(self, item: _Watched, event: WatchEnded) -> None:
        self._watched.pop(item.node.hash, None)
        self._post(event)
