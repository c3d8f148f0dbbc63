"""The speed that is promised for Slurm, beside furu 0.0.12, on a test cluster of its own.

As root: ``make bench-slurm``, or ``python benchmarks/bench_slurm.py [--repeat K] [--only queue|pool|dag|deaths]``.

Both libraries run the same nodes in turn, with four workers of one processor; each figure is a median. furu 0.0.12
gets an environment of its own in ``.bench``. Exit code 1 if a figure is over (or a ratio under) its limit.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent / "slurm"
PEER = ROOT / ".bench" / "furu-0.0.12"
WAIT_SECS = 300.0

sys.path.insert(0, str(ROOT))

from tests.slurm.cluster import Cluster, Options, guard, room, why_not  # noqa: E402


@dataclass(frozen=True)
class Figure:
    """One line of the result; ``least``: the value has to reach the limit instead of staying below it."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    least: bool = False

    @property
    def good(self) -> bool:
        """Within its limit."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.least else self.value <= self.limit


@dataclass
class Place:
    """A folder with a store and marks for one measurement."""

    folder: Path
    cluster: Cluster

    @property
    def marks(self) -> list[tuple[float, str, int]]:
        """When each node began, what it was, in which process; in order."""
        found = []
        for path in (self.folder / "marks").iterdir():
            for line in path.read_text().splitlines():
                at, what = line.split()
                found.append((float(at), what, int(path.name)))
        return sorted(found)

    @property
    def span(self) -> float:
        """Seconds from the first to the last start."""
        marks = self.marks
        return marks[-1][0] - marks[0][0]

    def environment(self) -> dict[str, str]:
        """For a measurement here."""
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            "SLURM_CONF": str(self.cluster.place.conf),
            "FURU_BENCH_MARKS": str(self.folder / "marks"),
            "FURU_PATH": str(self.folder / "store"),
            "PYTHONPATH": str(HERE),
        }

    def start(self, python: Path | str, script: str, *words: object, **more: str) -> subprocess.Popen[str]:
        """Begin one measurement in a process of its own."""
        return subprocess.Popen(
            [str(python), str(HERE / script), *map(str, words)],
            env={**self.environment(), **more},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, python: Path | str, script: str, *words: object, **more: str) -> dict[str, Any]:
        """One measurement, to its end."""
        process = self.start(python, script, *words, **more)
        out, err = process.communicate(timeout=WAIT_SECS)
        if process.returncode != 0:
            raise SystemExit(f"{script} {words} failed:\n{out}\n{err[-4000:]}")
        result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return result


class Bench:
    """A cluster, and places on it."""

    def __init__(self, cluster: Cluster, repeat: int) -> None:
        self.cluster = cluster
        self.repeat = repeat

    @contextmanager
    def place(self) -> Iterator[Place]:
        """A fresh one; the cluster has no jobs."""
        self.cluster.reset()
        folder = Path(tempfile.mkdtemp(prefix="furu-bench-"))
        (folder / "marks").mkdir()
        try:
            yield Place(folder, self.cluster)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def ours(self, *words: object, **more: str) -> tuple[dict[str, Any], float, list[tuple[float, str, int]]]:
        """What one measurement of ours said, from first to last start, and the marks."""
        with self.place() as place:
            said = place.call(sys.executable, "ours.py", *words, **more)
            return said, place.span, place.marks

    def peers(self, *words: object) -> tuple[dict[str, Any], float]:
        """The same of furu 0.0.12."""
        with self.place() as place:
            said = place.call(PEER / "bin" / "python", "peer.py", *words, FURU_RECORD_GIT="ignore")
            return said, place.span

    # -- figures ---------------------------------------------------------------------------------------------

    def pool(self) -> Iterator[Figure]:
        """Rates beside the peer's; layers with default settings; what the controller costs."""
        spans: dict[int, list[float]] = {200: [], 2000: []}
        theirs: dict[int, list[float]] = {200: [], 2000: []}
        for count in spans:
            for _ in range(self.repeat):
                spans[count].append(self.ours("pool", "wide", count)[1])
                theirs[count].append(self.peers("pool", "wide", count)[1])
        for count, least in ((200, 3.0), (2000, 10.0)):
            mine, other = statistics.median(spans[count]), statistics.median(theirs[count])
            yield Figure(f"{count:,} nodes, first to last start", mine, "s")
            yield Figure(f"  furu 0.0.12: {other:.2f} s; rate, times theirs", other / mine, "x", least, True)
        per_task = [statistics.median(spans[count]) / (count - 1) for count in (200, 2000)]
        yield Figure("a task among 2,000, beside one among 200", per_task[1] / per_task[0], "x", 1.2)
        layers = [self.ours("pool", "layers", 5)[1] / 4 for _ in range(self.repeat)]
        yield Figure("5 layers x 10, default settings, a layer", statistics.median(layers) * 1e3, "ms", 300.0)
        busy = [self.ours("pool", "busy", 80, 0.5)[0]["cpu"] for _ in range(self.repeat)]
        yield Figure("controller's processor while 4 workers work", statistics.median(busy) * 100, "%", 20.0)

    def dag(self) -> Iterator[Figure]:
        """One job a node, beside the peer."""
        mine, theirs = [], []
        for _ in range(self.repeat):  # in turn, so that what else this machine does hits both
            mine.append(self.ours("dag", "layers", 3)[0])
            theirs.append(self.peers("dag", "layers", 3)[0])
        seconds, other = (statistics.median(each["seconds"] for each in said) for said in (mine, theirs))
        yield Figure("30 nodes in 3 layers, end to end", seconds, "s")
        yield Figure(f"  furu 0.0.12: {other:.2f} s; times theirs", seconds / other, "x", 1.0)
        submits = [self.ours_submit(30) for _ in range(self.repeat)]
        quick = statistics.median(each["submitted"] for each in submits)
        slow = statistics.median(each["submitted"] for each in theirs)
        yield Figure("30 nodes submitted", quick, "s")
        yield Figure(f"  furu 0.0.12: {slow:.2f} s; rate, times theirs", slow / quick, "x", 2.0, True)
        many = self.ours_submit(1000)
        yield Figure("1,000 nodes submitted", many["submitted"], "s", 30.0)
        yield Figure("  the loop late by at most", many["late"] * 1e3, "ms", 50.0)

    def ours_submit(self, count: int) -> dict[str, Any]:
        """Submission alone; the jobs are cancelled."""
        with self.place() as place:
            # Nothing starts: what the nodes do is not what is measured.
            self.cluster.run("scontrol", "update", "PartitionName=low", "State=DOWN")
            shape = ("layers", 3) if count == 30 else ("wide", count)
            try:
                return place.call(sys.executable, "ours.py", "dag", "submit", *shape)
            finally:
                self.cluster.run("scontrol", "update", "PartitionName=low", "State=UP")

    def queue(self) -> Iterator[Figure]:
        """A claim in a queue of 10,000 entries, among four that take from it."""
        folder = tempfile.mkdtemp(prefix="furu-bench-")
        try:
            done = subprocess.run(
                [sys.executable, str(HERE / "claims.py"), folder, "10000"],
                capture_output=True,
                text=True,
                check=True,
            )
            said = json.loads(done.stdout)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        yield Figure("a claim among 10,000 entries, median of 4 workers", said["median"] * 1e3, "ms", 5.0)
        yield Figure("  99 of 100 of them", said["p99"] * 1e3, "ms")

    def deaths(self) -> Iterator[Figure]:
        """From the death of a worker to the next start of its task, with a poll of 5 s."""
        killed = [self._again(self._kill) for _ in range(self.repeat)]
        yield Figure("worker killed: its task runs again after", statistics.median(killed), "s", 15.0)
        preempted = [self._again(self._preempt) for _ in range(self.repeat)]
        yield Figure("worker preempted: its task runs again after", statistics.median(preempted), "s", 5.0)

    def _again(self, end: Callable[[Place], None]) -> float:
        with self.place() as place:
            hold = place.folder / "hold"
            hold.touch()
            process = place.start(
                sys.executable, "ours.py", "pool", "held", hold, FURU_POLL_INTERVAL_SECS="5"
            )
            self._await_marks(place, process, 1)
            at = time.monotonic()
            end(place)
            self._await_marks(place, process, 2)
            again = place.marks[1][0] - at
            hold.unlink()
            _, err = process.communicate(timeout=WAIT_SECS)
            if process.returncode != 0:
                raise SystemExit(err[-4000:])
            return again

    def _await_marks(self, place: Place, process: subprocess.Popen[str], times: int) -> None:
        deadline = time.monotonic() + 120
        while len(place.marks) < times:
            if time.monotonic() > deadline or process.poll() is not None:
                process.kill()
                out, err = process.communicate()
                raise SystemExit(f"no start number {times}:\n{out}\n{err[-4000:]}")
            time.sleep(0.01)

    def _kill(self, place: Place) -> None:
        """SIGKILL to everything of the one running job, as a crash of its node would."""
        (job,) = [each for each in self.cluster.jobs().values() if each.state == "RUNNING"]
        for each in self.cluster.processes(str(job.number)):
            try:
                os.kill(each.pid, 9)
            except ProcessLookupError:
                pass

    def _preempt(self, place: Place) -> None:
        (job,) = [each for each in self.cluster.jobs().values() if each.state == "RUNNING"]
        self.cluster.preempt(job.id)


