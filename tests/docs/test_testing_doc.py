"""The example of docs/testing.md passes as a user would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOC = Path(__file__).resolve().parents[2] / "docs" / "testing.md"


def test_the_example_passes(tmp_path: Path) -> None:
    block = re.search(r"```python\n(# test_pipeline.py\n.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    (tmp_path / "test_pipeline.py").write_text(block[1])
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["furu_async.testing"]\n')
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--strict-markers",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
