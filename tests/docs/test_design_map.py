"""docs/explanation/design.md is the map of the source: it names every module, and no module that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "furu_async"


def test_the_map_names_every_module_and_nothing_else() -> None:
    text = (ROOT / "docs" / "explanation" / "design.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([\w/]+\.py)` \|", text, flags=re.MULTILINE))
    there = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")}
    there = {path for path in there if not path.endswith("/__init__.py")}
    assert sorted(there - named) == [], "not on the map; `python tools/write_map.py` puts them there"
    assert sorted(named - there) == [], "on the map and not in the source"
