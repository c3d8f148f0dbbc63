"""Waits for work that somebody else does: an await that ends by result, by takeover or by timeout.

One task watches all such nodes of a run. It looks at the artifact's claims and ends (one hop per round for all
nodes that are due), at what can be known directly of the owner (same host: is the process there?), and at the owner's
beat. Each wait is told to the run when it begins, whenever its reason changes, and when the moment for which a
decision was announced has passed without one.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from furu_async._executors import queued
from furu_async._executors.base import Find, Node
from furu_async._executors.planner import describe_claim
from furu_async._plan import leases
from furu_async._plan.events import WatchEnded
from furu_async._runtime import clock
from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._runtime.config import FuruConfig
from furu_async._store.artifacts import Look, look
from furu_async._store.beat import see_beat
from furu_async._store.layout import ArtifactPaths
from furu_async._store.liveness import known_dead
from furu_async._store.look import look_at
from furu_async._store.submissions import read_note
from furu_async.report import Failure

_FIRST = 0.2
_GROWTH = 1.5
_SPREAD = 0.5
"""By how much of its length an interval may be shortened, so that waits that began together do not look together."""
_LOOKS_PER_SEC = 200
"""With more waits than this bears, each of them looks less often, but five times in a lease."""
_NODES_PER_REST = 5000
"""A round goes through all waits, so it comes less often the more there are: after a second with so many."""
_AT_ONCE = 50
_MOST_TROUBLES = 5

logger = logging.getLogger("furu_async")

Tell = Callable[[Node, str, float, float], None]


@dataclass(slots=True)
class _Watched:
    """One wait; times on the loop's clock.

    Attributes:
        began: seconds since the epoch, for people.
        before: seconds of earlier waits of this run at the same node.
        until: when it is decided at the latest if nothing changes, as was told.
        trouble_since: since when the store gives no information, or None.
        asking: of a claim whose job has not begun: what Slurm says of it.
    """

    node: Node
    since: float
    next_look: float
    began: float
    before: float = 0.0
    interval: float = _FIRST
    seen: leases.Observation | None = None
    reason: str = ""
    told: str = ""
    until: float = 0.0
    trouble_since: float | None = None
    asking: queued.Asking | None = None


@dataclass(slots=True)
class _Sight:
    """What one look found; `dead` is direct knowledge, None where there is none. `job`: of a claim that is queued."""

    look: Look | None = None
    job: str = ""
    dead: bool | None = None
    beat: bytes | None = None
    error: str = ""


def _see(root: str, items: Sequence[tuple[str, str, int]]) -> list[_Sight]:
    """Look at artifacts, given with the generation that is known to be claimed (or 0); an owner is looked at once."""
    sights = []
    beats: dict[str, bytes | None] = {}
    for name, digest, held in items:
        paths = ArtifactPaths(root, name, digest)
        try:
            seen = look_at(paths, held) if held else look(paths)
            sight = _Sight(seen)
            if seen.verdict == "claimed" and seen.claim is not None:
                sight.dead = known_dead(seen.claim.owner)
                beat = seen.claim.beat
                if beat not in beats and not sight.dead:
                    beats[beat] = see_beat(root, beat)
                sight.beat = beats.get(beat)
                if seen.claim.phase == "queued":
                    note = read_note(f"{paths.jobs}/{seen.generation}")
                    sight.job = note.job_id if note is not None else ""
        except OSError as error:
            sight = _Sight(error=f"{error.strerror or error}: {error.filename or name}")
        sights.append(sight)
    return sights


class Watcher:
    """Carries out `Watch` and `Unwatch` for one run.

    Args:
        post: takes `WatchEnded`.
        tell: takes (node, text, since, until): who is waited for; since when, and when it is decided at the latest if
            nothing changes, both in seconds since the epoch.
        jitter: gives numbers in [0, 1), which spread the looks.
        takes_over: what is to become of a node whose owner is lost, for the text: the core decides.

    Attributes:
        find: asks the run's own Slurm for a job by its name; None: the commands of this host are used, if there are.
    """

    def __init__(
        self,
        root: str,
        config: FuruConfig,
        post: Callable[[WatchEnded], None],
        tell: Tell,
        jitter: Callable[[], float] = lambda: 0.0,
        takes_over: bool = True,
    ) -> None:
        self.root = root
        self.config = config
        self.rules: leases.LeaseRules = leases.LeaseRules(
            lease=config.lease_secs, grace=config.heartbeat_grace_secs, stale=config.stale_after_secs
        )
        self._post = post
        self._tell = tell
        self._jitter = jitter
        self._then = "taken over" if takes_over else "given up (retry_failed=False)"
        self.find: Find | None = None
        self._watched: dict[str, _Watched] = {}
        self._before: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._closed = False
        self._troubles = 0
        self._rest_until = 0.0

    def watch(self, node: Node) -> None:
        """Begin to watch; the first look is immediate."""
        if node.hash not in self._watched:
            now = asyncio.get_running_loop().time()
            before = self._before.get(node.hash, 0.0)
            self._watched[node.hash] = _Watched(node, now, now, clock.wall(), before)
        self._wake.set()

    def unwatch(self, node: str) -> None:
        """Stop watching."""
        self._forget(node)

    def told(self, node: str) -> str:
        """What was last told about a node that is being watched; empty for others."""
        item = self._watched.get(node)
        return item.told if item is not None else ""

    def close(self) -> None:
        """End `run`."""
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """The claim watcher's task."""
        try:
            await self._rounds(asyncio.get_running_loop())
        finally:
            for node in list(self._watched):
                self._forget(node)

    async def _rounds(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._closed:
            if not self._watched:
                await self._wake.wait()
                self._wake.clear()
                continue
            due = max(self._rest_until, min(item.next_look for item in self._watched.values()))
            with anyio.move_on_after(max(0.0, due - loop.time())):
                await self._wake.wait()
            self._wake.clear()
            if not self._closed and loop.time() >= self._rest_until:
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
        due = self._due(now)
        if not due:
            return
        items = [(item.node.name, item.node.hash, item.node.held) for item in due]
        try:
            sights = await DOOR.probe.run(_see, self.root, items, deadline=60.0)
        except BlockingTimeout as error:
            sights = [_Sight(error=f"{error} ({self.root} does not answer)")] * len(due)
        for number, (item, sight) in enumerate(zip(due, sights, strict=True)):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            if self._watched.get(item.node.hash) is item:
                self._judge(item, sight, loop.time())

    def _due(self, now: float) -> list[_Watched]:
        """What is looked at in this round: the longest due first, and not more of them than the store is to bear."""
        known = len(self._watched)
        rate = max(_LOOKS_PER_SEC, 5 * known / min(self.rules.lease, self.rules.grace))
        rest = min(1.0, known / _NODES_PER_REST)
        due = (item for item in self._watched.values() if item.next_look <= now + 0.01)
        chosen = heapq.nsmallest(_AT_ONCE + int(rate * rest), due, key=lambda item: item.next_look)
        self._rest_until = now + max(rest, len(chosen) / rate)
        return chosen

    def _judge(self, item: _Watched, sight: _Sight, now: float) -> None:
        item.interval = min(item.interval * _GROWTH, self.config.poll_interval_secs)
        item.next_look = now + item.interval * (1.0 - _SPREAD * self._jitter())
        seen = sight.look
        if seen is None:
            if self._no_information(item, sight.error, now):
                return
        elif seen.verdict == "published":
            item.node.generation = seen.generation
            self._end(item, WatchEnded(item.node.hash, "published"), now)
            return
        elif seen.verdict != "claimed":
            self._end(item, _ended(item.node.hash, seen), now)
            return
        elif self._owner_lost(item, sight, seen, now):
            item.node.takeover = seen.generation
            item.node.silent_at = item.seen.counter if item.seen is not None else None
            who = describe_claim(seen.claim)
            how = "is gone" if sight.dead else "gave no sign of life"
            failure = Failure(kind="lost", message=f"its owner {how} and left it unfinished: {who}")
            self._end(item, WatchEnded(item.node.hash, "lost", failure, who), now)
            return
        else:
            item.trouble_since = None
        longest = self.config.max_wait_secs
        if longest is not None:
            end = item.since + longest - item.before
            item.next_look = min(item.next_look, end)
            if now >= end:
                text = f"waited {longest:g} s (FURU_MAX_WAIT_SECS); last seen: {item.reason}"
                self._end(item, WatchEnded(item.node.hash, "timeout", detail=text), now)

    def _no_information(self, item: _Watched, error: str, now: float) -> bool:
        """The store does not answer, which says nothing of the owner; True if it has lasted for too long."""
        if item.seen is not None:
            item.seen.restart(now)
        if item.trouble_since is None:
            item.trouble_since = now
        end = item.trouble_since + self.config.infra_secs
        if now >= end:
            text = (
                f"the store gave no information for {self.config.infra_secs:g} s (FURU_INFRA_SECS): {error}"
            )
            failure = Failure(kind="infrastructure", error_type="FuruStoreError", message=text)
            self._end(item, WatchEnded(item.node.hash, "timeout", failure, text), now)
            return True
        item.next_look = min(item.next_look, end)
        self._say(item, f"the store gives no information: {error}", end, now)
        return False

    def _owner_lost(self, item: _Watched, sight: _Sight, seen: Look, now: float) -> bool:
        claim = seen.claim
        identity = f"{seen.generation}:{claim.token if claim is not None else ''}"
        if sight.dead is True:
            return True
        known = item.seen is not None and item.seen.identity == identity
        if not known and item.asking is not None:
            item.asking.close()  # that was about another claim
            item.asking = None
        can_beat = claim is not None and bool(claim.beat) and claim.phase == "running"
        if claim is not None and claim.phase == "queued":
            # From the moment that its job has begun, it is an owner like any other.
            can_beat = sight.beat is not None or (known and item.seen is not None and item.seen.can_beat)
            if not can_beat:
                item.asking = item.asking or queued.Asking(self.root, self.find)
                if item.asking.look(claim, now) is False:
                    return True
        if item.seen is None or not known or item.seen.can_beat != can_beat:
            item.seen = leases.begin(identity, sight.beat, can_beat, now)
            verdict: leases.Liveness = "waiting"
        else:
            verdict = leases.observe(item.seen, sight.beat, now, self.rules)
        waits = not can_beat and item.asking is not None and item.asking.waits is True
        # A process that is there may be stopped, or its keeper gone for good: where a beat is due, silence counts.
        # The owner is fenced before the next one starts, so it does no harm if it wakes up.
        if verdict == "lost" and (can_beat or sight.dead is not False) and not waits:
            return True
        if verdict == "lost":
            item.seen.restart(now)
        patience = leases.limit(item.seen, self.rules)
        # Looks far apart prove nothing (see `leases.observe`), so a short lease is looked at more often.
        item.next_look = min(item.next_look, now + patience / 5)
        text = f"{describe_claim(claim, sight.job)}; {self._then} if silent for {patience:g} s"
        self._say(item, text, leases.next_decision(item.seen, self.rules), now)
        return False

    def _say(self, item: _Watched, text: str, until: float, now: float) -> None:
        """Tell why a node waits, unless that has been told and holds."""
        longest = self.config.max_wait_secs
        if longest is not None:
            until = min(until, item.since + longest - item.before)
        if text == item.reason and now < item.until:
            return
        item.reason, item.until = text, until
        decided = clock.wall() + until - now
        item.told = (
            f"waiting since {clock.of_day(item.began)}, next decision by {clock.of_day(decided)}: {text}"
        )
        self._tell(item.node, item.told, item.began, decided)

    def _forget(self, node: str) -> None:
        item = self._watched.pop(node, None)
        if item is not None and item.asking is not None:
            item.asking.close()

    def _end(self, item: _Watched, event: WatchEnded, now: float) -> None:
        self._forget(item.node.hash)
        self._before[item.node.hash] = item.before + now - item.since
        self._post(event)


def _ended(node: str, seen: Look) -> WatchEnded:
    """Nobody holds the artifact any more, and there is no result."""
    failure = seen.end.failure if seen.end is not None else None
    if failure is None:
        return WatchEnded(node, "lost", detail="; ".join(seen.notes[:1]))
    return WatchEnded(node, "lost" if failure.kind == "lost" else "ended", failure, failure.message)
