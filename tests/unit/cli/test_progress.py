import asyncio
import io

import pytest
from rich.console import Console
from tests.unit.cli.events import event, failure, outcome, report

from furu_async._cli.progress import PlainProgress, RichProgress, make_progress
from furu_async.errors import FuruDefinitionError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class BrokenPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def plain(stream: io.StringIO | None = None) -> tuple[PlainProgress, io.StringIO, Clock]:
    clock, out = Clock(), stream or io.StringIO()
    return PlainProgress(out, clock), out, clock


def test_the_default_is_live_on_a_terminal_and_silent_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert make_progress(None) is None
    assert isinstance(make_progress(True), PlainProgress)
    monkeypatch.setattr("sys.stderr", Terminal())
    assert isinstance(make_progress(None), RichProgress)
    assert isinstance(make_progress(True), RichProgress)
    assert make_progress(False) is None
    monkeypatch.setenv("TERM", "dumb")
    assert make_progress(None) is None
    monkeypatch.setattr("sys.stderr", None)
    assert make_progress(None) is None


def test_an_object_of_the_users_own_is_taken_and_anything_else_refused() -> None:
    own, _, _ = plain()
    assert make_progress(own) is own
    for wrong in ("yes", 1, PlainProgress):
        with pytest.raises(FuruDefinitionError, match="cannot show a run"):
            make_progress(wrong)


def test_the_first_line_tells_the_root() -> None:
    progress, out, _ = plain()
    progress.start("20261123-120000-abcdef", "/data/furu")
    assert out.getvalue() == "run 20261123-120000-abcdef, results in /data/furu\n"


def test_ten_thousand_nodes_do_not_flood() -> None:
    progress, out, clock = plain()
    progress.start("r", "/root")
    progress.on_event(event("planned", counts={"waiting": 10_000}))
    for node in range(10_000):
        clock.now += 0.003  # thirty seconds in all
        progress.on_event(event("node_started", node, attempt=1))
        progress.on_event(event("node_done", node, status="created"))
    progress.stop(report(outcome(1), ok=True))
    lines = out.getvalue().splitlines()
    assert len(lines) < 90
    summaries = [line for line in lines if "of 10,000 done" in line]
    assert 4 <= len(summaries) <= 7
    assert "lines left out" in summaries[0]
    assert lines[-1].startswith("done: 1 node")


def test_each_kind_of_news_has_its_line() -> None:
    progress, out, clock = plain()
    progress.start("r", "/root")
    progress.on_event(event("node_started", 1, attempt=1))
    clock.now = 2.0
    progress.on_event(event("node_retry", 1, attempt=1, message="compute: ValueError: x"))
    progress.on_event(event("node_waiting", 2, message="pid 7 on h holds the claim"))
    progress.on_event(event("node_done", 3, status="cached"))
    progress.on_event(event("node_done", 1, status="failed", message="compute: ValueError: \x1b[2J"))
    progress.on_event(event("note", message="a file was set aside"))
    assert out.getvalue().splitlines()[1:] == [
        "[   2.0 s] again   Train(n=1): compute: ValueError: x",
        "[   2.0 s] waits   Train(n=2): pid 7 on h holds the claim",
        "[   2.0 s] failed Train(n=1): compute: ValueError: \\x1b[2J",
        "[   2.0 s] note    a file was set aside",
    ]


def test_what_is_said_before_the_run_begins_is_told_and_whole() -> None:
    progress, out, _ = plain()
    text = f"the folder {'x' * 200} is open to all; close it with: chmod o-w"
    progress.on_event(event("note", message=text))
    assert out.getvalue() == ""
    progress.start("r", "/root")
    progress.stop(report(outcome(1), ok=True, notes=(text,)))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("run r")
    assert lines[1].endswith(text)
    assert out.getvalue().count("is open to all") == 1


def test_a_quiet_run_says_now_and_then_what_runs() -> None:
    async def quiet() -> None:
        progress.start("r", "/root")
        progress.on_event(event("node_started", 1, attempt=1))
        for _ in range(40):
            clock.now += 5.0
            progress._on_timer()
        progress.stop(None)
        await asyncio.sleep(0)

    progress, out, clock = plain()
    asyncio.run(quiet())
    lines = out.getvalue().splitlines()
    assert any("running for 1 min" in line and "Train(n=1)" in line for line in lines)
    assert len(lines) < 15


def test_a_stream_that_breaks_ends_the_display_only() -> None:
    progress, _, _ = plain(BrokenPipe())
    progress.start("r", "/root")
    progress.on_event(event("note", message="x"))
    progress.stop(report(outcome(1), ok=True))


def drawn(progress: RichProgress, console: Console) -> str:
    with console.capture() as captured:
        console.print(progress._render())
    return captured.get()


def test_the_live_display_shows_counts_runners_and_reasons() -> None:
    clock, console = Clock(), Console(file=Terminal(), force_terminal=True, width=110, color_system=None)
    progress = RichProgress(console, clock)
    progress.on_event(event("planned", counts={"waiting": 400}))
    for node in range(12):
        progress.on_event(event("node_started", node, attempt=2 if node == 0 else 1))
    progress.on_event(event("node_waiting", 50, message="pid 7 on other-host holds the claim"))
    for node in range(100, 104):
        progress.on_event(event("node_started", node, attempt=1))
    clock.now = 60.0
    for node in range(100, 104):
        progress.on_event(event("node_done", node, status="created"))
    progress.on_event(event("node_done", 60, status="failed", message="compute: bad [bold]\x1b[1m"))
    text = drawn(progress, console)
    for part in (
        "5/400",
        "1 min 00 s, about",
        "4 created  1 failed  12 running  1 waiting",
        "running   1 min 00 s  Train(n=0) (attempt 2)",
        "… and 4 more",
        "Train(n=50): pid 7 on other-host holds the claim",
        "failed Train(n=60): compute: bad [bold]\\x1b[1m",
    ):
        assert part in text


def test_a_live_run_from_start_to_stop() -> None:
    out = Terminal()
    console = Console(file=out, force_terminal=True, width=100)
    progress, second = RichProgress(console), RichProgress(console)
    progress.start("r", "/root")
    second.start("r2", "/root")  # two at a time must not break each other
    progress.on_event(event("node_started", 1, attempt=1))
    second.stop(report(outcome(1), ok=True))
    progress.stop(report(outcome(1, "failed", failure=failure())))
    assert "results in /root" in out.getvalue()
    assert "1 node failed:" in out.getvalue()
    assert "about to fail" in out.getvalue()
    assert not RichProgress._drawing


def test_how_the_jobs_are_is_told_with_the_summaries_and_drawn_live() -> None:
    progress, out, clock = plain()
    progress.start("r", "/root")
    words = "8 workers: 3 running on n1, n2; 5 pending (Resources)"
    progress.on_event(event("workers", counts={"running": 3, "pending": 5}, message=words))
    assert words not in out.getvalue()
    clock.now = 5.1
    progress.on_event(event("planned", counts={"waiting": 9}))
    assert f"           {words}\n" in out.getvalue()
    live = RichProgress(Console(file=io.StringIO(), width=120))
    live.on_event(event("workers", message=f"{words}\x1b[2J"))
    console = Console(file=io.StringIO(), width=120)
    console.print(live._render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert words in text
    assert "\x1b" not in text
