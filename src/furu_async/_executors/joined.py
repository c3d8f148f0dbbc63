"""A run whose controller is elsewhere, as the executor sees it that works for it in a Slurm job."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Mapping
from typing import Literal

from furu_async._executors.base import Node
from furu_async._plan.events import Event
from furu_async._runtime.config import FuruConfig
from furu_async._store.runs import Ending
from furu_async.errors import FuruError


class JoinedRun:
    """See the module, and `RunPort`: what a controller would do with what it is told is left out.

    Args:
        context: in which user code runs; None: a copy of the present one.
    """

    key: str = ""
    keep: bool = True
    on_cancel: Literal["cancel", "detach"] = "cancel"
    detached: bool = False

    def __init__(
        self, run_id: str, token: str, config: FuruConfig, context: contextvars.Context | None = None
    ) -> None:
        self.run_id: str = run_id
        self.token: str = token
        self.root: str = str(config.path)
        self.config: FuruConfig = config
        self.context: contextvars.Context = context or contextvars.copy_context()
        self.hurry: asyncio.Event = asyncio.Event()

    def post(self, event: Event) -> None:
        """What happened to a node."""
        raise NotImplementedError

    def fail(self, error: FuruError) -> None:
        """Nothing can be done under this run."""
        raise NotImplementedError

    def begun(self, node: Node, attempt: int, worker: str) -> None:
        """`Started` says so too."""

    def opened(self) -> None:
        """Its folder is its controller's."""

    def ending(self) -> tuple[Ending, dict[str, int]]:
        """Nobody asks: it is ended by its controller."""
        return "cancelled", {}

    def jitter(self) -> float:
        """A number in [0, 1)."""
        return random.random()

    def note(self, text: str) -> None:
        """Something a person should read."""

    def workers(self, counts: Mapping[str, int], text: str) -> None:
        """Its controller knows."""
