"""FUSE mounts and processes on them, for tests; whatever happens, all of it is ended afterwards.

The test process itself never touches a mount: one that hangs would take pytest with it. What is to be looked at is
looked at in the folder that is mounted, and what runs on a mount is a process of its own (`mount_host.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
import pytest

HERE = Path(__file__).resolve().parent
SCALE = float(os.environ.get("FURU_TEST_SCALE", "1"))
MARK = "FURU_TEST_MOUNTS"
"""Environment variable of every process of a lab: the lab's folder."""
PACKAGES = "as root: apt-get install bindfs fuse3"
QUICK = {
    "FURU_LEASE_SECS": "3",
    "FURU_HEARTBEAT_SECS": "0.3",
    "FURU_HEARTBEAT_GRACE_SECS": "3",
    "FURU_POLL_INTERVAL_SECS": "1",
    "FURU_INFRA_SECS": "20",
}
"""Settings under which nobody waits for long."""


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Wait for a condition with a deadline; its value."""
    deadline = time.monotonic() + seconds * SCALE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds * SCALE:g} s for: {what}"
        time.sleep(0.01)
    return value


# -- what is needed ------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def what_is_missing() -> str:
    """Why nothing can be mounted here and what would change that; empty if it can."""
    for program in ("bindfs", "fusermount3", "setpriv"):
        if shutil.which(program) is None:
            return f"{program} is not installed ({PACKAGES})"
    if not os.path.exists("/dev/fuse"):
        return (
            "there is no /dev/fuse (as root: mknod /dev/fuse c 10 229; a container needs --device /dev/fuse)"
        )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be used by this user (run as root)"
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError) as error:
        return f"mfusepy cannot be imported: {error} (make env; {PACKAGES})"
    lab = Lab()
    try:
        lab.bind("try")
    except MountFailed as error:
        return f"mounting is not allowed here: {error} (a container needs --cap-add SYS_ADMIN --device /dev/fuse)"
    finally:
        lab.close()
    return ""


def require_mounts() -> None:
    """Skip where nothing can be mounted, with the reason; under `.ci/run` that is a failure."""
    missing = what_is_missing()
    if missing and os.environ.get("FURU_CI"):
        pytest.fail(f"FURU_CI is set, and {missing}", pytrace=False)
    if missing:
        pytest.skip(missing)


class MountFailed(Exception):
    """A mount did not come up."""


# -- mounts --------------------------------------------------------------------------------------------------


class Mount:
    """A folder that is mounted by a daemon of ours.

    Attributes:
        path: where it is mounted.
        daemon: the process that serves it.
    """

    def __init__(self, path: Path, command: list[str]) -> None:
        self.path = path
        path.mkdir()
        # The daemon ends with this process, however that ends.
        self.daemon: subprocess.Popen[str] = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + 20 * SCALE
        while not self.is_mounted():
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                text = self.unmount()
                raise MountFailed(f"{command[0]}: {text.strip()[-500:] or 'no mount came up'}")
            time.sleep(0.01)

    def is_mounted(self) -> bool:
        """Asks the kernel's table, not the mount."""
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            return any(line.split(" ")[4] == str(self.path) for line in table)

    def kill(self) -> None:
        """Kill the daemon: everything on the mount answers that it is not connected."""
        self.daemon.kill()
        self.daemon.wait(10)

    def stop(self) -> None:
        """Stop the daemon: everything on the mount hangs."""
        os.kill(self.daemon.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo `stop`."""
        os.kill(self.daemon.pid, signal.SIGCONT)

    def unmount(self) -> str:
        """End the daemon and the mount; what the daemon wrote. A second call does nothing."""
        if self.daemon.poll() is None:
            self.daemon.kill()  # whoever hangs on the mount gets an error now
        self.daemon.wait(10)
        command = ["fusermount3", "-u", "-z", str(self.path)]
        while self.is_mounted():
            subprocess.run(command, capture_output=True, check=False, timeout=20)
        text = ""
        if self.daemon.stderr is not None and not self.daemon.stderr.closed:
            text = self.daemon.stderr.read()
            self.daemon.stderr.close()
        return text


class LyingMount(Mount):
    """A mount that lies as it is told; see `lying_mount.py`."""

    def __init__(self, path: Path, real: Path, options: dict[str, Any]) -> None:
        self._socket = str(path) + ".socket"
        program = str(HERE / "lying_mount.py")
        super().__init__(
            path, [sys.executable, program, str(real), str(path), self._socket, json.dumps(options)]
        )

    def _ask(self, wanted: dict[str, Any]) -> list[int]:
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(20 * SCALE)
            end.connect(self._socket)
            with end.makefile("rw") as stream:
                stream.write(json.dumps(wanted) + "\n")
                stream.flush()
                met: list[int] = json.loads(stream.readline())
        return met

    def tell(self, *rules: dict[str, Any]) -> list[int]:
        """Lie by these rules from now on; how often each of those before was met."""
        return self._ask({"rules": rules})

    def met(self) -> list[int]:
        """How often each rule was met."""
        return self._ask({})


# -- processes -----------------------------------------------------------------------------------------------


class Host:
    """A process of `mount_host.py`; what it said is in ``lines``."""

    def __init__(self, host: str, root: Path, make: list[str], env: dict[str, str], wanted: Any) -> None:
        self.name = host
        self.lines: list[dict[str, Any]] = []
        order = {"host": host, "root": str(root), "make": make, **wanted}
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, str(HERE / "mount_host.py"), json.dumps(order)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **QUICK, **env},
            start_new_session=True,
            cwd="/",
        )
        self.errors: str = ""
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    @property
    def ends(self) -> list[dict[str, Any]]:
        """The lines that say how a run ended."""
        return [line for line in list(self.lines) if "ok" in line or "error" in line]

    def saw(self, text: str) -> bool:
        """It said a line with this in it."""
        return any(text in json.dumps(line) for line in list(self.lines))

    def finish(self, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Wait for the end of the process; how its runs ended."""
        try:
            code = self.process.wait(seconds * SCALE)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"host {self.name} did not end in {seconds * SCALE:g} s: {self.lines[-5:]} {self.errors[-2000:]}"
            ) from None
        for reader in self._readers:
            reader.join(5)
        assert code == 0, f"host {self.name} ended with {code}: {self.errors[-2000:]}"
        return self.ends

    def tree(self) -> list[psutil.Process]:
        """It, its keeper and its children, the keeper first."""
        try:
            top = psutil.Process(self.process.pid)
            below = top.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [*sorted(below, key=lambda p: "keeper_main" not in _words(p)), top]

    def send(self, number: int) -> None:
        """A signal to all of them: what happens to a host happens to all."""
        for process in self.tree():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                pass

    def kill(self) -> None:
        """It is gone, all of it, between two instructions."""
        tree = self.tree()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in tree:
                try:
                    process.send_signal(number)
                except psutil.NoSuchProcess:
                    pass
        self.process.wait(20)
        psutil.wait_procs(tree, timeout=20)

    def clean(self) -> None:
        """End it and what it started."""
        if self.process.poll() is None:
            self.kill()
        for reader in self._readers:
            reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


