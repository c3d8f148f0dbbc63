"""Starts controllers of the laboratory in a few milliseconds: it has imported everything, and forks.

It has no thread and no loop. On its socket (the descriptor in ``argv[1]``) it gets JSON with one descriptor, the
socket of the new controller, and answers with its pid; later, unasked, with how that one ended.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any

import controller

from furu_async._runtime import config

_ASK = 1 << 16


def main(ours: socket.socket) -> None:
    """Fork until nobody asks any more."""
    asyncio.Runner  # noqa: B018  (what a controller uses first is loaded)
    gc.freeze()
    wake, woken = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([ours, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _reap(ours)
        if ours in ready:
            message, files, _, _ = socket.recv_fds(ours, _ASK, 1)
            if not message:
                return
            wanted = json.loads(message)
            pid = os.fork()
            if not pid:
                ours.close()
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _become(wanted, files[0])
            os.close(files[0])
            ours.sendall(json.dumps({"pid": pid}).encode() + b"\n")


def _reap(ours: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        code = os.waitstatus_to_exitcode(status)
        ours.sendall(json.dumps({"ended": pid, "code": code}).encode() + b"\n")


def _become(wanted: dict[str, Any], descriptor: int) -> None:
    """Be a controller, and never return."""
    code = 1
    try:
        os.setsid()
        os.environ.update(wanted["env"])
        config.reset_config()
        errors = os.open(wanted["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        os.close(errors)
        controller.main(wanted, socket.socket(fileno=descriptor))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
