"""A run whose controller is elsewhere, as the executor sees it that works for it in a Slurm job."""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import sys
from collections.abc import Callable, Mapping
from typing import Literal

from furu_async._executors.base import Node
from furu_async._plan.events import Event
from furu_async._runtime.config import FuruConfig
from furu_async._store.runs import Ending
from furu_async.errors import FuruError


def like_the_controller(path: list[str], argv: list[str], cwd: str, say: Callable[[str], None]) -> None:
    """Have this process find modules, and whatever they look at while they are imported, as its controller's does.

    Args:
        path: its ``sys.path``; what this process has besides comes after it.
        argv: its ``sys.argv``.
        cwd: its working directory.
        say: told if there is no such folder here.
    """
    sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
    if argv:
        sys.argv[:] = argv
    try:
        os.chdir(cwd or ".")
    except OSError as error:
        say(f"the folder in which the run was started cannot be entered here: {error}")


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

    def tried_again(self, node: Node, attempt: int, why: str) -> None:
        """Its controller tells."""

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
