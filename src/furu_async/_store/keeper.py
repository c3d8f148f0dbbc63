"""The keeper: a small process beside each supervisor that beats and carries out protocol steps on the store.

It runs no user code, so nothing a user does can starve its beat, and file work neither fights for the supervisor's
interpreter lock nor hangs with it on a dead mount. What its death costs: the supervisor starts another, opens its
runs again and repeats what was not answered; every step recognises its own work by its token. When the *supervisor*
dies (end of file on the socket, or its process is gone), the keeper kills the process groups that were registered,
then ends the claims that are still open as `lost`, those of the runs last, so that whoever comes next need not wait.

A frame is a length (4 bytes, big-endian) and a msgpack list of operations, the answer the list of their results in
that order. An operation that fails harms no other. Operations, each a list that begins with its name:

    open, root, run_id, wid, claim_json, key, after           -> ok | taken
                                                              card and beat, claims the run, beats
    join, root, run_id, wid, claim_json                       -> ok
                                                              card and beat, for a run that somebody else holds
    claim, root, run_id, name, hash         -> claimed n | published n | taken n claim
    takeover, root, run_id, name, hash, n, reason             ends n as lost, ends what it left here, claims n+1
             and, for an owner judged by its silence, the beat it was silent at   taken, if it beats again
    disclaim, root, run_id, name, hash      -> ok             ends what a claim that failed may have claimed
    hold, root, run_id, name, hash, n       -> ok             claimed by an earlier keeper of this supervisor
    publish, root, name, hash, n, end_json, power             -> published | fenced end | broken problems
    finish, root, name, hash, n, end_json   -> published | fenced end
    invalidate, root, name, hash, n, why, run_id              -> ok done
    child, label, pid, start_time, token    -> ok             registers a process group
    child_gone, pid                         -> ok
    close_run, root, run_id, how, counts, at, keep            -> ok
                                                              ends its open claims as cancelled, then the run itself
    close                                   -> ok             the same for all, as cancelled; the process ends

``key`` is that of the call, empty if the run is never to be gone on with. ``after`` is 0 for a new run, else the
generation of a dead controller's claim; ``taken``: somebody else goes on with that run, or it is over. ``how``
the run ended, the ``counts`` of its nodes and when (``at``, for people) go into its end; with ``keep`` false, one that
ended ``ok`` leaves nothing.

Any of them may answer ``{"r": "error", "errno", "path", "text"}``.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from furu_async._store import atomic, runs
from furu_async._store.artifacts import (
    ClaimReply,
    Look,
    PublishReply,
    claim,
    finish,
    invalidate,
    look,
    takeover,
)
from furu_async._store.artifacts import publish_encoded as publish
from furu_async._store.beat import Beat, is_back
from furu_async._store.holding import HeldRun
from furu_async._store.layout import ArtifactPaths, data_folder
from furu_async._store.liveness import children_of, end_children, end_left_behind
from furu_async._store.records import ChildRecord, Claim, Damaged, End, decode, encode
from furu_async._store.sweep import Sweeper
from furu_async.errors import FuruError
from furu_async.report import Failure

if TYPE_CHECKING:
    import socket
    import subprocess

MAX_FRAME = 256 * 1024 * 1024
_TRIES = 8
_END_SECONDS = 5.0

Reply = dict[str, Any]
_OK: Reply = {"r": "ok"}
_OF_ONE_ARTIFACT = ("claim", "publish", "finish", "takeover", "invalidate")


class Keeper:
    """Carries out operations; holds what has to be ended when the supervisor is gone.

    Args:
        heartbeat: seconds between two beats.
    """

    def __init__(self, heartbeat: float) -> None:
        self.heartbeat = heartbeat
        self.closing = False
        self._runs: dict[tuple[str, str], HeldRun] = {}
        self._holders: dict[tuple[str, int], HeldRun] = {}
        self._children: dict[int, ChildRecord] = {}
        self._folders: set[str] = set()
        self._sweeper = Sweeper()
        self._operations: dict[str, Callable[..., Reply]] = {
            "claim": self._claim,
            "disclaim": self._disclaim,
            "publish": self._publish,
            "finish": self._finish,
            "takeover": self._takeover,
            "hold": self._hold_on,
            "invalidate": self._invalidate,
            "open": self._open,
            "join": self._join,
            "child": self._child,
            "child_gone": self._child_gone,
            "close_run": self._close_run,
            "close": self._close,
        }

    def handle(self, operation: list[Any]) -> Reply:
        """Carry out one operation; whatever goes wrong is its answer."""
        try:
            return self._operations[operation[0]](*operation[1:])
        except OSError as error:
            path = error.filename if isinstance(error.filename, str) else ""
            number = error.errno or 0
            if number in atomic.UNUSABLE and operation[0] in _OF_ONE_ARTIFACT:
                number = errno.EUCLEAN
            return {"r": "error", "errno": number, "path": path, "text": error.strerror or str(error)}
        except Damaged as error:
            text = f"cannot be used before a person has looked at it: {error.reason}"
            return {"r": "error", "errno": errno.EUCLEAN, "path": error.path, "text": text}
        except FuruError as error:
            return {"r": "error", "errno": 0, "path": getattr(error, "path", ""), "text": str(error)}
        except Exception as error:
            # A bug, here or in the caller; the other operations of the batch have nothing to do with it.
            import traceback

            text = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
            return {"r": "error", "errno": 0, "path": "", "text": text[:4000]}

    # -- runs ------------------------------------------------------------------------------------------------

    def _open(
        self, root: str, run_id: str, wid: str, claim_json: bytes, key: str = "", after: int = 0
    ) -> Reply:
        run = HeldRun(root, run_id, wid, decode(Claim, claim_json, "claim"), self.heartbeat, key)
        known = self._known(run)
        if known is not None:
            return known
        atomic.check_place(data_folder(root))
        if not run.open(after):
            return {"r": "taken"}
        return self._opened(run)

    def _join(self, root: str, run_id: str, wid: str, claim_json: bytes) -> Reply:
        run = HeldRun(root, run_id, wid, decode(Claim, claim_json, "claim"), self.heartbeat)
        known = self._known(run)
        if known is not None:
            return known
        atomic.check_place(data_folder(root))
        run.join()
        return self._opened(run)

    def _known(self, run: HeldRun) -> Reply | None:
        known = self._runs.get((run.paths.root, run.run_id))
        if known is not None and known.card.token != run.card.token:
            return _error(f"run {run.run_id} is open already, with another token")
        return _OK if known is not None else None

    def _opened(self, run: HeldRun) -> Reply:
        self._start_beat(run.beat)  # a run without one is not open
        for child in children_of(run.worker):
            # Of an earlier keeper of the same supervisor, which died.
            self._children.setdefault(child.pid, child)
        self._runs[run.paths.root, run.run_id] = run
        self._folders.add(run.worker.base)
        for child in self._children.values():
            run.record_child(child)
        return _OK

    def _start_beat(self, beat: Beat) -> None:
        beat.start()

    def _run(self, root: str, run_id: str) -> HeldRun:
        try:
            return self._runs[root, run_id]
        except KeyError:
            raise FuruError(f"run {run_id} is not open at {root}") from None

    def _close_run(
        self,
        root: str,
        run_id: str,
        how: runs.Ending = "cancelled",
        counts: dict[str, int] | None = None,
        at: float | None = None,
        keep: bool = True,
    ) -> Reply:
        run = self._runs.pop((root, run_id), None)
        if run is not None:
            failure = Failure(kind="cancelled", message="the run ended before it")
            self._end_run(run, failure, how, counts, at)
            if how == "ok" and not keep and run.generation:
                runs.remove_run(run.paths)
        return _OK

    def _close(self) -> Reply:
        self.closing = True
        for root, run_id in list(self._runs):
            self._close_run(root, run_id)
        return _OK

    def _end_run(
        self,
        run: HeldRun,
        failure: Failure | None,
        how: runs.Ending,
        counts: dict[str, int] | None = None,
        at: float | None = None,
    ) -> None:
        for key in run.held:
            self._holders.pop(key, None)
        if run.end(failure, how, counts, at):
            self._folders.discard(run.worker.base)

    # -- children --------------------------------------------------------------------------------------------

    def _child(self, label: str, pid: int, start_time: int, token: str) -> Reply:
        child = ChildRecord(pid=int(pid), start_time=int(start_time), token=str(token))
        self._children[child.pid] = child
        for run in self._runs.values():
            run.record_child(child)
        return _OK

    def _child_gone(self, pid: int) -> Reply:
        if self._children.pop(pid, None) is not None:
            for run in self._runs.values():
                run.forget_child(pid)
        return _OK

    # -- artifacts -------------------------------------------------------------------------------------------

    def _claim(self, root: str, run_id: str, name: str, hash: str) -> Reply:
        run = self._run(root, run_id)
        paths = ArtifactPaths(root, name, hash)
        for _ in range(_TRIES):
            seen = look(paths)
            if seen.verdict == "free":
                reply = claim(paths, seen.next_generation, run.card)
            elif run.has_unknown(paths, seen):
                reply = claim(paths, seen.generation, run.card)
            else:
                return _seen_reply(paths, seen)
            if reply.r == "claimed":
                return self._hold(run, paths, reply.generation, seen.notes)
            if reply.look is not None and reply.look.verdict != "free":
                return _seen_reply(paths, reply.look)
        return _error(f"{paths.base} changes hands all the time", errno.EAGAIN)

    def _disclaim(self, root: str, run_id: str, name: str, hash: str) -> Reply:
        run = self._runs.get((root, run_id))
        if run is not None:
            run.disclaim(ArtifactPaths(root, name, hash))
        return _OK

    def _hold(self, run: HeldRun, paths: ArtifactPaths, n: int, notes: list[str]) -> Reply:
        key = (paths.base, n)
        run.held[key] = paths
        self._holders[key] = run
        if n > 1:
            self._sweeper.add(paths, n)
        return {"r": "claimed", "n": n, "notes": notes} if notes else {"r": "claimed", "n": n}

    def _hold_on(self, root: str, run_id: str, name: str, hash: str, n: int) -> Reply:
        run = self._run(root, run_id)
        paths = ArtifactPaths(root, name, hash)
        run.held[paths.base, n] = paths
        self._holders[paths.base, n] = run
        return _OK

    def _takeover(
        self, root: str, run_id: str, name: str, hash: str, n: int, reason: str, *silent_at: bytes | None
    ) -> Reply:
        run = self._run(root, run_id)
        paths = ArtifactPaths(root, name, hash)
        seen = look(paths)
        if seen.verdict == "claimed" and seen.generation == n and seen.claim is not None:
            owner = seen.claim
            # Since it was judged, hours may have passed: in a queue, or with a store that cannot be written.
            if silent_at and is_back(root, owner.beat, silent_at[0]):
                return _seen_reply(paths, seen)
        else:
            owner = None
        # Whatever the durability: it is rare, and who was silent may live where this host's power does not matter.
        fence_synced = bool(silent_at)

        def end_owner() -> bool:
            return owner is not None and end_left_behind(root, owner, _END_SECONDS)

        reply: ClaimReply = takeover(paths, n, run.card, reason, run_id, end_owner, fence_synced)
        if reply.r == "claimed":
            return self._hold(run, paths, reply.generation, seen.notes)
        return _seen_reply(paths, reply.look or look(paths))

    def _publish(self, root: str, name: str, hash: str, n: int, end_json: bytes, power: bool) -> Reply:
        paths = ArtifactPaths(root, name, hash)
        end = _own_end(end_json, n, "success")
        return self._ended(paths, n, publish(paths, n, end, end_json, power))

    def _finish(self, root: str, name: str, hash: str, n: int, end_json: bytes) -> Reply:
        paths = ArtifactPaths(root, name, hash)
        return self._ended(paths, n, finish(paths, n, _own_end(end_json, n, "failure")))

    def _ended(self, paths: ArtifactPaths, n: int, reply: PublishReply) -> Reply:
        if reply.r == "broken":
            return {"r": "broken", "problems": reply.problems}
        key = (paths.base, n)
        run = self._holders.pop(key, None)
        if run is not None:
            run.held.pop(key, None)
        if reply.r == "published":
            return {"r": "published", "n": n}
        return {"r": "fenced", "n": n, "end": encode(reply.end) if reply.end is not None else b""}

    def _invalidate(self, root: str, name: str, hash: str, n: int, why: str, run_id: str) -> Reply:
        return {"r": "ok", "done": invalidate(ArtifactPaths(root, name, hash), n, why, run_id)}

    # -- the end ---------------------------------------------------------------------------------------------

    def supervisor_died(self) -> None:
        """Kill what it left, then end its open claims as lost.

        While some of it cannot be killed (it hangs in the kernel), the claims stay open: it may still be at work.
        """
        gone = end_children(list(self._children.values()))
        failure = Failure(kind="lost", message="its supervisor died") if gone else None
        for key in list(self._runs):
            self._end_run(self._runs.pop(key), failure, "lost")
        for folder in self._folders if gone else ():
            # Also of runs that ended in order: nobody comes across those again.
            runs.remove_spool(f"{folder}/spool")


def _error(text: str, number: int = 0) -> Reply:
    return {"r": "error", "errno": number, "path": "", "text": text}


def _seen_reply(paths: ArtifactPaths, seen: Look) -> Reply:
    """The answer to who cannot have the claim."""
    if seen.verdict == "published":
        return {"r": "published", "n": seen.generation}
    if seen.verdict == "damaged":
        # The folder is named by `path`; without it the reason is within the part of a message that is always shown.
        notes = "; ".join(seen.notes).replace(paths.base + "/", "")
        text = f"cannot be used before a person has looked at it: {notes}"
        return {"r": "error", "errno": errno.EUCLEAN, "path": paths.base, "text": text}
    reply: Reply = {"r": "taken", "n": seen.generation, "claim": encode(seen.claim) if seen.claim else b""}
    if seen.notes:
        reply["notes"] = seen.notes
    return reply


def _own_end(end_json: bytes, n: int, status: str) -> End:
    end = decode(End, end_json, "end")
    if end.generation != n or end.status != status:
        raise FuruError(f"an end of generation {end.generation} ({end.status}) was given for {n} ({status})")
    return end


def spawn(end: socket.socket, heartbeat: float) -> subprocess.Popen[bytes]:
    """Start a keeper for this process, which speaks on ``end`` (close it here afterwards). Blocking: some milliseconds.

    Raises:
        OSError: no process could be started.
    """
    import subprocess

    from furu_async._store.liveness import TOKEN_VARIABLE

    # No site packages and no user's start-up code: the two folders that it needs are named.
    boot = "import sys; sys.path[:0] = sys.argv[4:]; from furu_async._store.keeper_main import main; main()"
    here = os.path.abspath(__file__)
    for _ in range(3):
        here = os.path.dirname(here)
    folders = dict.fromkeys([here, os.path.dirname(os.path.dirname(os.path.abspath(msgspec.__file__)))])
    environment = {key: value for key, value in os.environ.items() if key != TOKEN_VARIABLE}
    return subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            boot,
            str(end.fileno()),
            str(os.getpid()),
            repr(heartbeat),
            *folders,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(end.fileno(),),
        start_new_session=True,
        env=environment,
    )
