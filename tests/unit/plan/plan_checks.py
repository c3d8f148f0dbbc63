"""What is demanded of the core, by what it was told and what it commanded."""

from __future__ import annotations

from typing import Any

from furu_async._plan.commands import Ended, EndRun, Start
from furu_async._plan.events import NodeRules, Policy
from furu_async._plan.machine import State
from furu_async._plan.retry import budget
from furu_async._plan.states import FIRST_FINAL, Phase
from furu_async.report import FailureKind

DONE = (Phase.CREATED, Phase.CACHED)


class Broken(AssertionError):
    """The core did something that it must not do."""


class Checks:
    """The checks of a `World`, which has these attributes."""

    state: State
    policy: Policy
    deps: dict[str, tuple[str, ...]]
    rules: dict[str, NodeRules]
    targets: tuple[str, ...]
    told: set[str]
    live: dict[str, list[Any]]
    ended: dict[str, Ended]
    lost_failures: dict[str, dict[FailureKind, int]]
    end: EndRun | None
    planned: int
    stops: int
    chaos: bool
    spent: dict[str, dict[FailureKind, int]]

    def demand(self, truth: bool, sentence: str) -> None:
        if not truth:
            raise Broken(sentence)

    def check_start(self, start: Start, free: bool) -> None:
        node = start.node
        self.demand(free and self.state.mode == "run", "nothing starts in a run that ends")
        self.demand(
            self.told.issuperset(self.deps[node]), "I3: nothing starts before its dependencies are there"
        )
        self.demand(
            not self.policy.plan_may_refuse or self.planned == 1, "nothing starts that the plan may refuse"
        )
        # What was killed may still be dying (an old success came, and then the result was gone): the executor waits.
        twice = node in self.live and not self.live[node][2]
        self.demand(self.chaos or not twice, "no node runs twice")
        self.demand(node not in self.ended, "a final node does not start")
        self.demand(0 <= start.spec < self.rules[node].specs, "a specification of its own")

    def check_levels(self) -> None:
        """Priorities are exact when planning is over."""
        level = dict.fromkeys(self.state.nodes, 0)
        for node in sorted(level):  # dependencies have greater names
            known = self.state.nodes[node]
            self.demand(known.level == level[node], "a priority is the longest path above")
            if known.deps is not None:
                for dep in self.deps[node]:
                    level[dep] = max(level[dep], level[node] + 1)

    def check_end(self) -> None:
        state, ended, end = self.state, self.ended, self.end
        assert end is not None
        self.demand(self.planned <= 1, "planned once")
        done = {node for node, outcome in ended.items() if outcome.status in ("created", "cached")}
        for node_id, node in state.nodes.items():
            phase = node.phase
            self.demand(phase >= FIRST_FINAL, "I6: every node is final")
            if node_id in ended:
                self.demand(
                    ended[node_id].status == phase.name.lower(), "the last word on a node is its phase"
                )
            else:
                # It was looked at again, and was there after all; or the run stopped before the answer.
                self.demand(phase in DONE, "only what is there ends without a word")
                done.add(node_id)
        self.demand(sum(state.counts().values()) == len(state.nodes), "counts add up")
        self.demand(end.ok == done.issuperset(self.targets), "ok means that every target is there")
        if end.ok and not self.stops:
            self.demand(end.why in ("", "error"), "nobody stopped it")
        for node_id, outcome in ended.items():
            if outcome.because == "dependency":
                self.demand(ended[outcome.root].status == "failed", "skipped because of a failed node")
                self.demand(outcome.root in self.below(node_id), "skipped because of what it depends on")
        if state.mode == "run":
            for outcome in ended.values():
                self.demand(outcome.because in ("", "dependency"), "nothing else is skipped")
                self.demand(outcome.status != "cancelled", "nothing is cancelled")
        if not self.chaos:
            self.check_budgets()

    def check_budgets(self) -> None:
        """I8: no more failures than retries and one, kind by kind, those of an earlier controller included."""
        for node, counts in self.lost_failures.items():
            for kind, failures in counts.items():
                limit = budget(kind, self.policy, self.rules[node])
                before = self.spent.get(node, {}).get(kind, 0)
                enough = limit is None or failures + before <= max(limit, before) + 1
                self.demand(enough, f"I8: {node} {kind}: {before} + {failures}")

    def below(self, node: str) -> set[str]:
        seen: set[str] = set()
        stack = [node]
        while stack:
            for dep in self.deps[stack.pop()]:
                if dep not in seen:
                    seen.add(dep)
                    stack.append(dep)
        return seen
