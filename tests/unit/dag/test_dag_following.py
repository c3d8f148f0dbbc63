"""What the core is told of a node's job, in whatever order Slurm and the store speak, also of an earlier job of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from furu_async._dag import claims, following
from furu_async._dag.claims import Sight
from furu_async._dag.following import Following
from furu_async._dag.orders import Outcome
from furu_async._dag.tracks import Sub, Track
from furu_async._plan.events import Elsewhere, Failed, Started, Succeeded, TakenBack
from furu_async._slurm.states import judge
from furu_async._slurm.tracking import Change
from furu_async.report import Failure
from furu_async.testing import run_virtual

NOTHING = Sight()


def said(*failures: Failure, final: bool = False, interrupted: bool = False) -> Outcome:
    """What a job says of its end; its attempts had the generations from 1."""
    numbers = list(range(1, len(failures) + 1))
    return Outcome(
        hash="h",
        generation=1,
        failures=list(failures),
        generations=numbers,
        final=final,
        interrupted=interrupted,
    )


FAILED = Sight(outcome=said(Failure(kind="compute", message="no")))


class Core:
    """One node with a job, and as much of its run as is asked.

    Attributes:
        sight: what the store says of it.
        meanwhile: called while the store is looked at, or while claims are ended, by the name of the step.
        wired: what the wiring was told.
        attempts: of which the run was told, with their job, or with why there is one more.
    """

    def __init__(self) -> None:
        self.posted: list[tuple[Any, float]] = []
        self.wired: list[tuple[Any, ...]] = []
        self.ended: list[claims.Ending] = []
        self.sight = NOTHING
        self.meanwhile: dict[str, Callable[[], None]] = {}
        self.run: Any = SimpleNamespace(root="/root", run_id="r", post=self._post, jitter=lambda: 0.0)
        self.run.note = self.run.workers = lambda *_: None
        self.attempts: list[tuple[Any, ...]] = []
        self.run.begun = lambda node, attempt, worker: self.attempts.append((attempt, worker))
        self.run.tried_again = lambda node, attempt, why: self.attempts.append((attempt, why))
        self.shared: Any = SimpleNamespace(config=SimpleNamespace(poll_interval_secs=10.0, infra_secs=600.0))
        self.wiring: Any = SimpleNamespace(
            done=lambda *args: ("done", *args),
            failed=lambda *args: ("failed", *args),
            killed=lambda *args: ("killed", *args),
        )
        node: Any = SimpleNamespace(
            name="m.A", hash="h", supersede=0, generation=1, history=(), attempts=0, counted=0
        )
        self.request: Any = SimpleNamespace(node=node, attempt=1, ticket=1)
        self.track = Track(node, request=self.request, uid=1, sid="s1", wid="s1-0", job_id="7")
        self.tracks = {"h": self.track}
        self.sub = Sub(1, "s1", 1, job_id="7")
        self.subs = {1: self.sub}
        self.following = Following(self)  # type: ignore[arg-type]

    def _post(self, event: Any) -> None:
        self.posted.append((event, asyncio.get_running_loop().time()))

    def do(self, told: tuple[Any, ...]) -> None:
        self.wired.append(told)

    async def patiently(self, fn: Callable[..., Any], *args: Any) -> Any:
        answer = [] if fn is claims.end_all else [self.sight for _ in args[2]]
        await asyncio.sleep(1)
        self.meanwhile.pop(fn.__name__, lambda: None)()
        if fn is claims.end_all:
            self.ended += args[2]
        return answer

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    def says(self, state: str, reason: str = "", restarted: bool = False) -> None:
        """Slurm says this of the job."""
        job: Any = SimpleNamespace(restarts=1 if restarted else 0)
        self.following.changed(self.track, self.sub, Change(job, judge(state, reason), restarted))

    def next_job(self) -> None:
        """The node has another job, of which nothing is known yet."""
        track = self.track
        track.uid, track.sid, track.wid, track.job_id = 2, "s2", "s2-0", "8"
        track.ended = track.alive = track.since = None
        track.started = False

    @property
    def told(self) -> list[Any]:
        """Kinds of events; of failures, theirs."""
        events = [event for event, _ in self.posted]
        return [each.failure.kind if isinstance(each, Failed) else type(each) for each in events]


def follow(main: Callable[[Core], Awaitable[None]]) -> Core:
    """Make a core, and follow its job while ``main`` runs."""

    async def inside() -> Core:
        core = Core()
        task = asyncio.get_running_loop().create_task(core.following.run())
        await main(core)
        core.following.close()
        await task
        return core

    return run_virtual(inside(), seed=1)


@pytest.mark.parametrize("step", ["see_all", "end_all"])
def test_what_is_seen_of_a_job_says_nothing_of_the_next_one(step: str) -> None:
    """The node has another job by the time that the look, or the end of the claims, is done."""

    async def main(core: Core) -> None:
        core.sight = FAILED
        core.says("FAILED")

        def another() -> None:
            core.next_job()
            core.sight = NOTHING

        core.meanwhile[step] = another
        await asyncio.sleep(60)

    core = follow(main)
    assert not core.meanwhile
    assert (core.told, core.wired) == ([], [])
    assert core.track.uid == 2


def test_what_slurm_says_of_an_earlier_job_is_not_the_present_ones() -> None:
    async def main(core: Core) -> None:
        core.next_job()
        core.says("FAILED")
        await asyncio.sleep(60)

    core = follow(main)
    assert (core.told, core.wired) == ([], [])
    assert core.track.ended is None


@pytest.mark.fault("F21")
@pytest.mark.parametrize("comes", [True, False])
def test_a_result_may_take_its_time_to_be_seen_after_its_job_has_ended_well(comes: bool) -> None:
    async def main(core: Core) -> None:
        core.says("COMPLETED")
        await asyncio.sleep(following.VISIBLE_SECS - 10)
        assert core.posted == []
        core.sight = Sight(generation=1, created=True) if comes else NOTHING
        await asyncio.sleep(60)

    core = follow(main)
    assert core.told == ([Started, Succeeded] if comes else ["lost"])
    assert core.wired == ([("done", "h")] if comes else [("failed", 1, "h")])
    if not comes:
        assert core.posted[0][1] >= following.VISIBLE_SECS
        assert [ending.wid for ending in core.ended] == ["s1-0"]


@pytest.mark.fault("F41")
@pytest.mark.parametrize("began", [True, False])
def test_a_job_that_slurm_starts_again_has_not_ended(began: bool) -> None:
    async def main(core: Core) -> None:
        if began:
            core.says("RUNNING")
            await asyncio.sleep(10)
        core.says("NODE_FAIL")
        core.says("PENDING", restarted=True)
        if began:  # the core asks for it again
            core.track.request = core.request
        await asyncio.sleep(60)
        core.sight = Sight(generation=1, created=True, restarts=1)
        await asyncio.sleep(20)

    core = follow(main)
    before = [Started, "preempted"] if began else []
    assert core.told == [*before, Started, Succeeded]
    assert core.wired == [("done", "h")]
    assert core.ended == []


@pytest.mark.fault("F44", "F43")
@pytest.mark.parametrize(("state", "kind"), [("TIMEOUT", "timeout"), ("PREEMPTED", "preempted")])
def test_of_a_job_that_was_asked_to_end_slurm_says_why(state: str, kind: str) -> None:
    """All that it knew itself is that it was interrupted."""

    async def main(core: Core) -> None:
        core.says("RUNNING")
        core.sight = Sight(outcome=said(Failure(kind="compute", message="interrupted"), interrupted=True))
        await asyncio.sleep(20)
        assert core.told == [Started]
        core.says(state)
        await asyncio.sleep(20)

    core = follow(main)
    assert core.told == [Started, kind]
    assert core.wired == [("failed", 1, "h")]


def test_a_failure_that_nobody_waits_for_is_kept_for_whoever_asks() -> None:
    async def main(core: Core) -> None:
        core.track.request = None
        core.sight = FAILED
        core.says("FAILED")
        await asyncio.sleep(20)

    core = follow(main)
    assert core.told == []
    assert core.wired == [("failed", 1, "h")]
    assert core.track.failure is not None
    assert core.track.failure.kind == "compute"
    assert core.track.uid == 0
    assert core.track.done_with == {"s1"}, "or its claim would be joined again"


@pytest.mark.fault("F39")
def test_a_job_that_fell_with_another_has_not_failed() -> None:
    async def main(core: Core) -> None:
        core.says("CANCELLED", "DependencyNeverSatisfied")
        await asyncio.sleep(20)

    core = follow(main)
    assert (core.told, core.wired) == ([], [("killed", 1, "h")])
    assert core.track.request is not None, "it still waits for an answer"


@pytest.mark.parametrize("began", [True, False])
def test_a_job_that_was_cancelled_for_the_core_is_taken_back_or_cancelled(began: bool) -> None:
    async def main(core: Core) -> None:
        if began:
            core.says("RUNNING")
            await asyncio.sleep(10)
        core.track.stopping = True
        core.says("CANCELLED")
        await asyncio.sleep(20)

    core = follow(main)
    assert core.told == ([Started, "cancelled"] if began else [TakenBack])
    assert core.wired == []


def test_a_job_that_runs_is_not_taken_back_before_it_has_ended() -> None:
    async def main(core: Core) -> None:
        core.says("RUNNING")
        await asyncio.sleep(10)
        core.track.stopping = True
        core.following.dropped(core.track, core.track.uid)  # `scancel` was called
        await asyncio.sleep(20)
        assert core.told == [Started]
        core.says("CANCELLED")
        await asyncio.sleep(20)

    assert follow(main).told == [Started, "cancelled"]


@pytest.mark.fault("F94")
def test_attempts_that_a_job_made_by_itself_count() -> None:
    async def main(core: Core) -> None:
        failures = [Failure(kind=kind, message="no") for kind in ("compute", "killed", "compute")]
        left = tuple(enumerate(failures, 1))
        core.sight = Sight(outcome=said(*failures, final=True), left=left)
        core.says("FAILED")
        await asyncio.sleep(20)

    core = follow(main)
    assert core.told == [Started, "compute"]
    assert core.track.used == {"compute": 2, "killed": 1}
    assert core.track.node.history == ("compute: no", "killed: no")
    assert core.attempts == [(1, "job 7"), (2, "compute: no"), (3, "killed: no"), (3, "job 7")]


@pytest.mark.fault("F94")
def test_attempts_of_a_job_that_says_nothing_of_its_end_count() -> None:
    """The last one is the one that Slurm's word is about only if it has an end."""

    failures = [Failure(kind=kind, message="no") for kind in ("compute", "killed")]
    left = tuple(enumerate(failures, 1))

    async def main(core: Core) -> None:
        core.sight = sight
        core.says(state)
        await asyncio.sleep(20)
        core.next_job()
        core.request.attempt = 2
        core.track.request = core.request
        core.sight = Sight(beating=True)
        core.following.wake()
        await asyncio.sleep(20)

    state, sight = "FAILED", Sight(left=left, failure=failures[1], failed=2)
    core = follow(main)
    assert core.told == [Started, "killed", Started]
    assert core.track.used == {"compute": 1, "killed": 1}
    assert core.attempts[-1] == (3, "job 8"), "two of the first job, and one of the next"

    state, sight = "NODE_FAIL", Sight(left=left, open=True)
    core = follow(main)
    assert core.told[1] == "lost"
    assert core.track.used == {"compute": 1, "killed": 1, "lost": 1}
    assert core.attempts[-1] == (4, "job 8"), (
        "two of the first job, the one that was lost, and one of the next"
    )


