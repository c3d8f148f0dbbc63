"""What the main of a node's job says where it cannot begin."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from furu_async._dag import job_main, orders
from furu_async._runtime import exit_codes
from furu_async._slurm.admission import JobIdentity
from furu_async._store.layout import RunPaths

RUN, SID = "20260101-000000-1-aaaaaa", "s1"


@pytest.mark.fault("F78")
@pytest.mark.parametrize("damage", [None, b"", b"{}", b"\x00\xff"])
def test_a_job_without_the_runs_settings_names_their_file(
    damage: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def may(*_: Any) -> tuple[bool, str]:
        return True, ""

    monkeypatch.setattr(job_main, "admitted", may)
    monkeypatch.setattr(job_main, "this_job", lambda: JobIdentity("7", "7"))
    path = Path(orders.settings_path(RunPaths(str(tmp_path), RUN)))
    path.parent.mkdir(parents=True)
    if damage is not None:
        path.write_bytes(damage)
    args = argparse.Namespace(root=str(tmp_path), run=RUN, sid=SID, number=1, token="t")
    assert job_main.main(args) == exit_codes.CANNOT_START
    assert f"{path} is missing, damaged" in capsys.readouterr().out
