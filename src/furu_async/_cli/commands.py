"""The commands: ``furu-async run``, ``submit``, ``show``.

Exit codes: 0 done, 1 nodes failed or the run could not be finished, 2 misuse (arguments, target, definition,
settings), 130 interrupted. Errors of the library are shown as their text; ``-v`` adds the traceback.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from furu_async._cli.executors import EXECUTORS, job_lines, make_executor, submission_lines
from furu_async._cli.failures import failure_lines, summary_line, traceback_lines
from furu_async._cli.plan_table import plan_lines
from furu_async._cli.progress import make_progress
from furu_async._cli.target import load_targets
from furu_async._cli.text import clean
from furu_async.errors import FuruDefinitionError, FuruError, FuruRunFailed

if TYPE_CHECKING:
    from furu_async._model.artifact import Furu
    from furu_async.report import RunReport

__all__ = ["cli"]

FAILED = 1
MISUSE = 2
INTERRUPTED = 130

verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Show tracebacks, and all nodes of a dry run."
)
root_option = click.option(
    "--root", type=click.Path(file_okay=False), help="Where results are kept; instead of FURU_PATH."
)
cluster_option = click.option(
    "--cluster",
    type=click.Choice(["slurm", "local"]),
    help="Where jobs of slurm-pool and slurm-dag run: local needs no Slurm.  [default: slurm]",
)
retry_failed_option = click.option(
    "--retry-failed/--no-retry-failed",
    default=None,
    help="Whether stored failures are tried again.  [default: yes]",
)
rerun_option = click.option(
    "--rerun",
    multiple=True,
    metavar="MODULE.CLASS",
    callback=lambda _context, _parameter, names: _class_names(names),
    help="Compute the artifacts of this class again (or ALL).",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="furu-async", prog_name="furu-async")
def cli() -> None:
    """Run and look at DAGs of cached computations."""


@cli.command("run")
@click.argument("target")
@click.option("--executor", type=click.Choice(EXECUTORS), default="local", show_default=True)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Nodes at a time (local; default: by CPUs, at most 8), or Slurm jobs at a time (slurm-pool; default: 4).",
)
@click.option(
    "--slots", type=click.IntRange(min=1), help="Nodes at a time in each job of a slurm-pool.  [default: 1]"
)
@click.option(
    "--idle",
    type=click.FloatRange(min=0),
    help="Seconds without work after which a job of a slurm-pool ends.  [default: 60]",
)
@cluster_option
@click.option(
    "--mode",
    type=click.Choice(["process", "thread", "inline"]),
    help="Where `_create` runs (local).  [default: process]",
)
@click.option(
    "--detach",
    is_flag=True,
    help="Leave Slurm jobs running when interrupted; the same command goes on with them.",
)
@click.option(
    "--on-failure",
    type=click.Choice(["continue", "drain", "cancel"]),
    default="continue",
    show_default=True,
    help="Once a node has failed: run what does not need it; start nothing new; stop what runs, too.",
)
@click.option("--max-failures", type=click.IntRange(min=1), help="Stop after this many failed nodes.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds for the whole run.")
@click.option(
    "--retries", type=click.IntRange(min=0), help="Retries after the first failure of a node.  [default: 3]"
)
@retry_failed_option
@rerun_option
@root_option
@click.option("--progress/--no-progress", default=True, help="Tell how far the run is, on standard error.")
@click.option("--dry-run", is_flag=True, help="Show what is there and what would be computed, and why.")
@verbose_option
def run(target: str, *, verbose: bool, root: str | None, **options: Any) -> None:
    """Compute TARGET and everything it needs that is not there yet.

    TARGET is package.module:name or path/to/file.py:name. The name is that of an artifact, a list of artifacts, a
    function (sync or async) without arguments that returns them, or a class whose fields have defaults.
    """
    with _errors_told(verbose):
        _use_root(root)
        targets = load_targets(target)
        if options["dry_run"]:
            code = _dry_run(targets, options, verbose)
        else:
            code = _run(targets, options, verbose)
    sys.exit(code)


@cli.command("submit")
@click.argument("target")
@cluster_option
@click.option(
    "--max-jobs", type=click.IntRange(min=1), help="Jobs in Slurm at a time.  [default: the cluster's limit]"
)
@retry_failed_option
@rerun_option
@root_option
@click.option("--dry-run", is_flag=True, help="Show jobs, what they ask for, and which waits for which.")
@verbose_option
def submit(target: str, *, verbose: bool, root: str | None, **options: Any) -> None:
    """Put one Slurm job for each node of TARGET that has to be computed into Slurm, wired, and leave.

    `furu-async run TARGET --executor slurm-dag` joins these jobs, shows how they go, and submits again what needs it.
    """
    options = {**options, "executor": "slurm-dag"}
    with _errors_told(verbose):
        _use_root(root)
        targets = load_targets(target)
        if options["dry_run"]:
            code = _dry_run(targets, options, verbose)
        else:
            code = _submit(targets, options)
    sys.exit(code)


@cli.command("show")
@click.argument("target")
@root_option
@verbose_option
def show(target: str, *, verbose: bool, root: str | None) -> None:
    """Tell the state of TARGET: whether it is there, since when, where, and how its last attempt ended."""
    with _errors_told(verbose):
        _use_root(root)
        from furu_async._cli.show import state_lines

        for line in state_lines(load_targets(target)):
            click.echo(line)


def _class_names(names: tuple[str, ...]) -> tuple[str, ...]:
    from furu_async._runtime.config import is_rerun_name

    for name in names:
        if not is_rerun_name(name):
            raise click.BadParameter(f"{name!r} is neither ALL nor of the form module.Class")
    return names


def _use_root(root: str | None) -> None:
    """Before anything reads the settings: they are read once per process, and children inherit the variable."""
    if root is not None:
        os.environ["FURU_PATH"] = os.path.abspath(root)


def _log(*, notes: bool) -> None:
    """Show warnings of the library; ``notes`` of a run only where no display shows them anyway."""
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: notes or not getattr(record, "furu_note", False))
    logger = logging.getLogger("furu_async")
    if not logger.hasHandlers():
        logger.addHandler(handler)


def _run(targets: list[Furu[Any]], options: dict[str, Any], verbose: bool) -> int:
    from furu_async.api import run_dag_sync

    executor = make_executor(options)
    _log(notes=False)
    progress = make_progress(options["progress"], targets)
    told = _Told(progress)
    try:
        report = run_dag_sync(
            targets,
            executor=executor,
            on_cancel="detach" if options["detach"] else "cancel",
            on_failure=options["on_failure"],
            max_failures=options["max_failures"],
            timeout=options["timeout"],
            retry_failed=options["retry_failed"],
            retries=options["retries"],
            rerun=options["rerun"],
            progress=told if progress is not None else False,
        )
    except FuruRunFailed as error:
        if error.report is None:
            raise
        if not told.stopped:
            _tell(error.report, error.message)
        if "retry_failed=False" in error.message:
            click.echo("refused: failures of earlier runs stand with --no-retry-failed", err=True)
        if verbose:
            for line in traceback_lines(error.report):
                click.echo(line.text, err=True)
        return FAILED
    if not told.stopped:
        _tell(report)
    return 0 if report.ok else FAILED


def _submit(targets: list[Furu[Any]], options: dict[str, Any]) -> int:
    from furu_async import submit_dag
    from furu_async._executors.sync import run_sync

    _log(notes=True)
    dag = make_executor(options)
    again = {"retry_failed": options["retry_failed"], "rerun": options["rerun"]}
    submission = run_sync(lambda: submit_dag(targets, executor=dag, **again))  # type: ignore[arg-type]
    if submission.report is not None:
        _tell(submission.report)
        return 0 if submission.report.ok else FAILED
    for line in submission_lines(submission):
        click.echo(line)
    return 0


class _Told:
    """A display, and whether it has had the last word already."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self.start: Callable[[str, str], None] = getattr(display, "start", lambda run_id, root: None)
        self.on_event: Callable[[Any], None] = getattr(display, "on_event", lambda event: None)
        self.stopped = False

    def stop(self, report: RunReport | None) -> None:
        self.stopped = report is not None
        self._display.stop(report)


