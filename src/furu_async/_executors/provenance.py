"""What goes into the metadata of every result: who made it, with what. Never a reason to fail."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from functools import lru_cache
from typing import Any

from furu_async._model.artifact import Furu
from furu_async._model.table import entry
from furu_async._runtime.config import FuruConfig

_MOST_FIELDS = 100


def metadata(config: FuruConfig) -> dict[str, Any]:
    """Facts that are the same for all nodes of this process.

    No arguments of the command line and no environment: they hold secrets.

    Blocking only the first time with ``record_git="cached"`` (two git commands of at most 2 s).
    """
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    if config.record_git == "cached":
        facts.update(_git(os.getcwd()))
    return facts


def described(obj: Furu[Any]) -> dict[str, Any]:
    """What the artifact is, for whoever reads a folder of hashes: a bounded repr, its fields if they are few."""
    fields = entry(obj).fields
    facts: dict[str, Any] = {"artifact": repr(obj)}
    if len(fields) <= _MOST_FIELDS and not any(
        isinstance(v, list | dict) and len(v) > 100 for v in fields.values()
    ):
        facts["fields"] = fields
    return facts


@lru_cache(maxsize=8)
def _git(folder: str) -> dict[str, Any]:
    commit = _ask(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    return {"git_commit": commit, "git_dirty": bool(_ask(folder, "status", "--porcelain", "-uno"))}


def _ask(folder: str, *args: str) -> str:
    try:
        done = subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, text=True, timeout=2.0, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
