"""Main of a child process: takes tasks one after the other and runs them until there is nobody to run them for.

Run as ``python -c "…; main(stream, queue, lifeline)"`` by `launch`. Imports little (no asyncio, no socket): a
child's start is part of a run's first second. The user's modules are imported by the first task that needs
them.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
from types import FrameType

from furu_async._model import context
from furu_async._runner import attempt, lifeline
from furu_async._runner.capture import Capture
from furu_async._runner.channel import Channel, ChannelLost
from furu_async._runner.exits import CHANNEL_LOST
from furu_async._runner.messages import Ready, TaskBegun, TaskResult, ToSupervisor
from furu_async._runner.objects import Objects
from furu_async._runner.processes import become_subreaper
from furu_async._runner.restore import Snapshot, left_processes


class _Stop(BaseException):
    """Raised by the SIGTERM handler into the wait for the next task."""


class Child:
    """State of the harness between tasks."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.idle = False
        signal.signal(signal.SIGTERM, self._on_sigterm)
        hello = channel.hello()
        sys.argv[:] = hello.argv
        self.capture = Capture(hello.spool_base, hello.worker, hello.log_level)
        self.objects = Objects()
        self.snapshot = Snapshot()
        self.rss = _RssReader()

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        context.request_stop()
        attempt.in_child()
        if self.idle:
            self.idle = False
            raise _Stop

    def serve(self) -> None:
        """Run tasks until asked to stop, or the supervisor is gone, or a task has left something behind."""
        self.channel.send([Ready(os.getpid())])
        said: list[ToSupervisor] = []
        while not context.stop_requested():
            task_id = self.channel.poll_id()
            if task_id is None:
                if said:
                    self.channel.send(said)
                    said = []
                task_id = self._next()
            said.append(TaskBegun(task_id, self.capture.mark()))
            self.channel.send(said)
            result = self._run(task_id)
            said = [result]
            if result.dirty:
                self.channel.send(said)
                said = []
                self._await_end()
        if said:
            self.channel.send(said)

    def _next(self) -> int:
        self.idle = True
        while not context.stop_requested():
            if self.channel.wait():
                task_id = self.channel.poll_id()
                if task_id is not None:
                    self.idle = False
                    return task_id
        raise _Stop

    def _await_end(self) -> None:
        """Take nothing more; what is in the queue stays there for the supervisor to take back."""
        self.idle = True
        if not context.stop_requested():
            self.channel.await_end()

    def _run(self, task_id: int) -> TaskResult:
        task = self.channel.body(task_id)
        for arrived in self.channel.arrived():
            self.objects.add(arrived.entries)
        if task.action == "create":
            result = attempt.run_in_child(task, self.objects, self.capture, self.snapshot)
        else:
            result = attempt.validate_in_child(task, self.objects, self.capture, self.snapshot)
        left = left_processes() or self.snapshot.left_threads() or self.snapshot.lost_modules()
        result.dirty = bool(left) or task.fresh
        result.why_dirty = left
        result.rss_mb = self.rss.megabytes()
        return result


class _RssReader:
    """Resident memory of this process, by one read of an open file."""

    def __init__(self) -> None:
        self._page = os.sysconf("SC_PAGE_SIZE") / 2**20
        try:
            self._fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def megabytes(self) -> float:
        try:
            return int(os.pread(self._fd, 128, 0).split()[1]) * self._page
        except (OSError, ValueError, IndexError):
            return 0.0


def main(stream: int, queue: int, lifeline_fd: int) -> None:
    """Serve one supervisor. The arguments are inherited descriptors."""
    for fd in (stream, queue, lifeline_fd):
        os.set_inheritable(fd, False)
    lifeline.bind(lifeline_fd)
    faulthandler.enable(file=2)
    become_subreaper()
    try:
        child = Child(Channel(stream, queue))
        gc.collect()
        gc.freeze()
        child.serve()
    except (_Stop, KeyboardInterrupt):
        pass
    except ChannelLost as error:
        if error.closed_here:
            os._exit(CHANNEL_LOST)
