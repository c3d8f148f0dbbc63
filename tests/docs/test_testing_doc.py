"""The examples of docs/testing.md pass as a user would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOC = Path(__file__).resolve().parents[2] / "docs" / "testing.md"


def _pytest(folder: Path, *options: str, mode: str = "auto") -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text('pytest_plugins = ["furu_async.testing"]\n')
    (folder / "pytest.ini").write_text("[pytest]\n")
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
    if mode:
        command += ["-o", f"asyncio_mode={mode}", "-o", "asyncio_default_fixture_loop_scope=function"]
    return subprocess.run(
        [*command, f"--basetemp={folder / 'temporary'}", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_examples_pass(tmp_path: Path, mode: str) -> None:
    blocks = re.findall(r"```python\n# (test_\w+.py)\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in blocks] == ["test_pipeline.py", "test_storage.py"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    done = _pytest(tmp_path, mode=mode)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


MARKED = """
import asyncio
import pytest
from hypothesis import given, strategies as st

pytestmark = pytest.mark.virtual_time

async def test_marked_by_its_module():
    await asyncio.sleep(3600)

class TestClass:
    async def test_in_a_class(self):
        await asyncio.sleep(3600)

@given(st.none())
async def test_with_hypothesis(nothing):
    await asyncio.sleep(3600)

def test_without_a_loop():
    pass
"""

MARKED_TWICE = """
@pytest.mark.asyncio
async def test_marked_twice():
    await asyncio.sleep(3600)
"""


def test_marked_tests_are_on_virtual_time_in_strict_mode(tmp_path: Path) -> None:
    (tmp_path / "test_marked.py").write_text(MARKED + MARKED_TWICE)
    done = _pytest(tmp_path, mode="strict")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_the_marker_says_that_it_needs_pytest_asyncio(tmp_path: Path) -> None:
    (tmp_path / "test_marked.py").write_text(MARKED)
    done = _pytest(tmp_path, "-p", "no:asyncio", "-W", "ignore", mode="")
    assert done.returncode != 0
    assert "the marker virtual_time needs pytest-asyncio 1.4 or newer" in done.stdout
