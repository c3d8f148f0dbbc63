"""As whom a `LocalExecutor` works: for itself, or in a job, for a controller elsewhere."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from furu_async._runner.keeper_client import Op
from furu_async._store.layout import beat_path
from furu_async._store.liveness import this_owner
from furu_async._store.records import Claim, Owner, encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """See the module.

    Attributes:
        backend: what claims say. Other than ``local``: its runs are held by a controller elsewhere, so they are
            neither claimed nor ended here, and their folders are not removed.
        worker_id: names its folder ``runs/<run_id>/workers/<worker_id>``, with beat, card and spools.
        job_id: the Slurm job, as ``squeue`` prints it; empty: what the environment says.
        restart_count: how often Slurm had restarted it; counts with ``job_id``.
        spool: folder for what children write between attempts; empty: in the folder of the first run that is opened.
    """

    backend: Literal["local", "pool", "dag"] = "local"
    worker_id: str = field(default_factory=lambda: f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
    job_id: str = ""
    restart_count: int = 0
    spool: str = ""

    def owner(self) -> Owner:
        """This process, as it stands in its claims."""
        owner = this_owner()
        if not self.job_id:
            return owner
        return msgspec.structs.replace(owner, job_id=self.job_id, restart_count=self.restart_count)

    def opening(self, root: str, run_id: str, token: str, key: str, after: int) -> Op:
        """The keeper's operation that opens a run.

        Args:
            key: of the call.
            after: 0 for a new run, else the generation of a dead controller's claim.
        """
        claim = Claim(
            backend=self.backend,
            phase="running",
            run_id=run_id,
            token=token,
            owner=self.owner(),
            beat=beat_path(run_id, self.worker_id),
        )
        if self.backend == "local":
            return ("open", root, run_id, self.worker_id, encode(claim), key, after)
        return ("join", root, run_id, self.worker_id, encode(claim))
