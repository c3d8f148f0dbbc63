"""The test's side of the laboratory: controllers, what runs of theirs, and what they left in the store."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import failpoints

from furu_async._store.artifacts import read_success
from furu_async._store.layout import ArtifactPaths, number
from furu_async._store.manifest import verify_manifest

HERE = Path(__file__).resolve().parent
SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))
SESSION = "FURU_CHAOS_SESSION"
TRIAL = "FURU_CHAOS_TRIAL"
ENDS_WITHIN = 60.0 * max(1.0, SCALE)
"""Seconds after which whatever has not ended counts as endless."""


class Trouble(AssertionError):
    """Something that must never happen; ``kind`` is one of `tests.laboratory.HARMS`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


def until(condition: Callable[[], object], what: str, seconds: float = ENDS_WITHIN) -> None:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + seconds
    pause = 0.001
    while not condition():
        if time.monotonic() > deadline:
            raise Trouble("endless", f"waited {seconds:g} s in vain for {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


# -- processes -----------------------------------------------------------------------------------------------


def state(pid: int) -> str:
    """The letter that the kernel has for a process; empty if it is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    letter = stat[stat.rindex(b")") + 2 :].split()[0].decode()
    return "" if letter in "ZX" else letter


def carrying(name: str, value: str) -> dict[int, str]:
    """Living processes that started with this in their environment, and their command lines."""
    sought = f"{name}={value}".encode()
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if sought not in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                continue
            words = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if state(int(entry)):
            found[int(entry)] = words
    return found


def send(number: int, pids: Iterable[int]) -> None:
    """A signal to processes, of which some may be gone."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


class Controller:
    """A process that makes a call; what it said is in ``lines``.

    Attributes:
        marker: what the processes that it starts have in their environment as `TRIAL`.
    """

    def __init__(self, pid: int, end: socket.socket, marker: str, errors: Path, zygote: Zygote) -> None:
        self.pid = pid
        self.marker = marker
        self.lines: list[dict[str, Any]] = []
        self.errors = errors
        self._end = end
        self._zygote = zygote
        self._buffer = b""
        self._hung_up = False

    def say(self, **what: Any) -> None:
        """One line to a controller that listens."""
        self._end.sendall(json.dumps(what).encode() + b"\n")

    def hang_up(self) -> None:
        """There is nothing more to say."""
        self._end.shutdown(socket.SHUT_WR)

    def hear(self, seconds: float = 0.0) -> bool:
        """Take what it has said; False if there will be nothing more."""
        if self._hung_up:
            return False
        ready, _, _ = select.select([self._end], [], [], seconds)
        if ready:
            try:
                data = self._end.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            self._hung_up = not data
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            self.lines += map(json.loads, lines)
        return not self._hung_up

    def next_line(self, seconds: float = ENDS_WITHIN) -> dict[str, Any]:
        """The next line that was not taken by this yet."""
        deadline = time.monotonic() + seconds
        while not self.lines:
            left = deadline - time.monotonic()
            if left <= 0 or not self.hear(left):
                raise Trouble("endless", f"controller {self.pid} says nothing\n{self.story()}")
        return self.lines.pop(0)

    def saw(self, event: str) -> bool:
        """It has told of an event of this kind."""
        self.hear()
        return any(line.get("event") == event for line in self.lines)

    def answer(self, seconds: float = ENDS_WITHIN) -> dict[str, Any]:
        """How its call ended, which must be well, as its process must."""
        deadline = time.monotonic() + seconds
        while self.hear(max(0.0, deadline - time.monotonic())):
            if time.monotonic() > deadline:
                raise Trouble("endless", f"controller {self.pid} does not end\n{self.story()}")
        code = self._zygote.code(self.pid)
        answers = [line for line in self.lines if "ok" in line]
        if code != 0 or len(answers) != 1:
            raise Trouble("endless", f"controller {self.pid} ended with {code}\n{self.story()}")
        if not answers[0]["ok"]:
            raise Trouble("endless", f"a call failed: {answers[0]}\n{self.story()}")
        return answers[0]

    def family(self) -> dict[str, list[int]]:
        """Its keepers and children that live, by role, also where it is dead itself."""
        found: dict[str, list[int]] = {"keeper": [], "child": []}
        for pid, words in carrying(TRIAL, self.marker).items():
            if "keeper_main" in words:
                found["keeper"].append(pid)
            elif "_runner.child" in words:
                found["child"].append(pid)
        return {"controller": [self.pid] if state(self.pid) else [], **found}

    def story(self) -> str:
        """For the message of a failure."""
        told = self.errors.read_text(errors="replace")[-4000:] if self.errors.exists() else ""
        return f"it said: {self.lines[-12:]}\n{told}"

    def close(self) -> None:
        """End it and what it has started."""
        send(signal.SIGKILL, [self.pid] if state(self.pid) else [])
        send(signal.SIGKILL, carrying(TRIAL, self.marker))
        self._end.close()


class Zygote:
    """The test's side of `zygote.py`. May be used by several threads."""

    def __init__(self) -> None:
        self.session = uuid.uuid4().hex
        ours, theirs = socket.socketpair()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FURU_")}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py"), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            env={**environment, SESSION: self.session},
            cwd="/",
        )
        theirs.close()
        self._ours = ours
        self._ask = threading.Lock()
        self._heard = threading.Condition()
        self._pids: list[int] = []
        self._codes: dict[int, int] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._ours.makefile("rb") as file:
            for line in file:
                told = json.loads(line)
                with self._heard:
                    if "pid" in told:
                        self._pids.append(told["pid"])
                    else:
                        self._codes[told["ended"]] = told["code"]
                    self._heard.notify_all()

    def start(
        self, folder: Path, marker: str, env: dict[str, str] | None = None, **wanted: Any
    ) -> Controller:
        """Start a controller on the store ``folder/store``.

        Args:
            marker: of the trial, for its processes to be found by.
            env: variables for it and for what it starts.
            wanted: what `controller.main` is to do.
        """
        ours, theirs = socket.socketpair()
        variables = {
            "FURU_PATH": str(folder / "store"),
            "FURU_RECORD_GIT": "off",
            TRIAL: marker,
            failpoints.FOLDER: str(folder),
            **(env or {}),
        }
        errors = folder / f"errors-{uuid.uuid4().hex[:8]}"
        message = json.dumps({**wanted, "env": variables, "errors": str(errors)}).encode()
        with self._ask:
            socket.send_fds(self._ours, [message], [theirs.fileno()])
            with self._heard:
                if not self._heard.wait_for(lambda: self._pids, 30):
                    raise Trouble("endless", "the zygote does not answer")
                pid = self._pids.pop()
        theirs.close()
        return Controller(pid, ours, marker, errors, self)

    def code(self, pid: int, seconds: float = 10.0) -> int | None:
        """How a controller has ended, negative for a signal; None if it has not."""
        with self._heard:
            self._heard.wait_for(lambda: pid in self._codes, seconds)
            return self._codes.get(pid)

    def close(self) -> None:
        """End it; whatever it or anything of its kin has left running is an orphan.

        Raises:
            Trouble: there was one.
        """
        self._ours.shutdown(socket.SHUT_WR)
        self._process.wait(30)
        self._reader.join(5)
        self._ours.close()
        try:
            until(lambda: not carrying(SESSION, self.session), "the end of all processes", 10)
        except Trouble:
            left = carrying(SESSION, self.session)
            send(signal.SIGKILL, left)
            raise Trouble("orphans", f"at the end of the session there were still {left}") from None


