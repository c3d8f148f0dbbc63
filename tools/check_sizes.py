"""Modules of at most 400 lines, functions of at most 60: what does not fit on a few screens is not read."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE = 400
FUNCTION = 60
WHERE = ("src", "examples", "tools", "benchmarks")


def too_long(path: Path) -> Iterator[str]:
    """One line per module or function that is too long."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines > MODULE:
        yield f"{path}: {lines} lines, at most {MODULE} are allowed"
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION} are allowed"


def main(root: Path) -> int:
    """Print what is too long; 1 if anything is."""
    paths = sorted(path for where in WHERE for path in (root / where).rglob("*.py"))
    found = [line for path in paths for line in too_long(path)]
    print(
        "\n".join(found)
        if found
        else f"{len(paths)} modules within {MODULE} lines, functions within {FUNCTION}"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
