"""The daemon that looks after the jobs of this machine: starts, limits, cancels and remembers them.

One at a time (`daemon/<n>` is linked, never deleted). It is woken by a pipe, by the death of a child or by a time
limit, and leaves when nothing has been left to do for a moment. If it is killed, the next one follows the processes
that are still there; how they end can then not be told any more, and counts as a node that was lost.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from dataclasses import dataclass

import msgspec

from furu_async._runtime import clock
from furu_async._slurm import local_files as files
from furu_async._slurm import local_process
from furu_async._slurm.local_files import LocalJob, LocalPaths, LocalState
from furu_async._slurm.states import ENDED
from furu_async._store import atomic
from furu_async._store.liveness import start_time, this_owner

KILL_SECS = 10.0
"""Between SIGTERM and SIGKILL."""
_IDLE_SECS = 1.0
_LONGEST = 5.0
_NEVER = float("inf")


@dataclass(slots=True, eq=False)
class Task:
    """One job, or one task of an array.

    Attributes:
        process: None of one that an earlier daemon started.
        why: state to report when it has ended because we ended it.
    """

    id: str
    number: int
    index: int
    job: LocalJob
    said: LocalState
    held: bool = False
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    why: str = ""
    notice_at: float = _NEVER
    term_at: float = _NEVER
    kill_at: float = _NEVER
    written: bool = False

    @property
    def over(self) -> bool:
        """It has ended."""
        return self.said.state in ENDED

    @property
    def running(self) -> bool:
        """It has a process."""
        return bool(self.said.pid) and not self.over


class Daemon:
    """See the module."""

    def __init__(self, paths: LocalPaths) -> None:
        self.paths = paths
        self.tasks: dict[str, Task] = {}
        self.known: dict[int, tuple[str, ...]] = {}
        self.selector = selectors.DefaultSelector()
        self.stopping = False
        self.number = 0

    def run(self) -> int:
        """Until there is nothing more to do; the exit status."""
        self.number = files.newest_daemon(self.paths) + 1
        record = msgspec.json.encode(files.LocalDaemon(owner=this_owner()))
        lives = files.daemon_lives(self.paths)
        if lives or not atomic.write_new_linked(f"{self.paths.daemons}/{self.number}", record):
            files.wake(self.paths)  # whoever looks after the jobs is to see what we were started for
            return 0
        # Open for both, so that there is never an end of file.
        pipe = os.open(self.paths.wake, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(pipe, selectors.EVENT_READ)
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        self.selector.register(reader, selectors.EVENT_READ)
        while True:
            self._serve()
            atomic.write_new_linked(f"{self.paths.daemons}/{self.number}.over", b"{}")
            # Whoever wrote a job before that relied on us, whoever writes one later starts another daemon.
            if self.stopping or not self._look() or files.daemon_lives(self.paths):
                return 0
            self.number += 1
            if not atomic.write_new_linked(f"{self.paths.daemons}/{self.number}", record):
                return 0

    def _on_stop(self, *_: object) -> None:
        self.stopping = True

    def _serve(self) -> None:
        idle_since = clock.monotonic()
        while True:
            if not atomic.exists(self.paths.jobs):
                self.stopping = True  # somebody removed the store
            if self.stopping:
                for task in self.tasks.values():
                    self._cancel(task)
            self._look()
            self._reap()
            self._answer_asks()
            self._limits()
            self._start_what_can()
            now = clock.monotonic()
            unfinished = any(not task.over for task in self.tasks.values())
            if unfinished:
                idle_since = now
            elif self.stopping or now - idle_since >= _IDLE_SECS:
                return
            self._wait(now if unfinished else idle_since + _IDLE_SECS - _LONGEST)

    def _wait(self, now: float) -> None:
        times = [
            t
            for task in self.tasks.values()
            if task.running
            for t in (task.notice_at, task.term_at, task.kill_at)
        ]
        until = min([now + _LONGEST, *times])
        for key, _ in self.selector.select(max(0.0, until - clock.monotonic())):
            if key.data is None:
                try:
                    os.read(key.fd, 65536)
                except BlockingIOError:
                    pass

    # -- what is asked ---------------------------------------------------------------------------------------

    def _look(self) -> bool:
        """Learn of new jobs; whether any has not ended."""
        for number in files.job_ids(self.paths):
            if number in self.known:
                continue
            job = files.read_job(self.paths, number)
            if job is None:
                continue
            names = self.known[number] = job.tasks(str(number))
            for index, name in enumerate(names):
                said = files.read_state(self.paths, name)
                task = Task(
                    name, number, index if job.array else -1, job, said or LocalState(state="PENDING")
                )
                task.held = job.hold or task.said.reason == "JobHeldUser"
                if said is not None and said.state == "PENDING":
                    task.held = said.reason == "JobHeldUser"
                self.tasks[name] = task
                if task.running:
                    self._adopt(task)
        return any(not task.over for task in self.tasks.values())

    def _adopt(self, task: Task) -> None:
        if start_time(task.said.pid) != task.said.start_time:
            self._over(task, "NODE_FAIL")
            return
        try:
            task.pidfd = os.pidfd_open(task.said.pid)
            self.selector.register(task.pidfd, selectors.EVENT_READ, task)
        except OSError:
            pass  # it is asked every few seconds
        self._arm(task)

    def _answer_asks(self) -> None:
        try:
            names = os.listdir(self.paths.asks)
        except FileNotFoundError:
            return
        for name in sorted(names):
            wanted, _, verb = name.rpartition(".")
            base = wanted.partition("_")[0]
            number = int(base) if base.isdigit() else 0
            which = [wanted] if wanted in self.tasks else list(self.known.get(number, ()))
            for task in (self.tasks[each] for each in which):
                if verb == "cancel":
                    self._cancel(task)
                elif verb in ("hold", "release"):
                    task.held = verb == "hold"
            atomic.try_unlink(f"{self.paths.asks}/{name}")

    def _cancel(self, task: Task) -> None:
        if task.running:
            self._end(task, "CANCELLED")
        elif not task.over:
            self._over(task, "CANCELLED")

    # -- running ---------------------------------------------------------------------------------------------

    def _start_what_can(self) -> None:
        running = sum(task.running for task in self.tasks.values())
        for task in list(self.tasks.values()):
            if task.over or task.running:
                continue
            reason = self._reason(task, running)
            if reason == "DependencyNeverSatisfied":
                self._over(task, "CANCELLED", reason=reason)
            elif reason:
                self._say(task, LocalState(state="PENDING", reason=reason))
            elif self._start(task):
                running += 1

    def _reason(self, task: Task, running: int) -> str:
        waits = self._depends(task.job.dependency)
        if waits == "DependencyNeverSatisfied":
            return waits
        if task.held:
            return "JobHeldUser"
        if waits:
            return waits
        return "Resources" if task.job.at_once and running >= task.job.at_once else ""

    def _depends(self, text: str) -> str:
        """Empty: it may start; else why not."""
        if not text:
            return ""
        some = "?" in text
        answers = []
        for part in text.replace("?", ",").split(","):
            kind, *ids = part.strip().split(":")
            answers += [self._one(kind, job_id.partition("+")[0]) for job_id in ids]
        if some:
            return "" if "" in answers else min(answers, default="")
        return max(answers, default="")

    def _one(self, kind: str, job_id: str) -> str:
        base = job_id.partition("_")[0]
        names = [job_id] if job_id in self.tasks else self.known.get(int(base) if base.isdigit() else 0, ())
        others = [self.tasks[name] for name in names]  # one that is not known counts as done, as for Slurm
        if kind == "after":
            return "" if all(other.said.state != "PENDING" for other in others) else "Dependency"
        if not all(other.over for other in others):
            return "Dependency"
        good = all(other.said.state == "COMPLETED" for other in others)
        if kind == "afterany" or (not others) or good == (kind == "afterok"):
            return ""
        return "DependencyNeverSatisfied"

    def _start(self, task: Task) -> bool:
        try:
            task.process = local_process.start(task.job, task.id, task.number, task.index)
        except OSError as error:
            self._over(task, "FAILED", exit_code=1, reason=f"it could not be started: {error}")
            return False
        pid = task.process.pid
        self._say(task, LocalState(state="RUNNING", pid=pid, start_time=start_time(pid) or 0))
        self._arm(task)
        return True

    def _arm(self, task: Task) -> None:
        if task.job.limit:
            now = clock.monotonic()
            task.term_at = now + task.job.limit
            if task.job.notice:
                task.notice_at = now + max(task.job.limit - task.job.notice, task.job.limit / 2)

    def _limits(self) -> None:
        now = clock.monotonic()
        for task in self.tasks.values():
            if not task.running:
                continue
            if now >= task.notice_at:
                task.notice_at = _NEVER
                local_process.send(task.said.pid, signal.SIGUSR2)
            if now >= task.term_at:
                self._end(task, "TIMEOUT")
            if now >= task.kill_at:
                task.kill_at = now + 1.0
                local_process.kill_session(task.said.pid)

    def _end(self, task: Task, why: str) -> None:
        """SIGTERM now, SIGKILL later."""
        task.term_at = _NEVER
        if task.why:
            return
        task.why = why
        task.kill_at = clock.monotonic() + KILL_SECS
        local_process.send(task.said.pid, signal.SIGTERM, group=True)

    def _reap(self) -> None:
        for task in list(self.tasks.values()):
            if not task.running:
                continue
            if task.process is None:
                if start_time(task.said.pid) != task.said.start_time:
                    self._over(task, task.why or "NODE_FAIL")
                continue
            if os.waitid(os.P_PID, task.said.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            local_process.kill_session(task.said.pid)  # before its number can be another's
            code = task.process.wait()
            state = task.why or ("COMPLETED" if code == 0 else "FAILED")
            self._over(task, state, exit_code=code if code >= 0 else 0, signal=-code if code < 0 else 0)

    def _unwatch(self, task: Task) -> None:
        if task.pidfd >= 0:
            self.selector.unregister(task.pidfd)
            os.close(task.pidfd)
            task.pidfd = -1

    def _over(
        self,
        task: Task,
        state: str,
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        reason: str = "",
    ) -> None:
        self._unwatch(task)
        said = LocalState(
            state=state,
            reason=reason,
            pid=task.said.pid,
            start_time=task.said.start_time,
            exit_code=exit_code,
            signal=signal,
        )
        self._say(task, said)
        if all(self.tasks[name].over for name in self.known[task.number]):
            atomic.try_unlink(task.job.env)
            self._forget_old()

    def _say(self, task: Task, said: LocalState) -> None:
        if said == task.said and task.written:
            return
        task.said = said
        try:
            files.write_state(self.paths, task.id, said)
            task.written = True
        except OSError as error:
            print(f"the state of job {task.id} could not be written: {error}", flush=True)

    def _forget_old(self) -> None:
        """The newest are kept, and always the last number, so that none is given twice."""
        over = [n for n, names in self.known.items() if all(self.tasks[name].over for name in names)]
        for number in sorted(over)[: -files.MOST_KEPT]:
            for name in self.known.pop(number):
                del self.tasks[name]
                atomic.try_unlink(f"{self.paths.states}/{name}")
            atomic.try_unlink(f"{self.paths.jobs}/{number}")


def main() -> int:
    """``python -m furu_async._slurm.local_main <folder>``."""
    if os.fork():
        os._exit(0)
    return Daemon(LocalPaths(sys.argv[1])).run()


if __name__ == "__main__":
    raise SystemExit(main())
