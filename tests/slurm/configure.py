"""What a test cluster consists of: its options, its ports, the text of its configuration files, what must be installed.

A cluster is a folder. Everything it owns is in there, so several clusters and a system's own Slurm do not meet::

    state.json           processes with their start times, ports, options
    etc/slurm.conf       for Slurm's commands; etc/client-*/ are variants for single commands
    etc/daemons/         the same for the daemons, which bind to one address only; slurmdbd.conf
    munge/               key, socket, log of its own munged
    database/            MariaDB's files and its socket
    ctld/                StateSaveLocation of slurmctld
    spool/<node>/        spool folder of each slurmd
    log/                 what the daemons say
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

PROGRAMS = {
    "munge": ("munged",),
    "slurmctld": ("slurmctld",),
    "slurmd": ("slurmd", "slurmstepd"),
    "slurm-client": ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr"),
    "slurmdbd": ("slurmdbd",),
    "mariadb-server": ("mariadbd", "mariadb-install-db"),
}
"""Programs that a cluster needs, by the Debian package that has them (slurm-wlm is slurmctld, slurmd, slurm-client)."""

ONE_ADDRESS = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny\n"
"""Has a daemon listen on the address of the host's name only."""

FOR_ACCOUNTING = ("slurmdbd", "mariadb-server")
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"


@dataclass(frozen=True)
class Options:
    """How a cluster is to be; the values make jobs start, end and requeue fast. Times are in seconds.

    Attributes:
        nodes: number of nodes, called n1, n2, ...; all of them are this host.
        cpus: processors that each node claims to have.
        memory_mb: memory that each node claims to have.
        accounting: with slurmdbd and MariaDB; without, `sacct` answers that accounting is disabled.
        features: node i has the i-th of these as its feature, again from the first when they are used up.
        min_job_age: how long slurmctld remembers an ended job; at least 2.
        slurmd_timeout: silence after which a node is DOWN and its jobs are requeued or failed.
        kill_wait: time between SIGTERM and SIGKILL.
        grace_time: time that a preempted job has before it is requeued, besides `kill_wait`.
        requeue_delay: how long a requeued job has to wait (Slurm: ``cred_expire``, 120 by default); at least 5.
        max_job_count: jobs that slurmctld keeps at most, ended ones included.
        max_array_size: one more than the largest index of an array.
        message_timeout: how long commands wait for slurmctld, and slurmctld for a node.
        scheduler: SchedulerParameters.
        extra: further lines of slurm.conf.
    """

    nodes: int = 3
    cpus: int = 4
    memory_mb: int = 16000
    accounting: bool = True
    features: tuple[str, ...] = ("alpha", "beta")
    min_job_age: int = 300
    slurmd_timeout: int = 5
    kill_wait: int = 2
    grace_time: int = 0
    requeue_delay: int = 5
    max_job_count: int = 1000
    max_array_size: int = 1001
    message_timeout: int = 5
    scheduler: str = (
        "batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1,preempt_youngest_first"
    )
    extra: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Options:
        """From values by name, as JSON or a command line have them; names that it does not know are left out."""
        known: dict[str, Any] = {}
        for each in fields(cls):
            if each.name in values:
                value = values[each.name]
                known[each.name] = tuple(value) if isinstance(value, list) else value
        return cls(**known)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the nodes."""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))


def missing(accounting: bool = True) -> list[str]:
    """The Debian packages that are needed and not installed, judged by their programs."""
    return [
        package
        for package, programs in PROGRAMS.items()
        if (accounting or package not in FOR_ACCOUNTING) and not all(map(find, programs))
    ]


def why_not(accounting: bool = True) -> str | None:
    """Why no cluster can be started here and what to do about it; None if one can."""
    if sys.platform != "linux":
        return "a Slurm cluster for tests needs Linux"
    if packages := missing(accounting):
        return f"no Slurm here: as root on Debian or Ubuntu, apt-get install {' '.join(packages)}"
    if os.geteuid() != 0:
        return "a Slurm cluster for tests needs root's rights: run as root, for example in a container"
    if address() is None:
        line = f"127.0.1.1 {_host()}"
        return f"this host's name does not lead to the loopback interface: put `{line}` first in /etc/hosts"
    return None


def address() -> str | None:
    """The loopback address that the host's name leads to, on which the daemons listen; None if it leads elsewhere."""
    try:
        found = socket.gethostbyname(socket.gethostname())
    except OSError:
        return None
    return found if found.startswith("127.") else None


def find(program: str) -> str | None:
    """The path of a program; system folders that are not in a normal user's PATH are looked at too."""
    return shutil.which(program, path=SEARCHED)


