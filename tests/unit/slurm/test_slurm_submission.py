"""Submitting exactly once: the protocol step by step, and explored in random histories."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from submission_world import explore

from furu_async._slurm import protocol as p
from furu_async._slurm.port import Done, Found, JobRow, Refused, Submitted, Unclear
from furu_async._slurm.submission import State, advance
from furu_async._store import submissions
from furu_async._store.layout import RunPaths, SubmissionPaths
from furu_async._store.submissions import Closed, JobNote, Ruling, Submission, TryState

HISTORIES = int(os.environ.get("FURU_SUBMIT_HISTORIES", "1500"))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where syncing costs nothing."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="furu-test-", dir=shm if os.access(shm, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.fault("F08", "F34", "F97", "F51")
def test_no_history_lets_two_jobs_act(memory):
    ends: Counter[str] = Counter()
    tries = acted = 0
    for seed in range(HISTORIES):
        world = explore(memory, seed)
        assert world.finished is not None
        ends[world.finished.how] += 1
        tries = max(tries, world.state.k)
        acted += bool(world.acted)
        shutil.rmtree(memory / str(seed), ignore_errors=True)
    # The histories are worth their time only if they end in every way, and get beyond the first try.
    assert set(ends) >= {"placed", "rejected", "gone"}, ends
    assert tries >= 3
    assert acted > HISTORIES / 4


# -- one step after the other ------------------------------------------------------------------------------------


class Talk:
    """A protocol and what it says."""

    def __init__(self, there: Submission | None = None) -> None:
        self.state = State()
        self.now = 0.0
        self.said = self.hear(p.Loaded(there or Submission()))

    def hear(self, event: p.Event, at: float | None = None) -> list[p.Command]:
        self.now = self.now if at is None else at
        self.said = advance(self.state, event, self.now)
        return self.said

    def until_sbatch(self) -> None:
        assert self.said == [p.Record(1)]
        assert self.hear(p.Recorded()) == [p.Sbatch(1)]


FOUND = Found((JobRow(id="7", name="x", state="RUNNING"),))


def test_what_normally_happens():
    talk = Talk()
    talk.until_sbatch()
    assert talk.hear(p.Answered(Submitted("7"))) == [p.Note(1, Submitted("7"))]
    assert talk.hear(p.Noted()) == [p.Finished("placed", Submitted("7"), 1)]


@pytest.mark.fault("F34")
def test_a_job_that_was_submitted_all_the_same_is_found():
    talk = Talk()
    talk.until_sbatch()
    said = talk.hear(p.Answered(Unclear("socket timed out")))
    assert said == [p.Waiting("busy", "socket timed out"), p.Wake(2.0)]
    assert talk.hear(p.Tick(), 2.0) == [p.Look(1)]
    assert talk.hear(p.Looked(FOUND)) == [p.Note(1, Submitted("7"))]


@pytest.mark.fault("F34")
def test_an_empty_look_counts_only_when_slurm_has_answered_for_half_a_minute():
    talk = Talk()
    talk.until_sbatch()
    talk.hear(p.Answered(Unclear("?")))
    talk.hear(p.Tick(), 2.0)
    talk.hear(p.Looked(Found()), 3.0)
    assert talk.hear(p.Tick(), 13.0) == [p.Look(1)]
    talk.hear(p.Looked(Found((), False, "no answer")), 20.0)  # it begins again
    talk.hear(p.Tick(), 40.0)
    assert talk.hear(p.Looked(Found()), 40.0) == [p.Wake(50.0)]
    for at in (50.0, 60.0):
        assert talk.hear(p.Tick(), at) == [p.Look(1)]
        assert talk.hear(p.Looked(Found())) == [p.Wake(at + 10)]
    assert talk.hear(p.Tick(), 70.0) == [p.Look(1)]
    assert talk.hear(p.Looked(Found())) == [p.Drop(1, "Slurm did not know its job")]
    assert talk.hear(p.Ruled(Ruling(decision="dropped"))) == [p.Record(2)]


@pytest.mark.fault("F34")
def test_a_job_that_began_before_its_try_was_given_up_is_kept():
    talk = Talk()
    talk.until_sbatch()
    talk.hear(p.Answered(Unclear("?")))
    for at in (2.0, 40.0):
        talk.hear(p.Tick(), at)
        talk.hear(p.Looked(Found()))
    assert talk.said == [p.Drop(1, "Slurm did not know its job")]
    assert talk.hear(p.Ruled(Ruling(decision="taken", job_id="9"))) == [p.Note(1, Submitted("9"))]


@pytest.mark.fault("F51")
def test_a_limit_is_waited_for_without_end():
    talk = Talk()
    talk.until_sbatch()
    for _ in range(500):
        said = talk.hear(p.Answered(Refused("limit", "QOSMaxSubmitJobPerUserLimit")))
        assert said[0] == p.Waiting("limit", "QOSMaxSubmitJobPerUserLimit")
        wake = said[1]
        assert isinstance(wake, p.Wake)
        assert 0 < wake.at - talk.now <= 60
        assert talk.hear(p.Tick(), wake.at) == [p.Sbatch(1)]
    assert talk.now > 20_000
    talk.hear(p.Answered(Submitted("7")))
    assert talk.hear(p.Noted()) == [p.Finished("placed", Submitted("7"), 1)]


@pytest.mark.fault("F35")
def test_a_refusal_is_final_and_leaves_nothing_that_could_act():
    talk = Talk()
    talk.until_sbatch()
    assert talk.hear(p.Answered(Refused("rejected", "Invalid qos"))) == [p.Drop(1, "Invalid qos")]
    said = talk.hear(p.Ruled(Ruling(decision="dropped")))
    assert said == [p.Finished("rejected", k=1, words="Invalid qos")]


@pytest.mark.fault("F53")
def test_an_outage_is_bridged_for_a_quarter_of_an_hour():
    talk = Talk()
    talk.until_sbatch()
    talk.hear(p.Answered(Unclear("connect failure")))
    while talk.now < 890:
        wake = talk.said[-1]
        assert isinstance(wake, p.Wake)
        assert talk.hear(p.Tick(), wake.at) == [p.Look(1)]
        talk.hear(p.Looked(Found((), False, "connect failure")))
    talk.hear(p.Tick(), talk.now + 11)
    assert talk.hear(p.Looked(FOUND)) == [p.Note(1, Submitted("7"))]


@pytest.mark.fault("F53")
def test_a_longer_outage_ends_it_and_no_late_job_acts():
    talk = Talk()
    talk.until_sbatch()
    talk.hear(p.Answered(Unclear("connect failure")))
    while isinstance(talk.said[-1], p.Wake):
        talk.hear(p.Tick(), talk.said[-1].at)
        if talk.said == [p.Look(1)]:
            talk.hear(p.Looked(Found((), False, "still no answer")))
    assert talk.said == [p.Drop(1, "still no answer")]
    said = talk.hear(p.Ruled(Ruling(decision="dropped")))
    assert said == [p.Finished("infrastructure", k=1, words="still no answer")]
    assert 900 <= talk.now < 1000


@pytest.mark.fault("F97")
def test_cancelled_during_sbatch():
    talk = Talk()
    talk.until_sbatch()
    assert talk.hear(p.Cancel("run cancelled")) == [p.Close("run cancelled")]
    assert talk.hear(p.ClosedNow()) == []  # sbatch is under way, and nobody lets go of it
    assert talk.hear(p.Answered(Submitted("7"))) == [p.Note(1, Submitted("7"))]
    assert talk.hear(p.Noted()) == [p.Scancel(("7",))]
    assert talk.hear(p.Scancelled(Done())) == [p.Finished("gone", Submitted("7"), 1)]


@pytest.mark.fault("F97", "F34")
def test_cancelled_while_nobody_knows():
    talk = Talk()
    talk.until_sbatch()
    talk.hear(p.Answered(Unclear("?")))
    talk.hear(p.Cancel())
    assert talk.hear(p.ClosedNow()) == [p.Drop(1, "cancelled")]
    assert talk.hear(p.Ruled(Ruling(decision="dropped"))) == [p.Look(1)]
    assert talk.hear(p.Looked(FOUND)) == [p.Note(1, Submitted("7"))]
    assert talk.hear(p.Noted()) == [p.Scancel(("7",))]
    talk = Talk()
    talk.until_sbatch()
    talk.hear(p.Answered(Unclear("?")))
    talk.hear(p.Cancel())
    talk.hear(p.ClosedNow())
    talk.hear(p.Ruled(Ruling(decision="dropped")))
    while not isinstance(talk.said[-1], p.Finished):
        assert talk.now <= 30
        if isinstance(talk.said[-1], p.Wake):
            talk.hear(p.Tick(), talk.said[-1].at)
        else:
            talk.hear(p.Looked(Found()))
    assert talk.said[-1].how == "gone"


def test_an_answer_after_the_end_is_taken_back():
    talk = Talk()
    talk.until_sbatch()
    talk.state.finished = p.Finished("gone", k=1)
    assert talk.hear(p.Answered(Submitted("7"))) == [p.Scancel(("7",))]
    assert talk.hear(p.Tick()) == []


def test_a_disk_that_gives_trouble_is_tried_again_then_given_up():
    talk = Talk()
    assert talk.hear(p.Trouble("record", "disk full")) == [p.Wake(1.0)]
    assert talk.hear(p.Tick(), 1.0) == [p.Record(1)]
    while not isinstance(talk.said[-1], p.Finished):
        event = p.Tick() if isinstance(talk.said[-1], p.Wake) else p.Trouble("record", "disk full")
        talk.hear(event, talk.said[-1].at if isinstance(talk.said[-1], p.Wake) else None)
    assert talk.said == [p.Finished("infrastructure", k=1, words="disk full")]
    assert 900 <= talk.now < 1000


def test_a_note_that_cannot_be_written_does_not_lose_the_job():
    talk = Talk()
    talk.until_sbatch()
    talk.hear(p.Answered(Submitted("7")))
    while not isinstance(talk.said[-1], p.Finished):
        event = p.Tick() if isinstance(talk.said[-1], p.Wake) else p.Trouble("note", "disk full")
        talk.hear(event, talk.said[-1].at if isinstance(talk.said[-1], p.Wake) else None)
    assert talk.said == [p.Finished("placed", Submitted("7"), 1)]


# -- taking over -------------------------------------------------------------------------------------------------


def there(ruling=None, job=None, closed=None) -> Submission:
    return Submission((TryState(number=2, token="t", name="n", ruling=ruling, job=job),), closed)


@pytest.mark.fault("F08")
def test_a_successor_searches_adopts_or_goes_on():
    assert Talk().said == [p.Record(1)]
    assert Talk(there()).said == [p.Look(2)]
    assert Talk(there(Ruling(decision="taken", job_id="7"))).said == [p.Note(2, Submitted("7"))]
    assert Talk(there(Ruling(decision="dropped"))).said == [p.Record(3)]
    noted = there(job=JobNote(token="t", job_id="7"))
    assert Talk(noted).said == [p.Finished("placed", Submitted("7"), 2)]


@pytest.mark.fault("F08", "F46")
def test_a_successor_finishes_a_cancel():
    closed = Closed(intent="cancel")
    assert Talk(there(job=JobNote(token="t", job_id="7"), closed=closed)).said == [p.Scancel(("7",))]
    assert Talk(there(closed=closed)).said == [p.Drop(2, "cancelled")]


def test_two_jobs_of_one_name_leave_one():
    talk = Talk(there())
    rows = (JobRow(id="5", name="n", state="FAILED"), JobRow(id="6", name="n", state="RUNNING"))
    assert talk.hear(p.Looked(Found(rows))) == [p.Scancel(("5",), last=False)]
    assert talk.hear(p.Scancelled(Done(), last=False)) == [p.Note(2, Submitted("6"))]


# -- on disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def paths(tmp_path: Path) -> SubmissionPaths:
    return RunPaths(str(tmp_path), "run").submission("pilot-1")


@pytest.mark.fault("F34", "F08")
def test_the_first_job_of_a_token_is_the_only_one(paths):
    assert submissions.take(paths, 1, "a", "7") == (False, "try 1 of this submission is not on disk")
    assert submissions.begin(paths, 1, "a", "n")
    assert submissions.begin(paths, 1, "a", "n")
    assert not submissions.begin(paths, 1, "b", "n")
    assert not submissions.take(paths, 1, "b", "7")[0]
    assert submissions.take(paths, 1, "a", "7") == (True, "")
    assert submissions.take(paths, 1, "a", "7") == (True, "")  # Slurm has started it again
    assert submissions.take(paths, 1, "a", "8") == (False, "job 7 came first with the same token")
    ruling = submissions.drop(paths, 1, "late")
    assert (ruling.decision, ruling.job_id) == ("taken", "7")


@pytest.mark.fault("F34")
def test_a_job_of_a_dropped_try_ends_itself(paths):
    submissions.begin(paths, 1, "a", "n")
    assert submissions.drop(paths, 1, "not found").decision == "dropped"
    yes, why = submissions.take(paths, 1, "a", "7")
    assert not yes
    assert "not found" in why


@pytest.mark.fault("F46")
def test_a_closed_submission_admits_nobody_and_keeps_the_first_intent(paths):
    submissions.begin(paths, 1, "a", "n")
    assert submissions.close(paths, "cancel", "Ctrl-C").why == "Ctrl-C"
    assert submissions.close(paths, "over", "ended").intent == "cancel"
    assert submissions.take(paths, 1, "a", "7") == (False, "it is not wanted any more: Ctrl-C")
    assert submissions.read(paths).closed is not None


@pytest.mark.fault("F75")
def test_a_jobs_id_is_written_when_missing_or_different(paths):
    assert submissions.note_job(paths.job(1), "a", "7")
    before = os.stat(paths.job(1)).st_ino
    assert not submissions.note_job(paths.job(1), "a", "7")
    assert os.stat(paths.job(1)).st_ino == before
    assert submissions.note_job(paths.job(1), "a", "8")
    assert submissions.note_job(paths.job(1), "b", "8")
    assert submissions.note_job(paths.job(2), "c", "9")  # another attempt has a file of its own
    note = submissions.read_note(paths.job(1))
    assert note is not None
    assert (note.token, note.job_id) == ("b", "8")
    submissions.close(paths, "over")
    assert submissions.note_job(paths.job(1), "b", "10")  # also when everything is over
    Path(paths.job(1)).write_text("{")
    assert submissions.read_note(paths.job(1)) is None
    assert submissions.note_job(paths.job(1), "b", "10")


@pytest.mark.fault("F20")
def test_damaged_records_admit_nobody(paths):
    submissions.begin(paths, 1, "a", "n")
    Path(paths.ruling(1)).write_text("")
    assert not submissions.take(paths, 1, "a", "7")[0]
    assert submissions.drop(paths, 1, "x").decision == "dropped"
    Path(paths.attempt(1)).write_text("{")
    assert not submissions.take(paths, 1, "a", "7")[0]
    last = submissions.read(paths).last
    assert last is not None
    assert (last.number, last.token) == (1, "")