def _tell(report: RunReport, message: str = "") -> None:
    for line in [*failure_lines(report), summary_line(report)]:
        click.echo(line.text, err=True)
    if message and not report.ok and not any(node.status == "failed" for node in report):
        click.echo(clean(message), err=True)


def _dry_run(targets: list[Furu[Any]], options: dict[str, Any], verbose: bool) -> int:
    from furu_async._executors.inspect import explain_dag
    from furu_async._runtime.config import active_config

    executor = make_executor(options)
    nodes = asyncio.run(explain_dag(targets, retry_failed=options["retry_failed"], rerun=options["rerun"]))
    click.echo(f"results in {clean(str(active_config().path))}")
    shown = None if verbose else 200
    for line in [*plan_lines(nodes, shown=shown), *job_lines(executor, nodes, shown=shown)]:
        click.echo(line)
    return 0


@contextmanager
def _errors_told(verbose: bool) -> Iterator[None]:
    """Turn exceptions into text on standard error and an exit code."""
    try:
        yield
    except FuruError as error:
        _say_error(error, verbose)
        sys.exit(MISUSE if isinstance(error, FuruDefinitionError) else FAILED)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)


def _say_error(error: FuruError, verbose: bool) -> None:
    if verbose:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        return
    lines = str(error).splitlines() or [""]
    for index, line in enumerate(lines):
        click.echo(f"{'error: ' if index == 0 else '  '}{clean(line)}", err=True)
