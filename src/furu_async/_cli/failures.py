"""What a person is told about the failures of a run: which node, why, the end of its log, where its files are. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Literal

from furu_async._cli.text import clean, duration, number, shorten
from furu_async.report import NodeOutcome, RunReport

__all__ = ["Line", "counts_text", "failure_lines", "summary_line", "traceback_lines"]

Tone = Literal["plain", "title", "error", "dim", "good"]

SHOWN = 10
TAIL = 6
_WIDTH = 400


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text and how it is meant; only a terminal shows the difference."""

    text: str
    tone: Tone = "plain"


def counts_text(counts: Iterable[tuple[str, int]]) -> str:
    """``12 created, 3 failed``; states without nodes are left out."""
    return ", ".join(f"{count:,} {status}" for status, count in counts if count) or "nothing to do"


def summary_line(report: RunReport) -> Line:
    """How a run ended, on one line."""
    what = counts_text(report.counts.items())
    total = number(len(report.nodes), "node")
    if report.ok:
        return Line(f"done: {total} in {duration(report.duration)}: {what}", "good")
    return Line(f"not done: {total} in {duration(report.duration)}: {what}", "error")


def traceback_lines(report: RunReport) -> list[Line]:
    """The whole traceback of every failed node that has one."""
    lines: list[Line] = []
    for node in report:
        if node.status == "failed" and node.failure is not None and node.failure.traceback:
            lines.append(Line(f"{shorten(clean(node.label or node.name), 160)} [{node.hash[:12]}]:", "title"))
            lines.extend(Line(f"  {clean(text)}") for text in node.failure.traceback.rstrip().splitlines())
    return lines


def failure_lines(
    report: RunReport, *, shown: int = SHOWN, tail: int = TAIL, told: Container[str] = ()
) -> list[Line]:
    """The failed nodes of a run, the first ``shown`` of them in full, each with the last ``tail`` lines of its log.

    Args:
        told: notes that have been shown before.
    """
    failed = [node for node in report if node.status == "failed"]
    lines: list[Line] = []
    if failed:
        lines.append(Line(f"{number(len(failed), 'node')} failed:", "title"))
        blocked = Counter(node.root for node in report if node.because == "dependency")
        for node in failed[:shown]:
            lines.extend(_failure(node, blocked[node.hash], tail))
        if len(failed) > shown:
            lines.append(Line(f"  … and {len(failed) - shown:,} more; the journal has them all:"))
            lines.append(Line(f"    {clean(report.run_dir)}/journal.jsonl", "dim"))
    lines.extend(
        Line(f"note: {shorten(clean(note), _WIDTH)}", "dim") for note in report.notes if note not in told
    )
    return lines


def _failure(node: NodeOutcome, blocked: int, tail: int) -> list[Line]:
    failure = node.failure
    what = clean(node.label or node.name)
    lines = [Line(f"  {shorten(what, 160)} [{node.hash[:12]}]", "error")]
    if failure is None:
        return lines
    attempts = f" (attempt {node.attempts})" if node.attempts > 1 else ""
    lines.append(Line(f"    {shorten(clean(failure.line()), _WIDTH)}{attempts}"))
    if failure.where():
        lines.append(Line(f"    at {shorten(clean(failure.where()), _WIDTH)}"))
    if failure.hint():
        lines.append(Line(f"    hint: {shorten(clean(failure.hint()), _WIDTH)}"))
    for line, times in Counter(node.history).items():
        often = f" ({times} times)" if times > 1 else ""
        lines.append(Line(f"    earlier: {shorten(clean(line), _WIDTH)}{often}", "dim"))
    last = (failure.log_tail or failure.traceback).rstrip().splitlines()[-tail:]
    lines.extend(Line(f"    | {shorten(clean(line), _WIDTH)}", "dim") for line in last)
    if failure.log_path:
        lines.append(Line(f"    log:   {clean(failure.log_path)}"))
    if node.directory and node.directory != failure.log_path:
        lines.append(Line(f"    files: {clean(node.directory)}"))
    if blocked:
        verbs = "needs it was" if blocked == 1 else "need it were"
        lines.append(Line(f"    {number(blocked, 'node')} that {verbs} skipped"))
    return lines
