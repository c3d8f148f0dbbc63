"""The executor of a `SlurmDag`, for any number of runs: what they share, and the port behind which each has its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from furu_async._dag.dag import SlurmDag
from furu_async._dag.run import DagRun
from furu_async._dag.tracks import Shared
from furu_async._executors.ahead import ToDo
from furu_async._executors.asking import Asker
from furu_async._executors.base import Find, Node, Request, RunPort
from furu_async._executors.held_runs import HeldRuns
from furu_async._executors.identity import Identity
from furu_async._model.resources import SlurmSpec
from furu_async._plan.events import Policy
from furu_async._runner.keeper_client import KeeperClient
from furu_async._runner.validity import Validation
from furu_async._runtime.config import FuruConfig
from furu_async._slurm.parameters import Wish, request
from furu_async._slurm.poller import Poller
from furu_async._slurm.port import SlurmPort
from furu_async._slurm.protocol import SubmitRules
from furu_async._slurm.submitter import Submitter
from furu_async._store.runs import Unfinished
from furu_async.errors import FuruConfigError

AT_ONCE = 4
"""Calls of ``sbatch`` at the same time."""


class DagExecutor:
    """See the module; `Executor` and `PlansAhead` for the methods."""

    kind = "slurm-dag"
    seed: int | None = None
    has_limits = True
    specs_in_turn: bool = True
    can_detach: bool = True

    def __init__(
        self, dag: SlurmDag, config: FuruConfig, port: SlurmPort, keeper: KeeperClient | None = None
    ) -> None:
        poller = Poller(port, config.poll_interval_secs)
        rules = SubmitRules(infra_secs=config.infra_secs)
        self.shared: Shared = Shared(
            dag=dag,
            config=config,
            port=port,
            poller=poller,
            submitter=Submitter(port, rules=rules, look=poller.find, at_once=AT_ONCE),
            held=HeldRuns(keeper or KeeperClient(config.heartbeat_secs), Identity()),
        )
        self._asker = Asker(self.shared.held, config)
        self.runs: dict[RunPort, DagRun] = {}
        self._changed = asyncio.Event()

    def check(self, node: Node, specs: Sequence[SlurmSpec]) -> str | None:
        """Why its jobs cannot be submitted as they are asked for, or None."""
        for spec in specs:
            try:
                request(self.shared.dag.merged(spec), Wish("furu-check", ("true",), "/logs", "afterok:1"))
            except FuruConfigError as error:
                return str(error)
        return None

    async def adopt(self, run: RunPort, found: Unfinished) -> bool:
        """Go on with a dead controller's run, or with one that was left to go on by itself."""
        return await self.shared.held.adopt(run, found)

    def planned(self, run: RunPort, policy: Policy, todo: Sequence[ToDo]) -> None:
        """Submit all of it, in the background."""
        self._of(run).planned(policy, todo)
        self._changed.set()

    def forget(self, run: RunPort, node: str) -> None:
        """It will not be started any more."""
        known = self.runs.get(run)
        if known is not None:
            known.forget(node)

    def start(self, request: Request) -> None:
        """Join the node's job."""
        self._of(request.run).start(request)

    def take_back(self, run: RunPort, node: str) -> None:
        """Return the node if its job does not run yet."""
        self._of(run).take_back(node)

    def kill(self, run: RunPort, node: str) -> None:
        """Cancel the node's job."""
        self._of(run).kill(node)

    async def validate(self, run: RunPort, node: Node, files: bool) -> Validation:
        """In a child process of its own, if that is user code."""
        return await self._asker.validate(run, node, files)

    @property
    def find_job(self) -> Find:
        """In Slurm's queue, or in its accounting."""
        return self.shared.poller.find

    def why(self, run: RunPort, node: str) -> str:
        """Its job, and what that waits for."""
        known = self.runs.get(run)
        return known.why(node) if known is not None else ""

    async def submitted(self) -> DagRun:
        """Wait until everything that the only run of this executor wants is in Slurm; gives what is known of it."""
        while not self.runs:
            self._changed.clear()
            await self._changed.wait()
        (known,) = self.runs.values()
        await known.submitted.wait()
        return known

    def no_more(self) -> None:
        """What is cancelled is told to Slurm one by one, as soon as it is."""

    async def release(self, run: RunPort) -> None:
        """The run is over: cancel what it still has in Slurm, unless it is to go on by itself."""
        known = self.runs.pop(run, None)
        if known is None and run.run_id in self.shared.held.continued:
            known = DagRun(self.shared, run)  # it has jobs of an earlier controller
        if known is not None:
            await known.close(detached=run.ending()[0] == "lost")
        await self.shared.held.close(run)

    async def aclose(self) -> None:
        """End poller and keeper."""
        for run in list(self.runs):
            await self.release(run)
        await self.shared.poller.aclose()
        await self._asker.aclose()
        await self.shared.held.aclose()

    def _of(self, run: RunPort) -> DagRun:
        known = self.runs.get(run)
        if known is None:
            known = self.runs[run] = DagRun(self.shared, run)
        return known
