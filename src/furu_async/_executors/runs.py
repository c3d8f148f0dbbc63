"""`Run`: what one started run is to its caller."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Generator
from typing import Any

import anyio

from furu_async._executors import continuing
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
        self._driver = driver
        self._ledger = ledger
        self._check = check
        self._timeout = timeout
        self._started = asyncio.get_running_loop().time()
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()
        self._report: RunReport | None = None
        self._crash: BaseException | None = None

    def __repr__(self) -> str:
        state = "ended" if self._ended.is_set() else "running"
        return f"<Run {self.run_id} {state} {self.counts()}>"

    @property
    def run_id(self) -> str:
        """Name of the run, also of its folder. Final when `settled` returns, and before the first event.

        Until then it is a fresh one; a run that goes on with that of a dead controller has that one's name.
        """
        return self._driver.run_id

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
        driver, digest = self._driver, obj.furu_hash
        asked = driver.executor.why(driver, digest)
        return driver.watcher.told(digest) or asked or driver.state.why(digest, now)

    def cancel(self) -> None:
        """End the run.

        Hand out nothing more, stop its work, leave other people's alone. Who awaits it sees FuruRunCancelled.
        """
        if not self.done:
            self._driver.stop("cancel", "run.cancel() was called")

    def detach(self) -> None:
        """End the run here and leave what is in Slurm; the same call goes on with it. Of use with `SlurmDag` only."""
        if not self.done:
            self._driver.detach("cancel", "run.detach() was called")

    @property
    def detached(self) -> bool:
        """Its work goes on without it."""
        return self._driver.detached

    def events(self) -> AsyncIterator[RunEvent]:
        """Events from now on; ends with the run. A reader that falls far behind loses the oldest ones."""
        return self._ledger.stream()

    def __await__(self) -> Generator[Any, None, RunReport]:
        return self.wait().__await__()

    async def settled(self) -> None:
        """Wait until `run_id` is final: one look at the store, where no dead controller has begun the same run."""
        await self._settled.wait()

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
            stuck = self._let_stand(report, "were left unfinished by owners that are gone", "lost")
            more = f"\n{stuck}" if stuck else ""
            raise FuruRunFailed(f"run {self.run_id} failed: {report.counts}{more}", "", report)
        return report

    def _why_ended(self, report: RunReport) -> str:
        """Why a run was refused or given up."""
        return self._let_stand(report, "have failed before or were left unfinished") or "it cannot go on"

    def _let_stand(self, report: RunReport, what: str, kind: str = "") -> str:
        """Every node that was not begun because ``retry_failed=False``: most of them on a line of their own."""
        failed = [node for node in report if node.status == "failed"]
        if kind:
            failed = [n for n in failed if n.failure and n.failure.kind == kind and not n.attempts]
        if not failed or self._driver.state.policy.retry_failed or any(node.attempts for node in failed):
            return ""
        lines = [f"these {what}, and retry_failed=False lets that stand:"]
        lines += [
            f"{node.label} [{node.hash[:12]}]: {node.failure.line() if node.failure else ''}"
            for node in failed[:_LISTED]
        ]
        if len(failed) > _LISTED:
            lines.append(f"and {len(failed) - _LISTED} more:")
            lines.append(" ".join(node.hash[:12] for node in failed[_LISTED:]))
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
            refusal = await continuing.unusable(driver.root)
            if refusal is not None:
                driver.fail(refusal)
            continues = "" if refusal is not None else await driver.settle()
            self._settled.set()
            await asyncio.sleep(0)  # who waited for the name gets it before the first event
            ledger.run_started(f"root {driver.root}" + (f"; {continues}" if continues else ""))
            await driver.run()
            await driver.recorded()
        except Exception as error:
            self._crash = error
        finally:
            if timer is not None:
                timer.cancel()
            # The executor asks for this deadline, and keeps within it.
            with anyio.CancelScope(shield=True), anyio.move_on_after(self._release_secs()):
                await executor.release(driver)
            self._close()

    def _release_secs(self) -> float:
        """Of a run that was stopped: what is left of the bound on that."""
        driver = self._driver
        if driver.forced:
            return 0.5
        if driver.stopped_at is None:
            return _RELEASE_SECS
        return max(_RELEASE_SECS, driver.stopped_at + CANCEL_SECS - asyncio.get_running_loop().time())

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
        if end is not None and not end.why:
            asked = driver.rerun - {"ALL", *driver.config.always_rerun}
            for name in sorted(asked - {node.name for node in driver.nodes.values()}):
                ledger.notes.append(
                    f"rerun={name!r} is no class of this run (what lies below results that are there is not looked at)"
                )
        self._settled.set()
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
