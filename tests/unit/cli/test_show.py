from typing import Any

import msgspec
from tests.unit.cli.events import failure

from furu_async._cli.show import describe_state


def state(status: str, generation: int = 1, **more: Any) -> dict[str, Any]:
    return {"status": status, "generation": generation, "directory": "/store/x", **more}


def test_a_result_is_told_with_its_origin() -> None:
    metadata = {
        "started_at": 100.0,
        "ended_at": 103.0,
        "run_id": "r1",
        "host": "h",
        "git_commit": "a" * 40,
        "git_dirty": True,
        "files": {"result.json": 10, "weights.npy": 2000},
    }
    lines = list(describe_state(state("published", notes=("a marker was put back",)), metadata))
    assert lines[0].endswith("took 3.0 s, by attempt 1")
    assert lines[1:] == [
        "run       r1 (h, commit aaaaaaaaaaaa with changes)",
        "files     2 files, 2,010 bytes",
        "folder    /store/x",
        "note      a marker was put back",
    ]


def test_a_failure_is_told_with_its_log() -> None:
    lines = list(describe_state(state("failed", 3, failure=msgspec.to_builtins(failure())), {}))
    assert lines == [
        "failed    attempt 3: compute: ValueError: no such column",
        "          | reading",
        "          | about to fail",
        "log       /store/data/pkg/Train/abc/attempts/2",
        "folder    /store/x",
    ]


def test_what_is_not_there_or_not_yet() -> None:
    def first(found: dict[str, Any]) -> str:
        return next(describe_state(found, {}))

    assert first(state("absent", 0)) == "absent    never computed"
    assert first(state("absent", 2)) == "absent    its last attempt did not end"
    assert first(state("claimed", holder="pid 7 on h")) == "computed  attempt 1 now: pid 7 on h"
