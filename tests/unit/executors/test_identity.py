"""Who works for a run that a controller elsewhere holds: it claims artifacts in its own name, and never the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from furu_async._executors.identity import Identity
from furu_async._store import atomic
from furu_async._store.keeper import Keeper
from furu_async._store.layout import ArtifactPaths, RunPaths
from furu_async._store.records import Claim, decode

RUN = "20260101-000000-1-aaaaaa"
HASH = "0" * 31 + "1"


class _Keeper(Keeper):
    def _start_beat(self, beat: Any) -> None:
        pass


def _ask(keeper: Keeper, *op: Any) -> Any:
    return keeper.handle(list(op))


def test_a_local_executor_opens_the_run_itself(tmp_path: Path) -> None:
    assert Identity().opening(str(tmp_path), RUN, "token", "", 0)[0] == "open"
    assert Identity().worker_id != Identity().worker_id


def test_who_joins_a_run_claims_in_its_own_name_and_leaves_the_run_alone(tmp_path: Path) -> None:
    root = str(tmp_path)
    identity = Identity(backend="pool", worker_id="w1", job_id="7_3", restart_count=2)
    keeper = _Keeper(15.0)
    op = identity.opening(root, RUN, "token", "key", 0)
    assert _ask(keeper, *op) == {"r": "ok"}
    assert _ask(keeper, *op) == {"r": "ok"}
    assert _ask(keeper, "claim", root, RUN, "pkg.Train", HASH)["r"] == "claimed"
    paths, run = ArtifactPaths(root, "pkg.Train", HASH), RunPaths(root, RUN)
    claim = decode(Claim, atomic.read_bytes(paths.claim(1)), "claim")
    assert (claim.backend, claim.owner.job_id, claim.owner.restart_count) == ("pool", "7_3", 2)
    assert claim.beat == f"runs/{RUN}/workers/w1/beat"
    assert os.path.exists(f"{root}/{claim.beat}")
    assert not os.path.exists(run.claims)
    (tmp_path / "runs" / RUN / "run.json").write_text("{}")
    assert _ask(keeper, "close_run", root, RUN, "ok", {}, 1.0, False) == {"r": "ok"}
    assert not os.path.exists(run.ends)
    assert os.path.exists(run.record)
    assert os.path.exists(paths.end(1)), "what it held is ended"
    assert not os.path.exists(run.workers)


def test_a_joined_run_goes_on_when_its_worker_dies(tmp_path: Path) -> None:
    root, keeper = str(tmp_path), _Keeper(15.0)
    identity = Identity(backend="pool", worker_id="w1")
    _ask(keeper, *identity.opening(root, RUN, "token", "", 0))
    _ask(keeper, "claim", root, RUN, "pkg.Train", HASH)
    keeper.supervisor_died()
    assert os.path.exists(ArtifactPaths(root, "pkg.Train", HASH).end(1))
    assert not os.path.exists(RunPaths(root, RUN).ends)


@pytest.mark.parametrize("backend", ["pool", "dag"])
def test_another_token_is_refused(tmp_path: Path, backend: Any) -> None:
    keeper, identity = _Keeper(15.0), Identity(backend=backend, worker_id="w1")
    assert _ask(keeper, *identity.opening(str(tmp_path), RUN, "token", "", 0)) == {"r": "ok"}
    assert _ask(keeper, *identity.opening(str(tmp_path), RUN, "other", "", 0))["r"] == "error"