class Hits:
    """The pipe in which a process says that it is at its point."""

    def __init__(self, folder: Path) -> None:
        path = folder / failpoints.HITS
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def ready(self) -> bool:
        """A process has come to the point."""
        return bool(select.select([self._fd], [], [], 0)[0])

    def wait(self) -> int | None:
        """The pid of the process that came to the point, stopped there; None if none has."""
        if not self.ready():
            return None
        pid = int(os.read(self._fd, 64))
        until(lambda: state(pid) in ("T", ""), f"{pid} to stop", 10)
        return pid

    def close(self) -> None:
        """Give the pipe up."""
        os.close(self._fd)


# -- what is left --------------------------------------------------------------------------------------------


class Note:
    """A line of a `_create`'s log.

    Attributes:
        at: when, on the clock that all processes of this machine share.
        what: ``begin`` or ``end``; ``meets``: it was about to begin while process ``pid`` was at the same artifact.
    """

    def __init__(self, line: str) -> None:
        at, self.what, self.key, generation, pid = line.split()
        self.at = float(at)
        self.generation = int(generation)
        self.pid = int(pid)

    def __repr__(self) -> str:
        return f"{self.what} of {self.key} generation {self.generation} by {self.pid} at {self.at:.3f}"


def notes(log: Path) -> list[Note]:
    """What every `_create` has noted."""
    return [Note(line) for line in log.read_text().splitlines()] if log.exists() else []


