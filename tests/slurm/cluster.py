"""A Slurm cluster of one's own on one host, for tests: real daemons in a folder, on the loopback interface.

    python tests/slurm/cluster.py up [--folder F] [--nodes 3] [--cpus 4] [--no-accounting] ...
    python tests/slurm/cluster.py status | env | down [--folder F]

Needs root's rights and the packages that `missing` names. It starts a munged, a MariaDB and a slurmdbd of its own
(unless without accounting), one slurmctld, and one slurmd per node. No service of the system is touched, and several
clusters in different folders do not meet. What is known of a started one is in its ``state.json``, so another process
can use it or end it, also when the one that started it was killed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.slurm import daemons
from tests.slurm.configure import (
    Options,
    Place,
    find,
    free_ports,
    missing,
    slurm_conf,
    slurmdbd_conf,
    why_not,
)
from tests.slurm.daemons import ClusterError, Daemon, tail, wait_for
from tests.slurm.verbs import Verbs

__all__ = ["Cluster", "ClusterError", "Options", "missing", "why_not"]

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
        except FileNotFoundError:
            raise ClusterError(f"no cluster was started in {folder}") from None
        known = {each.name for each in dataclasses.fields(Options)}
        options = {key: tuple(v) if isinstance(v, list) else v for key, v in state["options"].items() if key in known}
        self = cls(folder, Options(**options))
        ports = state["ports"]
        self.place = Place(self.folder, state["name"], ports["slurmctld"], ports["slurmdbd"], tuple(ports["slurmd"]))
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
        self.folder.chmod(0o755)
        if self.folder.stat().st_uid != os.geteuid() or any(self.folder.iterdir()):
            raise ClusterError(f"{self.folder} belongs to somebody else or is not empty")
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
        configuration = self.place.conf.with_name("slurmdbd.conf")
        configuration.write_text(slurmdbd_conf(self.place), encoding="utf-8")
        configuration.chmod(0o600)
        data = self.folder / "database"
        shutil.chown(data, "mysql", "mysql")
        command = [
            str(find("mariadb-install-db")),
            "--no-defaults",
            "--user=mysql",
            f"--datadir={data / 'files'}",
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
        if not keep_files:
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
        self.daemons[name] = daemons.start(
            self._command(name), self.folder, self._output(name), self.environment(), user
        )
        self._save()
        if wait:
            self._wait_ready(name)

    def _command(self, name: str) -> list[str]:
        munge, database = self.folder / "munge", self.folder / "database"
        if name == "munged":
            files = {"key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed", "socket": "socket"}
            return [str(find("munged")), "-F", *(f"--{key}={munge / value}" for key, value in files.items())]
        if name == "mariadbd":
            paths = f"--datadir={database / 'files'}", f"--socket={database / 'socket'}", f"--pid-file={database / 'pid'}"
            return [str(find("mariadbd")), "--no-defaults", *paths, *DATABASE]
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
        fresh = self.place.conf.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.place.conf)
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
            "MYSQL_UNIX_PORT": str(self.place.database_socket),
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
        fresh = self.folder / "state.new"
        fresh.write_text(json.dumps(state, indent=1), encoding="utf-8")
        fresh.replace(self.folder / "state.json")


def room() -> Path:
    """Where clusters' folders go: in memory if there is room, as the database is several times faster there."""
    for place in PLACES:
        if place.is_dir() and os.access(place, os.W_OK) and shutil.disk_usage(place).free > ROOM:
            return place
    return PLACES[-1]


def default_folder() -> Path:
    """The folder of the cluster that the command line means: that of the one that is there, else a new one."""
    there = [place / "furu-slurm" for place in PLACES if (place / "furu-slurm" / "state.json").exists()]
    return there[0] if there else room() / "furu-slurm"


def guard(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that ends the cluster as soon as this process is gone, however it goes.

    Close the `stdin` of what is returned, and wait for it, to have the same at once.
    """
    command = [sys.executable, str(Path(__file__).resolve()), "down", "--folder", str(folder), "--when-alone"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _accepts(where: Path | int) -> bool:
    """Whether somebody listens on this socket or port."""
    family = socket.AF_INET if isinstance(where, int) else socket.AF_UNIX
    with socket.socket(family) as probe:
        probe.settimeout(5)
        try:
            probe.connect(("127.0.0.1", where) if isinstance(where, int) else str(where))
        except OSError:
            return False
    return True


def _up(folder: Path, options: Options) -> int:
    try:
        found = Cluster.attach(folder)
    except ClusterError:
        pass
    else:
        if found.up and all(each.alive() for each in found.daemons.values()):
            print(f"the cluster in {folder} is up already")
            return 0
        if found.being_started():
            print(f"the cluster in {folder} is being started by another process")
            return 1
        print(f"taking down what is left of a cluster in {folder}")
        found.stop()
    began = time.monotonic()
    cluster = Cluster(folder, options)
    cluster.start()
    print(f"{options.nodes} nodes in {time.monotonic() - began:.1f} s; for Slurm's commands:")
    return _env(cluster)


def _env(cluster: Cluster) -> int:
    print(f"export SLURM_CONF={shlex.quote(str(cluster.place.conf))}")
    return 0


def _status(cluster: Cluster) -> int:
    for name, daemon in cluster.daemons.items():
        state = "stopped" if daemon.stopped() else "up" if daemon.alive() else "gone"
        print(f"{name:<10} {daemon.pid:>8} {state}")
    good = cluster.up and all(each.alive() for each in cluster.daemons.values())
    if good:
        print(cluster.run("sinfo", "-N", check=False).stdout, end="")
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A Slurm cluster of one's own, for tests.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    helps = {
        "up": "start it",
        "down": "end all its processes and remove its folder",
        "status": "what runs; exit code 0 if all of it does",
        "env": "what to export for Slurm's commands",
        "missing": "the Debian packages that are not installed",
    }
    for verb, text in helps.items():
        one = verbs.add_parser(verb, help=text)
        one.add_argument("--folder", type=Path, default=default_folder(), help="default: %(default)s")
        if verb == "down":
            one.add_argument("--when-alone", action="store_true", help="wait for the end of standard input first")
        if verb == "up":
            for each in dataclasses.fields(Options):
                flag = f"--{each.name.replace('_', '-')}"
                if each.name == "accounting":
                    one.add_argument(flag, action=argparse.BooleanOptionalAction, default=each.default)
                elif isinstance(each.default, tuple):
                    one.add_argument(flag, nargs="*", default=each.default)
                else:
                    one.add_argument(flag, type=type(each.default), default=each.default)
    return parser


def main(words: list[str] | None = None) -> int:
    """Carry out one verb of the command line; 1 with a message if it cannot be done."""
    given = _parser().parse_args(words)
    try:
        if given.verb == "missing":
            print(" ".join(missing()))
            return 0
        if given.verb == "up":
            values = {each.name: getattr(given, each.name) for each in dataclasses.fields(Options)}
            return _up(given.folder, Options(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}))
        if given.verb == "down":
            if given.when_alone:
                sys.stdin.buffer.read()
            return _down(given.folder)
        cluster = Cluster.attach(given.folder)
        return _env(cluster) if given.verb == "env" else _status(cluster)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1


def _down(folder: Path) -> int:
    try:
        cluster = Cluster.attach(folder)
    except ClusterError as error:
        print(error)
        return 0
    cluster.stop()
    print(f"the cluster in {folder} is gone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
