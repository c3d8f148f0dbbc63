"""The commands, with the library's run replaced: arguments, exit codes, what is said."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.unit.cli.events import event, failure, outcome, report

import furu_async
from furu_async._cli.commands import cli
from furu_async.errors import (
    FuruConfigError,
    FuruDefinitionError,
    FuruExecutorError,
    FuruRunFailed,
    FuruRunTimeout,
)
from furu_async.report import RunReport

SOURCE = """
from furu_async import Furu

class Answer(Furu[int]):
    of: int = 1
    def _create(self) -> int:
        return 42

target = Answer()
"""


class FakeRun:
    """Stands in for `run_dag_sync`: notes its arguments, drives the display, returns or raises."""

    def __init__(self, ends: RunReport | BaseException) -> None:
        self.ends = ends
        self.targets: list[Any] = []
        self.arguments: dict[str, Any] = {}

    def __call__(self, targets: list[Any], **arguments: Any) -> RunReport:
        self.targets, self.arguments = targets, arguments
        display = arguments["progress"]
        of = self.ends if isinstance(self.ends, RunReport) else getattr(self.ends, "report", None)
        if display:
            display.start("r1", "/store")
            display.on_event(event("node_started", 1, attempt=1))
            display.stop(of)
        if isinstance(self.ends, BaseException):
            raise self.ends
        return self.ends


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("FURU_PATH", str(tmp_path / "data"))
    (tmp_path / "cli_answer.py").write_text(SOURCE)
    yield tmp_path
    sys.modules.pop("cli_answer", None)


def run(
    monkeypatch: pytest.MonkeyPatch, ends: RunReport | BaseException, *arguments: str
) -> tuple[Result, FakeRun]:
    fake = FakeRun(ends)
    monkeypatch.setattr("furu_async.api.run_dag_sync", fake)
    return CliRunner().invoke(cli, ["run", "cli_answer:target", *arguments]), fake


GOOD = report(outcome(1), ok=True)
BAD = report(outcome(1, "failed", failure=failure()), outcome(2, "skipped", because="dependency"))


def test_arguments_reach_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    result, fake = run(
        monkeypatch, GOOD,
        "--workers", "3", "--mode", "thread", "--on-failure", "drain", "--max-failures", "2", "--timeout", "1.5",
        "--retries", "0", "--no-retry-failed", "--rerun", "m.A", "--rerun", "my-script.B", "--no-progress",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    executor = fake.arguments.pop("executor")
    assert (executor.workers, executor.mode) == (3, "thread")
    assert fake.arguments == {
        "on_cancel": "cancel",
        "on_failure": "drain",
        "max_failures": 2,
        "timeout": 1.5,
        "retries": 0,
        "retry_failed": False,
        "rerun": ("m.A", "my-script.B"),
        "progress": False,
    }
    assert [type(each).__name__ for each in fake.targets] == ["Answer"]


def test_what_is_not_given_is_left_to_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    _result, fake = run(monkeypatch, GOOD)
    assert (fake.arguments["retries"], fake.arguments["retry_failed"], fake.arguments["timeout"]) == (
        None,
        None,
        None,
    )
    assert fake.arguments["on_failure"] == "continue"


def test_the_root_is_set_before_anything_reads_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "cli_answer.py").write_text("import os\nseen = os.environ['FURU_PATH']\n" + SOURCE)
    result, _ = run(monkeypatch, GOOD, "--root", "elsewhere")
    assert result.exit_code == 0
    assert sys.modules["cli_answer"].seen == os.environ["FURU_PATH"] == str(folder / "elsewhere")


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (GOOD, 0),
        (BAD, 1),
        (FuruRunFailed("1 node failed", report=BAD), 1),
        (FuruRunTimeout("not done after 3 s", report=BAD), 1),
        (FuruExecutorError("workers die at start"), 1),
        (FuruDefinitionError("a cycle: A -> A"), 2),
        (FuruConfigError("FURU_LEASE_SECS='x' is not allowed"), 2),
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),
    ],
)
@pytest.mark.parametrize("progress", ["--progress", "--no-progress"])
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, ends: RunReport | BaseException, code: int, progress: str
) -> None:
    result, _ = run(monkeypatch, ends, progress)
    assert result.exit_code == code
    assert "Traceback" not in result.output


@pytest.mark.parametrize("progress", ["--progress", "--no-progress"])
def test_failures_are_told_once_with_their_log(monkeypatch: pytest.MonkeyPatch, progress: str) -> None:
    result, _ = run(monkeypatch, FuruRunFailed("1 node failed", report=BAD), progress)
    assert result.stdout == ""
    assert result.stderr.count("compute: ValueError: no such column") == 1
    assert result.stderr.count("about to fail") == 1
    assert result.stderr.splitlines()[-1] == "not done: 2 nodes in 1 min 01 s: 1 failed, 1 skipped"


def test_errors_are_text_and_with_v_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    error = FuruExecutorError("sbatch said\x1b[1m no", "ask it again")
    result, _ = run(monkeypatch, error)
    assert result.stderr.endswith("error: sbatch said\\x1b[1m no\n    hint: ask it again\n")
    result, _ = run(monkeypatch, error, "-v")
    assert "Traceback (most recent call last)" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "cli_answer:target", "--workers", "0"],
        ["run", "cli_answer:target", "--detach"],
        ["run", "cli_answer:target", "--slots", "2"],
        ["run", "cli_answer:target", "--executor", "slurm-pool", "--mode", "thread"],
        ["run", "cli_answer:target", "--executor", "slurm-dag", "--workers", "2"],
        ["run", "cli_answer:target", "--mode", "magic"],
        ["run", "cli_answer:target", "--timeout", "0"],
        ["run", "cli_answer:absent"],
        ["run", "cli_absent:target"],
        ["show", "cli_answer"],
        ["nonsense"],
    ],
)
def test_misuse_is_told_with_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert result.stderr


def test_a_dry_run_shows_the_plan_and_runs_nothing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    @dataclass
    class Planned:
        hash: str = "a" * 32
        name: str = "cli_answer.Answer"
        label: str = "Answer(of=1)"
        status: str = "create"
        reason: str = "never computed"
        directory: str = ""

    async def explain(targets: list[Any], **arguments: Any) -> list[Planned]:
        assert arguments == {"retry_failed": None, "rerun": ()}
        return [Planned()]

    monkeypatch.setattr("furu_async._executors.inspect.explain_dag", explain)
    result = CliRunner().invoke(cli, ["run", "cli_answer:target", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1:] == [
        "create   aaaaaaaaaaaa  Answer(of=1)  never computed",
        "1 node: 1 to create",
    ]
    assert not (folder / "data").exists()


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.output == f"furu-async, version {furu_async.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["show", "-h"]])
def test_there_is_help(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0
    assert "Usage: " in result.output


def test_verbose_shows_whole_tracebacks_and_a_refusal_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = report(outcome(1, "failed", failure=failure(traceback="Traceback\n  frame of mine\nValueError: x")))
    refused = FuruRunFailed("run r1 was ended: these failed, and retry_failed=False lets that stand", "", bad)
    quiet, _ = run(monkeypatch, refused, "--no-retry-failed")
    assert "refused: failures of earlier runs stand with --no-retry-failed" in quiet.output
    assert "frame of mine" not in quiet.output
    loud, _ = run(monkeypatch, FuruRunFailed("run r1 failed", "", bad), "-v")
    assert "  frame of mine" in loud.output.replace("    frame", "  frame")
    assert "refused" not in loud.output