def peer_environment() -> None:
    """Make furu 0.0.12's environment, once."""
    if (PEER / "bin" / "furu-ready").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEER)], check=True)
    subprocess.run([str(PEER / "bin" / "python"), "-m", "pip", "install", "-q", "furu==0.0.12"], check=True)
    (PEER / "bin" / "furu-ready").touch()


def main() -> int:
    """1 if a figure is not reached."""
    parser = argparse.ArgumentParser(description="The speed that is promised for Slurm.")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=["queue", "pool", "dag", "deaths"], action="append")
    given = parser.parse_args()
    if (reason := why_not(True)) is not None:
        raise SystemExit(reason)
    peer_environment()
    for folder in (ROOT / "src", HERE):  # as pip does with what it installs: the peer is
        compileall.compile_dir(folder, quiet=1)
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="furu-slurm-", dir=room())), Options(max_job_count=20_000))
    keeper = guard(cluster.folder)
    bad = 0
    try:
        cluster.start()
        bench = Bench(cluster, given.repeat)
        for name in given.only or ("queue", "pool", "dag", "deaths"):
            for figure in getattr(bench, name)():
                bad += not figure.good
                limit = "" if figure.limit is None else f"{'>=' if figure.least else '<='} {figure.limit:g}"
                word = "" if figure.limit is None else "ok" if figure.good else "OVER"
                print(
                    f"{figure.what:<58} {figure.value:>9.3f} {figure.unit:<3} {limit:<8} {word}", flush=True
                )
    finally:
        cluster.stop()
        keeper.communicate()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
