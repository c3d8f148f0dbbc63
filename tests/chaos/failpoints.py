"""Named points in the processes of a run, at which one of them says that it is there and stops, until somebody decides.

The product knows nothing of this. A controller of the laboratory calls `arm`, and from then on every keeper and child
that it starts loads this module first: the code that is given to the new interpreter gets one statement more. In the
keeper the points are calls of the seam `furu_async._store.fs`, in the child the steps of an attempt, in the controller
what it asks of its keeper and hears from it. Which one is meant stands in the environment, and it holds once.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
AT = "FURU_CHAOS_AT"
"""``role/point/number``: the so-manieth time that a process of this role comes to this point."""
FOLDER = "FURU_CHAOS_FOLDER"
"""Where the pipe `HITS` is, and the note that the point was used."""
HOST = "FURU_CHAOS_HOST"
"""The name of the host that the process shall believe to be on."""
JITTER = "FURU_CHAOS_JITTER"
"""Seconds that a keeper hesitates at most before each link: between having looked and acting, where races are lost."""
HITS = "hits"

_left = 0
_point = ""
_jitter = 0.0
_files: set[int] = set()


def arm(role: str) -> None:
    """Make this process one of the laboratory: what it starts, what it believes, where it stops."""
    global _point, _left, _jitter
    wanted, _point, number = (os.environ.get(AT) or "//0").split("/")
    _left = int(number) if wanted == role else 0
    name = os.environ.get(HOST)
    if name:
        _pretend(name)
    if role == "controller":
        subprocess.Popen = _Popen  # type: ignore[misc]
    _jitter = float(os.environ.get(JITTER, 0)) if role == "keeper" else 0.0
    if _left or _jitter:
        {"controller": _in_controller, "keeper": _in_keeper, "child": _in_child}[role]()


def here(point: str) -> None:
    """This process is at a point; if it is the one that is meant, say so and stop."""
    global _left
    if point != _point or not _left:
        return
    _left -= 1
    if _left:
        return
    folder = os.environ[FOLDER]
    try:
        os.close(os.open(f"{folder}/used", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    pipe = os.open(f"{folder}/{HITS}", os.O_WRONLY)
    os.write(pipe, f"{os.getpid()}\n".encode())
    os.close(pipe)
    os.kill(os.getpid(), signal.SIGSTOP)
    # A process of several threads stops a moment later than the call that stops it.
    time.sleep(0.02)


def _pretend(host: str) -> None:
    from furu_async._store import liveness

    real = liveness.this_host
    liveness.this_host = lambda: (host, *real()[1:])


class _Popen(subprocess.Popen):  # type: ignore[type-arg]
    """Starts keepers and children with this module loaded first."""

    def __init__(self, args: Any, *rest: Any, **named: Any) -> None:
        if isinstance(args, list) and "-c" in args:
            at = args.index("-c") + 1
            role = "keeper" if "keeper_main" in args[at] else "child"
            load = f"sys.path.append({HERE!r}); import failpoints; failpoints.arm({role!r}); from furu_async"
            args = [*args]
            args[at] = args[at].replace("from furu_async", load, 1)
        super().__init__(args, *rest, **named)


def _between(point: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A call with a point before it and one after it."""

    def pointed(*args: Any, **named: Any) -> Any:
        here(f"before-{point}")
        result = call(*args, **named)
        here(f"after-{point}")
        return result

    return pointed


# -- the keeper: what it does to the store -------------------------------------------------------------------


def _in_keeper() -> None:
    from furu_async._store import fs

    fs.install(_wrap)


def _wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    if name not in ("open", "link", "write", "pwrite", "replace", "unlink", "close"):
        return real

    def call(*args: Any, **named: Any) -> Any:
        point = _label(name, args)
        if not point:
            return real(*args, **named)
        here(f"before-{point}")
        if name == "link" and _jitter:
            time.sleep(random.random() * _jitter)
        result = real(*args, **named)
        if point == "end-open":
            _files.add(result)
        here(f"after-{point}")
        return result

    return call


def _label(name: str, args: tuple[Any, ...]) -> str:
    if name == "link":
        target = str(args[1])
        if "/data/" not in target:
            return ""
        if target.endswith("/SUCCESS.json"):
            return "marker"
        kinds = {"claims": "claim", "ends": "end"}
        return kinds.get(os.path.basename(os.path.dirname(target)), "")
    if name == "open":
        path = str(args[0])
        if "/data/" in path and (path.endswith("/.furu/ends") or "/.furu/ends/.tmp-" in path):
            return "end-open"
        return "card" if "/card-" in path and args[1] & os.O_CREAT else ""
    if name in ("write", "close"):
        if args[0] not in _files:
            return ""
        if name == "close":
            _files.discard(args[0])
        return f"end-{name}"
    if name == "pwrite":
        return "beat"
    if name == "replace":
        return "child" if "/children/" in str(args[1]) else ""
    return "away" if str(args[0]).endswith("/beat") else ""


# -- a child: the steps of an attempt ------------------------------------------------------------------------


def _in_child() -> None:
    from furu_async._runner.attempt import Attempt

    for name in ("prepare", "create", "store", "manifest", "conclude"):
        setattr(Attempt, name, _between(name, getattr(Attempt, name)))


# -- the controller: what it asks and hears ------------------------------------------------------------------


def _in_controller() -> None:
    from furu_async._runner.keeper_client import KeeperClient
    from furu_async._runner.supervisor import Child

    ask: Any = KeeperClient.request

    def request(self: Any, op: Any, reply: Callable[[Any], None]) -> None:
        here(f"ask-{op[0]}")

        def told(answer: Any) -> None:
            here(f"told-{op[0]}")
            reply(answer)

        ask(self, op, told)

    KeeperClient.request = request  # type: ignore[method-assign]
    Child.give = _between("give", Child.give)  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit("this is loaded by controllers of the laboratory")
