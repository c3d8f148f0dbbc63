"""`Run`: what one started run is to its caller."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Generator
from typing import Any

import anyio

from furu_async._executors.base import Executor
from furu_async._executors.driver import Driver
from furu_async._executors.ledger import Ledger
from furu_async._model.artifact import Furu
from furu_async._runner.loading import load_result
from furu_async._runtime.blocking import DOOR
from furu_async._runtime.config import use_config
from furu_async._store.layout import RunPaths
from furu_async.errors import FuruExecutorError, FuruRunCancelled, FuruRunFailed, FuruRunTimeout
from furu_async.report import RunEvent, RunReport

CANCEL_SECS = 30.0
"""Bound on the end of a cancelled run."""

_LISTED = 50
_RELEASE_SECS = 10.0


class Run:
    """One run of a `Scheduler`. ``await run`` gives its report, or raises as `run_dag` does.

    Cancelling a task that awaits a run stops only that wait; `cancel` ends the run.
    """

    def __init__(self, driver: Driver, ledger: Ledger, check: bool, timeout: float | None) -> None:
        self.run_id: str = driver.run_id
        self._driver = driver
        self._ledger = ledger
        self._check = check
        self._timeout = timeout
        self._started = asyncio.get_running_loop().time()
        self._ended = asyncio.Event()
        self._report: RunReport | None = None
        self._crash: BaseException | None = None

    def __repr__(self) -> str:
        state = "ended" if self._ended.is_set() else "running"
        return f"<Run {self.run_id} {state} {self.counts()}>"

    @property
    def done(self) -> bool:
        """The run has ended."""
        return self._ended.is_set()

    @property
    def run_dir(self) -> str:
        """``<root>/runs/<run_id>``; exists only if something had to be computed."""
        return RunPaths(self._driver.root, self.run_id).base

    @property
    def report(self) -> RunReport | None:
        """The report once the run has ended, however it ended; None before."""
        return self._report

    def counts(self) -> dict[str, int]:
        """Nodes by what they do right now."""
        return self._driver.state.counts()

    def why(self, obj: Furu[Any]) -> str:
        """What a node of this run is waiting for, in words; of somebody else's work also who, since and until when."""
        now = asyncio.get_running_loop().time()
        told = self._driver.watcher.told(obj.furu_hash)
        return told or self._driver.state.why(obj.furu_hash, now)

    def cancel(self) -> None:
        """End the run.

        Hand out nothing more, stop its work, leave other people's alone. Who awaits it sees FuruRunCancelled.
        """
        if not self.done:
            self._driver.stop("cancel", "run.cancel() was called")

    def events(self) -> AsyncIterator[RunEvent]:
        """Events from now on; ends with the run. A reader that falls far behind loses the oldest ones."""
        return self._ledger.stream()

    def __await__(self) -> Generator[Any, None, RunReport]:
        return self.wait().__await__()

    async def ended(self) -> None:
        """Wait for the end, however the run ends; raises nothing of it."""
        await self._ended.wait()

    async def wait(self) -> RunReport:
        """Wait for the end.

        Raises:
            FuruRunFailed: with ``check``, a node failed.
            FuruRunTimeout: ``timeout`` passed; the run was cancelled.
            FuruRunCancelled: by `cancel`, or by the scheduler's end.
            FuruError: what kept the run as a whole from going on.
        """
        await self._ended.wait()
        return self.result()

    def result(self) -> RunReport:
        """The report of an ended run; raises as `wait`."""
        report = self._report
        if self._crash is not None:
            raise self._crash
        if report is None:
            raise RuntimeError("the run has not ended")
        end = self._driver.end
        error = self._driver.error
        if error is not None:
            raise error
        why = end.why if end is not None else "cancel"
        if why == "timeout":
            raise FuruRunTimeout(
                f"run {self.run_id} did not end within {self._timeout:g} s and was cancelled: {report.counts}",
                "what it finished is kept; the same call goes on from there",
                report,
            )
        if why == "cancel":
            raise FuruRunCancelled(f"run {self.run_id} was cancelled: {report.counts}", "", report)
        if why == "error" and not report.counts["failed"]:
            raise FuruExecutorError(f"run {self.run_id} was ended: {end.detail if end else ''}")
        if why == "error" and self._check:
            raise FuruRunFailed(f"run {self.run_id} was ended: {self._why_ended(report)}", "", report)
        if self._check and not report.ok:
            raise FuruRunFailed(f"run {self.run_id} failed: {report.counts}", "", report)
        return report

    def _why_ended(self, report: RunReport) -> str:
        """Why a run was refused or given up; a refused one with every failed node on a line of its own."""
        failed = [node for node in report if node.status == "failed"]
        if self._driver.state.policy.retry_failed or any(node.attempts for node in failed):
            return "it cannot go on"
        lines = ["these have failed before, and retry_failed=False lets that stand:"]
        lines += [
            f"{node.label} [{node.hash[:12]}]: {node.failure.line() if node.failure else ''}"
            for node in failed[:_LISTED]
        ]
        if len(failed) > _LISTED:
            lines.append(f"… and {len(failed) - _LISTED} more")
        return "\n  ".join(lines)

    # -- inside ----------------------------------------------------------------------------------------------

    async def _live(self, executor: Executor) -> None:
        """The run's task in the scheduler's group."""
        driver, ledger = self._driver, self._ledger
        timer = None
        if self._timeout is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._timeout, driver.stop, "timeout", f"timeout={self._timeout:g}")
        try:
            ledger.run_started(f"root {driver.root}")
            await driver.run()
        except Exception as error:
            self._crash = error
        finally:
            if timer is not None:
                timer.cancel()
            with anyio.CancelScope(shield=True), anyio.move_on_after(0.5 if driver.forced else _RELEASE_SECS):
                await executor.release(driver)
            self._close()

    def _close(self) -> None:
        driver, ledger = self._driver, self._ledger
        end = driver.end
        duration = asyncio.get_running_loop().time() - self._started
        root = driver.root

        async def load(obj: Furu[Any]) -> Any:
            with use_config(driver.config):
                inside = contextvars.copy_context()
            return await DOOR.user.run(lambda: inside.run(load_result, obj, root))

        if ledger.journal.trouble:
            ledger.notes.append(ledger.journal.trouble)
        self._report = RunReport(
            run_id=self.run_id,
            run_dir=self.run_dir,
            ok=bool(end is not None and end.ok and not end.why and driver.error is None),
            nodes=ledger.outcomes,
            duration=duration,
            notes=tuple(ledger.notes),
            _loader=load,
        )
        ledger.run_ended(self._report.counts, end.detail if end is not None else "")
        self._ended.set()
