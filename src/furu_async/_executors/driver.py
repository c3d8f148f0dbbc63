"""The one loop of a run: take events, ask the core, carry out its commands.

Nothing is decided here. Events arrive by `Driver.post` from the planner, the executor and the watchers; they
are handled in slices of a few milliseconds so that the caller's loop stays free.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import anyio

from furu_async._executors import continuing, overrides
from furu_async._executors.ahead import PlansAhead, ahead_of, spec_count, todo_of
from furu_async._executors.base import Executor, Node, Request, collapse
from furu_async._executors.ledger import Ledger
from furu_async._executors.planner import Planner
from furu_async._executors.recording import Recording, record_of
from furu_async._executors.refusals import cycle_error, must_be_same, must_fit
from furu_async._executors.watcher import Watcher
from furu_async._model.artifact import Furu, class_info
from furu_async._plan import commands as do
from furu_async._plan.events import Event, Failed, Policy, Probed, Stop, Tick, Wanted, WatchEnded
from furu_async._plan.machine import State, advance
from furu_async._runtime import clock
from furu_async._runtime.config import FuruConfig, use_config
from furu_async._store.layout import RunPaths
from furu_async._store.runs import Ending
from furu_async.errors import FuruError, FuruInternalError
from furu_async.report import NodeStatus

_SLICE = 0.001
_PART = 500
STOP_SECS = 18.0
"""How long what is stopped may take; with what follows it stays below the 30 s that are promised."""
_LAST_WORDS = 5.0
"""How long the end of the journal may take, in seconds, where the disk does not answer."""


class Driver:
    """Runs one DAG to its end.

    Args:
        targets: distinct artifacts.
        executor: shared with other runs.
        policy: what the core needs to know.
        rerun: class names (``module.Class``) or ``ALL``.
        ledger: takes outcomes and events.
        seed: for the jitter of backoffs.

    Attributes:
        on_cancel: ``detach``: a run that is cancelled, or takes too long, is only left.
        detached: it was left while its work goes on; the same call goes on with it.
        keep: False: leave no folder of a run that ends well.
        run_id: a fresh one until `settle` has found out whether a dead controller's run is gone on with.
        key: of the call; empty before `settle`.
        stopped_at: loop time at which it was first told to stop.
        hurry: somebody wants to leave though the run has ended: no more waiting for what ends by itself.
    """

    def __init__(
        self,
        run_id: str,
        targets: Sequence[Furu[Any]],
        executor: Executor,
        policy: Policy,
        config: FuruConfig,
        rerun: Sequence[str],
        ledger: Ledger,
        seed: int | None = None,
    ) -> None:
        self.run_id: str = run_id
        self.key: str = ""
        self.keep: bool = True
        self.root: str = str(config.path)
        self.config = config
        self.targets = targets
        self.executor = executor
        self.rerun: frozenset[str] = frozenset((*rerun, *config.always_rerun))
        self.ledger = ledger
        self.nodes: dict[str, Node] = {}
        self.state: State = State(policy)
        self.end: do.EndRun | None = None
        self.error: BaseException | None = None
        self._inbox: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._random = random.Random(seed)
        self.forced: bool = False
        self.stopped_at: float | None = None
        self.hurry: asyncio.Event = asyncio.Event()
        self._patience: asyncio.TimerHandle | None = None
        self.distrust: set[str] = set()
        self.token: str = uuid.uuid4().hex
        with use_config(config):  # what runs in this process loads its inputs from the run's root
            self.context: contextvars.Context = contextvars.copy_context()
        self._overridden = overrides.active()
        self._recording = Recording()
        self._ahead: PlansAhead | None = ahead_of(executor)
        self.on_cancel: Literal["cancel", "detach"] = "cancel"
        self.detached: bool = False
        self.planner: Planner = Planner(
            self.root,
            config,
            self.nodes,
            self.register,
            self.post,
            self.note,
            self._wants_rerun,
            lambda node, files: executor.validate(self, node, files),
            self.fail,
            self.jitter,
            lambda node: spec_count(executor, node),
        )
        self.watcher: Watcher = Watcher(
            self.root, config, self.post, self.ledger.waiting, self.jitter, policy.retry_failed
        )
        self.watcher.find = executor.find_job
        self._handlers: dict[type[Any], Callable[[Any], None]] = self._by_command()

    def _by_command(self) -> dict[type[Any], Callable[[Any], None]]:
        return {
            do.Probe: self._probe,
            do.Start: self._start,
            do.TakeBack: lambda c: self.executor.take_back(self, c.node),
            do.Kill: lambda c: self.executor.kill(self, c.node),
            do.Watch: lambda c: self.watcher.watch(self.nodes[c.node]),
            do.Unwatch: lambda c: self.watcher.unwatch(c.node),
            do.Retrying: self._retrying,
            do.Ended: self._ended,
            do.Planned: self._planned,
            do.EndRun: self._end_run,
        }

    # -- what others call ------------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Take an event; safe from any callback of the loop."""
        self._inbox.append(event)
        if not self._wake.is_set():
            self._wake.set()

    def note(self, text: str) -> None:
        """Something to be read that fails nothing."""
        self.ledger.note(text)

    def workers(self, counts: Mapping[str, int], text: str) -> None:
        """How its workers or jobs are."""
        self.ledger.workers(counts, text)

    def begun(self, node: Node, attempt: int, worker: str) -> None:
        """A process is at the node's attempt now."""
        self.ledger.started(node, attempt, worker)

    def tried_again(self, node: Node, attempt: int, why: str) -> None:
        """Who executes it has begun this attempt by itself, because of how the one before ended."""
        self.ledger.tried_again(node, attempt, why)

    def ending(self) -> tuple[Ending, dict[str, int]]:
        """How the run has ended, and how many of its nodes ended in which way."""
        end, counts = self.end, self.ledger.counts()
        if self.detached:
            return "lost", counts
        if self.error is not None or (end is not None and end.why == "error"):
            return "error", counts
        if end is None or end.why:
            return "cancelled", counts
        return "ok" if end.ok else "failed", counts

    def opened(self) -> None:
        """The run's folder is there: say in it what was asked for, begin the journal."""
        earlier = self.planner.earlier
        self.ledger.open(earlier is not None and earlier.torn)
        if earlier is not None and earlier.recorded:
            return
        begun_at = (earlier.begun_at if earlier is not None else None) or clock.wall()
        record = record_of(self.run_id, self.key, self.executor.kind, self.targets, begun_at)
        self._recording.write(RunPaths(self.root, self.run_id).record, record)

    def fail(self, error: FuruError) -> None:
        """Nothing can go on: end the run with this error."""
        if self.error is None:
            self.error = error
        self.stop("error", str(error))

    def stop(self, why: Literal["cancel", "timeout", "error"], detail: str = "") -> None:
        """End the run: ``cancel``, ``timeout`` or ``error``."""
        if self.end is not None:
            self.hurry.set()
        if self.on_cancel == "detach" and why != "error":
            return self.detach(why, detail)
        if self.stopped_at is None:
            self.stopped_at = asyncio.get_running_loop().time()
        self.post(Stop(why, detail))
        if self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(STOP_SECS, self._force_end, why)

    def _force_end(self, why: Literal["cancel", "timeout", "error"]) -> None:
        """Attempts that cannot be ended, or whose end cannot be written (a store that hangs), must not hold the run.

        Their claims stay open; whoever wants them next finds an owner without beat, or dead.
        """
        if self.end is None:
            self.forced = True
            self._end_now(why, f"something did not stop within {STOP_SECS:g} s")
            self.note(f"run {self.run_id} was ended though something did not stop within {STOP_SECS:g} s")

    def detach(self, why: Literal["cancel", "timeout"], detail: str) -> None:
        """End the run here and leave what is in Slurm to whoever makes the same call again."""
        if self.end is None:
            self.detached = True
            self._end_now(why, detail)

    def _end_now(self, why: Literal["cancel", "timeout", "error"], detail: str) -> None:
        for node in self.nodes.values():
            if node.hash not in self.ledger.outcomes:
                begun = node.attempts > 0
                status: NodeStatus = "cancelled" if begun else "skipped"
                self.ledger.ended(node, do.Ended(node.hash, status, because="" if begun else "cancel"))
        self.end = do.EndRun(False, why, detail)
        self._wake.set()

    def register(self, objs: Sequence[Furu[Any]]) -> tuple[str, ...]:
        """Make artifacts known to the run; gives their hashes.

        Raises:
            FuruDefinitionError: two artifacts share a hash, or one can never run on this executor.
        """
        nodes = self.nodes
        hashes = []
        for obj in objs:
            digest = obj.furu_hash
            known = nodes.get(digest)
            if known is None:
                info = class_info(type(obj))
                node = Node(obj, digest, info.name, info)
                nodes[digest] = node
                if self.executor.has_limits:
                    must_fit(self.executor, node)
            else:
                must_be_same(known, obj)
            hashes.append(digest)
        return tuple(hashes)

    # -- the loop --------------------------------------------------------------------------------------------

    async def settle(self) -> str:
        """Find out which run this is, before anything else of it happens; a sentence about it, empty for a new one.

        The same call goes on with an unfinished run of a dead controller, unless another process is quicker. Never
        raises for what the store does or does not say; what is wrong with a target is said when it is planned.
        """
        try:
            self.key = await continuing.key_of(self.targets, self.executor.kind)
        except FuruError:
            return ""
        found = await continuing.find(self.root, self.key)
        if found is None or not await self.executor.adopt(self, found):
            return ""
        self.run_id = self.ledger.run_id = found.run_id
        self.planner.earlier = await continuing.adopted(self.root, found)
        self.opened()
        text = self.planner.earlier.text()
        self.ledger.notes.append(text)
        return text

    async def recorded(self) -> None:
        """Wait until ``run.json`` is written, for a while; not long for a store that does not answer anyway."""
        await self._recording.wait(1.0 if self.forced else _LAST_WORDS)

    async def run(self) -> None:
        """Drive the run until every node is final; afterwards `end` and `error` tell how.

        Never raises for what a node does. What is raised is a bug of ours, or the caller's cancellation; attempts may
        then still run: `Executor.release` ends them.
        """
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self.ledger.journal.run, name="furu journal")
                try:
                    async with anyio.create_task_group() as asking:
                        asking.start_soon(self.watcher.run, name="furu claim watcher")
                        await self._plan_targets()
                        await self._drive(asking)
                        # What the store is still asked does not matter any more, and it may not answer for minutes.
                        asking.cancel_scope.cancel()
                finally:
                    if self._patience is not None:
                        self._patience.cancel()
                    self.watcher.close()
                    group.cancel_scope.deadline = anyio.current_time() + (1.0 if self.forced else _LAST_WORDS)
                    self.ledger.close_journal(str(self.error or (self.end.detail if self.end else "")))
        except BaseExceptionGroup as several:
            error = collapse(several)
            if not isinstance(error, FuruError):
                raise error from None
            self.error = error

    async def _plan_targets(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _SLICE
        hashes: dict[str, None] = {}
        for obj in self.targets:
            hashes[self.register((obj,))[0]] = None
            if loop.time() > until:
                await asyncio.sleep(0)
                until = loop.time() + _SLICE
        wanted = tuple(hashes)
        for start in range(0, len(wanted), _PART):
            self.post(Wanted(wanted[start : start + _PART], more=True))
        self.post(Wanted(()))

    async def _drive(self, group: anyio.abc.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        inbox = self._inbox
        while self.end is None:
            until = loop.time() + _SLICE
            while inbox:
                now = loop.time()
                if now > until:
                    break
                self._handle(inbox.popleft(), now)
            self.planner.flush(group)
            if inbox:
                await asyncio.sleep(0)
                continue
            if self.end is None:
                await self._wait(loop)

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        wakeup = self.state.next_wakeup()
        if wakeup is None:
            await self._wake.wait()
        else:
            with anyio.move_on_after(max(0.0, wakeup - loop.time())):
                await self._wake.wait()
            if loop.time() >= wakeup:
                self._inbox.append(Tick())
        self._wake.clear()

    def _handle(self, event: Event, now: float) -> None:
        if type(event) is Failed:
            node = self.nodes[event.node]
            node.last_failure = event.failure
            node.history = (*node.history, event.failure.line())[-20:]
        elif (type(event) is WatchEnded or type(event) is Probed) and event.failure is not None:
            where = "elsewhere" if type(event) is WatchEnded else "stored"
            node = self.nodes[event.node]
            node.history = (*node.history, f"{where}: {event.failure.line()}")[-20:]
        for command in advance(self.state, event, now):
            handler = self._handlers.get(type(command))
            if handler is None:
                raise FuruInternalError(f"the core gave a command nobody carries out: {command!r}")
            handler(command)

    # -- commands --------------------------------------------------------------------------------------------

    def _probe(self, command: do.Probe) -> None:
        if self._overridden and self.context.run(overrides.has, self.nodes[command.node].obj):
            self.post(Probed(command.node, "valid"))
        else:
            self.planner.ask(command.node, command.careful or command.node in self.distrust)
            self.distrust.discard(command.node)

    def _start(self, c: do.Start) -> None:
        node = self.nodes[c.node]
        self.executor.start(Request(self, node, c.attempt, c.priority, c.spec, c.ticket, c.whole))

    def _retrying(self, command: do.Retrying) -> None:
        delay = max(0.0, command.at - asyncio.get_running_loop().time())
        self.ledger.retrying(self.nodes[command.node], command, delay)

    def _planned(self, command: do.Planned) -> None:
        self.ledger.planned(self.state.counts())
        if self._ahead is not None and self.state.mode == "run":
            self._ahead.planned(self, self.state.policy, todo_of(self.state, self.nodes))

    def _ended(self, command: do.Ended) -> None:
        self.ledger.ended(self.nodes[command.node], command)
        if self._ahead is not None and command.status not in ("created", "cached"):
            self._ahead.forget(self, command.node)

    def _end_run(self, command: do.EndRun) -> None:
        self.end = command
        if command.cycle and self.error is None:
            self.error = cycle_error(self.nodes, command.cycle)

    def jitter(self) -> float:
        """A number in [0, 1) for `Failed`."""
        return self._random.random()

    def _wants_rerun(self, node: Node) -> bool:
        return bool(self.rerun) and ("ALL" in self.rerun or node.name in self.rerun)
