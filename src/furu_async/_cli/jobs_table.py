"""What a dry run shows of the jobs that an executor would submit. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from furu_async._cli.plan_table import PlannedLike
from furu_async._cli.text import clean, number, shorten
from furu_async._model.resources import SlurmSpec

__all__ = ["JobNode", "dag_lines", "pool_lines", "spec_text"]

_TO_DO = ("create", "busy", "unknown")


class JobNode(PlannedLike, Protocol):
    """What is needed of a planned node that may get a job."""

    @property
    def depends_on(self) -> tuple[str, ...]: ...
    @property
    def specs(self) -> tuple[SlurmSpec, ...]: ...


def spec_text(spec: SlurmSpec) -> str:
    """What a person should read of a specification, on one line."""
    parts = [f"partition {spec.partition}" if spec.partition else "default partition"]
    parts.append(number(spec.cpus, "CPU"))
    if spec.gpus:
        parts.append(number(spec.gpus, "GPU"))
    parts += [f"{spec.mem_gb:g} GB", f"{spec.time_min:g} min"]
    if spec.extra:
        parts.append(f"extra {', '.join(sorted(spec.extra))}")
    return clean(", ".join(parts))


def pool_lines(
    nodes: Iterable[JobNode], limit: Callable[[SlurmSpec], int], most: int | None, slots: int
) -> list[str]:
    """For each specification how many nodes want it and how many pilot jobs there would be for them at most.

    Args:
        limit: jobs of a specification at a time; 0 where the pool has none for it.
        most: jobs at a time altogether, or None.
        slots: tasks that a job runs at a time.
    """
    wanted: dict[SlurmSpec, int] = {}
    later: dict[SlurmSpec, int] = {}
    for node in nodes:
        if node.status in _TO_DO:
            for k, spec in enumerate(node.specs):
                counts = later if k else wanted
                counts[spec] = counts.get(spec, 0) + 1
    lines = []
    for spec, count in wanted.items():
        jobs = min(-(-count // slots), limit(spec))
        text = (
            f"at most {number(jobs, 'job')} at a time" if jobs else "no workers: these nodes cannot run here"
        )
        lines.append(f"{spec.key}: {number(count, 'node')}, {text} ({spec_text(spec)})")
    for spec, count in later.items():
        text = f"{number(count, 'node')} after a timeout or for want of memory ({spec_text(spec)})"
        lines.append(f"{spec.key}: {text}")
    if not wanted:
        return ["no jobs: nothing is to be computed"]
    if most is not None:
        lines.append(f"at most {number(most, 'job')} at a time altogether")
    return lines


def dag_lines(nodes: Sequence[JobNode], *, shown: int | None = 200) -> list[str]:
    """A line per job, in the order in which they would be submitted: what it computes, with what, after which jobs."""
    todo = [node for node in nodes if node.status in _TO_DO]
    if not todo:
        return ["no jobs: nothing is to be computed"]
    numbers = {node.hash: k for k, node in enumerate(todo, 1)}
    some = todo if shown is None else todo[:shown]
    lines, edges = [], 0
    for node in todo:
        edges += sum(digest in numbers for digest in node.depends_on)
    for node in some:
        after = [numbers[digest] for digest in node.depends_on if digest in numbers]
        first = node.specs[0] if node.specs else None
        what = shorten(clean(node.label or node.name), 90)
        line = f"job {numbers[node.hash]:<4} {node.hash[:12]}  {what}  {first.key if first else ''}".rstrip()
        lines.append(line + (f"  after {', '.join(map(str, after))}" if after else ""))
    if len(todo) > len(some):
        lines.append(f"… and {len(todo) - len(some):,} more (-v shows all)")
    specs: dict[SlurmSpec, int] = {}
    for node in todo:
        for spec in node.specs[:1]:
            specs[spec] = specs.get(spec, 0) + 1
    lines += [f"{spec.key}: {number(count, 'job')} ({spec_text(spec)})" for spec, count in specs.items()]
    lines.append(f"{number(len(todo), 'job')}, {number(edges, 'edge')}")
    return lines
