"""The supervisor's side of one child process: giving tasks, taking back what has not begun, and its end.

Everything but starting, ending and log files runs on the event loop, in plain callbacks: no thread and no
asyncio task per attempt. Messages are collected; `Child.poll` hands them over after ``on_message`` was
called.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from furu_async._model.artifact import Furu
from furu_async._model.table import Entry
from furu_async._runner import burial, exits, launch, objects, processes, spools
from furu_async._runner.burial import Case, Remains
from furu_async._runner.burial import ChildGone as ChildGone
from furu_async._runner.link import Link
from furu_async._runner.messages import Forget, Hello, TaskBegun, TaskResult, TaskSpec, ToSupervisor
from furu_async._runtime.blocking import DOOR
from furu_async.errors import FuruExecutorError, FuruInternalError

START_SECS = 60.0
_LOOK_SECS = 0.05
_CLOSED_SECS = 0.25
_HANG_UP_SECS = 1.0
_SEARCH_SECS = 1.0
_BURIAL_SECS = 10.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


Message = TaskBegun | TaskResult | ChildGone


class Child:
    """A child process, seen from its supervisor. Made by `start`.

    Attributes:
        pid: of the process, and of its session and process group.
        start_time: clock ticks since boot at which it started; 0 unknown. With ``token`` it proves whose it is.
        token: every descendant has it in its environment as ``FURU_ASYNC_CHILD``.
        alive: it can still be given tasks.
        dirty: a task left something behind: it takes nothing more and is to be replaced.
        tasks: given and unfinished, by id, in the order given.
        running: id of the task that runs, or None.
        running_since: loop time at which it was seen to begin.
        known: hashes of the table entries it was sent.
        rss_mb: its resident memory after its last attempt.
    """

    def __init__(self, launched: launch.Launched, wid: str, on_message: Callable[[Child], None]) -> None:
        self.wid = wid
        self.pid = launched.process.pid
        self.start_time = launched.start_time
        self.token = launched.token
        self.alive = True
        self.dirty = False
        self.tasks: dict[int, TaskSpec] = {}
        self.running: int | None = None
        self.running_since = 0.0
        self.known: set[str] = set()
        self.rss_mb = 0.0
        self._loop = asyncio.get_running_loop()
        self._launched = launched
        self._on_message = on_message
        self._link = Link(launched.stream, launched.ids, launched.ids_back, self._on_frames, self._on_hang_up)
        self._ready = asyncio.Event()
        self._gone = asyncio.Event()
        self._inbox: list[Message] = []
        self._begun = (0, 0)  # task and spool; one assignment, as a thread reads it
        self._asked = False
        self._closed_early = False
        self._exited = False
        self._pidfd = -1
        self._burial: asyncio.Task[None] | None = None
        self._watch_exit()

    # -- starting ------------------------------------------------------------------------------------

    @classmethod
    async def start(
        cls,
        *,
        wid: str,
        spool_dir: str,
        on_message: Callable[[Child], None],
        env: Mapping[str, str] | None = None,
        log_level: str = "INFO",
    ) -> Child:
        """Start a process and wait until it takes tasks.

        Args:
            wid: its name: in log lines and spool files; letters, digits, ``._-``.
            spool_dir: folder for its output between attempts; best on the store's file system.
            on_message: called on the loop, once per readiness, when `poll` has something.
            env: variables added to this process's environment.
            log_level: which `logging` records of the tasks are kept.

        Raises:
            FuruExecutorError: it could not be started, or ended before it was ready; says what it wrote.
        """
        if not _NAME.fullmatch(wid):
            raise FuruExecutorError(f"{wid!r} is not possible as the name of a worker")
        launching = DOOR.process.submit(launch.launch, wid, spool_dir, secrets.token_hex(16), env)
        try:
            launched = await asyncio.shield(asyncio.wrap_future(launching))
        except asyncio.CancelledError:
            launching.add_done_callback(_abandon)  # the process may start all the same: it must not stay
            raise
        child = cls(launched, wid, on_message)
        hello = Hello(argv=launched.argv, spool_base=launched.spool_base, worker=wid, log_level=log_level)
        child._link.send([hello])
        try:
            async with asyncio.timeout(START_SECS):
                await child._ready.wait()
        except BaseException as error:
            await child.kill(0)
            if isinstance(error, TimeoutError):
                raise FuruExecutorError(
                    f"worker process {wid} was not ready within {START_SECS:g} s"
                ) from error
            raise
        for message in child._inbox:
            if isinstance(message, ChildGone):
                raise FuruExecutorError(
                    f"worker process {wid} ended before it was ready: it {message.text}",
                    "something that Python imports at its start may be broken; what it wrote:\n"
                    + message.log_tail,
                    command=launched.command,
                    stderr=message.log_tail,
                )
        return child

    def _watch_exit(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (OSError, AttributeError):
            self._look_for_exit()
        else:
            self._loop.add_reader(self._pidfd, self._on_exit)

    def _look_for_exit(self) -> None:
        """Without pidfds: look now and then."""
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            self._on_exit()
        else:
            self._loop.call_later(_LOOK_SECS, self._look_for_exit)

    # -- tasks ---------------------------------------------------------------------------------------

    def entries_for(self, obj: Furu[Any]) -> list[Entry]:
        """Table entries that this child lacks to build ``obj``; from now on it is taken to have them."""
        return objects.entries_for(self.known, obj)

    def give(self, *tasks: TaskSpec) -> None:
        """Queue tasks for the child, to be run in this order after what it was given before. Never blocks.

        Several at once cost less than one by one. Of a child that has just died they come back with `ChildGone`.

        Raises:
            FuruInternalError: its `ChildGone` was reported before.
        """
        if self._gone.is_set():
            raise FuruInternalError(f"worker process {self.wid} is gone and was given a task")
        for task in tasks:
            self.tasks[task.id] = task
        self._link.send(tasks)
        self._link.put_ids(task.id for task in tasks)

    def take_back(self, most: int | None = None) -> list[TaskSpec]:
        """Take back tasks that have not begun, newest first; ``most`` of them, or all.

        Atomic: a task is either in the answer, or the child has taken it and reports its end.
        """
        most = len(self.tasks) if most is None else most
        if most <= 0 or not self.tasks:
            return []
        taken = [self.tasks.pop(task_id) for task_id in self._link.take_ids(most)]
        if taken:
            self._link.send([Forget([task.id for task in taken])])
        return taken

    def poll(self) -> list[Message]:
        """Messages since the last call, in order."""
        new, self._inbox = self._inbox, []
        return new

    def _on_frames(self, found: list[ToSupervisor]) -> None:
        for message in found:
            if isinstance(message, TaskResult):
                self.tasks.pop(message.id, None)
                self.running = None
                self._begun = (0, self._begun[1])
                self.dirty = self.dirty or message.dirty
                self.rss_mb = message.rss_mb
                self._inbox.append(message)
            elif isinstance(message, TaskBegun):
                self._begun = (message.id, message.spool)
                self.running = message.id
                self.running_since = self._loop.time()
                self._inbox.append(message)
            else:
                self._ready.set()
        if self._inbox and not self._exited:
            self._on_message(self)

    # -- logs ----------------------------------------------------------------------------------------

    def expose_logs(self, task: TaskSpec) -> bool:
        """Make the output of a task that has run for `spools.EXPOSE_SECS` visible in its folder while it runs.

        A few blocking file operations: call it in a thread. Says whether it did.
        """
        running, spool = self._begun
        return running == task.id and spools.expose(self._launched.spool_base, spool, task.directory)

    def collect_logs(self, task: TaskSpec) -> str:
        """Move what a task had written when its child died into its folder; returns the last lines.

        Blocking. It is done before `ChildGone` is reported, unless the file system gave no answer.
        """
        return spools.collect(self._launched.spool_base, self._begun[1], task.directory)[0]

    # -- ending --------------------------------------------------------------------------------------

    def warn(self) -> None:
        """Ask the running attempt to stop (SIGTERM to the process alone); the child ends after it."""
        self._asked = True
        self._signal(os.kill, signal.SIGTERM)

    async def kill(self, grace: float) -> None:
        """SIGTERM to the group, SIGKILL to all descendants after ``grace`` seconds; returns when it is gone.

        What the running attempt still reports within the grace period comes as usual; `ChildGone` is the last message.
        """
        self._asked = True
        if grace > 0 and not self._exited:
            self._signal(os.killpg, signal.SIGTERM)
            await self._wait_gone(grace)
        if not self._exited:
            below = await self._descendants()
            self._signal(os.killpg, signal.SIGKILL)
            processes.end_each(below)
        await self._gone.wait()

    async def _descendants(self) -> dict[int, int]:
        """Also those that have left the group; they can be told only while the child lives."""
        try:
            return await DOOR.process.run(processes.below, self.pid, deadline=_SEARCH_SECS)
        except TimeoutError:
            return {}

    async def aclose(self, grace: float = 5.0) -> None:
        """End the child: an idle one by hanging up, one that runs a task or is dirty as `kill` does.

        What it had been given and had not begun comes back with `ChildGone`.
        """
        if self._gone.is_set():
            return
        self._asked = True
        self._link.take_ids(len(self.tasks))  # what has not begun is not to begin now
        if self.running is None and not self.dirty:
            self._link.hang_up()
            await self._wait_gone(min(grace, _HANG_UP_SECS))
        await self.kill(grace if self.running is not None else 0)

    async def _wait_gone(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            pass

    def _signal(self, send: Callable[[int, int], None], number: int) -> None:
        if self._exited:  # from here on the number may become somebody else's
            return
        try:
            send(self.pid, number)
        except ProcessLookupError:
            pass

    def _on_hang_up(self) -> None:
        """The stream has ended; the process normally ends with it."""
        self._loop.call_later(_CLOSED_SECS, self._end_closed)

    def _end_closed(self) -> None:
        if not self._exited:
            self._closed_early = not self._asked
            self._signal(os.killpg, signal.SIGKILL)

    def _on_exit(self) -> None:
        if self._exited:
            return
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._exited = True
        self._link.drain()
        self._burial = self._loop.create_task(self._bury(), name=f"furu-bury-{self.wid}")

    async def _bury(self) -> None:
        running = self.tasks.get(self.running) if self.running is not None else None
        case = Case(
            pid=self.pid,
            start_time=self.start_time,
            token=self.token,
            spool_base=self._launched.spool_base,
            spool=self._begun[1],
            directory=running.directory if running is not None else "",
            search=running is not None or self.dirty,
            asked=self._asked or self._closed_early,
        )
        try:
            remains = await DOOR.process.run(burial.bury, case, deadline=_BURIAL_SECS)
        except Exception as error:
            remains = Remains(
                burial.exit_status(self.pid), trouble=f"its output could not be collected: {error}"
            )
        self._launched.process.poll()  # reaps it
        self._link.close()
        self._launched.close_lifeline()
        self.alive = False
        self._inbox.append(self._obituary(remains, running))
        self.tasks.clear()
        self.running = None
        self._gone.set()
        self._ready.set()
        self._loop.call_soon(self._on_message, self)

    def _obituary(self, remains: Remains, running: TaskSpec | None) -> ChildGone:
        how = exits.explain(
            remains.returncode,
            busy=running is not None,
            oom_evidence=remains.oom,
            closed=self._closed_early,
            asked=self._asked,
        )
        text = "; ".join(part for part in (how.text, remains.trouble) if part)
        return ChildGone(
            pid=self.pid,
            returncode=remains.returncode,
            expected=self._asked,
            kind=how.kind,
            text=text,
            running=running,
            not_begun=tuple(task for task in self.tasks.values() if task is not running),
            log_tail=remains.log_tail,
            logged=remains.logged,
            escaped=remains.escaped,
        )


def _abandon(launching: Future[launch.Launched]) -> None:
    """End a process whose start nobody waits for any more; runs in the thread that started it."""
    if not launching.cancelled() and launching.exception() is None:
        launch.abandon(launching.result())