def free_ports(number: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, outside the range that the kernel hands out itself.

    Nothing reserves them: a daemon that finds its port taken ends, and the start is tried again with others.
    """
    found: list[int] = []
    for port in _candidates():
        with socket.socket() as probe:
            try:
                probe.bind((address() or "127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == number:
            return found
    raise RuntimeError(f"fewer than {number} free ports between 20000 and 32000")


def _candidates() -> Iterator[int]:
    ports = list(range(20000, 32000))
    random.SystemRandom().shuffle(ports)
    return iter(ports)


@dataclass(frozen=True)
class Place:
    """Where a cluster is: its folder, its name (unique, as every job carries it in its environment), its ports."""

    folder: Path
    name: str
    ctld_port: int
    dbd_port: int
    node_ports: tuple[int, ...]

    @property
    def conf(self) -> Path:
        """slurm.conf; the variable SLURM_CONF has this path."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def daemons_conf(self) -> Path:
        """slurm.conf of the daemons. With `ONE_ADDRESS` srun could not be called back where that is not 127.0.0.1."""
        return self.folder / "etc" / "daemons" / "slurm.conf"

    @property
    def prolog(self) -> Path:
        """What each task runs first: it points the task to `conf`, as slurmd would have it use `daemons_conf`."""
        return self.folder / "etc" / "prolog"

    @property
    def munge_socket(self) -> Path:
        """The socket of the cluster's own munged."""
        return self.folder / "munge" / "socket"

    @property
    def database_socket(self) -> Path:
        """The socket of the cluster's own MariaDB."""
        return self.folder / "database" / "socket"


def slurm_conf(place: Place, options: Options, changed: Mapping[str, object] | None = None) -> str:
    """The text of slurm.conf.

    Args:
        place: where the cluster is.
        options: how it is to be.
        changed: settings that replace those which follow from the options, by Slurm's names.
    """
    settings = _paths(place) | _habits(options)
    settings["AuthInfo"] = f"socket={place.munge_socket},cred_expire={options.requeue_delay}"
    if options.accounting:
        settings |= {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": address(),
            "AccountingStoragePort": place.dbd_port,
            "AccountingStoragePass": place.munge_socket,
        }
    settings |= changed or {}
    lines = [f"{key}={value}" for key, value in settings.items()]
    return "\n".join([*lines, *_nodes(place, options), *options.extra]) + "\n"


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _paths(place: Place) -> dict[str, object]:
    """What follows from where the cluster is."""
    folder = place.folder
    return {
        "ClusterName": place.name,
        "SlurmctldHost": f"{_host()}({address()})",
        "SlurmctldPort": place.ctld_port,
        "StateSaveLocation": folder / "ctld",
        "SlurmdSpoolDir": folder / "spool" / "%n",
        "TaskProlog": place.prolog,
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "%n.pid",
        "SlurmctldLogFile": folder / "log" / "slurmctld.log",
        "SlurmdLogFile": folder / "log" / "%n.log",
    }


def _habits(options: Options) -> dict[str, object]:
    """What follows from the options, and what is the same everywhere."""
    return {
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "SlurmctldDebug": "verbose",
        "SlurmdDebug": "verbose",
        "DebugFlags": "NO_CONF_HASH",
        "MailProg": "/bin/true",
        "MpiDefault": "none",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "SlurmdParameters": "config_overrides",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "PriorityType": "priority/basic",
        "SchedulerParameters": options.scheduler,
        "JobRequeue": 1,
        "ReturnToService": 1,
        "MinJobAge": options.min_job_age,
        "SlurmdTimeout": options.slurmd_timeout,
        "KillWait": options.kill_wait,
        "MaxJobCount": options.max_job_count,
        "MaxArraySize": options.max_array_size,
        "MessageTimeout": options.message_timeout,
        "DefMemPerCPU": 100,
    }


def _nodes(place: Place, options: Options) -> Iterator[str]:
    """The lines of the nodes, all of them this host, and of the two partitions."""
    for number, (node, port) in enumerate(zip(options.names, place.node_ports, strict=True)):
        yield (
            f"NodeName={node} NodeHostname={_host()} NodeAddr={address()} Port={port} CPUs={options.cpus} Boards=1"
            f" SocketsPerBoard=1 CoresPerSocket={options.cpus} ThreadsPerCore=1 RealMemory={options.memory_mb}"
            f" Feature={options.features[number % len(options.features)]} State=UNKNOWN"
        )
    common = f"Nodes={','.join(options.names)} DefaultTime=10 MaxTime=INFINITE State=UP"
    yield f"PartitionName=low {common} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={options.grace_time}"
    yield f"PartitionName=high {common} PriorityTier=10 PreemptMode=OFF"


def slurmdbd_conf(place: Place) -> str:
    """The text of slurmdbd.conf; the database's socket comes through MYSQL_UNIX_PORT."""
    settings = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={place.munge_socket}",
        "DbdHost": "localhost",
        "DbdAddr": address(),
        "CommunicationParameters": "NoInAddrAny",
        "DbdPort": place.dbd_port,
        "SlurmUser": "root",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",
        "StorageUser": "root",
        "StorageLoc": "slurm",
        "LogFile": place.folder / "log" / "slurmdbd.log",
        "PidFile": place.folder / "slurmdbd.pid",
        "DebugLevel": "verbose",
        "CommitDelay": 1,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())
