"""Events and reports made by hand."""

from typing import Any

from furu_async.report import EventKind, Failure, NodeOutcome, NodeStatus, RunEvent, RunReport


def event(kind: EventKind, node: int | str = "", **more: Any) -> RunEvent:
    if node != "":
        more.setdefault("name", "pkg.Train")
        more.setdefault("label", f"Train(n={node})")
    return RunEvent(at=0.0, kind=kind, hash=str(node), **more)


def outcome(node: int | str, status: NodeStatus = "created", **more: Any) -> NodeOutcome:
    return NodeOutcome(hash=f"{node:0>32}", name="pkg.Train", label=f"Train(n={node})", status=status, **more)


def failure(**more: Any) -> Failure:
    values: dict[str, Any] = {
        "kind": "compute",
        "error_type": "builtins.ValueError",
        "message": "no such column",
        "log_tail": "reading\nabout to fail\n",
        "log_path": "/store/data/pkg/Train/abc/attempts/2",
    }
    return Failure(**(values | more))


def report(*nodes: NodeOutcome, ok: bool = False, **more: Any) -> RunReport:
    more = {"run_id": "r1", "run_dir": "/store/runs/r1", "duration": 61.0} | more
    return RunReport(ok=ok, nodes={node.hash: node for node in nodes}, **more)
