from dataclasses import dataclass

from furu_async._cli.plan_table import plan_lines


@dataclass(frozen=True)
class Planned:
    hash: str
    status: str
    reason: str = ""
    name: str = "pkg.Train"
    label: str = "Train(lr=0.1)"


def test_each_node_has_its_state_and_reason_and_the_counts_close() -> None:
    nodes = [
        Planned("a" * 32, "cached"),
        Planned("b" * 32, "create", "no result yet", label="Evaluate(train=Train(...))"),
        Planned("c" * 32, "failed", "compute: ValueError: \x1b[1mbad"),
    ]
    assert plan_lines(nodes) == [
        "cached   aaaaaaaaaaaa  Train(lr=0.1)",
        "create   bbbbbbbbbbbb  Evaluate(train=Train(...))  no result yet",
        "failed   cccccccccccc  Train(lr=0.1)               compute: ValueError: \\x1b[1mbad",
        "3 nodes: 1 there already, 1 to create, 1 failed before",
    ]


def test_a_large_plan_is_cut() -> None:
    nodes = [Planned(f"{n:032}", "create") for n in range(1000)]
    lines = plan_lines(nodes, shown=10)
    assert lines[-2:] == ["… and 990 more (-v shows all)", "1,000 nodes: 1,000 to create"]
    assert len(plan_lines(nodes, shown=None)) == 1001
