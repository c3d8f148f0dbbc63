"""Submitting exactly once: `advance(state, event, now) -> commands`. Pure: no await, no clock, no path, no chance.

A try is on disk before its ``sbatch``. Where that gives no reliable answer the queue is searched for the token, and
only if Slurm has answered twice, half a minute apart, without it, the try is given up: by a ruling that a job which
turns up later after all finds and obeys (see `_store.submissions`). Then the next try has another token. A limit of
Slurm is waited for without end; a refusal is final; a Slurm that does not answer is waited for as long as
infrastructure trouble is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from furu_async._slurm.port import Done, Found, Refused, SubmitAnswer, Submitted, Unclear
from furu_async._slurm.protocol import (
    Answered,
    Cancel,
    Close,
    ClosedNow,
    Command,
    Drop,
    Event,
    Finished,
    Loaded,
    Look,
    Looked,
    Note,
    Noted,
    Record,
    Recorded,
    Ruled,
    Sbatch,
    Scancel,
    Scancelled,
    Step,
    SubmitRules,
    Trouble,
    Waiting,
    Wake,
)
from furu_async._slurm.states import Alive
from furu_async._store.submissions import Ruling, Submission


@dataclass(slots=True)
class State:
    """What is known of one submission.

    Attributes:
        k: number of the present try, 0 before the first.
        sent: of this try: ``no``: ``sbatch`` was not called; ``unclear``: it may have been accepted; ``refused``.
        quiet_since: since when Slurm has answered, look after look, without the job.
        trouble_since: since when nothing but trouble came of it.
        outstanding: steps that were asked for and not yet answered.
    """

    rules: SubmitRules = field(default_factory=SubmitRules)
    loaded: bool = False
    k: int = 0
    recorded: bool = False
    sent: Literal["no", "unclear", "refused"] = "no"
    ruling: Ruling | None = None
    job: Submitted | None = None
    others: tuple[str, ...] = ()
    noted: bool = False
    note_failures: int = 0
    quiet_since: float | None = None
    given_up: bool = False
    trouble_since: float | None = None
    words: str = ""
    pause: float = 0.0
    not_before: float = 0.0
    final: Finished | None = None
    cancelled: bool = False
    cancel_why: str = ""
    cancel_until: float = 0.0
    closed: bool = False
    cleared: bool = False
    outstanding: set[Step] = field(default_factory=set)
    finished: Finished | None = None


def advance(state: State, event: Event, now: float) -> list[Command]:
    """Take one event into the state; what is to be done about it.

    ``now`` is monotonic. After `Finished` no event changes anything, but for a late answer to `Sbatch`, which is
    answered with what takes that job back.
    """
    if state.finished is not None:
        return _late(state, event)
    out: list[Command] = []
    _take_in(state, event, now, out)
    if state.loaded:
        _go_on(state, now, out)
    return out


def _late(state: State, event: Event) -> list[Command]:
    if isinstance(event, Answered) and isinstance(event.answer, Submitted):
        return [Scancel((event.answer.job_id,))]
    return []


def _take_in(state: State, event: Event, now: float, out: list[Command]) -> None:
    match event:
        case Loaded():
            _load(state, event.submission, now)
        case Recorded():
            state.outstanding.discard("record")
            state.recorded = True
            # Somebody else's token: what became of it can only be searched for.
            state.sent = "no" if event.ok else "unclear"
        case Answered():
            state.outstanding.discard("sbatch")
            _answered(state, event.answer, now, out)
        case Looked():
            state.outstanding.discard("look")
            _looked(state, event.found, now)
        case Ruled():
            state.outstanding.discard("drop")
            state.ruling = event.ruling
            if event.ruling.decision == "taken" and state.job is None:
                state.job = Submitted(event.ruling.job_id)
        case Noted():
            state.outstanding.discard("note")
            state.noted = True
        case ClosedNow():
            state.outstanding.discard("close")
            state.closed = True
        case Scancelled():
            state.outstanding.discard("scancel")
            if event.last:
                _scancelled(state, event.done, now)
        case Trouble():
            state.outstanding.discard(event.step)
            _trouble(state, event, now)
        case Cancel():
            _cancel(state, event, now)


def _cancel(state: State, event: Cancel, now: float) -> None:
    if not state.cancelled:
        state.cancelled, state.cancel_why = True, event.why
        state.cancel_until = now + state.rules.cancel_secs
        state.not_before = now


def _load(state: State, there: Submission, now: float) -> None:
    state.loaded = True
    if there.closed is not None:
        state.cancelled = state.closed = True
        state.cancel_until = now + state.rules.cancel_secs
    last = there.last
    if last is None:
        return
    state.k, state.recorded, state.sent = last.number, True, "unclear"
    state.ruling = last.ruling
    if last.ruling is not None and last.ruling.decision == "taken":
        state.job = Submitted(last.ruling.job_id)
    elif last.job is not None:
        state.job = Submitted(last.job.job_id, last.job.cluster)
        state.noted = True


def _answered(state: State, answer: SubmitAnswer, now: float, out: list[Command]) -> None:
    match answer:
        case Submitted():
            state.job = answer
            state.trouble_since, state.pause = None, 0.0
        case Refused(kind="limit"):
            state.sent, state.trouble_since = "refused", None
            _later(state, now)
            out.append(Waiting("limit", answer.words))
        case Refused():
            state.sent = "refused"
            state.final = Finished("rejected", k=state.k, words=answer.words)
        case Unclear():
            state.sent, state.words, state.quiet_since = "unclear", answer.words, None
            if answer.limit:
                state.trouble_since = None
            else:
                _in_trouble(state, now)
            state.not_before = now + state.rules.look_first
            out.append(Waiting("limit" if answer.limit else "busy", answer.words))


def _looked(state: State, found: Found, now: float) -> None:
    if not found.answered:
        state.quiet_since = None
        state.words = found.words
        _in_trouble(state, now)
        _later(state, now, state.rules.look_every)
        return
    if found.rows:
        alive = [row for row in found.rows if isinstance(row.verdict(), Alive)]
        ids = list(dict.fromkeys(row.base_id for row in (*alive, *found.rows)))
        state.job = Submitted(ids[0], found.rows[0].cluster)
        state.others = tuple(ids[1:])
        state.trouble_since = None
        return
    if state.quiet_since is None:
        state.quiet_since = now
    if now - state.quiet_since >= state.rules.look_apart:
        state.given_up = True
        return
    state.not_before = min(now + state.rules.look_every, state.quiet_since + state.rules.look_apart)


def _scancelled(state: State, done: Done, now: float) -> None:
    if done.ok:
        state.cleared = True
        return
    state.words = done.words
    if now >= state.cancel_until:
        state.cleared = True
    _later(state, now, 5.0)


def _trouble(state: State, event: Trouble, now: float) -> None:
    state.words = event.words
    if event.step == "note":
        # For people and for a successor, who can also find the job by its name.
        state.note_failures += 1
        state.noted = state.note_failures >= 3
    elif event.step == "close" and now >= state.cancel_until:
        state.closed = True
    elif event.step == "drop" and state.cancelled and now >= state.cancel_until:
        state.ruling = Ruling(decision="dropped", why=event.words)
    else:
        _in_trouble(state, now)
    _later(state, now)


def _in_trouble(state: State, now: float) -> None:
    if state.trouble_since is None:
        state.trouble_since = now
    if now - state.trouble_since >= state.rules.infra_secs and state.final is None:
        state.final = Finished("infrastructure", k=state.k, words=state.words)


def _later(state: State, now: float, most: float | None = None) -> None:
    rules = state.rules
    state.pause = min(max(rules.again_first, state.pause * 2), most or rules.again_most)
    state.not_before = now + state.pause


# -- what is next ------------------------------------------------------------------------------------------------


def _go_on(state: State, now: float, out: list[Command]) -> None:
    if state.cancelled:
        _take_back(state, now, out)
    elif not state.outstanding:
        _submit(state, now, out)


def _ask(
    state: State, step: Step, command: Command, now: float, out: list[Command], wait: bool = True
) -> None:
    """Ask for a step, when it is time."""
    if step in state.outstanding:
        return
    if wait and now < state.not_before:
        out.append(Wake(state.not_before))
        return
    state.outstanding.add(step)
    out.append(command)


def _finish(state: State, finished: Finished, out: list[Command]) -> None:
    state.finished = finished
    out.append(finished)


def _submit(state: State, now: float, out: list[Command]) -> None:
    if state.job is not None:
        if state.others:
            others, state.others = state.others, ()
            _ask(state, "scancel", Scancel(others, last=False), now, out, wait=False)
        elif not state.noted:
            _ask(state, "note", Note(state.k, state.job), now, out)
        else:
            _finish(state, Finished("placed", state.job, state.k), out)
    elif state.final is not None:
        _give_up(state, state.final, now, out)
    elif state.k == 0 or (state.ruling is not None and state.ruling.decision == "dropped"):
        _next_try(state, now, out)
    elif not state.recorded:
        _ask(state, "record", Record(state.k), now, out)
    elif state.sent in ("no", "refused"):
        _ask(state, "sbatch", Sbatch(state.k), now, out)
    elif state.given_up:
        _ask(state, "drop", Drop(state.k, "Slurm did not know its job"), now, out, wait=False)
    else:
        _ask(state, "look", Look(state.k), now, out)


def _next_try(state: State, now: float, out: list[Command]) -> None:
    state.k += 1
    state.recorded, state.sent, state.ruling = False, "no", None
    state.quiet_since, state.given_up = None, False
    _ask(state, "record", Record(state.k), now, out)


def _give_up(state: State, final: Finished, now: float, out: list[Command]) -> None:
    """No further try: the last one must not act either, unless its job has begun."""
    settled = not state.recorded or state.ruling is not None
    overdue = state.trouble_since is not None and now - state.trouble_since >= 1.5 * state.rules.infra_secs
    if settled or overdue:
        _finish(state, final, out)
    else:
        _ask(
            state,
            "drop",
            Drop(state.k, final.words[:300] or final.how),
            now,
            out,
            wait=final.how != "rejected",
        )


def _take_back(state: State, now: float, out: list[Command]) -> None:
    if not state.closed:
        _ask(state, "close", Close(state.cancel_why), now, out)
        return
    if state.outstanding:
        return
    if state.job is not None:
        if state.cleared:
            _finish(state, Finished("gone", state.job, state.k, state.words), out)
        elif not state.noted:
            _ask(state, "note", Note(state.k, state.job), now, out)
        else:
            _ask(state, "scancel", Scancel((state.job.job_id, *state.others)), now, out)
    elif not state.recorded:
        _finish(state, Finished("gone", k=state.k), out)
    elif state.ruling is None:
        _ask(state, "drop", Drop(state.k, state.cancel_why or "cancelled"), now, out)
    elif state.sent != "unclear" or state.given_up or now >= state.cancel_until:
        _finish(state, Finished("gone", k=state.k, words=state.words if state.sent == "unclear" else ""), out)
    else:
        _ask(state, "look", Look(state.k), now, out)
