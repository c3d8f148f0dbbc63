"""What a test can do to a cluster, and what it can ask: the verbs of `Cluster`.

Each verb returns when Slurm has carried it out, or raises `ClusterError` with what it was waiting for.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.slurm import daemons
from tests.slurm.configure import Options, Place
from tests.slurm.daemons import ClusterError, Daemon, wait_for
from tests.slurm.job import COLUMNS, Job

NEEDS_RESTART = {
    "AccountingStorageEnforce",
    "AccountingStorageType",
    "AuthInfo",
    "FirstJobId",
    "MaxArraySize",
    "MaxJobCount",
    "MaxJobId",
    "PreemptType",
    "PriorityType",
    "SchedulerType",
    "SelectType",
    "SelectTypeParameters",
}
"""Settings that slurmctld reads only when it starts."""


class Verbs(ABC):
    """The verbs; `Cluster` adds how daemons are started.

    Attributes:
        folder: what the cluster owns on disk.
        options: how it was asked to be.
        place: its name, ports and paths.
        daemons: its daemons by name: munged, mariadbd, slurmdbd, slurmctld, and each slurmd by its node's name.
        changed: the settings of slurm.conf that are not as they follow from the options.
    """

    folder: Path
    options: Options
    place: Place
    daemons: dict[str, Daemon]
    changed: dict[str, object]

    @abstractmethod
    def launch(self, name: str, wait: bool = True) -> None:
        """Start a daemon that does not run."""

    @abstractmethod
    def configure(self, **changed: object) -> set[str]:
        """Write slurm.conf with these settings replaced; say which are other than before."""

    @abstractmethod
    def environment(self, **settings: object) -> dict[str, str]:
        """The environment for Slurm's commands."""

    # -- asking

    def run(
        self, *command: str, check: bool = True, text: str = "", seconds: float = 60, **settings: object
    ) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands.

        Args:
            command: its words.
            check: whether an exit code other than 0 is an error.
            text: its standard input.
            seconds: how long it may take.
            settings: settings of slurm.conf that only this command sees, such as ``MessageTimeout=2``.

        Raises:
            ClusterError: it failed, or did not end in time and was killed; with what it said.
        """
        words = " ".join(command)
        try:
            done = subprocess.run(
                command,
                env=self.environment(**settings),
                cwd=self.folder,
                input=text,
                capture_output=True,
                text=True,
                timeout=seconds * daemons.SCALE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            said = (error.stderr or b"").decode(errors="replace").strip()
            raise ClusterError(f"`{words}` did not end in {seconds:g} s: {said}") from error
        if check and done.returncode:
            raise ClusterError(f"`{words}` ended with {done.returncode}: {done.stderr.strip()}")
        return done

    def jobs(self) -> dict[str, Job]:
        """All jobs that slurmctld knows, tasks of arrays one by one, by `Job.id`."""
        wanted = ",".join(f"{each}:|" for each in COLUMNS)
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-O", wanted).stdout.splitlines()
        return {job.id: job for job in map(Job.parse, lines)}

    def job(self, job_id: str) -> Job:
        """One job.

        Raises:
            ClusterError: slurmctld does not know it.
        """
        try:
            return self.jobs()[job_id]
        except KeyError:
            raise ClusterError(f"slurmctld knows no job {job_id}") from None

    def show(self, job_id: str) -> dict[str, str]:
        """What ``scontrol show job`` says of one job; values with spaces are cut."""
        words = self.run("scontrol", "-o", "show", "job", job_id).stdout.split()
        return {key: value for key, _, value in (word.partition("=") for word in words)}

    def accounted(self, job_id: str, *columns: str, duplicates: bool = False) -> list[tuple[str, ...]]:
        """The rows that sacct has for a job, without its steps; with ``duplicates`` also those before a requeue."""
        wanted = ",".join(columns or ("JobID", "State"))
        extra = ["-D"] if duplicates else []
        done = self.run("sacct", "-n", "-P", "-X", *extra, "-j", job_id, "-S", "now-1days", "-o", wanted)
        return [tuple(line.split("|")) for line in done.stdout.splitlines()]

    def node_states(self) -> dict[str, str]:
        """The state of each node in capitals, with Slurm's suffixes (``*``: does not answer)."""
        lines = self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%N %T").stdout.splitlines()
        return {name: state.upper() for name, state in (line.split() for line in lines)}

    def processes(self, job_id: str | None = None) -> list[Daemon]:
        """The processes of a job (of all jobs without an id) on all nodes, whether Slurm knows of them or not.

        A task of an array is named by its `Job.number`. slurmstepd is not among them.
        """
        found = daemons.with_environment([("SLURM_CLUSTER_NAME", self.place.name)])
        known = ((each, daemons.environment_of(each).get("SLURM_JOB_ID")) for each in found)
        return [each for each, number in known if number is not None and job_id in (None, number)]

    def wait_job(self, job_id: str, wanted: Callable[[Job], object], seconds: float = 30) -> Job:
        """Wait until a job is as wanted; return how it is then."""
        last: list[Job | None] = [None]

        def check() -> object:
            last[0] = self.jobs().get(job_id)
            return last[0] is not None and wanted(last[0])

        wait_for(check, seconds, lambda: f"job {job_id}, which is {last[0] or 'unknown'}")
        assert last[0] is not None
        return last[0]

    def wait_state(self, job_id: str, *states: str, seconds: float = 30) -> Job:
        """Wait until a job is in one of these states."""
        return self.wait_job(job_id, lambda job: job.state in states, seconds)

    def wait_idle(self, seconds: float = 30) -> None:
        """Wait until every node is idle and answers."""
        last: dict[str, str] = {}

        def idle() -> bool:
            last.clear()
            last.update(self.node_states())
            return bool(last) and set(last.values()) == {"IDLE"}

        wait_for(idle, seconds, lambda: f"idle nodes; they are {last}")

    # -- jobs

    def submit(self, script: str, *options: str, **settings: Any) -> str:
        """Submit lines of shell as a job; its output is thrown away unless options say otherwise.

        Args:
            script: the lines.
            options: further words for sbatch.
            settings: as for `run`.

        Returns:
            The job's id (of an array: the array's).
        """
        command = ("sbatch", "--parsable", "-o", "/dev/null", *options)
        return self.run(*command, text=f"#!/bin/sh\n{script}\n", **settings).stdout.strip().split(";")[0]

    def cancel(self, *job_ids: str) -> None:
        """Ask for jobs to be cancelled; they may live on for KillWait."""
        self.run("scancel", *job_ids)

    def requeue(self, job_id: str) -> None:
        """Have a job start again under its id; it waits for `Options.requeue_delay` first, see `start_now`."""
        self.run("scontrol", "requeue", job_id)

    def requeuehold(self, job_id: str, special_exit: bool = False) -> None:
        """Requeue and hold; with ``special_exit`` it shows as SPECIAL_EXIT."""
        self.run("scontrol", "requeuehold", *(["State=SpecialExit"] if special_exit else []), job_id)

    def hold(self, job_id: str) -> None:
        """Keep a pending job from starting."""
        self.run("scontrol", "hold", job_id)

    def release(self, job_id: str) -> None:
        """Let a held job start."""
        self.run("scontrol", "release", job_id)

    def suspend(self, job_id: str) -> None:
        """SIGSTOP a running job."""
        self.run("scontrol", "suspend", job_id)

    def resume(self, job_id: str) -> None:
        """Let a suspended job go on."""
        self.run("scontrol", "resume", job_id)

    def start_now(self, job_id: str) -> None:
        """End the wait of a requeued job (reason BeginTime)."""
        self.wait_state(job_id, "PENDING")
        self.run("scontrol", "update", f"JobId={job_id}", "StartTime=now")

    def preempt(self, job_id: str) -> str:
        """Have a job of partition low preempted by one of partition high, which takes its whole node.

        Returns:
            The id of the job that has taken its place; it runs for an hour unless it is cancelled.
        """
        node = self.job(job_id).nodes
        winner = self.submit("exec sleep 3600", "-p", "high", "-w", node, "--exclusive", "-J", "preemptor")
        self.wait_state(winner, "RUNNING", seconds=30 + self.options.grace_time + self.options.kill_wait)
        return winner

    # -- daemons and nodes

    def kill(self, name: str) -> None:
        """SIGKILL a daemon; what it has started lives on (slurmstepd with its job)."""
        daemons.end([self.daemons[name]])

    def shut_down(self, name: str) -> None:
        """SIGTERM a daemon and wait for its end; slurmctld saves its state, so that nothing is forgotten."""
        daemons.end([self.daemons[name]], grace=20)

    def restart(self, name: str) -> None:
        """SIGKILL a daemon and start it again."""
        self.kill(name)
        self.launch(name)

    def freeze(self, name: str) -> None:
        """SIGSTOP a daemon: connections to it are accepted by the kernel and never answered."""
        self.daemons[name].send(signal.SIGSTOP)
        wait_for(self.daemons[name].stopped, 10, f"{name} to stop")

    def thaw(self, name: str) -> None:
        """SIGCONT a daemon."""
        self.daemons[name].send(signal.SIGCONT)

    def down_node(self, node: str) -> None:
        """Declare a node DOWN: its jobs are ended there and requeued."""
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def drain_node(self, node: str) -> None:
        """Have a node take no new jobs; those on it go on."""
        self.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")

    def resume_node(self, node: str) -> None:
        """Let a node that is down or drained take jobs again."""
        self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def fail_node(self, node: str, by_timeout: bool = False) -> None:
        """SIGKILL a node's slurmd and have slurmctld give the node up; its jobs' processes live on.

        Args:
            node: which; `launch` brings it back.
            by_timeout: let slurmctld find out by itself, which takes some times SlurmdTimeout and MessageTimeout;
                else it is told.
        """
        self.kill(node)
        if not by_timeout:
            self.down_node(node)
        wait_for(lambda: self.node_states()[node].startswith("DOWN"), 90, f"node {node} to be down")

    # -- the cluster's memory

    def reconfigure(self, **settings: object) -> None:
        """Change settings of slurm.conf; those of earlier calls that are not named go back to what they were.

        slurmctld is restarted for what it reads only at its start. `reset` puts everything back.
        """
        changed = self.configure(**settings)
        if changed & NEEDS_RESTART:
            self.shut_down("slurmctld")
            self.launch("slurmctld")
        if changed:
            self.run("scontrol", "reconfigure")

    def save(self) -> None:
        """Wait until slurmctld has written to disk what has happened up to now, which it does every five seconds.

        What it has not written is lost when it is killed: a job that sbatch has confirmed is then unknown.
        """
        name = f"mark-{secrets.token_hex(8)}"
        mark = self.submit("true", "-H", "-J", name)
        state = self.folder / "ctld" / "job_state"
        wait_for(
            lambda: state.exists() and name.encode() in state.read_bytes(), 30, "slurmctld to save its state"
        )
        self.cancel(mark)

    def purge(self, *job_ids: str) -> None:
        """Make slurmctld forget ended jobs, all of them, without waiting for MinJobAge; sacct still knows them.

        Takes about five seconds. Its state is saved first: `scontrol reconfigure` sets the next job id back to what
        was saved last, and ids that are forgotten would be given out again.
        """
        self.save()
        before = dict(self.changed)
        self.reconfigure(**before | {"MinJobAge": 2})
        wait_for(
            lambda: not self.jobs().keys() & set(job_ids), 30, f"jobs {', '.join(job_ids)} to be forgotten"
        )
        self.reconfigure(**before)

    def wipe(self) -> None:
        """Make slurmctld forget everything: all jobs are ended, ids begin at 1 again; sacct still has the old ones."""
        for name in ("slurmctld", *self.options.names):
            self.kill(name)
        self._end_processes()
        for folder in (self.folder / "ctld", *(self.folder / "spool" / node for node in self.options.names)):
            shutil.rmtree(folder)
            folder.mkdir(mode=0o755)
        for name in ("slurmctld", *self.options.names):
            self.launch(name)
        self.wait_idle()

    def reset(self) -> None:
        """Put everything in order for the next test: daemons up, settings as started, no jobs, all nodes idle."""
        for name, daemon in self.daemons.items():
            if daemon.stopped():
                self.thaw(name)
        changed = self.configure()
        if changed & NEEDS_RESTART:
            self.shut_down("slurmctld")
        for name in list(self.daemons):
            if not self.daemons[name].alive():
                self.launch(name)
        if changed:
            self.run("scontrol", "reconfigure")
        wait_for(self._no_jobs, 60, lambda: f"jobs to end: {self.run('squeue', '-h').stdout}")
        for node, state in self.node_states().items():
            if state.startswith(("DOWN", "DRAIN")):
                self.resume_node(node)
        self.wait_idle()
        # a job that slurmctld has forgotten is ended by its node; a later order to do so would hit the id's next job
        try:
            wait_for(lambda: not self._steps(), 10, "slurmstepd to end")
        finally:
            self._end_processes()

    def _no_jobs(self) -> bool:
        """Whether no job is left; those that are get cancelled, and their processes killed."""
        living = self.run("squeue", "-h", "-o", "%A").stdout.split()
        if living:
            self.run("scancel", *sorted(set(living)), check=False)
            daemons.end(self.processes())
        return not living

    def _end_processes(self) -> None:
        """End what is left of jobs, slurmstepd included, whether Slurm knows of it or not."""
        while found := [*self.processes(), *self._steps()]:
            daemons.end(found)

    def _steps(self) -> list[Daemon]:
        found = daemons.with_environment([(daemons.MARK, str(self.folder))])
        return [each for each in found if daemons.name_of(each).startswith("slurmstepd")]
