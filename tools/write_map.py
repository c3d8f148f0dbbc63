"""Fills the tables of ``docs/explanation/design.md``: each module with the first sentence of its docstring.

In the document a table stands between ``<!-- map: _plan -->`` and ``<!-- end -->``; the text around it is written by
hand.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "furu_async"
TABLE = re.compile(r"(<!-- map: ([\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def first_sentence(path: Path) -> str:
    """Of the module's docstring, on one line.

    Raises:
        ValueError: it has none.
    """
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path} has no docstring")
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.?]) (?=[A-Z`])", paragraph)[0].replace("|", "\\|").replace("``", "`")


def table(package: str) -> str:
    """The rows for the modules of a package ("." for those at the top)."""
    folder = SOURCE / ("" if package == "." else package)
    paths = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py" or package == "."]
    rows = [f"| `{path.relative_to(SOURCE).as_posix()}` | {first_sentence(path)} |\n" for path in paths]
    return "".join(["| Module | What it is |\n|---|---|\n", *rows])


def main() -> int:
    """Rewrite the document; 1 if a package has no table in it."""
    document = ROOT / "docs" / "explanation" / "design.md"
    text = document.read_text(encoding="utf-8")
    document.write_text(
        TABLE.sub(lambda found: found[1] + table(found[2]) + found[3], text), encoding="utf-8"
    )
    there = {
        path.parent.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py"
    }
    missing = there - {found[1] for found in TABLE.findall(text)}
    for package in sorted(missing):
        print(
            f"no table for the package {package}: add '<!-- map: {package} -->' and '<!-- end -->' to {document}"
        )
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
