"""A world for the submission protocol: a disk, a Slurm that answers by chance, jobs that start when they like.

The disk is real (the protocol's races are decided there); Slurm, time and chance are not. After every step the
invariants are checked: whatever happens, no two jobs of one submission ever act.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from furu_async._slurm import protocol as p
from furu_async._slurm.port import Done, Found, JobRow, Refused, Submitted, Unclear
from furu_async._slurm.submission import State, advance
from furu_async._store import submissions
from furu_async._store.layout import RunPaths, SubmissionPaths


@dataclass
class WorldJob:
    id: str
    k: int
    token: str
    state: str = "PENDING"
    acts: bool = False


@dataclass
class World:
    """See the module."""

    folder: Path
    seed: int
    crashes: int = 2
    chance: random.Random = field(init=False)
    paths: SubmissionPaths = field(init=False)
    state: State = field(init=False)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        root = self.folder / str(self.seed)
        shutil.rmtree(root, ignore_errors=True)
        self.paths = RunPaths(str(root), "run").submission("s")
        self.jobs: list[WorldJob] = []
        self.in_flight: list[tuple[int, str]] = []
        self.tokens: dict[int, str] = {}
        self.finished: p.Finished | None = None
        self.cancelled = False
        self.acted: list[str] = []
        self.story: list[str] = []
        self.restart()

    # -- the controller --------------------------------------------------------------------------------------

    def restart(self) -> None:
        """A controller begins, perhaps after another was killed: what it had asked for may still happen."""
        self.state = State()
        self.commands: list[p.Command] = []
        self.wake: float | None = None
        self.tell(p.Loaded(submissions.read(self.paths)))

    def tell(self, event: p.Event) -> None:
        self.story.append(f"{self.now:g} {type(event).__name__}")
        for command in advance(self.state, event, self.now):
            self.story.append(f"    {command}")
            if isinstance(command, p.Wake):
                self.wake = command.at
            elif isinstance(command, p.Finished):
                self.finished = command
                self.check_end()
            elif not isinstance(command, p.Waiting):
                self.commands.append(command)
        self.check()

    def carry_out(self, command: p.Command) -> None:
        match command:
            case p.Record(k):
                token = f"{self.chance.getrandbits(64):016x}"
                ok = submissions.begin(self.paths, k, token, f"name-{token}")
                self.tokens[k] = submissions.read(self.paths).tries[k - 1].token
                self.tell(p.Recorded(ok))
            case p.Sbatch(k):
                self.sbatch(k)
            case p.Look(k):
                self.look(k)
            case p.Drop(k, why):
                self.tell(p.Ruled(submissions.drop(self.paths, k, why)))
            case p.Note(k, job):
                submissions.note_job(self.paths.job(k), self.token(k), job.job_id)
                self.tell(p.Noted())
            case p.Close(why):
                submissions.close(self.paths, "cancel", why)
                self.tell(p.ClosedNow())
            case p.Scancel(ids, last):
                for job in self.jobs:
                    if job.id in ids and job.state in ("PENDING", "RUNNING"):
                        job.state, job.acts = "CANCELLED", False
                self.tell(p.Scancelled(Done(), last))

    def token(self, k: int) -> str:
        return submissions.read(self.paths).tries[k - 1].token

    def sbatch(self, k: int) -> None:
        outcome = self.chance.choice(["ok", "ok", "ghost", "ghost", "lost", "limit", "full", "rejected"])
        if outcome == "rejected" and self.chance.random() < 0.7:
            outcome = "ghost"
        if outcome == "ok":
            job = self.accept(k, self.token(k))
            self.tell(p.Answered(Submitted(job.id)))
        elif outcome == "ghost":
            self.in_flight.append((k, self.token(k)))
            self.tell(p.Answered(Unclear("socket timed out")))
        elif outcome == "lost":
            self.tell(p.Answered(Unclear("socket timed out")))
        elif outcome == "full":
            self.tell(p.Answered(Unclear("full", limit=True)))
        else:
            kind = "limit" if outcome == "limit" else "rejected"
            self.tell(p.Answered(Refused(kind, outcome)))

    def accept(self, k: int, token: str) -> WorldJob:
        job = WorldJob(str(len(self.jobs) + 1), k, token)
        self.jobs.append(job)
        return job

    def look(self, k: int) -> None:
        if self.chance.random() < 0.3:
            self.tell(p.Looked(Found((), False, "no answer")))
            return
        token = self.token(k)
        # The queue may be behind, and it may have forgotten what has ended.
        seen = [
            JobRow(id=job.id, name="", state=job.state)
            for job in self.jobs
            if job.token == token and self.chance.random() < 0.8
        ]
        self.tell(p.Looked(Found(tuple(seen))))

    # -- everything else -------------------------------------------------------------------------------------

    def step(self) -> None:
        """Something happens."""
        choices = ["time", "time", "job"]
        choices += ["command"] * (4 if self.commands else 0)
        choices += ["arrive"] if self.in_flight else []
        choices += ["cancel"] if self.chance.random() < 0.03 else []
        choices += ["crash"] if self.crashes and self.chance.random() < 0.08 else []
        match self.chance.choice(choices):
            case "time":
                self.now += self.chance.choice([0.1, 1, 5, 31, 200])
                if self.wake is not None and self.now >= self.wake:
                    self.wake = None
                    self.tell(p.Tick())
            case "command":
                self.carry_out(self.commands.pop(self.chance.randrange(len(self.commands))))
            case "arrive":
                self.accept(*self.in_flight.pop(self.chance.randrange(len(self.in_flight))))
            case "job":
                self.job_goes_on()
            case "cancel":
                self.cancelled = True
                self.tell(p.Cancel("by chance"))
            case "crash":
                self.crash()
        self.check()

    def crash(self) -> None:
        self.crashes -= 1
        for command in self.commands:
            if isinstance(command, p.Sbatch) and self.chance.random() < 0.5:
                self.in_flight.append((command.k, self.token(command.k)))
        self.story.append("crash")
        self.restart()

    def job_goes_on(self) -> None:
        job = self.chance.choice(self.jobs) if self.jobs else None
        if job is None:
            return
        if job.state == "PENDING":
            job.state = "RUNNING"
            job.acts, why = submissions.take(self.paths, job.k, job.token, job.id)
            self.story.append(f"job {job.id} of try {job.k} starts: {job.acts} {why}")
            if job.acts:
                self.acted.append(job.id)
            else:
                job.state = "FAILED"
        elif job.state == "RUNNING" and self.chance.random() < 0.3:
            job.state, job.acts = self.chance.choice(["COMPLETED", "FAILED"]), False

    # -- invariants ------------------------------------------------------------------------------------------

    def check(self) -> None:
        assert len(set(self.acted)) <= 1, self.tale("two jobs have acted")

    def check_end(self) -> None:
        assert self.finished is not None
        how, job = self.finished.how, self.finished.job
        acting = [each.id for each in self.jobs if each.acts]
        if how == "placed":
            assert job is not None
            assert not self.acted or self.acted == [job.job_id], self.tale("another job acts")
        else:
            assert not acting or how == "gone", self.tale(f"{how}, and a job acts")
            assert not acting, self.tale("taken back, and a job acts")

    def tale(self, what: str) -> str:
        return "\n".join([f"seed {self.seed}: {what}", *self.story])


def explore(folder: Path, seed: int, most: int = 400) -> World:
    """One random history to its end, and a while beyond: late jobs still turn up then.

    Raises:
        AssertionError: an invariant does not hold, or it does not end.
    """
    world = World(folder, seed)
    for _ in range(most):
        world.step()
        if world.finished is not None:
            break
    world.crashes = 0
    for _ in range(4 * most):
        if world.finished is not None:
            break
        world.step()
    assert world.finished is not None, world.tale("it does not end")
    for command in list(world.commands):
        world.carry_out(command)
    for _ in range(20):
        while world.in_flight:
            world.accept(*world.in_flight.pop())
        for _ in world.jobs:
            world.job_goes_on()
        world.check()
    if world.finished.how != "placed":
        late = [job.id for job in world.jobs if job.acts]
        assert not late, world.tale(f"job {late} acts after {world.finished.how}")
    return world
