"""A bench for real child processes: every wait is for a condition, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from furu_async._model.artifact import Furu
from furu_async._runner.messages import TaskBegun, TaskResult, TaskSpec
from furu_async._runner.supervisor import Child, ChildGone

PATIENCE = 60.0


class Bench:
    """Starts children, gives them tasks, collects what they say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.children: list[Child] = []
        self.messages: list[TaskBegun | TaskResult | ChildGone] = []
        self._heard = asyncio.Event()
        self._ids = 0

    async def child(self, **options: Any) -> Child:
        """A started child."""
        made = await Child.start(
            wid=f"w{len(self.children)}",
            spool_dir=str(self.root / "spools"),
            on_message=self._on_message,
            **options,
        )
        self.children.append(made)
        return made

    def _on_message(self, child: Child) -> None:
        self.messages += child.poll()
        self._heard.set()

    def task(self, child: Child, obj: Furu[Any], **options: Any) -> TaskSpec:
        """A task as the dispatcher would make it."""
        self._ids += 1
        folder = self.root / "data" / obj.furu_hash
        return TaskSpec(
            id=self._ids,
            hash=obj.furu_hash,
            name=type(obj).__name__,
            generation=options.pop("generation", 1),
            root=str(self.root),
            directory=str(folder / "attempts" / str(options.pop("attempt", 1))),
            checkpoint=str(folder / "checkpoints" / "1"),
            entries=child.entries_for(obj),
            **options,
        )

    def give(self, child: Child, obj: Furu[Any], **options: Any) -> TaskSpec:
        """Make a task and give it."""
        task = self.task(child, obj, **options)
        child.give(task)
        return task

    async def run(self, child: Child, obj: Furu[Any], **options: Any) -> TaskResult:
        """Give a task and await its result."""
        return await self.result(self.give(child, obj, **options))

    async def result(self, task: TaskSpec) -> TaskResult:
        """Await the result of a task."""
        return await self.said(lambda m: isinstance(m, TaskResult) and m.id == task.id)

    async def begun(self, task: TaskSpec) -> TaskBegun:
        """Await the beginning of a task."""
        return await self.said(lambda m: isinstance(m, TaskBegun) and m.id == task.id)

    async def gone(self, child: Child) -> ChildGone:
        """Await the end of a child."""
        return await self.said(lambda m: isinstance(m, ChildGone) and m.pid == child.pid)

    async def said(self, wanted: Callable[[Any], bool], patience: float = PATIENCE) -> Any:
        """Await a message."""
        async with asyncio.timeout(patience):
            while True:
                for message in self.messages:
                    if wanted(message):
                        return message
                self._heard.clear()
                await self._heard.wait()

    async def printed(self) -> None:
        """Await output in a spool: user code runs."""
        await self.until(lambda: any(path.stat().st_size for path in (self.root / "spools").glob("*.out")))

    async def until(self, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Await something that only looking can tell."""
        async with asyncio.timeout(patience):
            while not (answer := condition()):
                await asyncio.sleep(0.01)
        return answer


def lives(pid: int) -> bool:
    """A process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
