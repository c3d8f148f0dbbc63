"""A cluster's life: its folder, its daemons, its state on disk, and its end."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.slurm import daemons
from tests.slurm.configure import (
    ONE_ADDRESS,
    Options,
    Place,
    address,
    find,
    free_ports,
    slurm_conf,
    slurmdbd_conf,
    why_not,
)
from tests.slurm.daemons import ClusterError, Daemon, tail, wait_for
from tests.slurm.verbs import Verbs

PLACES = (Path("/dev/shm"), Path("/tmp"))
ROOM = 400 << 20
DATABASE = (
    "--skip-networking",
    "--performance-schema=OFF",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-lock-wait-timeout=900",
    "--skip-log-bin",
)


class Cluster(Verbs):
    """A cluster in a folder: start, stop, and the verbs of `Verbs`.

    Starting takes seconds, so one cluster serves many tests; `Verbs.reset` puts it in order between them.

    Attributes:
        up: whether `start` has come to its end; the daemons may have been killed since.
    """

    def __init__(self, folder: Path, options: Options | None = None) -> None:
        self.folder: Path = folder.resolve()
        self.options: Options = options or Options()
        self.place: Place = Place(self.folder, "", 0, 0, ())
        self.daemons: dict[str, Daemon] = {}
        self.changed: dict[str, object] = {}
        self.up: bool = False
        self._starter: Daemon | None = None

    @classmethod
    def attach(cls, folder: Path) -> Cluster:
        """The cluster that another process started in this folder.

        Raises:
            ClusterError: none was started there.
        """
        path = folder.resolve() / "state.json"
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ClusterError(f"no cluster was started in {folder}") from None
        if not isinstance(state, dict) or not {"name", "boot", "starter", "processes"} <= state.keys():
            raise ClusterError(f"{path} is not a cluster's")
        self = cls(folder, Options.of(state["options"]))
        ports = state["ports"]
        self.place = Place(
            self.folder, state["name"], ports["slurmctld"], ports["slurmdbd"], tuple(ports["slurmd"])
        )
        if state["boot"] == _boot():
            self.daemons = {name: Daemon(*pair) for name, pair in state["processes"].items()}
            self._starter = Daemon(*state["starter"])
        self.up = state["up"]
        return self

    # -- start and stop

    def start(self) -> None:
        """Start all daemons; return when every node is idle.

        Raises:
            ClusterError: it cannot be started; nothing of it is left then.
        """
        if (reason := why_not(self.options.accounting)) is not None:
            raise ClusterError(reason)
        for attempt in range(3):
            self._claim()
            try:
                self._start()
            except BaseException as error:
                self.stop()
                if attempt < 2 and isinstance(error, ClusterError) and "ddress already in use" in str(error):
                    continue
                raise
            return

    def being_started(self) -> bool:
        """Whether another process, which still lives, is starting it."""
        return not self.up and self._starter is not None and self._starter.alive()

    def _claim(self) -> None:
        """Make the folder, or take an empty one; choose name and ports."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if self.folder.stat().st_uid != os.geteuid() or any(self.folder.iterdir()):
            raise ClusterError(f"{self.folder} belongs to somebody else or is not empty")
        self.folder.chmod(0o755)
        ctld, dbd, *nodes = free_ports(2 + self.options.nodes)
        self.place = Place(self.folder, f"furu{secrets.token_hex(4)}", ctld, dbd, tuple(nodes))
        self.daemons = {}
        self._save()

    def _start(self) -> None:
        for name in ("etc", "munge", "database", "ctld", "spool", "log"):
            (self.folder / name).mkdir(mode=0o755)
        for node in self.options.names:
            (self.folder / "spool" / node).mkdir(mode=0o755)
        self.configure()
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for path in (key, key.parent):
            shutil.chown(path, "munge", "munge")
        self.launch("munged")
        if self.options.accounting:
            self._start_accounting()
        self.launch("slurmctld")
        for node in self.options.names:
            self.launch(node, wait=False)
        for node in self.options.names:
            self._wait_ready(node)
        self.wait_idle()
        self.up = True
        self._save()

    def _start_accounting(self) -> None:
        data = self.folder / "database"
        temp = self._database_temp
        temp.mkdir(exist_ok=True)
        shutil.chown(data, "mysql", "mysql")
        shutil.chown(temp, "mysql", "mysql")
        command = [
            str(find("mariadb-install-db")),
            "--no-defaults",
            "--user=mysql",
            f"--datadir={data / 'files'}",
            f"--tmpdir={temp}",
            "--skip-test-db",
            "--auth-root-authentication-method=socket",
            "--auth-root-socket-user=root",
            *DATABASE,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=data)
        if done.returncode:
            raise ClusterError(f"mariadb-install-db failed:\n{done.stdout}\n{done.stderr}")
        self.launch("mariadbd")
        self.launch("slurmdbd")
        self.run("sacctmgr", "-i", "add", "cluster", self.place.name)
        self.run("sacctmgr", "-i", "add", "account", "tests", f"cluster={self.place.name}")
        self.run("sacctmgr", "-i", "add", "user", "root", "account=tests", f"cluster={self.place.name}")

    @property
    def _database_temp(self) -> Path:
        """A server that starts removes the temporary tables that it finds, so each needs a folder of its own."""
        return self.folder / "database" / "temp"

    def stop(self, keep_files: bool = False) -> None:
        """End every process of the cluster, its jobs' included, by SIGKILL; remove the folder.

        Works whatever state the cluster is in, and does nothing where there is none.
        """
        marks = [(daemons.MARK, str(self.folder))]
        if self.place.name:
            marks.append(("SLURM_CLUSTER_NAME", self.place.name))
        daemons.end(self.daemons.values())
        while found := daemons.with_environment(marks):
            daemons.end(found)
        self.daemons, self.up = {}, False
        if self.place.name and not keep_files:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- single daemons

    def launch(self, name: str, wait: bool = True) -> None:
        """Start a daemon (munged, mariadbd, slurmdbd, slurmctld, or the slurmd of a node) that does not run.

        Raises:
            ClusterError: it ended, or did not become ready; with the end of its log.
        """
        if name in self.daemons and self.daemons[name].alive():
            raise ClusterError(f"{name} runs already")
        user = {"munged": "munge", "mariadbd": "mysql"}.get(name)
        self._output(name).touch()
        if user:
            shutil.chown(self._output(name), user, user)
        environment = self.environment() | {
            "SLURM_CONF": str(self.place.daemons_conf),
            "MYSQL_UNIX_PORT": str(self.place.database_socket),
        }
        self.daemons[name] = daemons.start(
            self._command(name), self.folder, self._output(name), environment, user
        )
        self._save()
        if wait:
            self._wait_ready(name)

    def _command(self, name: str) -> list[str]:
        munge, database = self.folder / "munge", self.folder / "database"
        if name == "munged":
            files = {
                "key-file": "key",
                "log-file": "log",
                "pid-file": "pid",
                "seed-file": "seed",
                "socket": "socket",
            }
            return [str(find("munged")), "-F", *(f"--{key}={munge / value}" for key, value in files.items())]
        if name == "mariadbd":
            paths = (
                f"--datadir={database / 'files'}",
                f"--socket={database / 'socket'}",
                f"--pid-file={database / 'pid'}",
            )
            temp = f"--tmpdir={self._database_temp}"
            return [str(find("mariadbd")), "--no-defaults", temp, *paths, *DATABASE]
        if name in ("slurmctld", "slurmdbd"):
            return [str(find(name)), "-D"]
        return [str(find("slurmd")), "-D", "-N", name]

    def _output(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.out"

    def _wait_ready(self, name: str) -> None:
        daemon = self.daemons[name]

        def ready() -> bool:
            if not daemon.alive():
                raise ClusterError(f"{name} has ended; the end of its log:\n{self.log_of(name)}")
            return self._is_ready(name)

        wait_for(ready, 30, lambda: f"{name} to be ready; the end of its log:\n{self.log_of(name)}")

    def _is_ready(self, name: str) -> bool:
        if name == "munged":
            return _accepts(self.place.munge_socket)
        if name == "mariadbd":
            return _accepts(self.place.database_socket)
        if name == "slurmdbd":
            return _accepts(self.place.dbd_port)
        if name == "slurmctld":
            return self.run("scontrol", "ping", check=False).returncode == 0
        return _accepts(self.place.node_ports[self.options.names.index(name)])

    def log_of(self, name: str, lines: int = 20) -> str:
        """The end of what a daemon has written."""
        paths = (self.folder / "log" / f"{name}.log", self._output(name), self.folder / "munge" / "log")
        wanted = paths if name == "munged" else paths[:2]
        return "\n".join(tail(path, lines) for path in wanted if path.exists())

    # -- configuration and state

    def configure(self, **changed: object) -> set[str]:
        """Write slurm.conf with these settings replaced.

        Returns:
            The settings that are other than in the file before; the daemons do not notice by themselves.
        """
        text = slurm_conf(self.place, self.options, changed)
        before = self.place.conf.read_text(encoding="utf-8") if self.place.conf.exists() else text
        accounting = self.place.daemons_conf.with_name("slurmdbd.conf")
        accounting.parent.mkdir(parents=True, exist_ok=True)
        _write(self.place.conf, text)
        _write(self.place.daemons_conf, text + ONE_ADDRESS)
        _write(
            self.place.prolog,
            f"#!/bin/sh\necho export SLURM_CONF={shlex.quote(str(self.place.conf))}\n",
            mode=0o755,
        )
        if self.options.accounting:
            _write(accounting, slurmdbd_conf(self.place), mode=0o600)
        self.changed = changed
        different = set(text.splitlines()) ^ set(before.splitlines())
        return {line.partition("=")[0] for line in different}

    def environment(self, **settings: object) -> dict[str, str]:
        """The environment for Slurm's commands: this one's without SLURM_..., with the cluster's SLURM_CONF.

        Args:
            settings: settings of slurm.conf that only the command sees, such as ``MessageTimeout=2``.
        """
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SALLOC_", "SRUN_"))
        }
        conf = self.place.conf
        if settings:
            text = slurm_conf(self.place, self.options, settings)
            conf = conf.parent / f"client-{abs(hash(text)):x}" / "slurm.conf"
            conf.parent.mkdir(exist_ok=True)
            conf.write_text(text, encoding="utf-8")
        return {
            **kept,
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            "SLURM_CONF": str(conf),
        }

    def _save(self) -> None:
        state: dict[str, Any] = {
            "name": self.place.name,
            "up": self.up,
            "boot": _boot(),
            "starter": dataclasses.astuple(Daemon.of(os.getpid()) or Daemon(0, 0)),
            "processes": {name: dataclasses.astuple(each) for name, each in self.daemons.items()},
            "ports": {
                "slurmctld": self.place.ctld_port,
                "slurmdbd": self.place.dbd_port,
                "slurmd": self.place.node_ports,
            },
            "options": dataclasses.asdict(self.options),
        }
        _write(self.folder / "state.json", json.dumps(state, indent=1))


def room() -> Path:
    """Where clusters' folders go: in memory if there is room, as the database is several times faster there."""
    for place in PLACES:
        if place.is_dir() and os.access(place, os.W_OK) and shutil.disk_usage(place).free > ROOM:
            return place
    return PLACES[-1]


def guard(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that ends the cluster as soon as this process is gone, however it goes.

    Close the `stdin` of what is returned, and wait for it, to have the same at once.
    """
    command = [
        sys.executable,
        str(Path(__file__).resolve().with_name("cluster.py")),
        "down",
        "--folder",
        str(folder),
        "--when-alone",
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.touch()
    fresh.chmod(mode)
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _accepts(where: Path | int) -> bool:
    """Whether somebody listens on this socket or port."""
    family = socket.AF_INET if isinstance(where, int) else socket.AF_UNIX
    with socket.socket(family) as probe:
        probe.settimeout(5)
        try:
            probe.connect((address(), where) if isinstance(where, int) else str(where))
        except OSError:
            return False
    return True
