"""The wiring of a DAG against a small model of Slurm: whatever happens in whatever order, it comes to an end."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from furu_async._dag.units import (
    Bounds,
    Check,
    Claim,
    Command,
    Drop,
    GoOn,
    Item,
    Resolve,
    Submit,
    Unit,
    Verify,
    Withdraw,
)
from furu_async._dag.wiring import Wiring


@dataclass
class Job:
    """What the model knows of a job."""

    uid: int
    node: str
    waits: tuple[str, ...]
    held: bool
    state: str = "pending"


@dataclass
class Model:
    """Slurm, a store and the core, with chance in the place of time.

    Attributes:
        room: jobs that Slurm takes at a time.
        fails: nodes whose jobs fail, and how often.
        hopeless: nodes that the core gives up after a failure.
    """

    wiring: Wiring
    draw: random.Random
    parents: dict[str, tuple[str, ...]]
    room: int = 10**6
    fails: dict[str, int] = field(default_factory=dict)
    hopeless: frozenset[str] = frozenset()
    purges: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    results: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    pending: list[Command] = field(default_factory=list)
    trying: list[int] = field(default_factory=list)
    withdrawing: set[int] = field(default_factory=set)
    submitted: list[str] = field(default_factory=list)
    most: int = 0

    def do(self, commands: list[Command]) -> None:
        self.pending += commands

    def alive(self) -> list[str]:
        return [name for name, job in self.jobs.items() if job.state in ("pending", "running")]

    def step(self) -> bool:
        """One thing happens; False if nothing can."""
        choices = []
        if self.pending:
            choices.append(self.answer)
        if self.attempts():
            choices.append(self.attempt)
        if self.runnable() or self.running():
            choices.append(self.run_a_job)
        if not choices:
            return False
        self.draw.choice(choices)()
        self.most = max(self.most, len(self.alive()))
        return True

    def fits(self, uid: int) -> bool:
        return len(self.wiring.units[uid].nodes) <= self.room - len(self.alive())

    def attempts(self) -> list[int]:
        """Submissions about which Slurm has something new to say."""
        units = self.wiring.units
        return [
            uid
            for uid in self.trying
            if uid in self.withdrawing or self.fits(uid) or units[uid].phase == "submitting"
        ]

    def answer(self) -> None:
        command = self.pending.pop(self.draw.randrange(len(self.pending)))
        wiring = self.wiring
        match command:
            case Claim(uids):
                self.claim(uids)
            case Check(uid, parents):
                unknown = [(parent, job) for parent, job in parents if job not in self.known]
                done = [parent for parent, _ in unknown if parent in self.results]
                self.do(wiring.checked(uid, done, [each for each in unknown if each[0] not in done]))
            case Submit(uid, _):
                self.trying.append(uid)
            case Withdraw(uid):
                self.withdrawing.add(uid)
            case GoOn():
                self.do(wiring.go_on())
            case Verify(uids):
                for uid in uids:
                    for job in self.jobs.values():
                        if job.uid == uid:
                            job.held = False
                self.do(wiring.verified(uids))
            case Drop(uid, node):
                if uid in self.trying and not wiring.units[uid].live:
                    self.withdrawing.add(uid)
                for job in self.jobs.values():
                    if (job.uid, job.node) == (uid, node) and job.state in ("pending", "running"):
                        job.state = "cancelled"

    def claim(self, uids: tuple[int, ...]) -> None:
        for uid in uids:
            nodes = self.wiring.units[uid].nodes
            done = [node for node in nodes if node in self.results]
            ours = [node for node in nodes if node not in self.results]
            self.do(self.wiring.claimed(uid, ours, done))

    def attempt(self) -> None:
        """Slurm takes a submission that fits, or says that it has no room; or a withdrawn one is gone."""
        uid = self.draw.choice(self.attempts())
        unit = self.wiring.units[uid]
        if uid in self.withdrawing:
            self.trying.remove(uid)
            self.do(self.wiring.withdrawn(uid))
            return
        if not self.fits(uid):
            self.do(self.wiring.limited(uid))
            return
        self.trying.remove(uid)
        edges = self.wiring.edges(uid)
        assert all(edge in self.jobs for edge in edges)
        name = str(len(self.jobs) + 1000)
        for k, node in enumerate(unit.nodes):
            element = f"{name}_{k}" if len(unit.nodes) > 1 else name
            assert node not in self.results or node not in unit.live
            dropped = node not in unit.live
            self.jobs[element] = Job(uid, node, edges, unit.hold, "cancelled" if dropped else "pending")
            self.known.add(element)
            if not dropped:
                self.submitted.append(node)
        self.do(self.wiring.placed(uid, name))

    def runnable(self) -> list[str]:
        found = []
        for name, job in self.jobs.items():
            if job.state != "pending" or job.held:
                continue
            states = [self.jobs[edge].state if edge in self.known else "ok" for edge in job.waits]
            if all(state == "ok" for state in states) or any(
                state in ("failed", "cancelled", "killed") for state in states
            ):
                found.append(name)
        return found

    def running(self) -> list[str]:
        return [name for name, job in self.jobs.items() if job.state == "running"]

    def run_a_job(self) -> None:
        name = self.draw.choice(self.runnable() + self.running())
        job = self.jobs[name]
        states = [self.jobs[edge].state if edge in self.known else "ok" for edge in job.waits]
        if job.state == "pending" and any(state in ("failed", "cancelled", "killed") for state in states):
            job.state = "killed"
            self.do(self.wiring.killed(job.uid, job.node))
        elif job.state == "pending":
            job.state = "running"
        else:
            self.end(name, job)

    def end(self, name: str, job: Job) -> None:
        missing = [parent for parent in self.parents[job.node] if parent not in self.results]
        if missing or self.fails.get(job.node, 0) > 0:
            self.fails[job.node] = self.fails.get(job.node, 0) - 1
            job.state = "failed"
            self.do(self.wiring.failed(job.uid, job.node))
            if job.node in self.hopeless:
                self.give_up(job.node)
            elif job.node not in self.forgotten:
                self.do(self.wiring.again(job.node, 1, "k1"))
        else:
            job.state = "ok"
            self.results.add(job.node)
            self.do(self.wiring.done(job.node))
        if self.purges:
            self.known.discard(name)

    def give_up(self, node: str) -> None:
        stack = [node]
        while stack:
            each = stack.pop()
            if each in self.forgotten:
                continue
            self.forgotten.add(each)
            self.do(self.wiring.forget(each))
            stack += [child for child, parents in self.parents.items() if each in parents]


def dag_of(draw: random.Random, size: int) -> dict[str, tuple[str, ...]]:
    """Random, in topological order; some siblings have the same parents."""
    parents: dict[str, tuple[str, ...]] = {}
    last: tuple[str, ...] = ()
    for k in range(size):
        names = list(parents)
        if draw.random() < 0.5 or not names:
            last = tuple(sorted(draw.sample(names, min(len(names), draw.randrange(0, 4)))))
        parents[f"n{k}"] = last
    return parents


def play(
    seed: int, size: int, room: int, array: int, most: int, trouble: float, purges: bool, part: int
) -> Model:
    """One run of a random DAG to its end; ``part`` nodes at a time are planned, and put into units."""
    draw = random.Random(seed)
    parents = dag_of(draw, size)
    wiring = Wiring(Bounds(jobs=most, array=array), part)
    bad = {node: draw.randrange(1, 3) for node in parents if draw.random() < trouble}
    hopeless = frozenset(node for node in bad if draw.random() < 0.3)
    model = Model(wiring, draw, parents, room, dict(bad), hopeless, purges)
    items = [Item(node, above, 0, "k0") for node, above in parents.items()]
    for start in range(0, size, part):
        model.do(wiring.plan(items[start : start + part], more=start + part < size))
    for _ in range(200 * size + 1000):
        if not model.step():
            break
    else:
        raise AssertionError("it does not come to an end")
    return model


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 25),
    room=st.sampled_from([1, 2, 3, 5, 100]),
    array=st.sampled_from([1, 3, 50]),
    most=st.sampled_from([1, 2, 4, 1000]),
    trouble=st.sampled_from([0.0, 0.2, 0.5]),
    purges=st.booleans(),
    part=st.sampled_from([1, 3, 200]),
)
def test_every_dag_comes_to_its_end(
    seed: int, size: int, room: int, array: int, most: int, trouble: float, purges: bool, part: int
) -> None:
    model = play(seed, size, room, array, most, trouble, purges, part)
    wanted = set(model.parents) - model.forgotten
    assert wanted <= model.results, (wanted - model.results, model.wiring.units)
    assert not model.alive()
    assert model.wiring.settled
    assert model.most <= max(room, 1)
    if not trouble:
        assert sorted(model.submitted) == sorted(model.parents)


def test_what_slurm_has_room_for_goes_in_one_wave() -> None:
    wiring = Wiring(Bounds(array=1))
    commands = wiring.plan([Item("a", (), 0, "k"), Item("b", ("a",), 0, "k"), Item("c", ("b",), 0, "k")])
    assert commands == [Claim((1, 2, 3))]
    assert [type(c) for uid in (1, 2, 3) for c in wiring.claimed(uid, wiring.units[uid].nodes)] == [Submit]
    assert wiring.units[1].hold
    assert wiring.placed(1, "10") == [Submit(2, hold=False)]
    assert wiring.edges(2) == ("10",)
    assert wiring.placed(2, "11") == [Submit(3, hold=False)]
    assert wiring.edges(3) == ("11",)
    assert wiring.placed(3, "12") == [Verify((1, 2, 3))]
    assert not wiring.settled
    assert wiring.verified((1, 2, 3)) == []
    assert wiring.settled


def test_a_limit_closes_the_wave_so_that_nothing_held_is_waited_for() -> None:
    wiring = Wiring(Bounds(array=1))
    wiring.plan([Item("a", (), 0, "k"), Item("b", ("a",), 0, "k")])
    wiring.claimed(1, ["a"])
    wiring.claimed(2, ["b"])
    assert wiring.placed(1, "10") == [Submit(2, hold=False)]
    assert wiring.limited(2) == [Verify((1,))]
    assert wiring.verified((1,)) == []
    assert wiring.edges(2) == ("10",)
    assert wiring.placed(2, "11") == [Verify((2,))]


def test_an_array_that_is_too_large_is_submitted_in_parts() -> None:
    wiring = Wiring(Bounds(array=4))
    wiring.plan([Item(name, (), 0, "k") for name in "abcd"])
    assert wiring.claimed(1, list("abcd")) == [Submit(1, hold=False)]
    assert wiring.limited(1) == [Withdraw(1)]
    assert wiring.withdrawn(1) == [Claim((2, 3))]
    assert [wiring.units[uid].nodes for uid in (2, 3)] == [["a", "b"], ["c", "d"]]


def test_a_retried_node_takes_those_that_were_wired_to_its_old_job_with_it() -> None:
    wiring = Wiring(Bounds(array=1))
    wiring.plan([Item("a", (), 0, "k"), Item("b", ("a",), 0, "k"), Item("c", ("b",), 0, "k")])
    for uid, (node, job) in enumerate([("a", "10"), ("b", "11"), ("c", "12")], 1):
        wiring.claimed(uid, [node])
        wiring.edges(uid)
        wiring.placed(uid, job)
    wiring.verified((1, 2, 3))
    assert wiring.failed(1, "a") == []
    commands = wiring.again("a", 1, "k1")
    assert commands == [Drop(2, "b"), Drop(3, "c"), Claim((4, 5, 6))]
    assert wiring.killed(2, "b") == []  # Slurm's word about the old job comes late


def wired_to_anothers() -> Wiring:
    """Two nodes that wait for job 7 of another run."""
    wiring = Wiring(Bounds(array=1))
    wiring.plan([Item("a", (), 0, "k", "foreign"), Item("b", ("a",), 0, "k"), Item("c", ("a",), 0, "other")])
    wiring.foreign("a", "7")
    for uid, (node, job) in enumerate([("b", "11"), ("c", "12")], 1):
        wiring.claimed(uid, [node])
        wiring.checked(uid, [], [])
        assert wiring.edges(uid) == ("7",)
        wiring.placed(uid, job)
    wiring.verified((1, 2))
    return wiring


def test_nothing_is_wired_again_to_a_job_of_others_that_has_failed() -> None:
    """Slurm ends at once what waits for such a job, as often as it is submitted."""
    wiring = wired_to_anothers()
    assert wiring.killed(1, "b") == [Resolve("a"), Claim((3,))]
    assert wiring.claimed(3, ["b"]) == []
    assert wiring.killed(2, "c") == [Claim((4,))], "it is being found out about already"
    assert wiring.claimed(4, ["c"]) == []
    assert wiring.foreign("a", "7") == [Check(3, (("a", "7"),)), Check(4, (("a", "7"),))], (
        "it lives after all"
    )


def test_a_job_of_others_that_slurm_does_not_know_is_looked_into() -> None:
    wiring = wired_to_anothers()
    assert wiring.again("b", 1, "k1") == [Drop(1, "b"), Claim((3,))]
    assert wiring.claimed(3, ["b"]) == [Check(3, (("a", "7"),))]
    assert wiring.checked(3, [], [("a", "7")]) == [Resolve("a")]
    assert wiring.items["a"].phase == "foreign"
    assert wiring.done("a") == [Submit(3, hold=False)]


def test_the_bound_of_arrays_that_counts_is_the_one_of_now() -> None:
    wiring = Wiring()
    wiring.bounds = Bounds(array=1)  # known only when the cluster has been asked
    assert wiring.plan([Item(name, (), 0, "k") for name in "abc"]) == [Claim((1, 2, 3))]
    assert [wiring.units[uid].nodes for uid in (1, 2, 3)] == [["a"], ["b"], ["c"]]


class Counting(Wiring):
    """How often it was asked which jobs a unit still lacks."""

    asked = 0

    def lacking(self, unit: Unit) -> str:
        self.asked += 1
        return super().lacking(unit)


def test_an_event_does_not_go_through_all_units() -> None:
    wiring = Counting(Bounds(array=1))
    layers = [
        Item(f"{layer}-{k}", tuple(f"{layer - 1}-{(k + j) % 20}" for j in range(3) if layer), 0, f"k{k}")
        for layer in range(10)
        for k in range(20)
    ]
    commands = wiring.plan(layers)
    submits: list[int] = []
    while commands:
        command = commands.pop(0)
        match command:
            case Claim(uids):
                for uid in uids:
                    commands += wiring.claimed(uid, wiring.units[uid].nodes)
            case Submit(uid, _):
                submits.append(uid)
                commands += wiring.placed(uid, str(1000 + uid))
            case Verify(uids):
                commands += wiring.verified(uids)
            case _:
                raise AssertionError(command)
    assert sorted(submits) == list(range(1, 201))
    assert wiring.settled
    assert wiring.asked <= 4 * 200


class Asking(Wiring):
    """How often it was asked whether a node will have a job."""

    asked = 0

    def _will_have_job(self, node: str) -> bool:
        self.asked += 1
        return super()._will_have_job(node)


def test_what_waits_for_a_failed_node_is_not_looked_at_again_and_again() -> None:
    """Slurm ends the jobs of its dependents, one after the other; they need new ones once it has one."""
    count = 500
    wiring = Asking(Bounds(array=1), part=50)
    names = [f"n{k}" for k in range(count)]
    commands = wiring.plan([Item("root", (), 0, "k"), *(Item(name, ("root",), 0, "k") for name in names)])
    rounds = 0
    while commands:
        command = commands.pop(0)
        match command:
            case Claim(uids):
                assert len(uids) <= 50  # of one event
                for uid in uids:
                    commands += wiring.claimed(uid, wiring.units[uid].nodes)
            case Submit(uid, _):
                wiring.edges(uid)
                commands += wiring.placed(uid, str(1000 + uid))
            case GoOn():
                rounds += 1
                commands += wiring.go_on()
            case Verify(uids):
                commands += wiring.verified(uids)
    assert wiring.settled
    assert rounds >= count // 50 - 1
    root = wiring.items["root"].unit
    assert root is not None
    units = {name: wiring.items[name].unit for name in names}
    wiring.asked = 0
    assert wiring.failed(root.uid, "root") == []
    for name, unit in units.items():
        assert unit is not None
        assert wiring.killed(unit.uid, name) == []
    assert wiring.asked <= 2 * count
    assert not wiring.settled
    (claim, *_) = [each for each in wiring.again("root", 1, "k1") if isinstance(each, Claim | GoOn)]
    assert claim
    for _ in range(2 * count // 50 + 2):
        wiring.go_on()
    assert all(item.unit is not None for item in wiring.items.values())
    assert wiring.asked <= 4 * count
