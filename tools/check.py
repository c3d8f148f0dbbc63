"""Runs the checks of the project, section by section, and says at the end what passed, failed and was left out.

Usage: ``python tools/check.py [section ...]``; without arguments all of them, in a fixed order. A section that
fails does not keep the next from running. The last line is ``N passed, N failed``; tests count one by one, other
checks as one each. The same line goes to ``.stamps/summary``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMPS = ROOT / ".stamps"
BIN = Path(sys.executable).parent
PYTHON = (
    "src",
    "tests",
    "examples",
    "benchmarks",
    "tools",
)  # not the documents: their code is laid out for reading


def _tool(name: str) -> str:
    return str(BIN / name)


def _pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *arguments]


SECTIONS: dict[str, tuple[str, list[list[str]]]] = {
    "lint": (
        "style: ruff, format, length of modules and functions",
        [
            [_tool("ruff"), "check", *PYTHON],
            [_tool("ruff"), "format", "--check", *PYTHON],
            [sys.executable, "tools/check_sizes.py"],
        ],
    ),
    "types": (
        "types: mypy --strict, pyright on what users write, completeness of the public types",
        [
            [_tool("mypy")],
            [_tool("mypy"), "tests/typing"],
            [_tool("pyright"), "--pythonpath", sys.executable, "--project", "tests/typing"],
            [
                _tool("pyright"),
                "--pythonpath",
                sys.executable,
                "--verifytypes",
                "furu_async",
                "--ignoreexternal",
            ],
        ],
    ),
    "arch": ("architecture: who may import whom", [[_tool("lint-imports"), "--no-cache"]]),
    "faults": (
        "faults: each has a test or is listed as planned",
        [[sys.executable, "tools/check_faults.py"]],
    ),
    "unit": (
        "tests: unit, contract, simulation",
        [
            _pytest(
                "-n",
                "2",
                "tests/unit",
                "tests/sim",
                "tests/contract",
                "--deselect",
                "tests/contract/test_slurm_contract.py",
            )
        ],
    ),
    "slurm": (
        "tests on a real Slurm cluster: the cluster itself, the contract it has in common with the simulated one",
        [_pytest("-n", "3", "--dist", "loadgroup", "tests/slurm", "tests/contract/test_slurm_contract.py")],
    ),
    "chaos": (
        "laboratory: races, kills, zombies, several simulated hosts, mounts that lie",
        [_pytest("-n", "2", "tests/chaos")],
    ),
    "campaigns": (
        "the laboratory's campaigns alone, for tools/chaos.py",
        [
            _pytest(
                "-n",
                "2",
                "tests/unit/plan/test_plan_campaign.py",
                "tests/sim/test_sim_runs.py",
                "tests/sim/test_cluster_runs.py",
                "tests/sim/test_every_await_dag.py",
                "tests/sim/test_every_await_pool.py",
                "tests/sim/test_every_operation_dag.py",
                "tests/sim/test_every_operation_pool.py",
                "tests/chaos",
                "tests/slurm/test_pool_absence.py",
            )
        ],
    ),
    "docs": ("documentation: the README runs, the map is complete", [_pytest("tests/docs")]),
    "integration": (
        "whole runs: processes, kills, command line, example",
        # Much of it waits: for processes to begin and to end, for leases.
        [_pytest("-n", "3", "tests/integration")],
    ),
}


@dataclass
class Result:
    """What became of one section."""

    name: str
    passed: int = 0
    failed: int = 0
    seconds: float = 0.0
    left_out: list[str] = field(default_factory=list)


def run_section(name: str) -> Result:
    """Run the commands of a section, their output going where ours goes."""
    title, commands = SECTIONS[name]
    print(f"\n=== {name}: {title}", flush=True)
    result, began = Result(name), time.monotonic()
    for number, command in enumerate(commands):
        path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"  # pyright asks the first `python` it finds for packages
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PATH": path}
        if "pytest" not in command:
            print(f"--- {' '.join(_short(part) for part in command)}", flush=True)
            code = _call(command, environment)
            result.passed, result.failed = result.passed + (code == 0), result.failed + (code != 0)
            continue
        paths = [part for part in command if part.startswith("tests/")]
        there = [part for part in paths if (ROOT / part).is_file() or any((ROOT / part).rglob("test_*.py"))]
        if not there:
            result.left_out.append(f"no tests in {', '.join(paths)} yet")
            continue
        xml = STAMPS / f"{name}-{number}.xml"
        xml.unlink(missing_ok=True)
        code = _call(
            [part for part in command if part not in paths or part in there] + [f"--junitxml={xml}"],
            environment,
        )
        _count(result, xml, code)
    result.seconds = time.monotonic() - began
    return result


def _call(command: list[str], environment: dict[str, str]) -> int:
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    except FileNotFoundError:
        print(f"{command[0]} is not installed: run `make env`")
        return 127


def _short(part: str) -> str:
    return Path(part).name if part.startswith(str(BIN)) else part


def _count(result: Result, xml: Path, code: int) -> None:
    """Add a pytest run's numbers and the reasons of its skipped tests."""
    failed = passed = 0
    reasons: dict[str, int] = {}
    if xml.exists():
        for case in ET.parse(xml).getroot().iter("testcase"):
            kinds = {child.tag for child in case}
            skip = case.find("skipped")
            if kinds & {"failure", "error"}:
                failed += 1
            elif skip is not None:
                reason = skip.get("message") or "no reason given"
                reasons[reason] = reasons.get(reason, 0) + 1
            else:
                passed += 1
    if code not in (0, 5) and not failed:
        failed = 1  # pytest itself failed: nothing was collected, or it crashed
    result.passed += passed
    result.failed += failed
    result.left_out += [f"{count} test{'s' * (count > 1)}: {reason}" for reason, count in reasons.items()]


def main(names: list[str]) -> int:
    """Run the sections; 1 if anything failed."""
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        print(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
        return 2
    sys.path.insert(0, str(ROOT))
    from tests import laboratory

    STAMPS.mkdir(exist_ok=True)
    shutil.rmtree(laboratory.FOLDER, ignore_errors=True)
    results = [run_section(name) for name in names or (each for each in SECTIONS if each != "campaigns")]
    passed, failed = sum(each.passed for each in results), sum(each.failed for each in results)
    lines = laboratory.table()
    if lines:
        print("\n=== laboratory: what was tried, and what must be 0", *lines, sep="\n")
    too_few = [] if names else laboratory.too_few()
    if too_few:
        print("tried less often than it has to be:", *(f"  {line}" for line in too_few), sep="\n")
        failed += len(too_few)
    print("\n=== summary")
    for each in results:
        verdict = "FAILED" if each.failed else "ok"
        print(
            f"{each.name:<12} {verdict:<7} {each.passed:>5} passed {each.failed:>4} failed {each.seconds:7.0f} s"
        )
    left_out = [(each.name, text) for each in results for text in each.left_out]
    print("left out here:" if left_out else "nothing was left out here")
    for name, text in left_out:
        print(f"  {name}: {text}")
    if left_out and os.geteuid() != 0:
        print("  (not root: tests that need root's rights, such as a full disk of their own, were not run)")
    line = f"{passed} passed, {failed} failed"
    (STAMPS / "summary").write_text(f"{line}\n", encoding="utf-8")
    print(line)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
