"""A run in domain verbs: say what happens, then say which commands were expected; nothing may be left over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    NodeRules,
    Policy,
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
from furu_async.report import Failure, FailureKind


def failure(kind: FailureKind = "compute", message: str = "boom", **more: Any) -> Failure:
    return Failure(kind=kind, error_type="builtins.ValueError", message=message, **more)


def short(command: Command) -> str:
    """A command as a few words."""
    match command:
        case Probe(node, careful):
            return f"probe {node}" + (" carefully" if careful else "")
        case Start(node, attempt, _, spec):
            return (
                f"start {node}" + (f" #{attempt}" if attempt > 1 else "") + (f" spec {spec}" if spec else "")
            )
        case TakeBack(node):
            return f"take {node}"
        case Kill(node):
            return f"kill {node}"
        case Watch(node):
            return f"watch {node}"
        case Unwatch(node):
            return f"unwatch {node}"
        case Retrying(node, trouble):
            return f"retry {node} {trouble.kind}"
        case Ended(node, status, trouble, because, root):
            kind = trouble.kind if trouble else ""
            return " ".join(part for part in (node, status, kind, because, root) if part)
        case Planned():
            return "planned"
        case EndRun(ok, why, _):
            return " ".join(part for part in ("end", "ok" if ok else "not ok", why) if part)


class Env:
    """One run of a DAG given as ``"a: b c, b: d"``; the clock stands still but for `wait`."""

    def __init__(self, dag: str = "a", **policy: Any) -> None:
        self.deps: dict[str, tuple[str, ...]] = {}
        for part in dag.split(","):
            node, _, below = part.partition(":")
            self.deps[node.strip()] = tuple(below.split())
        for below in list(self.deps.values()):
            for node in below:
                self.deps.setdefault(node, ())
        self.rules: dict[str, NodeRules] = {}
        self.state = State(Policy(**policy))
        self.now = 1000.0
        self.log: list[Command] = []  # everything that was ever commanded
        self.inbox: list[Command] = []

    # -- what happens ------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        commands = advance(self.state, event, self.now)
        check_invariants(self.state)
        self.log += commands
        self.inbox += commands

    def want(self, *nodes: str) -> None:
        self.feed(Wanted(nodes or (next(iter(self.deps)),)))

    def valid(self, *nodes: str) -> None:
        for node in nodes:
            self.feed(Probed(node, "valid"))

    def probed(self, node: str, verdict: Any, trouble: Failure | None = None, **more: Any) -> None:
        self.feed(Probed(node, verdict, self.deps[node], self.rules.get(node, NodeRules()), trouble, **more))

    def absent(self, *nodes: str) -> None:
        for node in nodes:
            self.probed(node, "absent")

    def begin(self, *nodes: str) -> None:
        for node in nodes:
            self.feed(Started(node))

    def succeed(self, *nodes: str, created: bool = True) -> None:
        for node in nodes:
            self.feed(Succeeded(node, created))

    def fail(self, node: str, kind: FailureKind = "compute", jitter: float = 0.0, **more: Any) -> None:
        self.feed(Failed(node, failure(kind, **more), jitter))

    def fail_when_running(self, node: str, kind: FailureKind = "compute", **more: Any) -> None:
        self.begin(node)
        self.fail(node, kind, **more)

    def elsewhere(self, node: str, detail: str = "") -> None:
        self.feed(Elsewhere(node, detail))

    def watch_ended(self, node: str, how: Any, trouble: Failure | None = None, detail: str = "") -> None:
        self.feed(WatchEnded(node, how, trouble, detail))

    def taken_back(self, *nodes: str) -> None:
        for node in nodes:
            self.feed(TakenBack(node))

    def stop(self, why: Any = "cancel", detail: str = "") -> None:
        self.feed(Stop(why, detail))

    def wait(self) -> float:
        """Let time pass until the next timer is due; how long that was."""
        at = self.state.next_wakeup()
        assert at is not None, "there is a timer"
        passed, self.now = at - self.now, max(self.now, at)
        self.feed(Tick())
        return passed

    def plan(self, *, absent: str = "", valid: str = "") -> None:
        """Want the first node, answer the probes, and forget what was commanded."""
        self.want()
        self.absent(*absent.split())
        self.valid(*valid.split())
        self.inbox.clear()

    # -- what was commanded ------------------------------------------------------------------------

    def expect(self, *words: str) -> None:
        """These commands came since the last look, in this order, and no others."""
        got = [short(command) for command in self.inbox]
        self.inbox.clear()
        assert got == list(words)

    def last(self, kind: type[Any]) -> Any:
        """The newest command of a kind."""
        return next(command for command in reversed(self.log) if type(command) is kind)

    def phases(self) -> Mapping[str, str]:
        return {node: self.state.phase(node).name.lower() for node in self.state.nodes}

    def counts(self) -> Mapping[str, int]:
        """The counts that are not zero."""
        return {name: number for name, number in self.state.counts().items() if number}

    def done(self) -> None:
        """Nothing is left over, and the state is sound."""
        assert [short(command) for command in self.inbox] == []
        check_invariants(self.state)
