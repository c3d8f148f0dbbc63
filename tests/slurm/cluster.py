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
import shlex
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.slurm.configure import Options, missing, why_not
from tests.slurm.daemons import ClusterError
from tests.slurm.job import Job
from tests.slurm.running import PLACES, Cluster, guard, room

__all__ = ["Cluster", "ClusterError", "Job", "Options", "guard", "missing", "room", "why_not"]


def default_folder() -> Path:
    """The folder of the cluster that the command line means: that of the one that is there, else a new one."""
    there = [place / "furu-slurm" for place in PLACES if (place / "furu-slurm" / "state.json").exists()]
    return there[0] if there else room() / "furu-slurm"


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
            one.add_argument(
                "--when-alone", action="store_true", help="wait for the end of standard input first"
            )
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
            return _up(given.folder, Options.of(vars(given)))
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
