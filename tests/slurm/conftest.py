"""Fixtures: one cluster for all tests of a process, put in order before each.

Under pytest-xdist each worker that gets one of these tests starts a cluster of its own. With ``--dist loadgroup`` the
tests of a file stay together.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.slurm.cluster import Cluster, guard, room, why_not

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make the tests of each file of this folder a group."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with three nodes and accounting, or the one in the folder that FURU_SLURM_FOLDER names.

    Skips where none can be started; with FURU_CI=1 that is a failure.
    """
    if folder := os.environ.get("FURU_SLURM_FOLDER"):
        yield Cluster.attach(Path(folder))
        return
    require()
    one = Cluster(Path(tempfile.mkdtemp(prefix="furu-slurm-", dir=room())))
    keeper = guard(one.folder)
    try:
        one.start()
        yield one
    finally:
        one.stop()
        keeper.communicate()


@pytest.fixture
def slurm(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster with no jobs and everything up; Slurm's commands in this process and its children mean it."""
    cluster.reset()
    monkeypatch.setenv("SLURM_CONF", str(cluster.place.conf))
    return cluster


def require(accounting: bool = True) -> None:
    """Skip if no cluster can be started here, saying how it could be; fail instead with FURU_CI=1."""
    if (reason := why_not(accounting)) is None:
        return
    if os.environ.get("FURU_CI") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
