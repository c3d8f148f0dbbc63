"""A random world around the core: a DAG, a store, an executor, other people, and a messenger that can't be trusted.

Everything random comes from the `random.Random` that it is given, so a seed is a run, and Hypothesis can shrink one.
What the world checks is said by the events and commands alone; what the core believes is checked by
`check_invariants`.
"""

from __future__ import annotations

import random
from typing import Any

from plan_checks import Broken, Checks
from plan_choices import CUTS, FAILURES, FINAL_COMPUTE, IDS, KINDS, MOST_NODES, POLICIES, RULES, RUN_WIDE

from furu_async._plan.commands import (
    Command,
    Ended,
    EndRun,
    Kill,
    Planned,
    Probe,
    Retrying,
    Start,
    TakeBack,
    Unwatch,
    Watch,
)
from furu_async._plan.events import (
    Elsewhere,
    Event,
    Failed,
    Probed,
    Started,
    Stop,
    Succeeded,
    TakenBack,
    Tick,
    Wanted,
    WatchEnded,
)
from furu_async._plan.invariants import check_invariants
from furu_async._plan.machine import State, advance
from furu_async._plan.states import Phase
from furu_async.report import Failure, FailureKind

MOST_STEPS = 3000


class World(Checks):
    """One run in a hostile world.

    Args:
        rng: where all choices come from.
        check_every: `check_invariants` after every so many events, and at the end.
        trace: print events and commands.
    """

    def __init__(self, rng: random.Random, *, check_every: int = 1, trace: bool = False) -> None:
        self.rng = rng
        self.rnd = rnd = rng.random
        self.check_every = check_every
        self.trace = trace
        self.size = size = 1 + int(rnd() * MOST_NODES)
        below: list[set[str]] = [set() for _ in range(size)]
        far = 0.0 if rnd() < 0.2 else rnd()  # 0: a chain, 1: anything
        more = rnd() * 0.8
        for i in range(1, size):
            below[i - 1 - int(rnd() * far * (i - 1))].add(IDS[i])
            while rnd() < more:
                below[int(rnd() * i)].add(IDS[i])
        self.deps: dict[str, tuple[str, ...]] = {IDS[i]: tuple(sorted(below[i])) for i in range(size)}
        self.targets = (IDS[0],) if rnd() < 0.7 else (IDS[0], IDS[int(rnd() * size)], IDS[int(rnd() * size)])
        self.rules = {IDS[i]: RULES[int(rnd() * len(RULES))] for i in range(size)}
        self.policy = POLICIES[int(rnd() * len(POLICIES))]
        calm = rnd()  # some worlds are calm, some are wild
        self.p_fail = 0.0 if calm < 0.2 else rnd() * 0.4
        self.noise = 0 if calm < 0.3 else int(rnd() * 25)
        self.chaos = calm > 0.8  # the messenger also forges: no ticket on what it repeats or invents
        self.there = {node for node in self.deps if rnd() < 0.06}
        self.failed = {node: FAILURES[KINDS[int(rnd() * len(KINDS))]] for node in self.deps if rnd() < 0.06}
        self.busy = {node for node in self.deps if rnd() < 0.06}
        self.state = State(self.policy)
        # An earlier controller of this run counted; it may have used up a budget, or, badly, more than that.
        share = rnd() * 0.6 if rnd() < 0.2 else 0.0
        self.spent = {node: self.draw_spent() for node in self.deps if rnd() < share}
        self.now = rnd() * 1e6
        self.todo: list[
            tuple[str, str, int]
        ] = []  # (what, node, ticket): the world's next moves, in no order
        self.live: dict[str, list[Any]] = {}  # node -> [ticket, begun, to be killed]
        self.watched: set[str] = set()
        self.told: set[str] = set()  # nodes that the core was told to be there
        self.ended: dict[str, Ended] = {}
        self.lost_failures: dict[str, dict[FailureKind, int]] = {}
        self.past: list[Event] = []
        self.steps = 0
        self.stops = 0
        self.planned = 0
        self.end: EndRun | None = None
        self.more = False  # further targets follow

    # -- running -----------------------------------------------------------------------------------

    def run(self) -> EndRun:
        """From the first event to the last, and a bit after."""
        cut = int(self.rnd() * 2 * len(self.targets))
        if cut < len(self.targets):
            self.more = True
            self.feed(Wanted(self.targets[:cut], more=True))
            for _ in range(int(self.rnd() * 4)):
                if self.todo and self.end is None:
                    self.step()
            self.more = False
            self.feed(Wanted(self.targets[cut:]))
        else:
            self.feed(Wanted(self.targets))
        while self.end is None:
            self.step()
        check_invariants(self.state)
        self.check_end()
        for event in (Tick(), Stop(), Wanted(("x",)), *self.past[-3:]):
            self.demand(advance(self.state, event, self.now) == [], "silence after the end")
        return self.end

    def feed(self, event: Event) -> None:
        """Give an event to the core, and carry out what it says."""
        state = self.state
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Broken("the run does not end")
        free = state.mode == "run"
        looks_below = type(event) is Probed and event.verdict not in ("valid", "unknown")
        if looks_below and state.phase(event.node) is Phase.PROBING:
            self.told.discard(event.node)
        out = advance(state, event, self.now)
        if self.trace:
            print(f"{self.now:12.3f}  {event}")
            for command in out:
                print(f"{'':14}  -> {command}")
        for command in out:
            self.obey(command, free)
        if self.steps % self.check_every == 0:
            check_invariants(state)
        if self.end is None and not self.more and not self.todo and state.next_wakeup() is None:
            raise Broken("nothing is under way and the run has not ended")

    def obey(self, command: Command, free: bool) -> None:
        """Carry out one command."""
        self.demand(self.end is None, "EndRun is the last command")
        kind = type(command)
        if kind is Probe:
            self.demand(free, "no probe in a run that ends")
            self.todo.append(("probe", command.node, 0))
            self.ended.pop(command.node, None)
        elif kind is Start:
            self.check_start(command, free)
            self.live[command.node] = [command.ticket, False, False]
            self.todo.append(("live", command.node, command.ticket))
        elif kind is Ended:
            self.demand(command.node not in self.ended, "a node ends once")
            self.ended[command.node] = command
            if command.status in ("created", "cached"):
                self.told.add(command.node)
        elif kind is Kill or kind is TakeBack:
            if command.node in self.live:
                what = "kill" if kind is Kill else "take"
                self.live[command.node][2] |= kind is Kill
                self.todo.append((what, command.node, self.live[command.node][0]))
        elif kind is Watch:
            self.demand(free, "no watch in a run that ends")
            self.watched.add(command.node)
            self.todo.append(("watch", command.node, 0))
        elif kind is Unwatch:
            self.watched.discard(command.node)
        elif kind is Planned:
            self.planned += 1
            self.check_levels()
        elif kind is EndRun:
            self.end = command
        else:
            self.demand(kind is Retrying and command.at >= self.now, "a retry is in the future")

    def step(self) -> None:
        """Let something happen."""
        rnd = self.rnd
        if self.noise and rnd() < 0.2:
            self.noise -= 1
            self.make_noise()
            return
        todo = self.todo
        if not todo or rnd() < 0.1:
            wake = self.state.next_wakeup()
            if wake is not None:
                self.now = max(self.now, wake)
                self.feed(Tick())
                return
        i = int(rnd() * len(todo))
        what, node, ticket = todo[i]
        todo[i] = todo[-1]
        todo.pop()
        self.now += rnd()
        if what == "probe":
            self.say(self.probe(node))
        elif what == "watch":
            if node in self.watched:
                self.watched.discard(node)
                self.say(self.watch_end(node))
        else:
            task = self.live.get(node)
            if task is not None and task[0] == ticket:
                self.work(what, node, ticket, task)
        if self.end is None and not self.more and not self.todo and self.state.next_wakeup() is None:
            raise Broken("nothing is under way and the run has not ended")

    def say(self, event: Event) -> None:
        """Tell the core something true; the messenger remembers it."""
        self.past.append(event)
        self.feed(event)

    # -- the store, the executor, the others -------------------------------------------------------

    def draw_spent(self) -> dict[FailureKind, int]:
        """What was counted of a node before."""
        rnd = self.rnd
        kinds = [KINDS[int(rnd() * len(KINDS))] for _ in range(1 + int(rnd() * 3))]
        return {kind: 1 + int(rnd() * (6 if rnd() < 0.2 else 2)) for kind in kinds}

    def probe(self, node: str) -> Event:
        rnd = self.rnd
        if self.p_fail and rnd() < 0.04:
            return Probed(node, "unknown", detail="EIO", jitter=rnd())
        if node in self.there:
            return Probed(node, "valid")
        deps, rules, spent = self.deps[node], self.rules[node], self.spent.get(node, {})
        last = FAILURES[next(iter(spent))] if spent else None
        if node in self.busy:
            return Probed(node, "busy", deps, rules, detail="someone", spent=spent, last=last)
        if node in self.failed:
            return Probed(node, "failed", deps, rules, self.failed[node], spent=spent, last=last)
        return Probed(node, "absent", deps, rules, spent=spent, last=last)

    def watch_end(self, node: str) -> Event:
        self.busy.discard(node)
        luck = self.rnd()
        if luck < 0.5:
            self.there.add(node)
            return WatchEnded(node, "published")
        if luck < 0.7:
            return WatchEnded(node, "lost")
        if luck < 0.9:
            return WatchEnded(node, "ended", FAILURES[KINDS[int(self.rnd() * len(KINDS))]])
        return WatchEnded(node, "timeout")

    def work(self, what: str, node: str, ticket: int, task: list[Any]) -> None:
        """An attempt goes a step further."""
        rnd = self.rnd
        if what == "take":
            if not task[1]:
                del self.live[node]
                self.say(TakenBack(node, ticket))
            return
        if what == "kill" and not task[1]:
            del self.live[node]
            self.say(TakenBack(node, ticket))
            return
        if what == "live" and not task[1] and rnd() < 0.9:
            self.todo.append(("live", node, ticket))
            if self.p_fail and rnd() < 0.05:
                self.not_begun(node, ticket)
                return
            task[1] = True
            if rnd() < 0.97:  # else this message is lost
                self.say(Started(node, ticket))
            return
        del self.live[node]
        if what == "kill" and rnd() < 0.7:
            self.say(Failed(node, FAILURES["cancelled"], ticket=ticket))
            return
        if not self.there.issuperset(self.deps[node]):
            self.fail(node, ticket, FAILURES["inputs"], task[2])
        elif rnd() < self.p_fail:
            luck = rnd()
            failure = FAILURES[KINDS[int(rnd() * len(KINDS))]]
            failure = FINAL_COMPUTE if luck < 0.05 else RUN_WIDE if luck < 0.06 else failure
            failure = CUTS[int(luck * 300) % 3] if luck > 0.9 else failure
            self.fail(node, ticket, failure, task[2])
        else:
            self.there.add(node)
            self.say(Succeeded(node, rnd() < 0.95, ticket))

    def not_begun(self, node: str, ticket: int) -> None:
        del self.live[node]
        if self.rnd() < 0.5:
            self.say(TakenBack(node, ticket))
        else:
            self.busy.add(node)
            self.say(Elsewhere(node, "someone", ticket))

    def fail(self, node: str, ticket: int, failure: Failure, killed: bool) -> None:
        """An attempt fails; one that the core wants to be ended costs no budget, whatever it ends of."""
        if self.state.mode == "run" and not killed and not (failure.planned or failure.checkpoint):
            counts = self.lost_failures.setdefault(node, {})
            counts[failure.kind] = counts.get(failure.kind, 0) + 1
        self.say(Failed(node, failure, self.rnd(), ticket))

    # -- noise -------------------------------------------------------------------------------------

    def make_noise(self) -> None:
        """Something that should not happen, or not now."""
        rnd = self.rnd
        luck = rnd()
        node = IDS[int(rnd() * self.size)]
        if luck < 0.15:
            self.there.discard(node)
        elif luck < 0.2:
            self.feed(Tick())
        elif luck < 0.24 and self.stops < 2:
            self.stops += 1
            self.feed(Stop(("cancel", "timeout", "error")[int(rnd() * 3)], "told to"))
        elif luck < 0.5 and self.past:
            self.repeat(self.past[int(rnd() * len(self.past))])
        elif luck < 0.6:
            self.feed(WatchEnded(node, ("published", "lost", "ended", "timeout")[int(rnd() * 4)]))
        elif luck < 0.7:
            self.feed(self.probe(node))
        else:
            self.forge(node)

    def repeat(self, event: Event) -> None:
        """The same event again, later; in a chaotic world without its ticket."""
        ticket = getattr(event, "ticket", 0)
        if ticket and self.chaos:
            self.feed(type(event)(**{**{f: getattr(event, f) for f in event.__struct_fields__}, "ticket": 0}))
        elif ticket and type(event) is not Succeeded and ticket not in self.live.get(event.node, ()):
            self.unheard(event)
        else:
            self.feed(event)

    def forge(self, node: str) -> None:
        """An answer to a `Start` that nobody gave: of an old attempt, or (chaos) of the present one."""
        task = self.live.get(node)
        ticket = 0 if self.chaos else task[0] - 1 if task else 0
        if not ticket and not self.chaos:
            return
        match int(self.rnd() * 5):
            case 0:
                self.unheard(Started(node, ticket))
            case 1:
                self.unheard(TakenBack(node, ticket))
            case 2:
                self.unheard(Elsewhere(node, "", ticket))
            case 3:
                self.unheard(Failed(node, FAILURES[KINDS[int(self.rnd() * len(KINDS))]], ticket=ticket))
            case _:
                self.there.add(node)
                self.feed(Succeeded(node, ticket=ticket))

    def unheard(self, event: Any) -> None:
        """I9: a message from an old attempt changes nothing."""
        if not event.ticket:
            self.feed(event)
            return
        state = self.state
        before = (list(state.by_phase), state.live, len(state.timers), state.story(event.node))
        out = advance(state, event, self.now)
        after = (list(state.by_phase), state.live, len(state.timers), state.story(event.node))
        self.demand(out == [] and before == after, f"a message of an old attempt changes nothing: {event}")


def explore(seed: int, *, check_every: int = 1, trace: bool = False) -> World:
    """Run the world of a seed to its end.

    Raises:
        Broken, FuruInternalError: a bug.
    """
    world = World(random.Random(seed), check_every=check_every, trace=trace)
    world.run()
    return world
