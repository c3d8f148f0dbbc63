"""The command line as a user has it: the installed script in processes of its own, pipes and a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(sys.executable).parent / "furu-async"

SOURCE = """
import signal
import time
from pathlib import Path
from furu_async import Furu

class Word(Furu[str]):
    n: int
    def _create(self) -> str:
        return f"word {self.n}"

class Bad(Furu[str]):
    def _create(self) -> str:
        print("reading the input")
        print("a line with \\x1b[2J and \\r in it")
        raise ValueError("no such \\x1b[31mcolumn")

class Above(Furu[str]):
    bad: Bad
    def _create(self) -> str:
        return self.bad.get() + "!"

class Slow(Furu[int]):
    secs: float = 60.0
    def _create(self) -> int:
        Path("slow-began").touch()
        time.sleep(self.secs)
        return 1

class Stubborn(Furu[int]):
    def _create(self) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path("stubborn-began").touch()
        for _ in range(60):
            try:
                time.sleep(1.0)
            except BaseException:
                pass
        return 1

good = [Word(n=1), Word(n=2)]
stubborn = Stubborn()
mixed = [Word(n=1), Above(bad=Bad())]
slow = Slow()
nap = [Slow(secs=2.0), Word(n=1)]

async def many():
    return [Word(n=n) for n in range(500)]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "steps.py").write_text(SOURCE)
    return tmp_path


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FURU_", "COV"))}
    return {**kept, "TERM": "xterm-256color", "COLUMNS": "120"}


