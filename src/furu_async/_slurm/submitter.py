"""Carries out what the submission protocol asks for; decides nothing.

Each submission has a task of its own, so that a caller who is cancelled leaves no ``sbatch`` half heard: what was
begun is recorded first and then taken back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from furu_async._runtime.blocking import DOOR, BlockingTimeout
from furu_async._slurm import protocol as p
from furu_async._slurm.names import job_name
from furu_async._slurm.port import Done, Found, JobRequest, Refused, SlurmPort, SubmitAnswer, Unclear
from furu_async._slurm.submission import State, advance
from furu_async._store import submissions
from furu_async._store.layout import SubmissionPaths

R = TypeVar("R")

_log = logging.getLogger("furu_async.slurm")

STORE_SECS = 60.0
"""After which a step on the store counts as failed for now."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a job has to know to be admitted; goes into its command line."""

    sid: str
    k: int
    token: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One job, or array of them, that somebody wants.

    Attributes:
        paths: where its record is; what is there already is continued.
        run_id: for the job's name.
        sid: name of the submission within the run.
        what: for people, in the job's name.
        request: makes the call of ``sbatch`` for a try.
        on_waiting: told why it is not submitted yet; on the loop, must not raise.
    """

    paths: SubmissionPaths
    run_id: str
    sid: str
    what: str
    request: Callable[[Ticket], JobRequest]
    on_waiting: Callable[[p.Waiting], None] = lambda _: None


class Submitter:
    """Submits orders to one cluster, a few at a time.

    Args:
        port: the cluster.
        look: searches for a job by its name; by default the port's `find`.
        at_once: calls of ``sbatch`` at the same time.
        token: makes sixteen random hexadecimal digits.
    """

    def __init__(
        self,
        port: SlurmPort,
        *,
        rules: p.SubmitRules | None = None,
        look: Callable[[str], Awaitable[Found]] | None = None,
        at_once: int = 4,
        token: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self.port = port
        self.rules = rules or p.SubmitRules()
        self.look = look or port.find
        self.token = token
        self.room = asyncio.Semaphore(at_once)
        self._pending: set[asyncio.Task[Any]] = set()

    def begin(self, order: Order) -> Pending:
        """Start to submit; returns at once."""
        pending = Pending(self, order)
        self.keep(pending.task)
        return pending

    async def submit(self, order: Order) -> p.Finished:
        """Submit and wait until that is settled. Cancelling the caller takes the submission back."""
        pending = self.begin(order)
        try:
            return await pending.wait()
        except asyncio.CancelledError:
            pending.cancel("the submitting task was cancelled")
            raise

    async def withdraw(self, paths: SubmissionPaths, job_ids: Collection[str], why: str) -> Done:
        """Cancel jobs that are in Slurm; the intent is on disk first, so that nobody is blamed for it."""
        try:
            await on_disk(submissions.close, paths, "cancel", why)
        except OSError as error:
            _log.warning("cancelling without a record of it: %s", error)
        return await self.port.cancel(job_ids)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Let `settle` wait for a task, too."""
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def settle(self, seconds: float) -> bool:
        """Wait for what is under way, as after a cancel; False if something still is."""
        if not self._pending:
            return True
        _, pending = await asyncio.wait(list(self._pending), timeout=seconds)
        return not pending


async def on_disk(fn: Callable[..., R], *args: object) -> R:
    """One step on the store, off the loop.

    Raises:
        OSError: also for a store that does not answer.
    """
    try:
        return await DOOR.files.run(fn, *args, deadline=STORE_SECS)
    except BlockingTimeout as error:
        raise OSError(str(error)) from error


