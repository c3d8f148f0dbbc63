from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("plan_env")

from plan_env import Env  # noqa: E402 - after the line above


@pytest.fixture
def run_of() -> Iterator[Callable[..., Env]]:
    """Make runs of small DAGs; at the end of the test nothing may be left in their inboxes."""
    made: list[Env] = []

    def make(dag: str = "a", **policy: Any) -> Env:
        made.append(Env(dag, **policy))
        return made[-1]

    yield make
    for env in made:
        env.done()
