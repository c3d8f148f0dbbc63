"""The examples of docs/testing.md pass as a user would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOC = Path(__file__).resolve().parents[2] / "docs" / "testing.md"


def test_the_examples_pass(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n# (test_\w+.py)\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in blocks] == ["test_pipeline.py", "test_storage.py"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
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
    assert "3 passed" in done.stdout
