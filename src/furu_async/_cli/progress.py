"""Progress of a run: a live display on a terminal, a few plain lines anywhere else.

`make_progress` chooses. All displays take the run's events through `on_event`, on the run's event loop, and only add
them up there (`_cli.tally`). The live display is drawn by rich's own refresh thread, so a terminal that does not take
output (Ctrl-S) never holds the run up. The plain one writes from `on_event` and from a timer of the loop: at most a
dozen lines per interval, however many nodes end.

A display that breaks must not break a run: errors of the output stream end the display only.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TextIO, runtime_checkable

from furu_async._cli.failures import Line, failure_lines, summary_line
from furu_async._cli.labels import Labels
from furu_async._cli.tally import Active, Snapshot, Tally
from furu_async._cli.text import clean, duration, number, shorten
from furu_async.errors import FuruDefinitionError
from furu_async.report import RunEvent, RunReport

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from furu_async._model.artifact import Furu

__all__ = ["PlainProgress", "Progress", "RichProgress", "make_progress"]

_NOTE = 500  # it says what to do at its end
_LABEL = 100
_TONES = {"plain": "", "title": "bold", "error": "red", "dim": "dim", "good": "green"}


@runtime_checkable
class Progress(Protocol):
    """What ``progress=`` accepts besides None, True and False."""

    def start(self, run_id: str, root: str) -> None: ...

    def on_event(self, event: RunEvent) -> None: ...

    def stop(self, report: RunReport | None) -> None: ...


def make_progress(progress: object = None, targets: Iterable[Furu[Any]] = ()) -> Progress | None:
    """The display for a run.

    Args:
        targets: of the run, so that nodes can be shown with their fields.
        progress: None for a live display if standard error is a terminal and nothing otherwise; True for plain lines
            where it is none; False for nothing; or an object with ``start``, ``on_event`` and ``stop``.

    Raises:
        FuruDefinitionError: it is none of these.
    """
    if progress is False:
        return None
    if progress is None or progress is True:
        labels = Labels(targets)
        if _is_terminal(sys.stderr):
            return RichProgress(labels=labels)
        return PlainProgress(labels=labels) if progress else None
    if isinstance(progress, type) or not isinstance(progress, Progress):
        raise FuruDefinitionError(
            f"progress={progress!r} cannot show a run: None, True, False or an object with the methods "
            "start(run_id, root), on_event(event) and stop(report) is needed"
        )
    return progress


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except ValueError:  # it is closed
        return False


class PlainProgress:
    """Lines on a stream, for logs and pipes.

    Args:
        stream: where to; standard error by default, looked up when the run starts.
        clock: seconds, monotonic.
        most: at most this many lines about single nodes between two summaries.
        labels: what nodes are called.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        most: int = 10,
        labels: Labels | None = None,
    ) -> None:
        self._labels = labels or Labels()
        self._stream = stream
        self._clock = clock
        self._most = most
        self._tally = Tally()
        self._began = clock()
        self._next_summary = 0.0
        self._left = most
        self._untold = 0
        self._said: tuple[int, int, int, str] = (0, 0, 0, "")
        self._noted: set[str] = set()
        self._early: list[RunEvent] | None = []
        self._quiet_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, run_id: str, root: str) -> None:
        """Say what runs and where its results go; keep time, if called on a running event loop."""
        if self._stream is None:
            self._stream = sys.stderr
        self._began = self._quiet_since = self._clock()
        self._next_summary = self._began + self._interval()
        self._write(f"run {clean(run_id)}, results in {clean(root)}")
        early, self._early = self._early or [], None
        for event in early:
            self.on_event(event)
        self._wake_later()

    def on_event(self, event: RunEvent) -> None:
        """Count the event; tell it if it is worth a line and there is room for one."""
        if self._early is not None:  # there is something to be said even before the run begins
            self._early.append(event)
            return
        now = self._clock()
        seconds = self._tally.feed(event, now)
        if now >= self._next_summary:
            self._summary(now)
        if not _is_news(event):
            return
        if self._left > 0:
            self._left -= 1
            if event.kind == "note":
                self._noted.add(event.message)
            self._write(f"[{duration(now - self._began):>8}] {self._line(event, seconds)}")
        else:
            self._untold += 1

    def stop(self, report: RunReport | None) -> None:
        """The last lines: how it ended, and every failure with the end of its log."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if report is None:
            self._write(_counts(self._tally.snapshot(self._clock())))
            return
        for line in [*failure_lines(report, told=self._noted), summary_line(report)]:
            self._write(line.text)

    def _line(self, event: RunEvent, seconds: float | None) -> str:
        label = shorten(clean(self._labels.of(event)), _LABEL)
        message = shorten(clean(event.message), 200)
        if event.kind == "node_done":
            took = f" in {duration(seconds)}" if seconds is not None else ""
            return f"{event.status} {label}{took}{f': {message}' if message else ''}"
        if event.kind == "note":
            return f"note    {shorten(clean(event.message), _NOTE)}"
        return f"{'again' if event.kind == 'node_retry' else 'waits':<7} {label}: {message}"

    def _interval(self) -> float:
        """Seconds between summaries: every few seconds at first, seldom in a run of hours."""
        age = self._clock() - self._began
        return 5.0 if age < 60 else 15.0 if age < 900 else 60.0

    def _summary(self, now: float) -> None:
        self._next_summary = now + self._interval()
        self._left = self._most
        snap = self._tally.snapshot(now, most=1)
        said = (snap.done, snap.running, snap.waiting, snap.workers)
        if said == self._said and now - self._quiet_since < 60.0:
            return
        self._said, self._quiet_since = said, now
        untold = f" ({number(self._untold, 'line')} left out)" if self._untold else ""
        self._untold = 0
        self._write(f"[{duration(now - self._began):>8}] {_counts(snap)}{untold}")
        if snap.workers:
            self._write(f"           {clean(snap.workers)}")
        for active, verb in [(each, "running") for each in snap.longest] + [
            (each, "waiting") for each in snap.waits
        ]:
            if active.seconds >= 30.0:
                why = (
                    f": {shorten(clean(active.event.message), 200)}"
                    if active.event.message and verb == "waiting"
                    else ""
                )
                label = shorten(clean(self._labels.of(active.event)), _LABEL)
                self._write(f"           {verb} for {duration(active.seconds)}: {label}{why}")

    def _wake_later(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop: the summaries come with the events alone
            return
        self._timer = loop.call_later(self._interval(), self._on_timer)

    def _on_timer(self) -> None:
        now = self._clock()
        if now >= self._next_summary:
            self._summary(now)
        self._wake_later()

    def _write(self, text: str) -> None:
        stream = self._stream
        if stream is None:
            return
        try:
            stream.write(text + "\n")
            stream.flush()
        except (OSError, ValueError):  # closed, or the other end of the pipe is gone
            self._stream = None


class RichProgress:
    """A live display at the bottom of the terminal, and at the end what failed.

    Of several runs at a time in one process only the first is drawn live; the others say how they ended.

    Args:
        console: a ``rich.console.Console``; by default one on standard error.
    """

    _drawing = False  # of the process: one terminal has room for one live display

    def __init__(
        self,
        console: Any = None,
        clock: Callable[[], float] = time.monotonic,
        labels: Labels | None = None,
    ) -> None:
        self._labels = labels or Labels()
        self._console = console
        self._clock = clock
        self._tally = Tally()
        self._began = clock()
        self._notes: list[str] = []
        self._live: Live | None = None

    def start(self, run_id: str, root: str) -> None:
        """Say what runs and where its results go, and begin to draw."""
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        if self._console is None:
            self._console = Console(stderr=True, highlight=False)
        self._began = self._clock()
        self._console.print(Text(f"run {clean(run_id)}, results in {clean(root)}"), soft_wrap=True)
        if RichProgress._drawing:
            return
        RichProgress._drawing = True
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=6,
            transient=True,
            redirect_stdout=_is_terminal(sys.stdout),
        )
        self._live.start()
        # rich hides the cursor; a process that is killed could not bring it back.
        self._console.show_cursor(True)

    def on_event(self, event: RunEvent) -> None:
        """Count the event; nothing is drawn here."""
        self._tally.feed(event, self._clock())
        if event.kind == "note" or (event.kind == "node_done" and event.status == "failed"):
            about = f"failed {event.label or event.name}: " if event.kind == "node_done" else ""
            self._notes.append(shorten(clean(f"{about}{event.message}"), 300))
            del self._notes[:-3]

    def stop(self, report: RunReport | None) -> None:
        """Take the live display away; say how it ended, and every failure with the end of its log."""
        from rich.text import Text

        if self._live is not None:
            self._live.stop()
            self._live = None
            RichProgress._drawing = False
        if self._console is None:
            return
        lines = (
            [Line(_counts(self._tally.snapshot(self._clock())))]
            if report is None
            else [*failure_lines(report), summary_line(report)]
        )
        for line in lines:
            self._console.print(Text(line.text, style=_TONES[line.tone]), soft_wrap=True)

    def _render(self) -> RenderableType:
        """Called by rich's refresh thread."""
        from furu_async._cli.live import draw

        now = self._clock()
        return draw(self._tally.snapshot(now), now - self._began, list(self._notes), self._label)

    def _label(self, active: Active) -> str:
        return shorten(clean(self._labels.of(active.event)), _LABEL)


def _is_news(event: RunEvent) -> bool:
    """It is worth a line of its own, if there is room."""
    if event.kind == "node_done":
        return event.status in ("created", "failed")
    return event.kind in ("node_retry", "node_waiting", "note")


def _counts(snap: Snapshot) -> str:
    """``120 of 400 done (80 created, 40 cached), 8 running, 272 to go, about 2 min 10 s left``."""
    parts = ", ".join(f"{count:,} {status}" for status, count in snap.ended.items() if count)
    of = f" of {snap.total:,}" if snap.total is not None else ""
    text = f"{snap.done:,}{of} done" + (f" ({parts})" if parts else "")
    if snap.running:
        text += f", {snap.running:,} running"
    if snap.waiting:
        text += f", {snap.waiting:,} waiting"
    if snap.total is None:
        text += ", still planning"
    if snap.remaining is not None and snap.remaining >= 1:
        text += f", about {duration(snap.remaining)} left"
    return text
