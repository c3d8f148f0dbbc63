"""What a simulated cluster is watched for: every ``_create`` and every end, with the true time, and what must be so."""

from __future__ import annotations

import contextvars
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tests.sim.children import Attempt
from tests.sim.processes import ClusterLoop, Process, here

from furu_async._model.artifact import class_info
from furu_async._store import artifacts, fs
from furu_async._store.layout import ArtifactPaths
from furu_async._store.look import Look
from furu_async._store.manifest import missing_files
from furu_async._store.marker import read_marker
from furu_async._store.records import Claim, Damaged, End, decode

_GRAINED = (
    "link",
    "rename",
    "replace",
    "unlink",
    "mkdir",
    "rmdir",
    "open",
    "listdir",
    "stat",
    "lstat",
    "pwrite",
)
_SLACK = 0.97


class Broken(AssertionError):
    """A promise was broken.

    Attributes:
        harm: which of `tests.laboratory.HARMS`.
    """

    def __init__(self, harm: str, text: str) -> None:
        super().__init__(f"{harm}: {text}")
        self.harm = harm


def path_of(root: str, obj: Any) -> ArtifactPaths:
    """An artifact's place in the store."""
    return ArtifactPaths(root, class_info(type(obj)).name, obj.furu_hash)


def truth(call: Callable[..., Any], *args: Any) -> Any:
    """Make a call as nobody's process: no fault, no waiting, the server's view."""
    return contextvars.Context().run(call, *args)


class Lost:
    """An end that somebody else wrote.

    Attributes:
        silent: seconds since the last beat of the owner in which the other one was not paused.
        dead: the owner's process was dead.
    """

    def __init__(self, silent: float, dead: bool) -> None:
        self.silent = silent
        self.dead = dead


