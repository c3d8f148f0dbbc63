"""A keeper and a child that were forked ahead are like those that are started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from runner_bench import PATIENCE, lives

from furu_async._runner.processes import ROOM, TOKEN_VARIABLE

HERE = Path(__file__).parent
EITHER = {"child", "keeper"}


def start(folder: Path, what: str, room: str = ROOM) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(HERE / "spare_host.py"), str(folder), what],
        env={**os.environ, "PYTHONPATH": path, TOKEN_VARIABLE: room},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def told(folder: Path, what: str, room: str = ROOM) -> Any:
    process = start(folder, what, room)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return json.loads(out)


def until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(map(lives, pids)):
        assert time.monotonic() < deadline, f"{pids} still live"
        time.sleep(0.01)


def test_forks_are_used_and_are_like_started_processes(tmp_path: Path) -> None:
    facts = told(tmp_path, "works")
    keeper, child = facts["keeper"], facts["child"]
    assert facts["there"] == {"keeper": keeper["pid"], "child": child["pid"]}
    assert keeper["session"] == keeper["pid"]
    assert child["session"] == child["pid"]
    assert facts["answer"] == {"r": "ok"}
    assert child["token"] == [f"{TOKEN_VARIABLE}={facts['wanted']}"], "the kernel shows it, once"
    assert keeper["token"] == [f"{TOKEN_VARIABLE}={ROOM}"]
    seen = facts["result"]
    assert seen["main"] == ["__main__", False, True], "nothing of the supervisor's script"
    assert (seen["environ"], seen["raw"], seen["token"]) == ("yes", True, facts["wanted"])
    assert (seen["cwd"], seen["umask"], seen["path"]) == (str(tmp_path), 0o027, str(tmp_path))
    assert (seen["threads"], seen["stdin"]) == (1, "/dev/null")
    assert facts["stdout"] == "printed by user code\n"
    assert facts["left"] == []
    pid, ok = facts["second"]
    assert ok
    assert pid not in facts["there"].values(), "the next child is started as ever"


def test_forks_have_no_descriptors_of_their_supervisor(tmp_path: Path) -> None:
    facts = told(tmp_path, "works")
    assert facts["keeper"]["open"].count("socket") == 1
    assert facts["child"]["open"].count("socket") == 2
    assert facts["child"]["open"].count("pipe") == 1, "the lifeline; not the supervisor's output"
    for name in EITHER:
        assert not any(each.endswith("spare_host.py") for each in facts[name]["open"])


@pytest.mark.fault("F10")
def test_death_of_a_forked_child_is_seen(tmp_path: Path) -> None:
    facts = told(tmp_path, "dies")
    code, kind, expected, tail = facts["gone"]
    assert (code, kind, expected) == (-signal.SIGSEGV, "killed", False)
    assert "before the end" in tail
    assert facts["second"][1]
    assert facts["left"] == []


@pytest.mark.fault("F103")
def test_forks_end_with_their_supervisor(tmp_path: Path) -> None:
    process = start(tmp_path, "hangs")
    assert process.stdout is not None
    facts = json.loads(process.stdout.readline())
    process.kill()
    process.communicate()
    until_gone(list(facts["there"].values()))


def test_spares_that_nobody_uses_end_with_their_supervisor(tmp_path: Path) -> None:
    pids = told(tmp_path, "unused")["pids"]
    assert len(pids) == 2
    until_gone(pids)


@pytest.mark.parametrize(
    ("what", "room", "forked"),
    [
        ("threaded", ROOM, set()),
        ("works", "0123456789abcdef" * 2, {"keeper"}),
        ("works", "", {"keeper"}),
        ("preloaded", ROOM, {"keeper"}),
        ("killed", ROOM, set()),
    ],
)
def test_without_a_usable_fork_processes_are_started(
    tmp_path: Path, what: str, room: str, forked: set[str]
) -> None:
    facts = told(tmp_path, what, room)
    assert {name for name in EITHER if facts[name]["pid"] == facts["there"].get(name)} == forked
    assert facts["answer"] == {"r": "ok"}
    assert facts["child"]["token"] == [f"{TOKEN_VARIABLE}={facts['wanted']}"]
    assert facts["result"]["cwd"] == str(tmp_path)
    assert facts["second"][1]