def call(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [SCRIPT, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def start(folder: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    env = {**environment(), **variables}
    return subprocess.Popen([SCRIPT, *arguments], cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)


def wait_for(path: Path, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path.name} did not appear"
        time.sleep(0.02)


def test_a_run_from_the_first_to_the_cached_one(folder: Path) -> None:
    first = call(folder, "run", "steps:good", "--workers", "2")
    assert (first.returncode, first.stdout) == (0, "")
    lines = first.stderr.splitlines()
    assert lines[0].startswith("run ")
    assert lines[0].endswith(f"results in {folder / 'furu-data'}")
    assert "2 created" in lines[-1]
    again = call(folder, "run", "steps.py:good", "--root", "furu-data", "--no-progress")
    assert again.returncode == 0
    assert "2 cached" in again.stderr
    assert len(again.stderr.splitlines()) == 1


@pytest.mark.parametrize("progress", ["--progress", "--no-progress"])
def test_a_store_that_everybody_may_write_to_is_warned_about_once(folder: Path, progress: str) -> None:
    root = folder / "furu-data"
    root.mkdir()
    root.chmod(0o777)
    done = call(folder, "run", "steps:good", progress)
    assert done.returncode == 0
    assert done.stderr.count(f"{root} can be written by every user") == 1
    assert f"chmod o-w {root}" in done.stderr


def test_failed_nodes_are_explained_and_the_code_is_1(folder: Path) -> None:
    done = call(folder, "run", "steps:mixed", "--retries", "0")
    assert done.returncode == 1
    assert "not done: 3 nodes" in done.stderr.splitlines()[-1]
    assert "1 created, 1 failed, 1 skipped" in done.stderr.splitlines()[-1]
    assert "compute: ValueError: no such \\x1b[31mcolumn" in done.stderr
    assert "| reading the input" in done.stderr
    assert "1 node that needs it was skipped" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    (log,) = {line.split(None, 1)[1] for line in done.stderr.splitlines() if line.strip().startswith("log:")}
    assert Path(log).exists()
    refused = call(folder, "run", "steps:mixed", "--no-retry-failed")
    assert refused.returncode != 0
    assert "Bad" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_misuse_has_code_2_and_no_traceback(folder: Path) -> None:
    for arguments in (
        ["run", "steps:god"],
        ["run", "stps:good"],
        ["run", "steps:good", "--rerun", "no-name"],
    ):
        done = call(folder, *arguments)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
    assert "did you mean good?" in call(folder, "run", "steps:god").stderr


def test_a_bad_setting_has_code_2(folder: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "run", "steps:good"],
        cwd=folder,
        env={**environment(), "FURU_LEASE_SECS": "soon"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "FURU_LEASE_SECS='soon'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_writes_nothing_and_tells_why(folder: Path) -> None:
    before = call(folder, "run", "steps:mixed", "--dry-run")
    assert before.returncode == 0
    assert "3 nodes: 3 to create" in before.stdout
    assert not (folder / "furu-data").exists()
    call(folder, "run", "steps:mixed", "--retries", "0")
    after = call(folder, "run", "steps:mixed", "--dry-run", "--no-retry-failed").stdout
    words = {
        line.split()[2]: line.split()[0]
        for line in after.splitlines()
        if line.startswith(("cached", "failed", "create"))
    }
    assert (
        words == {"Word(n=1)": "cached", "Bad()": "failed", "Above(bad=Bad(...))": "create"}
        or words["Bad()"] == "failed"
    )
    assert "ValueError: no such" in after


def test_show_tells_what_is_there(folder: Path) -> None:
    call(folder, "run", "steps:mixed", "--retries", "0")
    shown = call(folder, "show", "steps:mixed")
    assert shown.returncode == 0, shown.stderr
    assert "there     since " in shown.stdout
    assert call(folder, "show", "steps:slow").stdout.splitlines()[1] == "  absent    never computed"


def test_five_hundred_nodes_do_not_flood_a_pipe(folder: Path) -> None:
    done = call(folder, "run", "steps:many")
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) < 60
    assert "500 created" in done.stderr.splitlines()[-1]


@pytest.mark.fault("F96", "F101")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_soon_and_leaves_no_process(folder: Path, number: int, code: int) -> None:
    process = start(folder, "run", "steps:slow")
    wait_for(folder / "slow-began")
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    began = time.monotonic()
    process.send_signal(number)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert time.monotonic() - began < 15
    assert "Traceback" not in err
    assert "cancelled" in err
    _gone, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    began = time.monotonic()
    assert call(folder, "show", "steps:slow").returncode == 0


NOT_YET = """
import pathlib, time
pathlib.Path("importing").touch()
time.sleep(60.0)
"""

STILL_THERE = """
import atexit, pathlib, time
def late():
    pathlib.Path("leaving").touch()
    time.sleep(60.0)
atexit.register(late)
targets = []
"""


@pytest.mark.fault("F96")
def test_ctrl_c_before_the_program_is_loaded_ends_it_with_a_word(folder: Path) -> None:
    (folder / "shadow").mkdir()
    (folder / "shadow" / "click.py").write_text(NOT_YET)  # what takes long to import
    process = start(folder, "run", "steps:slow", PYTHONPATH=str(folder / "shadow"))
    wait_for(folder / "importing")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


@pytest.mark.fault("F96")
def test_ctrl_c_when_all_is_over_ends_it_with_a_word(folder: Path) -> None:
    (folder / "late.py").write_text(STILL_THERE)
    process = start(folder, "show", "late:targets")
    wait_for(folder / "leaving")
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in err


def test_a_timeout_ends_the_run_with_code_1(folder: Path) -> None:
    done = call(folder, "run", "steps:slow", "--timeout", "1.5")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "1.5" in done.stderr


class Terminal:
    """The script under a terminal of its own, as a shell would start it in the foreground."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        pid, self.master = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.execve(SCRIPT, [str(SCRIPT), *arguments], {**environment(), **variables})
        self.pid = pid
        self.shown = bytearray()

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read_to_the_end(self, seconds: float = 60.0) -> int:
        """Collect what is shown until the program has ended; returns its exit code."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ready, _, _ = select.select([self.master], [], [], 0.2)
            if ready:
                try:
                    part = os.read(self.master, 65536)
                except OSError:  # the other side is closed: the program has ended
                    break
                if not part:
                    break
                self.shown += part
        os.close(self.master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_on_a_terminal_the_progress_is_live(folder: Path) -> None:
    terminal = Terminal(folder, "run", "steps:nap")
    assert terminal.read_to_the_end() == 0
    text = terminal.shown.decode()
    assert text.startswith("run ")
    assert "Slow(secs=2.0)" in text
    assert " running" in text
    assert "\x1b[" in text  # it was drawn over
    assert "done: 2 nodes" in text
    assert text.count("results in") == 1


@pytest.mark.fault("F96")
def test_ctrl_c_on_a_terminal_ends_the_run_in_order(folder: Path) -> None:
    # The key sends the signal to the whole foreground group: keeper and children must not die of it by themselves.
    terminal = Terminal(folder, "run", "steps:slow")
    wait_for(folder / "slow-began")
    family = psutil.Process(terminal.pid).children(recursive=True)
    began = time.monotonic()
    terminal.press(b"\x03")
    assert terminal.read_to_the_end(30.0) == 130
    assert time.monotonic() - began < 15
    text = terminal.shown.decode()
    assert "Traceback" not in text
    assert "1 cancelled" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    _gone, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert "never computed" not in call(folder, "show", "steps:slow").stdout


@pytest.mark.fault("F96")
def test_a_terminal_that_is_closed_ends_the_run_in_order(folder: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
    try:
        terminal = Terminal(folder, "run", "steps:slow")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(folder / "slow-began")
    family = psutil.Process(terminal.pid).children(recursive=True)
    os.close(terminal.master)
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 129
    assert time.monotonic() - began < 15
    _gone, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert "cancelled with its run" in call(folder, "show", "steps:slow").stdout


@pytest.mark.fault("F96")
def test_nohup_is_respected(folder: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(folder, "run", "steps:nap")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(folder / "slow-began")
    process.send_signal(signal.SIGHUP)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


@pytest.mark.fault("F96", "F93")
def test_a_second_ctrl_c_does_not_wait_for_the_grace_period(folder: Path) -> None:
    terminal = Terminal(folder, "run", "steps:stubborn")
    wait_for(folder / "stubborn-began")
    family = psutil.Process(terminal.pid).children(recursive=True)
    terminal.press(b"\x03")
    time.sleep(1.0)
    began = time.monotonic()
    terminal.press(b"\x03")
    code = terminal.read_to_the_end(30.0)
    took = time.monotonic() - began
    assert code == 130, terminal.shown.decode()
    text = terminal.shown.decode()
    assert took < 3.0, text
    assert "Traceback" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    _gone, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


@pytest.mark.fault("F96")
def test_a_signal_that_arrives_twice_at_once_is_one(folder: Path) -> None:
    # The terminal sends it to all, and a wrapper around the program passes it on.
    process = start(folder, "run", "steps:slow")
    wait_for(folder / "slow-began")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "1 cancelled" in err


def of_family(mark: str) -> list[psutil.Process]:
    """Processes with a variable of this value, or (a daemon has none) with the store in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("OUR_MARK") == mark or mark in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.fault("F96", "F93")
@pytest.mark.parametrize("executor", ["slurm-pool", "slurm-dag"])
def test_a_second_ctrl_c_leaves_no_worker_or_job_for_long(folder: Path, executor: str) -> None:
    mark = str(folder)
    terminal = Terminal(
        folder, "run", "steps:slow", "--executor", executor, "--cluster", "local", OUR_MARK=mark
    )
    wait_for(folder / "slow-began", 60.0)
    terminal.press(b"\x03")
    time.sleep(0.4)
    terminal.press(b"\x03")
    assert terminal.read_to_the_end(30.0) == 130, terminal.shown.decode()
    assert "interrupted twice" in terminal.shown.decode()
    until = (
        time.monotonic() + 20.0
    )  # what runs has its grace period; what waits for a job does so for a minute
    while left := of_family(mark):
        assert time.monotonic() < until, [process.cmdline() for process in left]
        time.sleep(0.1)
