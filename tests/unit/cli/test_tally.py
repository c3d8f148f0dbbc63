import time

from tests.unit.cli.events import event

from furu_async._cli.tally import Tally


def test_states_add_up_at_every_step() -> None:
    tally = Tally()
    tally.feed(event("planned", counts={"cached": 1, "waiting": 3}), 0.0)
    steps = [
        event("node_done", 0, status="cached"),
        event("node_started", 1, attempt=1),
        event("node_retry", 1, attempt=1, message="compute: ValueError"),
        event("node_started", 1, attempt=2),
        event("node_waiting", 2, message="pid 7 on host holds the claim"),
        event("node_done", 1, status="created"),
        event("node_done", 2, status="cached"),
        event("node_done", 3, status="skipped"),
    ]
    for now, each in enumerate(steps):
        tally.feed(each, float(now))
        snap = tally.snapshot(float(now))
        assert snap.total == 4
        assert snap.done == sum(snap.ended.values())
        assert snap.done + snap.running + snap.waiting <= snap.total
    assert snap.ended == {"created": 1, "cached": 2, "failed": 0, "skipped": 1, "cancelled": 0}
    assert (snap.running, snap.waiting, snap.retries) == (0, 0, 1)


def test_a_wait_goes_on_from_its_beginning_when_its_reason_changes() -> None:
    tally = Tally()
    tally.feed(event("node_waiting", 1, message="queued"), 10.0)
    tally.feed(event("node_waiting", 1, message="silent for 20 s"), 30.0)
    (wait,) = tally.snapshot(40.0).waits
    assert (wait.seconds, wait.event.message) == (30.0, "silent for 20 s")


def test_the_longest_running_come_first_and_only_so_many() -> None:
    tally = Tally()
    for node in range(20):
        tally.feed(event("node_started", node, attempt=1), float(node))
    snap = tally.snapshot(100.0, most=3)
    assert [each.event.label for each in snap.longest] == ["Train(n=0)", "Train(n=1)", "Train(n=2)"]
    assert [each.seconds for each in snap.longest] == [100.0, 99.0, 98.0]
    assert snap.running == 20


def test_remaining_time_follows_durations_and_parallelism() -> None:
    tally = Tally()
    tally.feed(event("planned", counts={"waiting": 12}), 0.0)
    for pair in range(3):  # two at a time, 10 s each
        for node in (2 * pair, 2 * pair + 1):
            tally.feed(event("node_started", node, attempt=1), pair * 10.0)
        assert tally.snapshot(pair * 10.0).remaining is None or pair == 2
        for node in (2 * pair, 2 * pair + 1):
            assert tally.feed(event("node_done", node, status="created"), pair * 10.0 + 10.0) == 10.0
    assert tally.snapshot(30.0).remaining == 30.0  # six more, two at a time


def test_remaining_time_knows_classes_apart() -> None:
    tally = Tally()
    tally.feed(event("planned", counts={"waiting": 8}), 0.0)
    for node in range(3):
        tally.feed(event("node_started", node, name="Quick"), float(node))
        tally.feed(event("node_done", node, name="Quick", status="created"), node + 1.0)
    tally.feed(event("node_started", 3, name="Slow"), 3.0)
    tally.feed(event("node_done", 3, name="Slow", status="created"), 103.0)
    for node in range(4, 8):
        tally.feed(event("node_started", node, name="Quick"), 103.0)
    assert tally.snapshot(103.0).remaining == 4.0


def test_nothing_is_foretold_while_everything_waits() -> None:
    tally = Tally()
    tally.feed(event("planned", counts={"waiting": 6}), 0.0)
    for node in range(4):
        tally.feed(event("node_started", node), 0.0)
        tally.feed(event("node_done", node, status="created"), 1.0)
    tally.feed(event("node_retry", 4, message="again in 60 s"), 1.0)
    assert tally.snapshot(2.0).remaining is None
    tally.feed(event("node_started", 5), 2.0)
    assert tally.snapshot(2.0).remaining is not None


def test_a_node_longer_than_usual_leaves_no_negative_time() -> None:
    tally = Tally()
    tally.feed(event("planned", counts={"waiting": 5}), 0.0)
    for node in range(4):
        tally.feed(event("node_started", node), 0.0)
        tally.feed(event("node_done", node, status="created"), 1.0)
    tally.feed(event("node_started", 4), 1.0)
    assert tally.snapshot(1000.0).remaining == 0.0


def test_ten_thousand_nodes_cost_little() -> None:
    tally = Tally()
    events = [
        event(kind, node, status="created" if kind == "node_done" else "")
        for node in range(10_000)
        for kind in ("node_waiting", "node_started", "node_done")
    ]
    began = time.process_time()
    for each in events:
        tally.feed(each, 0.0)
    assert tally.done == 10_000
    assert time.process_time() - began < 1.0  # about 0.03 s; the bound only catches a quadratic slip
