"""What closes executors waits for tasks that may have ended already."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock

from furu_async._executors.crew import Crew
from furu_async._executors.dispatch import Dispatcher


async def ended() -> set[Any]:
    """A task that is done, and whose callbacks have had no turn yet: from Python 3.12 on, `gather` gives them none."""
    task = asyncio.get_running_loop().create_task(asyncio.sleep(0))
    await task
    return {task}


async def test_a_crew_whose_children_have_ended_closes() -> None:
    crew: Any = object.__new__(Crew)
    crew.seats, crew._ending = [], await ended()
    await asyncio.wait_for(crew.aclose(0.0), 10)
    assert not crew._ending


async def test_a_dispatcher_whose_tasks_have_ended_closes() -> None:
    dispatcher: Any = object.__new__(Dispatcher)
    dispatcher._monitor, dispatcher._crew, dispatcher._background = Mock(), None, await ended()
    await asyncio.wait_for(dispatcher.aclose(), 10)
    assert not dispatcher._background
