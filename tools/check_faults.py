"""Compares ``docs/faults.md`` with the tests: each fault is shown by a test or listed as planned, and not both.

A test shows a fault by ``@pytest.mark.fault("F02")`` (several ids may be given). The tests are parsed, not run.
``--write`` fills in the last column of the list: files of the tests that show a fault, or "planned: what is missing".
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROW = re.compile(r"^\| (F\d+) \|(.*)\| ([^|]*) \|$")
GROUP = re.compile(r"^## ([A-Z])\. ")
PLANNED = "planned: "


def marks_in(path: Path) -> set[str]:
    """The ids in ``pytest.mark.fault(...)`` of a test file.

    Raises:
        ValueError: a mark's argument is not a string that can be read without running the file.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
            for argument in node.args:
                if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                    raise ValueError(
                        f"{path}:{node.lineno}: give the ids of pytest.mark.fault as plain strings"
                    )
                found.add(argument.value)
    return found


def shown_by(root: Path) -> dict[str, list[str]]:
    """Id -> test files with a test marked so, relative to ``tests``."""
    shown: dict[str, list[str]] = defaultdict(list)
    tests = root / "tests"
    for path in sorted(tests.rglob("*.py")):
        for fault in marks_in(path):
            shown[fault].append(path.relative_to(tests).as_posix())
    return shown


def compare(document: str, shown: dict[str, list[str]]) -> tuple[list[str], str, dict[str, list[int]]]:
    """Problems, the document with its last column brought up to date, and per group [shown, planned]."""
    problems: list[str] = []
    lines: list[str] = []
    counts: dict[str, list[int]] = {}
    seen: set[str] = set()
    group = "?"
    for line in document.splitlines():
        if heading := GROUP.match(line):
            group = heading.group(1)
        row = ROW.match(line)
        if row is None:
            lines.append(line)
            continue
        fault, middle, column = row.groups()
        if fault in seen:
            problems.append(f"{fault} is listed twice")
        seen.add(fault)
        files = shown.get(fault, [])
        wanted = ", ".join(f"`{each}`" for each in files)
        if files and column.startswith(PLANNED):
            problems.append(f"{fault} is listed as planned and has tests: {wanted}")
        elif files and column != wanted:
            problems.append(f"{fault} is shown by {wanted}, not by {column or 'nothing'}")
        elif not files and not column.startswith(PLANNED):
            problems.append(f"{fault} is neither shown by a test nor listed as planned")
            wanted = f"{PLANNED}no test yet"
        counts.setdefault(group, [0, 0])[0 if files else 1] += 1
        lines.append(f"| {fault} |{middle}| {wanted or column} |")
    problems += [
        f"{fault} is no fault of the list (in {', '.join(shown[fault])})"
        for fault in sorted(set(shown) - seen)
    ]
    return problems, "\n".join(lines) + "\n", counts


def main(root: Path, write: bool) -> int:
    """Print the counts and the problems; 1 if there are any."""
    path = root / "docs" / "faults.md"
    shown = shown_by(root)
    problems, text, counts = compare(path.read_text(encoding="utf-8"), shown)
    if write:
        path.write_text(text, encoding="utf-8")
        problems, _, counts = compare(text, shown)
    parts = [f"{group} {have}/{have + planned}" for group, (have, planned) in counts.items()]
    have, planned = (sum(each[index] for each in counts.values()) for index in (0, 1))
    print(f"faults shown by a test, by group: {', '.join(parts)}; together {have} shown, {planned} planned")
    for problem in problems:
        print(f"  {problem}")
    if problems and not write:
        print("  `python tools/check_faults.py --write` brings docs/faults.md up to date")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent, "--write" in sys.argv[1:]))