@pytest.mark.fault("F94")
def test_attempts_of_which_only_a_result_tells_are_told_with_their_reasons() -> None:
    async def main(core: Core) -> None:
        core.track.node.history = ("oom: an earlier job",)
        core.request.attempt = 2
        core.sight = Sight(
            generation=2, created=True, restarts=1, history=("oom: an earlier job", "compute: no")
        )
        core.track.node.supersede = 0
        core.says("COMPLETED")
        await asyncio.sleep(20)

    core = follow(main)
    assert core.told == [Started, Succeeded]
    again = "preempted: Slurm has started its job 7 again"
    assert core.attempts == [(2, "job 7"), (3, "compute: no"), (4, again), (4, "job 7")]
    assert core.track.node.history == ("oom: an earlier job", "compute: no", again)


@pytest.mark.fault("F70")
def test_whoever_waits_for_somebody_else_knows_which_generation_is_claimed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A listing of the store may be older than what claiming it has met."""
    resolved: list[bool] = []

    async def resolve(core: Any, track: Track, again: bool) -> None:
        resolved.append(again)

    monkeypatch.setattr(following, "resolve", resolve)

    async def main(core: Core) -> None:
        core.following.foreign(core.track, claims.Answer(what="foreign", generation=3, text="somebody"))
        await asyncio.sleep(1)

    core = follow(main)
    assert core.told == [Elsewhere]
    assert core.track.node.held == 3
    assert core.track.uid == 0
    assert resolved == [True], "it has a job in Slurm"
