"""The example as a user runs it, on a reduced sweep; and under kills."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

sys.path.insert(0, str(Path(__file__).resolve().parent))

import kill_demo


def test_the_second_run_is_all_cached_and_says_the_same(tmp_path: Path) -> None:
    first = kill_demo.finish(tmp_path, 4)
    assert first.told.splitlines()[-1].startswith("done: ")
    assert " created" in first.told.splitlines()[-1]
    again = kill_demo.finish(tmp_path, 4)
    assert (again.table, again.board, again.picture) == (first.table, first.board, first.picture)
    assert again.told.splitlines()[-1].startswith("done: 1 node in")
    assert "1 cached" in again.told.splitlines()[-1]
    assert len(first.table.splitlines()) == 5
    assert first.picture.startswith(b"\x89PNG")


def test_another_store_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (kill_demo.finish(tmp_path / name, 4) for name in ("one", "two"))
    assert (one.table, one.board, one.picture) == (two.table, two.board, two.picture)


def test_a_larger_sweep_computes_only_what_is_new(tmp_path: Path) -> None:
    kill_demo.finish(tmp_path, 3)
    before = kill_demo.published(tmp_path)
    kill_demo.finish(tmp_path, 4)
    after = kill_demo.published(tmp_path)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 3  # a model, its evaluation, the leaderboard


@pytest.mark.fault("F02", "F07", "F103")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(5))
def test_killed_at_any_moment_it_ends_as_if_undisturbed(part: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Fifty random moments, in five parts that can run side by side; the seed is printed."""
    kill_demo.campaign(10, seed=time.time_ns() % 10_000 + part)


def test_the_command_line_knows_the_example(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "furu-async"
    target = f"{kill_demo.EXAMPLE}:leaderboard"
    done = subprocess.run(
        [script, "run", target, "--dry-run", "--root", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "66 nodes: 66 to create"
    assert not list(tmp_path.iterdir())
