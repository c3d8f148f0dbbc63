"""Which jobs a DAG needs in Slurm, and in which order they go there: a state and its events. Pure.

The shell calls a method for each thing that has happened and carries out the commands that it returns. A *unit* is one
submission: the job of one node, or an array of jobs for nodes with the same specification and the same parents.

Units go in waves. A unit of a wave without parents in it is submitted held; when nothing more can be submitted now (all
is in, or Slurm takes no more) the wave is looked at as a whole and released. So no parent can end, and be forgotten
by Slurm, before its children are wired to it, and jobs that wait for a limit never wait for jobs that we hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from furu_async._dag.forming import Forming
from furu_async._dag.graph import Graph
from furu_async._dag.queueing import Queue
from furu_async._dag.units import (
    PART,
    Bounds,
    Check,
    Claim,
    Command,
    Drop,
    GoOn,
    Item,
    ItemPhase,
    Resolve,
    Submit,
    Unit,
    UnitPhase,
    Verify,
    Withdraw,
)


class Wiring(Graph):
    """See the module."""

    def __init__(self, bounds: Bounds | None = None, part: int = PART) -> None:
        super().__init__()
        self.bounds = bounds or Bounds()
        self.units: dict[int, Unit] = {}
        self._forming = Forming(self, self._will_have_job)
        self._queue = Queue()
        self._part = part
        self._more = False
        self._going = False
        self._wave: dict[int, Unit] = {}
        self._verifying = False
        self._count = 0
        self._most: int | None = None

    # -- what happens ----------------------------------------------------------------------------------------

    def plan(self, items: Iterable[Item], more: bool = False) -> list[Command]:
        """These nodes are to be computed; parents before children.

        Args:
            more: others follow, and siblings may be among them: no unit is made before the last ones are here.
        """
        for item in items:
            self.add(item)
            if item.phase == "todo":
                self._forming.add(item)
        self._more = more
        return self._go([])

    def go_on(self) -> list[Command]:
        """Answer to `GoOn`."""
        self._going = False
        return self._go([])

    def adopt(self, nodes: list[str], spec: int, mine: Collection[str]) -> Unit:
        """A submission of an earlier controller of this run: a unit that is claimed already.

        Args:
            nodes: as they were submitted.
            mine: those whose claim is still the submission's.
        """
        key = next((self.items[node].key for node in nodes if node in self.items), "")
        unit = self._new_unit(nodes, spec, key, "claimed", [node for node in nodes if node in mine])
        for node in unit.live:
            item = self.items.get(node)
            if item is not None and item.phase in ("todo", "unit"):
                self._leave(item)
                item.phase, item.unit = "unit", unit
                self._forming.gone(node)
                self._forming.wake(node)
        return unit

    def claimed(
        self,
        uid: int,
        ours: Collection[str],
        done: Collection[str] = (),
        foreign: Mapping[str, str] | None = None,
        bad: Collection[str] = (),
    ) -> list[Command]:
        """What became of a unit's claims. What is in none of the collections has been adopted, or is asked again.

        Args:
            done: they have results.
            foreign: jobs of those that somebody else is at; empty where not known.
            bad: they cannot be claimed at all, and have failed.
        """
        unit = self.units[uid]
        out: list[Command] = []
        for node in list(unit.nodes):
            item = self.items[node]
            mine = item.unit is unit
            if node in ours:
                if not mine:  # forgotten meanwhile
                    out.append(Drop(uid, node))
                continue
            unit.nodes.remove(node)
            self._queue.gone(unit, node)
            if not mine:
                continue
            item.unit = None
            if node in done:
                item.phase = "done"
                self._wake(node)
            elif node in bad:
                item.phase = "failed"
            elif foreign is not None and node in foreign:
                item.phase, item.job = "foreign", foreign[node]
                self._wake(node)
            else:
                self._forming.add(item)
        self._set(unit, "claimed" if unit.live else "over")
        return self._go(out)

    def checked(self, uid: int, done: Collection[str], gone: Collection[tuple[str, str]]) -> list[Command]:
        """Answer to `Check`: which parents have their result, and which jobs of theirs are gone without one."""
        unit = self.units[uid]
        out: list[Command] = []
        for node in done:
            self._done(node)
        for node, job in gone:
            if self.items[node].phase != "foreign" and self.job_of(node) == job:
                self._leave(self.items[node])
                self.items[node].phase = "failed"
        self._doubt(gone, out)
        if unit.phase == "checking":
            unit.checked = not gone
            self._set(unit, "claimed")
        return self._go(out)

    def edges(self, uid: int) -> tuple[str, ...]:
        """The jobs that a unit is to wait for, as of now; remembered as what it is wired to."""
        unit = self.units[uid]
        unit.edges = {}
        for parent in self.parents(unit):
            job = self.job_of(parent)
            if job:
                unit.edges[parent] = job
        return tuple(unit.edges.values())

    def placed(self, uid: int, job: str) -> list[Command]:
        """It is in Slurm."""
        unit = self.units[uid]
        unit.job = job
        if unit.phase != "over":
            self._set(unit, "placed")
            self._wave[uid] = unit
            self._queue.wake(unit.nodes)
        return self._go([])

    def limited(self, uid: int) -> list[Command]:
        """Slurm takes no more jobs at present; it is tried again and again."""
        unit = self.units[uid]
        out: list[Command] = []
        if unit.phase == "submitting":
            self._set(unit, "limited")
            if len(unit.nodes) > 1:
                self._most = max(1, len(unit.nodes) // 2)
                out.append(Withdraw(uid))
        return self._go(out)

    def withdrawn(self, uid: int) -> list[Command]:
        """Nothing of the unit is in Slurm: those of its nodes that are still wanted go again, in other units."""
        unit = self.units[uid]
        for node in list(unit.live):
            item = self.items[node]
            self._queue.gone(unit, node)
            if item.unit is unit:
                self._forming.add(item)
        self._set(unit, "over")
        return self._go([])

    def refused(self, uid: int) -> list[Command]:
        """Slurm will never take it: its nodes have failed."""
        unit = self.units[uid]
        for node in list(unit.live):
            self._end(unit, node, "failed")
        self._set(unit, "over")
        return self._go([])

    def verified(self, uids: Collection[int], missing: Collection[int] = ()) -> list[Command]:
        """Answer to `Verify`: all are released; Slurm does not have the missing ones, which need new jobs."""
        self._verifying = False
        out: list[Command] = []
        for uid in uids:
            unit = self.units[uid]
            self._wave.pop(uid, None)
            if unit.phase == "placed":
                self._set(unit, "open" if unit.live else "over")
        for uid in missing:
            unit = self.units[uid]
            for node in list(unit.live):
                out.append(Drop(uid, node))
                self._queue.gone(unit, node)
                if self.items[node].unit is unit:
                    self._forming.add(self.items[node])
            self._set(unit, "over")
        return self._go(out)

    def done(self, node: str) -> list[Command]:
        """The result of a node is there, whoever made it."""
        self._done(node)
        return self._go([])

    def failed(self, uid: int, node: str) -> list[Command]:
        """The job of a node has ended without a result."""
        unit = self.units[uid]
        self._end(unit, node, "failed")
        return self._go([])

    def killed(self, uid: int, node: str) -> list[Command]:
        """Slurm has ended the job of a node, because a job that it was wired to has failed: it needs another one."""
        unit = self.units[uid]
        out: list[Command] = []
        self._doubt(unit.edges.items(), out)
        self._end(unit, node, "todo")
        return self._go(out)

    def again(self, node: str, spec: int, key: str) -> list[Command]:
        """A node needs a new job; so do those that are wired to its old one."""
        item = self.items.get(node)
        out: list[Command] = []
        if item is None:
            item = Item(node, (), spec, key)
            self.add(item)
        elif item.unit is not None:
            out.append(Drop(item.unit.uid, node))
        self._leave(item)
        item.spec, item.key, item.job = spec, key, ""
        self._forming.add(item)
        for each in self.below(node):
            if self.is_doomed(each):
                assert each.unit is not None
                out.append(Drop(each.unit.uid, each.hash))
                self._leave(each)
                self._forming.add(each)
        return self._go(out)

    def forget(self, node: str) -> list[Command]:
        """Nobody wants a node any more."""
        item = self.items.get(node)
        out: list[Command] = []
        if item is None or item.phase in ("done", "forgotten"):
            return out
        if item.unit is not None:
            out.append(Drop(item.unit.uid, node))
        self._leave(item)
        item.phase = "forgotten"
        self._forming.gone(node)
        return self._go(out)

    def foreign(self, node: str, job: str) -> list[Command]:
        """The job of a node that another run is at."""
        self.items[node].job = job
        self._queue.wake([node])
        return self._go([])

    # -- questions -------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Everything that is wanted is in Slurm, and nothing of it is held."""
        return not self._forming.todo and not self._more and self._queue.empty and not self._wave

    # -- inside ----------------------------------------------------------------------------------------------

    def _doubt(self, jobs: Iterable[tuple[str, str]], out: list[Command]) -> None:
        """Nothing is to be wired to these jobs of others before it is known how they are."""
        for node, job in jobs:
            item = self.items[node]
            if item.phase == "foreign" and item.job == job:
                item.job = ""
                out.append(Resolve(node))

    def _go(self, out: list[Command]) -> list[Command]:
        self._forming.gather(self._part)
        if not self._more:
            self._form()
        if not self._going and self._forming.pending and not self._more:
            self._going = True
            out.append(GoOn())
        fresh = self._queue.take_fresh()
        if fresh:
            out.append(Claim(tuple(unit.uid for unit in fresh)))
        self._submit(out)
        if self._wave and not self._queue.busy and not self._verifying and not self._going and not self._more:
            self._verifying = True
            out.append(Verify(tuple(self._wave)))
        return out

    def _form(self) -> None:
        """Put nodes whose parents have jobs, or will have, into units."""
        most = max(1, min(self._most or self.bounds.array, self.bounds.array, self.bounds.jobs))
        for key, spec, nodes in self._forming.take(most, self._part):
            unit = self._new_unit(nodes, spec, key, "new", nodes)
            for node in nodes:
                self.items[node].unit = unit

    def _will_have_job(self, node: str) -> bool:
        item = self.items[node]
        if item.phase == "unit":
            return item.unit is None or node in item.unit.live
        return item.phase == "foreign"

    def _submit(self, out: list[Command]) -> None:
        queue = self._queue
        while not queue.limited and (unit := queue.first(self.units, self.lacking)) is not None:
            if queue.in_slurm and queue.in_slurm + len(unit.live) > self.bounds.jobs:
                return
            parents = self.parents(unit)
            released = tuple((p, self.job_of(p)) for p in parents if self.is_released(p))
            if released and not unit.checked:
                self._set(unit, "checking")
                out.append(Check(unit.uid, released))
                continue
            within = any(self._is_in_wave(p) for p in parents)
            unit.hold = not within and any(self.has_children_to_come(node) for node in unit.nodes)
            self._set(unit, "submitting")
            out.append(Submit(unit.uid, unit.hold))

    def _is_in_wave(self, node: str) -> bool:
        unit = self.items[node].unit
        return unit is not None and unit.uid in self._wave

    def _new_unit(
        self, nodes: list[str], spec: int, key: str, phase: UnitPhase, live: Collection[str]
    ) -> Unit:
        self._count += 1
        unit = self.units[self._count] = Unit(self._count, list(nodes), spec, key, phase)
        self._queue.add(unit, live)
        return unit

    def _set(self, unit: Unit, phase: UnitPhase) -> None:
        self._queue.move(unit, phase)
        if phase in ("open", "over"):
            self._wave.pop(unit.uid, None)
        if phase == "over":
            for node in list(unit.live):
                self._queue.gone(unit, node)

    def _leave(self, item: Item) -> None:
        """Take a node out of its unit; a unit that nobody needs and that is not in Slurm yet is over."""
        unit, item.unit = item.unit, None
        if unit is None:
            return
        self._queue.gone(unit, item.hash)
        # One that is held stays in its wave: others may wait for its job, so it has to be released.
        if not unit.live and unit.phase in ("new", "claimed", "checking", "open"):
            self._set(unit, "over")

    def _end(self, unit: Unit, node: str, phase: ItemPhase) -> None:
        item = self.items.get(node)
        if item is None or item.unit is not unit:
            self._queue.gone(unit, node)
            return
        self._leave(item)
        if phase == "todo":
            self._forming.add(item)
        else:
            item.phase = phase

    def _done(self, node: str) -> None:
        item = self.items.get(node)
        if item is not None and item.phase != "done":
            self._leave(item)
            item.phase = "done"
            self._forming.gone(node)
            self._wake(node)

    def _wake(self, node: str) -> None:
        self._forming.wake(node)
        self._queue.wake([node])