class Watch:
    """See the module.

    Args:
        lease, longest: shortest and longest silence after which an owner may be taken for lost.
        durable: what a controller was told is published survives the crash of a host.
    """

    def __init__(self, loop: ClusterLoop, root: str, lease: float, longest: float, durable: bool) -> None:
        self.longest = longest * 1.02
        self.durable = durable
        self.on_attempt: Callable[[Attempt], None] = lambda _: None
        self.sure = False
        self.tails_lost = False
        self.records_lost = False
        self.told: set[str] = set()
        self.loop = loop
        self.root = root
        self.lease = lease
        self.broken: Broken | None = None
        self.trace: list[tuple[Any, ...]] = []
        self.written = hashlib.sha256()
        self.running: dict[str, list[Attempt]] = defaultdict(list)
        self.attempts = 0
        self.overlaps = 0
        self.lost: dict[tuple[str, int], Lost] = {}
        self.ends: dict[tuple[str, int], tuple[str, str]] = {}
        self.places: dict[tuple[str, int], str] = {}
        self.gone: dict[tuple[str, int], tuple[str, str]] = {}
        self.published: dict[str, str] = {}
        self.beats: dict[str, float] = {}
        self.owners: dict[tuple[str, str, int, int], Process] = {}

    def break_(self, harm: str, text: str) -> None:
        """Remember the first broken promise; raised at the end, for the caller may be in the middle of anything."""
        self.trace.append((round(self.loop.now, 6), "BROKEN", harm, text))
        if self.broken is None:
            self.broken = Broken(harm, text)

    def say(self, *what: Any) -> None:
        """One more line of the trace."""
        process = here.get()
        self.trace.append((round(self.loop.now, 6), repr(process) if process else "", *what))

    # -- _create ---------------------------------------------------------------------------------------------

    def begun(self, attempt: Attempt) -> str:
        """A ``_create`` begins; gives what is wrong with its inputs, where a crash may have taken them."""
        self.attempts += 1
        truth(self.on_attempt, attempt)
        self.say("begins", attempt.obj.number, attempt.generation)
        others = [one for one in self.running[attempt.hash] if one.ended is None]
        for other in others:
            self.overlaps += 1
            self._check_overlap(*sorted((attempt, other), key=lambda each: each.generation))
        self.running[attempt.hash] = [*others, attempt]
        for dep in attempt.obj.inputs:
            problem = truth(self._unusable, dep)
            if problem and not self.tails_lost:
                self.break_("torn", f"{attempt.obj!r} was begun, and its input {dep!r} {problem}")
            if problem:
                return f"its input {dep!r} {problem}"
        return ""

    def _check_overlap(self, older: Attempt, newer: Attempt) -> None:
        lost = self.lost.get((older.hash, older.generation))
        apart = older.generation != newer.generation
        if apart and lost is not None and (lost.dead or lost.silent >= self.lease * _SLACK):
            return
        how = "had not ended" if lost is None else f"had been silent for {lost.silent:g} s only"
        text = f"{older.obj!r} generations {older.generation} and {newer.generation} run at the same time"
        self.break_("doubles", f"{text}; the first one's owner {older.owner!r} {how}")

    def ended(self, attempt: Attempt) -> None:
        """A ``_create`` has ended, or was killed."""
        self.say("ends", attempt.obj.number, attempt.generation, attempt.child.dead)

    def _unusable(self, obj: Any) -> str:
        paths = path_of(self.root, obj)
        found: Look = artifacts.look(paths)
        if found.verdict != "published" or found.end is None:
            return f"is {found.verdict}"
        missing = missing_files(paths.attempt(found.generation), found.end.manifest)
        return f"has no {missing[0]}" if missing else ""

    # -- ends ------------------------------------------------------------------------------------------------

    def on_end(self, path: str, taker: Process | None) -> None:
        """A file in ``ends/`` may be new; ``taker``: the process that wrote it."""
        base, _, rest = path.partition("/.furu/ends/")
        if not rest.isdigit() or "/data/" not in path:
            return
        key = base[-32:], int(rest)
        if not os.path.exists(path):
            return
        end = decode(End, _read(path), path)
        if key in self.ends:
            if self.ends[key] != (end.token, end.status):
                self.break_("doubles", f"{path} was there, and now says something else: {end.status}")
            return
        self.ends[key] = end.token, end.status
        self.places[key] = path
        kind = end.failure.kind if end.failure is not None else ""
        self.say("end", key[0][:6], key[1], end.status, kind)
        gone = self.gone.pop(key, None)
        if gone == (end.token, end.status) and end.status == "success":
            self._put_back(key, path, end)
            return
        claim = self._claim(f"{base}/.furu/claims/{rest}")
        if end.status == "failure":
            if claim is None or claim.token != end.token:
                self.lost[key] = self._how_lost(claim, taker)
                if self.sure and claim is not None and not self.lost[key].dead and self._healthy(claim):
                    self.break_("doubles", f"{path}: its owner was replaced, and nothing had happened to it")
            return
        if claim is not None and claim.token != end.token:
            self.break_("doubles", f"{path} is a success of who did not hold the claim")
        before = self.published.get(key[0])
        if before is not None:
            self.break_("doubles", f"{path}: published already as {before}")
        if before is None or int(rest) > int(before.rpartition("/")[2]):
            self.published[key[0]] = path
        problems = missing_files(f"{base}/attempts/{rest}", end.manifest)
        if problems:
            self.break_("torn", f"{path} was published: {problems}")

    def _put_back(self, key: tuple[str, int], path: str, end: End) -> None:
        """A success that a crash had taken was written again, from its marker; whoever had made it anew is fenced."""
        if not missing_files(path.replace("/.furu/ends/", "/attempts/"), end.manifest):
            self.published[key[0]] = path

    def _claim(self, path: str) -> Claim | None:
        try:
            return decode(Claim, _read(path), path)
        except (OSError, Damaged):
            return None

    def owner_of(self, claim: Claim) -> Process | None:
        """The controller that a claim names."""
        owner = claim.owner
        return self.owners.get((owner.host, owner.boot_id, owner.pid, owner.start_time))

    def _how_lost(self, claim: Claim | None, taker: Process | None) -> Lost:
        if claim is None:
            return Lost(1e9, True)
        process = self.owner_of(claim)
        last, now = self.beats.get(f"{self.root}/{claim.beat}", -1e9), self.loop.now
        observer = taker.supervisor if taker is not None else None
        pauses = observer.pauses if observer is not None else []
        # Who was away for less than half a lease may go on with what it had seen.
        long = [(begin, end) for begin, end in pauses if min(end, now) - begin > self.longest / 2]
        asleep = sum(max(0.0, min(end, now) - max(begin, last)) for begin, end in long)
        return Lost(now - last - asleep, process is None or process.dead)

    def _healthy(self, claim: Claim) -> bool:
        """Nothing had happened to a living owner, its keepers or its host that could have kept its beat away."""
        owner = self.owner_of(claim)
        assert owner is not None
        since = self.loop.now - 4 * self.lease
        keepers = [one for one in self.loop.processes if one.supervisor is owner and one.kind == "keeper"]
        spans = [*owner.host.hangs, *owner.pauses]
        spans += [span for keeper in keepers for span in keeper.pauses]
        return all(end < since for _, end in spans) and not any(since < one.died_at < 1e9 for one in keepers)

    def bereaved(self, keeper: Process) -> None:
        """A keeper has done what it does after its supervisor's death: nothing of that is left."""
        for child in keeper.host.processes.values():
            mine = child.kind == "child" and child.supervisor is keeper.supervisor and not child.dead
            if mine and child.born < self.loop.now - 5.0:
                self.break_("orphans", f"{child!r} outlived its controller, whose {keeper!r} has ended")

    def beaten(self, path: str) -> None:
        """A beat was written."""
        self.beats[path] = self.loop.now

    # -- the store as a whole --------------------------------------------------------------------------------

    def crashed(self) -> None:
        """A host has crashed: what it had not synced may be gone, but nothing that a controller was told."""
        self.records_lost = True  # of failures, which nobody syncs
        self.tails_lost = self.tails_lost or not self.durable
        for digest, path in list(self.published.items()):
            try:
                end = decode(End, _read(path), path)
                missing = missing_files(path.replace("/.furu/ends/", "/attempts/"), end.manifest)
            except (OSError, Damaged) as error:
                missing = [str(error)]
            if missing:
                if self.durable and digest in self.told:
                    self.break_("lost", f"{path} was published, a host crashed, and {missing[0]}")
                del self.published[digest]
        gone = [key for key in self.ends if not self._is_there(key)]
        self.gone.update((key, self.ends.pop(key)) for key in gone)

    def _is_there(self, key: tuple[str, int]) -> bool:
        try:
            decode(End, _read(self.places[key]), self.places[key])
        except (OSError, Damaged):
            return False
        return True

    def check_store(self, items: list[Any]) -> None:
        """Published stays published and whole; every record can be read (or was cut by a crash)."""
        tails_lost = self.tails_lost
        for obj in items:
            paths = path_of(self.root, obj)
            if obj.furu_hash in self.published:
                problem = self._unusable(obj)
                if problem:
                    self.break_("lost", f"{obj!r} was published, and {problem}")
            marked = self._marked(paths, tails_lost)
            if marked is not None and not tails_lost:
                missing = missing_files(paths.attempt(marked.generation), marked.manifest)
                if missing:
                    self.break_("torn", f"{paths.marker} is there, and {missing}")
            if not self.records_lost:
                self._check_records(paths)

    def _marked(self, paths: ArtifactPaths, tails_lost: bool) -> End | None:
        try:
            return read_marker(paths)
        except Damaged as error:
            if not tails_lost:
                self.break_("torn", str(error))
            return None

    def _check_records(self, paths: ArtifactPaths) -> None:
        for folder, kind in ((paths.claims, Claim), (paths.ends, End)):
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
                if name.isdigit():
                    try:
                        decode(kind, _read(f"{folder}/{name}"), f"{folder}/{name}")
                    except Damaged as error:
                        self.break_("torn", str(error))

    # -- the seam --------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Let others in between operations on the store, and see every end when it is linked."""
        for name in fs.NAMES:
            setattr(fs, name, self._wrap(name, getattr(fs, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        operation = self.loop.operation
        if name in ("link", "rename", "replace"):

            def link(source: Any, target: Any, **options: Any) -> Any:
                operation()
                try:
                    return real(source, target, **options)
                finally:
                    if "/.furu/ends/" in target:
                        truth(self.on_end, target, here.get())

            return link
        if name == "listdir":

            def listdir(path: Any) -> Any:
                operation()
                return sorted(real(path))

            return listdir
        if name == "close":

            def close(fd: int) -> None:
                process = here.get()
                if process is not None and process.dead:
                    os.close(fd)  # as the kernel does
                else:
                    real(fd)

            return close
        if name in ("write", "pwrite"):
            real = self._noting(real)
        if name not in _GRAINED:
            alive = self.loop.alive

            def short(*args: Any, **options: Any) -> Any:
                alive()
                return real(*args, **options)

            return short

        def grained(*args: Any, **options: Any) -> Any:
            operation()
            return real(*args, **options)

        return grained

    def _noting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Every written byte enters the digest: what is not a function of the seed is found where it begins."""
        root = self.root.encode()

        def write(fd: int, data: Any, *args: Any) -> Any:
            self.written.update(bytes(data).replace(root, b""))
            return real(fd, data, *args)

        return write


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
