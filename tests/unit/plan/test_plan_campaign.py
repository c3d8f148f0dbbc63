"""The core's campaign: random DAGs, random orders of events, every invariant; one seed after the other, in parts."""

from __future__ import annotations

import os

import pytest
from core_campaign import campaign
from tests.laboratory import counting, split

FIRST_SEED = int(os.environ.get("FURU_CORE_SEED", "0"))


@pytest.mark.fault("F12", "F67", "F68", "F74", "F76", "F94")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("first", "runs"), split("core", 10))
def test_campaign(first: int, runs: int) -> None:
    """I3, I6, I8, I9, I15 on many seeded runs."""
    with counting("core") as counts:
        events, failures = campaign(runs, FIRST_SEED + first)
        counts.trials += runs
        counts.harm("endless", len(failures))
        counts.facts["million events"] = events / 1e6
    assert not failures, failures[0]
    assert events > 15 * runs