def begun(log: Path) -> list[tuple[str, int]]:
    """(key, generation) of every `_create` that began."""
    return [(one.key, one.generation) for one in notes(log) if one.what == "begin"]


def published(store: Path) -> dict[str, tuple[object, ...]]:
    """Folder of each artifact with a success -> what may never change of it: the end, its place, its files."""
    found: dict[str, tuple[object, ...]] = {}
    for path in store.glob("data/**/.furu/ends/*"):
        if not number(path.name):
            continue
        data = path.read_bytes()
        if json.loads(data)["status"] != "success":
            continue
        base = path.parents[2]
        files = sorted(
            (str(file), file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes())
            for file in (base / "attempts" / path.name).rglob("*")
            if file.is_file()
        )
        if str(base) in found:
            raise Trouble("doubles", f"{base} has two successes")
        found[str(base)] = (path.name, path.stat().st_ino, data, files)
    return found


def check_kept(before: dict[str, tuple[object, ...]], now: dict[str, tuple[object, ...]]) -> None:
    """What was published is the same."""
    for base, what in before.items():
        if now.get(base) != what:
            raise Trouble("lost", f"{base} was published as {what} and is now {now.get(base)}")


def check_runs(store: Path, workers: bool) -> None:
    """Every run has ended; with ``workers``, nothing is left of those who worked on it."""
    for run in (store / "runs").iterdir():
        if run.name == ".unfinished":
            left = [str(path) for path in run.rglob("*") if not path.is_dir()]
        else:
            claims, ends = (
                sorted(path.name for path in (run / kind).glob("*")) for kind in ("claims", "ends")
            )
            left = [] if claims == ends else [f"claims {claims}, ends {ends}"]
            left += [str(path) for path in (run / "workers").rglob("*")] if workers else []
        if left:
            raise Trouble("orphans", f"{run}: {left}")


def check_claims(store: Path) -> None:
    """No claim of an artifact is open."""
    for claim in store.glob("data/**/.furu/claims/*"):
        if not (claim.parents[1] / "ends" / claim.name).exists():
            raise Trouble("orphans", f"{claim} is open, and its owner is dead")


def check_store(store: Path, artifacts: int) -> None:
    """After everything has ended well: so many whole results, and nothing open, damaged or temporary."""
    bases = [path.parent for path in store.glob("data/**/.furu")]
    if len(bases) != artifacts:
        raise Trouble("torn", f"{len(bases)} artifacts are in the store, not {artifacts}")
    for base in bases:
        _check_artifact(store, base)


def _check_artifact(store: Path, base: Path) -> None:
    name = ".".join(base.relative_to(store / "data").parts[:-1])
    paths = ArtifactPaths(str(store), name, base.name)
    found = read_success(paths)
    if found is None:
        raise Trouble("torn", f"{base} has no result")
    generation, end = found
    problems = verify_manifest(paths, generation, end, checksums=True)
    if problems:
        raise Trouble("torn", f"{base}: {problems}")
    if not os.path.samefile(base / "SUCCESS.json", paths.end(generation)):
        raise Trouble("torn", f"{base}: the marker is not the end")
    claims, ends = (sorted(os.listdir(base / ".furu" / folder)) for folder in ("claims", "ends"))
    if claims != ends:
        raise Trouble("orphans", f"{base}: claims {claims}, ends {ends}")
    allowed = {".furu", "SUCCESS.json", "attempts", "checkpoints"}
    strange = [path for path in os.listdir(base) if path not in allowed]
    strange += [path for path in os.listdir(base / ".furu") if path not in ("claims", "ends")]
    strange += [path for path in ends if not number(path)]
    if (base / "attempts").exists():
        strange += [path for path in os.listdir(base / "attempts") if not number(path)]
    if strange:
        raise Trouble("orphans", f"{base}: {strange} should not be there")


def check_gone(markers: Iterable[str], seconds: float = 10.0) -> None:
    """Nothing of the trials with these markers runs any more."""
    for marker in markers:
        try:
            until(lambda marker=marker: not carrying(TRIAL, marker), "the end of all processes", seconds)  # type: ignore[misc]
        except Trouble:
            left = carrying(TRIAL, marker)
            send(signal.SIGKILL, left)
            raise Trouble("orphans", f"still there: {left}") from None
