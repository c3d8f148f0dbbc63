"""A node that looks at the process that runs it."""

from __future__ import annotations

import os
from pathlib import Path

from furu_async import Furu
from furu_async._runner import processes


class Seen(Furu[dict[str, str]]):
    """The command lines of its process, of that one's parent, and of the parent's other children."""

    def _create(self) -> dict[str, str]:
        siblings = [pid for pid in processes.children_of(os.getppid()) if pid != os.getpid()]
        keepers = ",".join(map(_command, siblings))
        return {"own": _command("self"), "above": _command(os.getppid()), "keeper": keepers}


def _command(pid: object) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
