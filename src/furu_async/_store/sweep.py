"""Folders of attempts and checkpoints: a fresh one for a new holder, and what earlier ones left behind.

Only the holder of the newest claim calls this, so nothing that is in use is touched. What it removes cannot be a
result: attempts that ended without success, and successes that were invalidated two generations ago. Their logs
stay.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque

from furu_async._store import atomic, fs
from furu_async._store.layout import ArtifactPaths, number
from furu_async._store.marker import read_end
from furu_async._store.records import Damaged

LOGS = frozenset({"log", "stdout", "stderr"})


def clear_folder(paths: ArtifactPaths, n: int) -> None:
    """See to it that there is no ``attempts/<n>``: whoever runs the attempt makes it when it has something for it."""
    path = paths.attempt(n)
    try:
        fs.rmdir(path)
    except FileNotFoundError:
        return
    except OSError:
        if atomic.exists(path):
            fs.rename(path, f"{paths.attempts}/{atomic.private_name(f'stale-{n}')}")


def carry_checkpoint(paths: ArtifactPaths, n: int) -> None:
    """Rename the newest earlier checkpoint to this generation's; one that led to a success is not carried on."""
    try:
        found = [k for k in map(number, fs.listdir(paths.checkpoints)) if 0 < k < n]
    except (FileNotFoundError, NotADirectoryError):
        return
    if not found:
        return
    newest = max(found)
    for k in range(n - 1, newest - 1, -1):
        if _succeeded(paths, k):
            return
    source, target = paths.checkpoint(newest), paths.checkpoint(n)
    if not _is_folder(source):
        return
    try:
        fs.rename(source, target)
    except FileNotFoundError:
        if not atomic.exists(target):
            raise
        # The reply was lost: it has moved.


def _is_folder(path: str) -> bool:
    """False also for a link to one: an attempt writes there."""
    try:
        return stat.S_ISDIR(fs.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _succeeded(paths: ArtifactPaths, n: int) -> bool:
    try:
        return read_end(paths, paths.end(n), n).status == "success"
    except (Damaged, FileNotFoundError):
        return False


def sweep(paths: ArtifactPaths, n: int) -> None:
    """Remove what generations before ``n`` left and nobody can need; best effort, never raises ``OSError``."""
    _sweep_temps(paths, n)
    for folder, logs in ((paths.attempts, LOGS), (paths.checkpoints, frozenset[str]())):
        try:
            names = fs.listdir(folder)
        except OSError:
            continue
        for name in names:
            path = f"{folder}/{name}"
            k = number(name)
            if name.startswith(".stale-"):
                _remove(path)
            elif 0 < k < n and (k < n - 1 or not _quietly_succeeded(paths, k)):
                _remove_but(path, logs)


def _quietly_succeeded(paths: ArtifactPaths, k: int) -> bool:
    try:
        return _succeeded(paths, k)
    except OSError:
        return True


def _sweep_temps(paths: ArtifactPaths, n: int) -> None:
    """Temp files carry their generation: those of earlier ones belong to writers that are fenced or dead.

    A marker that its remover caught and did not live to put back is made anew by the next look.
    """
    for folder in (paths.ends, paths.claims, paths.invalid_folder, paths.base):
        try:
            names = fs.listdir(folder)
        except OSError:
            continue
        for name in names:
            k = number(name.split("-")[1]) if name.startswith(".tmp-") else 0
            if 0 < k < n or name.startswith(".marker-"):
                atomic.try_unlink(f"{folder}/{name}")


def _remove_but(path: str, keep: frozenset[str]) -> None:
    try:
        names = fs.listdir(path) if keep else []
    except OSError:
        return
    if not keep.intersection(names):
        _remove(path)
        return
    for name in names:
        if name not in keep:
            _remove(f"{path}/{name}")


def _remove(path: str) -> None:
    """Remove a file or a tree without following links; what cannot be removed now stays."""
    if os.path.isdir(path) and not os.path.islink(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        atomic.try_unlink(path)


class Sweeper:
    """Sweeps in the background, one artifact after the other; removing a big tree must not delay a claim."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: deque[tuple[ArtifactPaths, int]] = deque()
        self._running = False

    def add(self, paths: ArtifactPaths, n: int) -> None:
        """Sweep what is before generation ``n`` when its turn comes; where no thread can be had, with the next one."""
        with self._lock:
            self._pending.append((paths, n))
            if self._running:
                return
            self._running = True
        # The keeper has no event loop.
        thread = threading.Thread(target=self._work, name="sweep", daemon=True)  # noqa: TID251
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._running = False

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._pending:
                    self._running = False
                    return
                paths, n = self._pending.popleft()
            sweep(paths, n)
