"""Units on their way to Slurm, counted and sorted as their phases change: no event goes through all of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from heapq import heappop, heappush

from furu_async._dag.units import Unit, UnitPhase

_NOT_IN_SLURM: frozenset[UnitPhase] = frozenset({"new", "claiming", "claimed", "checking"})
_BUSY: tuple[UnitPhase, ...] = ("new", "claiming", "checking", "submitting")


class Queue:
    """See the module.

    Attributes:
        in_slurm: jobs that are in Slurm, or may get there.
        fresh: units that have just been made.
    """

    def __init__(self) -> None:
        self.in_slurm: int = 0
        self.fresh: list[Unit] = []
        self._phases: Counter[UnitPhase] = Counter()
        self._ready: list[int] = []
        self._blocked: dict[str, list[int]] = {}

    def add(self, unit: Unit, live: Collection[str]) -> None:
        """One more unit, in the phase that it says."""
        unit.live = set(live)
        self._enter(unit)
        if unit.phase == "new":
            self.fresh.append(unit)

    def move(self, unit: Unit, phase: UnitPhase) -> None:
        """Give a unit another phase."""
        self._phases[unit.phase] -= 1
        if unit.phase not in _NOT_IN_SLURM:
            self.in_slurm -= len(unit.live)
        unit.phase = phase
        self._enter(unit)

    def _enter(self, unit: Unit) -> None:
        self._phases[unit.phase] += 1
        if unit.phase not in _NOT_IN_SLURM:
            self.in_slurm += len(unit.live)
        if unit.phase == "claimed":
            heappush(self._ready, unit.uid)

    def gone(self, unit: Unit, node: str) -> None:
        """The job of a node is not in Slurm, or not wanted there."""
        if node in unit.live:
            unit.live.discard(node)
            if unit.phase not in _NOT_IN_SLURM:
                self.in_slurm -= 1

    def take_fresh(self) -> list[Unit]:
        """Those that have to be claimed; they are being claimed from now on."""
        fresh, self.fresh = [unit for unit in self.fresh if unit.phase == "new"], []
        for unit in fresh:
            self.move(unit, "claiming")
        return fresh

    # -- which goes next -------------------------------------------------------------------------------------

    def first(self, units: dict[int, Unit], lacking: Callable[[Unit], str]) -> Unit | None:
        """The oldest claimed unit all of whose parents have jobs, or results.

        Args:
            lacking: a parent of a unit that has neither, or empty; the unit is not looked at again before `wake` of it.
        """
        while self._ready:
            unit = units[self._ready[0]]
            if unit.phase == "claimed":
                parent = lacking(unit)
                if not parent:
                    return unit
                self._blocked.setdefault(parent, []).append(unit.uid)
            heappop(self._ready)
        return None

    def wake(self, nodes: Iterable[str]) -> None:
        """These have jobs now, or results: look again at what waits for them."""
        for node in nodes:
            for uid in self._blocked.pop(node, ()):
                heappush(self._ready, uid)

    # -- questions -------------------------------------------------------------------------------------------

    @property
    def limited(self) -> bool:
        """Slurm takes no more at present."""
        return self._phases["limited"] > 0

    @property
    def busy(self) -> bool:
        """Something will be heard of a unit soon."""
        return any(self._phases[phase] for phase in _BUSY)

    @property
    def empty(self) -> bool:
        """All units are in Slurm, or over."""
        return not self.busy and not self.limited and not self._phases["claimed"]
