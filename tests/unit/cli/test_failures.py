import pytest
from tests.unit.cli.events import failure, outcome, report

from furu_async._cli.failures import failure_lines, summary_line, traceback_lines


def test_a_failure_says_what_why_and_where() -> None:
    bad = outcome(
        1, "failed", attempts=2, failure=failure(), history=("compute: OSError: first",), directory="/store/x"
    )
    lines = [
        line.text
        for line in failure_lines(report(bad, outcome(2, "skipped", because="dependency", root=bad.hash)))
    ]
    assert lines == [
        "1 node failed:",
        f"  Train(n=1) [{bad.hash[:12]}]",
        "    compute: ValueError: no such column (attempt 2)",
        "    earlier: compute: OSError: first",
        "    | reading",
        "    | about to fail",
        "    log:   /store/data/pkg/Train/abc/attempts/2",
        "    files: /store/x",
        "    1 node that needs it was skipped",
    ]


def test_many_failures_are_cut_and_the_rest_is_named() -> None:
    nodes = [outcome(n, "failed", failure=failure(log_tail="")) for n in range(1000)]
    lines = [line.text for line in failure_lines(report(*nodes))]
    assert lines[0] == "1,000 nodes failed:"
    assert lines[-2:] == ["  … and 990 more; the journal has them all:", "    /store/runs/r1/journal.jsonl"]
    assert len(lines) < 60


def test_a_traceback_stands_in_for_a_missing_log() -> None:
    bad = outcome(1, "failed", failure=failure(log_tail="", traceback="Traceback\n  frame\nValueError: x"))
    assert "    | ValueError: x" in [line.text for line in failure_lines(report(bad))]


@pytest.mark.fault("F116")
def test_user_text_cannot_steer_the_terminal() -> None:
    bad = outcome(1, "failed", failure=failure(message="\x1b[31mred", log_tail="a\rb\x1b]0;title\x07"))
    assert all(line.text.isprintable() for line in failure_lines(report(bad)))


def test_the_summary_counts_every_state() -> None:
    text = summary_line(report(outcome(1), outcome(2, "cached"), outcome(3, "failed"))).text
    assert text == "not done: 3 nodes in 1 min 01 s: 1 created, 1 cached, 1 failed"
    assert summary_line(report(outcome(1), ok=True)).text == "done: 1 node in 1 min 01 s: 1 created"


def test_the_whole_traceback_can_be_had() -> None:
    text = (
        "Traceback (most recent call last):\n"
        + "\n".join(f"  frame {k}\x1b" for k in range(50))
        + "\nValueError: x"
    )
    nodes = report(
        outcome(1, "failed", failure=failure(traceback=text)), outcome(2, "failed", failure=failure())
    )
    lines = [line.text for line in traceback_lines(nodes)]
    assert lines[0].startswith("Train(n=1) [")
    assert len(lines) == 1 + 52
    assert lines[-1] == "  ValueError: x"
    assert all(line.isprintable() for line in lines)


def test_a_note_that_was_shown_is_not_shown_again() -> None:
    nodes = report(outcome(1), notes=("first", "second"))
    assert [line.text for line in failure_lines(nodes, told={"first"})] == ["note: second"]
