from furu_async._pool.crew import Row
from furu_async._pool.telling import sentence


def row(state: str, node: str = "", reason: str = "", spec: str = "cpu") -> Row:
    return Row("w", spec, "1", state, reason, node)


def test_states_nodes_and_reasons() -> None:
    rows = [row("pending", reason="PENDING, Resources")] * 5 + [row("working", "n2"), row("working", "n1")]
    assert sentence(rows) == "7 workers: 5 pending (PENDING, Resources); 2 working on n1, n2"
    assert sentence([row("idle", "n1")]) == "1 worker: 1 idle on n1"


def test_specs_apart_the_largest_first() -> None:
    rows = [row("working", "n1", spec="gpu"), row("working", "n2"), row("pending", reason="Priority")]
    assert sentence(rows) == "3 workers: cpu: 1 working on n2; 1 pending (Priority) | gpu: 1 working on n1"


def test_without_workers_the_reason_is_told() -> None:
    assert sentence([], "no workers yet") == "no workers yet"


def test_many_nodes_are_cut() -> None:
    told = sentence([row("working", f"n{k}") for k in range(9)])
    assert told == "9 workers: 9 working on n0, n1, n2, n3, n4, n5 …"