class Pending:
    """A submission under way.

    Attributes:
        ticket: of the present try.
        state: what the protocol knows.
    """

    def __init__(self, owner: Submitter, order: Order) -> None:
        self._owner = owner
        self._order = order
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[p.Event] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._steps: set[asyncio.Task[None]] = set()
        self._tickets: dict[int, Ticket] = {}
        self._tokens: dict[int, str] = {}
        self._answer: asyncio.Future[p.Finished] = self._loop.create_future()
        self.state: State = State(rules=owner.rules)
        self.task: asyncio.Task[None] = self._loop.create_task(
            self._run(), name=f"furu slurm submission {order.sid}"
        )

    def cancel(self, why: str = "") -> None:
        """It is not wanted any more: nothing new is submitted, what may have been is taken back."""
        finished = self.state.finished
        if finished is None:
            self._events.put_nowait(p.Cancel(why))
        elif finished.how == "placed" and finished.job is not None:
            taking = self._owner.withdraw(self._order.paths, [finished.job.job_id], why)
            self._owner.keep(self._loop.create_task(taking, name=f"furu slurm withdraw {self._order.sid}"))

    async def wait(self) -> p.Finished:
        """How it ended. Cancelling the waiting task changes nothing about the submission."""
        return await asyncio.shield(self._answer)

    @property
    def ticket(self) -> Ticket | None:
        """Of the present try."""
        return self._tickets.get(self.state.k)

    async def _run(self) -> None:
        try:
            await self._load()
            while self.state.finished is None or self._steps:
                event = await self._events.get()
                for command in advance(self.state, event, self._loop.time()):
                    self._carry_out(command)
        except BaseException as error:
            if not self._answer.done():
                if isinstance(error, asyncio.CancelledError):
                    self._answer.cancel()
                else:
                    self._answer.set_exception(error)
            raise
        finally:
            self._disarm()

    async def _load(self) -> None:
        pause = 0.5
        since = self._loop.time()
        while True:
            try:
                there = await on_disk(submissions.read, self._order.paths)
            except OSError as error:
                if self._loop.time() - since > self._owner.rules.infra_secs:
                    finished = p.Finished("infrastructure", words=f"{self._order.paths.base}: {error}")
                    self.state.finished = finished
                    self._carry_out(finished)
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, 30.0)
            else:
                break
        last = there.last
        if last is not None:
            self._tickets[last.number] = Ticket(self._order.sid, last.number, last.token, last.name)
        self._events.put_nowait(p.Loaded(there))

    # -- commands --------------------------------------------------------------------------------------------

    def _carry_out(self, command: p.Command) -> None:
        match command:
            case p.Finished():
                if not self._answer.done():
                    self._answer.set_result(command)
                # The loop waits for events only while a step is under way.
                self._events.put_nowait(p.Tick())
            case p.Wake():
                self._disarm()
                self._timer = self._loop.call_at(command.at, self._events.put_nowait, p.Tick())
            case p.Waiting():
                self._order.on_waiting(command)
            case _:
                self._start(command)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, command: p.Command) -> None:
        task = self._loop.create_task(
            self._step(command), name=f"furu slurm {type(command).__name__.lower()}"
        )
        self._steps.add(task)
        task.add_done_callback(self._stepped)

    def _stepped(self, task: asyncio.Task[None]) -> None:
        self._steps.discard(task)
        # One more turn, in case this was the last step of a finished submission.
        self._events.put_nowait(p.Tick())
        error = None if task.cancelled() else task.exception()
        if error is not None:
            if not self._answer.done():
                self._answer.set_exception(error)
            self.task.cancel()

    async def _step(self, command: p.Command) -> None:
        port, paths = self._owner.port, self._order.paths
        try:
            match command:
                case p.Record(k):
                    event: p.Event = await self._record(k)
                case p.Sbatch(k):
                    event = p.Answered(await self._sbatch(k))
                case p.Look(k):
                    event = p.Looked(await self._look(k))
                case p.Drop(k, why):
                    event = p.Ruled(await on_disk(submissions.drop, paths, k, why))
                case p.Note(k, job):
                    token = self._tickets[k].token
                    await on_disk(submissions.note_job, paths.job(k), token, job.job_id, job.cluster)
                    event = p.Noted()
                case p.Close(why):
                    await on_disk(submissions.close, paths, "cancel", why)
                    event = p.ClosedNow()
                case p.Scancel(ids, last):
                    event = p.Scancelled(await port.cancel(ids), last)
                case _:
                    raise TypeError(command)
        except OSError as error:
            event = p.Trouble(_STEPS[type(command)], f"{error.filename or paths.base}: {error}")
        self._events.put_nowait(event)

    async def _record(self, k: int) -> p.Recorded:
        # The same one again where an error came after the record: it is known by it.
        token = self._tokens.setdefault(k, self._owner.token())
        name = job_name(self._order.what, self._order.run_id, token)
        ok = await on_disk(submissions.begin, self._order.paths, k, token, name, self._order.what)
        if not ok:
            last = (await on_disk(submissions.read, self._order.paths)).tries[k - 1]
            token, name = last.token, last.name
        self._tickets[k] = Ticket(self._order.sid, k, token, name)
        return p.Recorded(ok)

    async def _sbatch(self, k: int) -> SubmitAnswer:
        request = self._order.request(self._tickets[k])
        async with self._owner.room:
            if self.state.cancelled:
                return Refused("limit", "it was cancelled before it was submitted")
            try:
                return await self._owner.port.submit(request)
            except OSError as error:
                return Unclear(f"sbatch: {error}")

    async def _look(self, k: int) -> Found:
        name = self._tickets[k].name
        if not name:  # its record is damaged: there is nothing to look for
            return Found()
        return await self._owner.look(name)


_STEPS: dict[type[p.Command], p.Step] = {
    p.Record: "record",
    p.Sbatch: "sbatch",
    p.Look: "look",
    p.Drop: "drop",
    p.Note: "note",
    p.Close: "close",
    p.Scancel: "scancel",
}