# -- all of it -----------------------------------------------------------------------------------------------


class Lab:
    """A store in a plain folder, its mounts, and the hosts on them.

    Attributes:
        folder: everything is in it; removed by `close`.
        real: the folder that is mounted.
        marks: for the marks of artifacts, on no mount.
    """

    def __init__(self) -> None:
        self.folder: Path = Path(tempfile.mkdtemp(prefix="furu-mounts-"))
        self.real: Path = self.folder / "real"
        self.marks: Path = self.folder / "marks"
        self.real.mkdir()
        self.marks.mkdir()
        self._mounts: list[Mount] = []
        self._hosts: list[Host] = []
        self._small = False

    def small(self, options: str) -> None:
        """Let what is mounted be a small file system of its own; skips where that is not allowed."""
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.real)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here (run as root): {done.stderr.strip()}")
        self._small = True

    def bind(self, name: str, seconds: float = 5.0) -> Mount:
        """Mount the store as a host sees it that remembers names and attributes for ``seconds``."""
        options = f"attr_timeout={seconds},entry_timeout={seconds},negative_timeout={seconds}"
        mount = Mount(
            self.folder / name, ["bindfs", "-f", "-o", options, str(self.real), str(self.folder / name)]
        )
        self._mounts.append(mount)
        return mount

    def lying(self, name: str = "m", **options: Any) -> LyingMount:
        """Mount the store with `lying_mount.py`; ``options`` are its."""
        mount = LyingMount(self.folder / name, self.real, options)
        self._mounts.append(mount)
        return mount

    def host(
        self, name: str, mount: Mount, *make: str, env: dict[str, str] | None = None, **wanted: Any
    ) -> Host:
        """Start a process that says it is host ``name``, with the store at a mount."""
        host = Host(name, mount.path, list(make), {**(env or {}), MARK: str(self.folder)}, wanted)
        self._hosts.append(host)
        return host

    def make(self, text: str) -> str:
        """An expression, with ``marks`` filled in."""
        return text.replace("MARKS", repr(str(self.marks)))

    def marked(self, prefix: str = "") -> list[str]:
        """The marks that begin so, without what makes each of them another."""
        return sorted(n.rsplit("-", 1)[0] for n in os.listdir(self.marks) if n.startswith(prefix))

    def left_over(self) -> list[str]:
        """Temporary files in the store, and claims without an end."""
        found = []
        for folder, _, names in os.walk(self.real / "data"):
            found += [
                f"{folder}/{name}" for name in names if name.startswith((".tmp-", ".marker-", ".fuse_hidden"))
            ]
            if folder.endswith("/claims"):
                ends = Path(folder).with_name("ends")
                found += [f"{folder}/{name}" for name in names if not (ends / name).exists()]
        return found

    def processes(self) -> list[psutil.Process]:
        """What still runs of all hosts, also keepers and children of those that have ended."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.folder):
                    found.append(process)
            except psutil.Error:
                pass
        return found

    def close(self) -> None:
        """End hosts, mounts and folder."""
        for mount in self._mounts:
            if mount.daemon.poll() is None:
                mount.daemon.kill()  # first: what hangs on a mount cannot be ended
        for host in self._hosts:
            host.clean()
        left = self.processes()
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(left, timeout=10)
        for mount in self._mounts:
            mount.unmount()
        if self._small:
            subprocess.run(["umount", "-l", str(self.real)], check=False)
        shutil.rmtree(self.folder)


@pytest.fixture
def mount_lab() -> Iterator[Lab]:
    """A `Lab`, closed after the test; skips where nothing can be mounted."""
    require_mounts()
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()
