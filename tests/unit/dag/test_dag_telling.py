"""What people are told about the jobs of a DAG."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from furu_async._dag.telling import TOGETHER_SECS, Telling, sentence, warn
from furu_async._dag.tracks import Track
from furu_async._slurm.states import Alive, Ended, judge
from furu_async.testing import run_virtual


def track(job: int, state: str = "", reason: str = "", node: str = "") -> Track:
    """A node with a job of which Slurm says this; nothing yet without a state."""
    made = Track(cast(Any, SimpleNamespace(name="nodes.Noop")), uid=1, job_id=str(job))
    if state:
        verdict = judge(state, reason, node=node)
        assert isinstance(verdict, Alive)
        made.alive = verdict
    return made


def test_states_nodes_and_reasons_in_a_fixed_order() -> None:
    jobs = [track(k, "PENDING", "Dependency") for k in range(40)]
    jobs += [track(50, "PENDING", "JobHeldUser"), track(51, "PENDING", "Resources"), track(52)]
    jobs += [track(60 + k, "RUNNING", node=f"n{1 + k % 2}") for k in range(12)]
    told = "12 running on n1, n2; 40 pending (Dependency); 1 pending (Resources); 1 held; 1 submitted"
    assert sentence(jobs) == f"55 jobs: {told}"
    assert sentence([track(1, "PENDING")]) == "1 job: 1 pending"
    assert sentence([]) == ""


def test_many_nodes_and_many_reasons_are_cut() -> None:
    jobs = [track(k, "RUNNING", node=f"n{k}") for k in range(9)]
    assert sentence(jobs) == "9 jobs: 9 running on n0, n1, n2, n3, n4, n5 …"
    reasons = ("Priority", "Resources", "Dependency", "Licenses", "BeginTime")
    told = sentence([track(k, "PENDING", reason) for k, reason in enumerate(reasons)])
    assert told.endswith("1 pending (Dependency); 2 pending for other reasons")


def test_one_note_for_each_reason_and_again_only_when_it_comes_back() -> None:
    down = [track(k, "PENDING", "PartitionDown") for k in range(1000)]
    notes, told = warn(down, set())
    assert len(notes) == 1
    assert notes[0].startswith("1,000 jobs cannot start: PENDING, PartitionDown (it needs an administrator")
    assert notes[0].endswith("; for example job 0 of nodes.Noop")
    assert warn(down, told) == ([], told)
    held = [*down, track(7, "PENDING", "JobHeldUser")]
    notes, told = warn(held, told)
    assert [note[:27] for note in notes] == ["job 7 of nodes.Noop: PENDIN"]
    notes, told = warn([track(1, "RUNNING")], told)
    assert (notes, told) == ([], set())
    assert len(warn(down, told)[0]) == 1


def test_what_one_look_has_changed_is_told_once() -> None:
    async def main() -> None:
        said: list[tuple[dict[str, int], str]] = []
        notes: list[str] = []
        run = SimpleNamespace(workers=lambda counts, text: said.append((counts, text)))
        over = track(3, "RUNNING", node="n1")
        over.over = True
        gone = track(4, "RUNNING", node="n1")
        gone.ended = Ended("completed")
        tracks = {"a": track(1, "RUNNING", node="n1"), "b": track(2, "PENDING", "PartitionDown")}
        core = SimpleNamespace(tracks={**tracks, "c": over, "d": gone}, run=run)
        telling = Telling(cast(Any, core), notes.append)
        for _ in range(100):
            telling.soon()
            await asyncio.sleep(0)  # a look is gone through in parts
        assert not said
        await asyncio.sleep(2 * TOGETHER_SECS)
        assert said == [({"running": 1, "pending": 1}, "2 jobs: 1 running on n1; 1 pending (PartitionDown)")]
        assert len(notes) == 1
        telling.soon()
        await asyncio.sleep(2 * TOGETHER_SECS)
        assert len(said) == 2
        assert len(notes) == 1
        telling.soon()
        telling.close()
        telling.soon()
        await asyncio.sleep(1.0)
        assert len(said) == 2

    run_virtual(main(), seed=1)
