"""Kills the running example with SIGKILL at random moments; the next run must end as if nothing had happened.

    python tests/integration/kill_demo.py 50

Each round has an empty store: the example is started, killed once or twice (itself alone, or with all its children),
and run to the end. Then its leaderboard and picture must be those of an undisturbed run, byte for byte; whatever was
published when it was killed must still be the same file and not have been claimed again; no process may be left.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "digits" / "pipeline.py"


@dataclass(frozen=True)
class Finished:
    """What a run of the example that came to its end has left."""

    table: str
    board: bytes
    picture: bytes
    seconds: float
    told: str


def start(store: Path, models: int) -> subprocess.Popen[str]:
    """The example in a process of its own, two workers, at an own store."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FURU_", "COV"))}
    environment |= {"FURU_PATH": str(store), "FURU_HEARTBEAT_SECS": "1", "FURU_LEASE_SECS": "8"}
    return subprocess.Popen(
        [sys.executable, str(EXAMPLE), "--models", str(models), "--workers", "2"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(store: Path, models: int) -> Finished:
    """Run the example to its end.

    Raises:
        AssertionError: it failed.
    """
    began = time.monotonic()
    process = start(store, models)
    out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    table, _, rest = out.partition("what the best one confuses: ")
    picture = Path(rest.strip())
    board = (picture.parent / "leaderboard.json").read_bytes()
    return Finished(table, board, picture.read_bytes(), time.monotonic() - began, told)


def published(store: Path) -> dict[Path, tuple[int, bytes, frozenset[str]]]:
    """Artifact folder -> its marker's file number and content, and the generations claimed."""
    found = {}
    for marker in store.glob("data/**/SUCCESS.json"):
        claims = marker.parent / ".furu" / "claims"
        generations = frozenset(path.name for path in claims.iterdir() if path.name.isdigit())
        found[marker.parent] = (marker.stat().st_ino, marker.read_bytes(), generations)
    return found


def kill(process: subprocess.Popen[str], everyone: bool) -> None:
    """SIGKILL the example, alone or with all its descendants; the others must then end by themselves."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    if everyone:
        for each in family:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                pass
    process.communicate()
    _gone, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, f"left behind: {alive}"


def one_round(chance: random.Random, models: int, calm: Finished) -> str:
    """Kill, look, finish, compare; returns a line about it.

    Raises:
        AssertionError: something was lost, computed twice, or is different.
    """
    with tempfile.TemporaryDirectory(prefix="kill-demo-") as folder:
        store = Path(folder)
        story = []
        before: dict[Path, tuple[int, bytes, frozenset[str]]] = {}
        for _ in range(chance.choice((1, 1, 2))):
            process = start(store, models)
            began, everyone = time.monotonic(), chance.random() < 0.5
            _wait(process, store, chance, calm.seconds)
            moment = time.monotonic() - began
            kill(process, everyone)
            now = published(store)
            _same(before, now)
            before = now
            story.append(f"{'all' if everyone else 'one'} killed after {moment:.2f} s, {len(now)} published")
        after = finish(store, models)
        _same(before, published(store))
        assert after.table == calm.table
        assert after.board == calm.board
        assert after.picture == calm.picture
        return "; ".join([*story, f"finished in {after.seconds:.1f} s"])


def _wait(process: subprocess.Popen[str], store: Path, chance: random.Random, calm: float) -> None:
    """Until a random moment: of the whole run, or a few milliseconds after a random number of results is there."""
    until = time.monotonic() + chance.uniform(0.0, calm)
    if chance.random() < 0.3:
        time.sleep(until - time.monotonic())
        return
    wanted, pause = chance.randint(1, 20), chance.expovariate(1 / 0.05)
    while process.poll() is None and sum(1 for _ in store.glob("data/*/*/*/SUCCESS.json")) < wanted:
        time.sleep(0.003)
    time.sleep(pause)


def _same(before: dict[Path, tuple[int, bytes, frozenset[str]]], now: dict[Path, object]) -> None:
    for path, state in before.items():
        assert now.get(path) == state, f"{path} was published and has changed"


def campaign(kills: int, models: int = 8, seed: int = 1) -> None:
    """So many rounds; the same seed kills at the same moments, as far as a moment can be the same."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="kill-demo-calm-") as folder:
        calm = finish(Path(folder), models)
    print(f"seed {seed}; undisturbed: {calm.seconds:.1f} s")
    for number in range(1, kills + 1):
        print(f"{number:>3}: {one_round(chance, models, calm)}", flush=True)


if __name__ == "__main__":
    campaign(int(sys.argv[1]) if len(sys.argv) > 1 else 50, seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
