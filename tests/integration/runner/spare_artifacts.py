"""What is run in a child that was forked ahead."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

from furu_async import Furu


class Looks(Furu[dict[str, object]]):
    """What user code sees of its process."""

    def _create(self) -> dict[str, object]:
        print("printed by user code")
        umask = os.umask(0)
        os.umask(umask)
        main = sys.modules["__main__"]
        return {
            "environ": os.environ.get("OF_THE_JOB"),
            "raw": ctypes.CDLL(None).getenv(b"OF_THE_JOB") != 0,
            "token": os.environ["FURU_ASYNC_CHILD"],
            "cwd": os.getcwd(),
            "umask": umask,
            "path": sys.path[0],
            "main": [main.__name__, hasattr(main, "__file__"), getattr(main, "__spec__", None) is None],
            "threads": threading.active_count(),
            "stdin": os.readlink("/proc/self/fd/0"),
        }


class Dies(Furu[int]):
    """Segmentation fault."""

    def _create(self) -> int:
        print("before the end", flush=True)
        ctypes.string_at(0)
        return 0
