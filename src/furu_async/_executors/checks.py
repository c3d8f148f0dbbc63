"""Asks ``_validate`` of published nodes in child processes: it is user code, which may hang or crash."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from furu_async._executors.base import Node, RunPort
from furu_async._executors.crew import Seat
from furu_async._executors.validity import VALIDATE_SECS, no_answer
from furu_async._runner.messages import TaskResult, TaskSpec
from furu_async._runner.supervisor import ChildGone
from furu_async._runner.validity import Validation
from furu_async._store.layout import ArtifactPaths

_decode = msgspec.json.Decoder(Validation).decode


class _Check:
    """One question; answered at most once."""

    __slots__ = ("answer", "crashes", "files", "node", "root", "seat", "task_id")

    def __init__(self, root: str, node: Node, files: bool, answer: asyncio.Future[Validation]) -> None:
        self.root = root
        self.node = node
        self.files = files
        self.answer = answer
        self.crashes = 0
        self.seat: Seat | None = None
        self.task_id = 0

    def settle(self, validation: Validation) -> None:
        if not self.answer.done():
            self.answer.set_result(validation)


class Checks:
    """The questions that wait for a child, and those that are with one.

    Args:
        poke: have the dispatcher look for room.
        next_id: numbers for tasks.
        end: end the child of a seat.
    """

    def __init__(
        self, poke: Callable[[], None], next_id: Callable[[], int], end: Callable[[Seat], None]
    ) -> None:
        self._poke = poke
        self._next_id = next_id
        self._end = end
        self._waiting: deque[_Check] = deque()
        self._given: dict[int, _Check] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def ask(self, run: RunPort, node: Node, files: bool) -> Validation:
        """The verdict; ``unknown`` if there is none in time, and then the child that is at it is ended."""
        check = _Check(run.root, node, files, asyncio.get_running_loop().create_future())
        self._waiting.append(check)
        self._poke()
        try:
            async with asyncio.timeout(VALIDATE_SECS):
                return await check.answer
        except TimeoutError:
            return no_answer(node.obj)
        finally:
            self._withdraw(check)

    def _withdraw(self, check: _Check) -> None:
        if check in self._waiting:
            self._waiting.remove(check)
        elif self._given.pop(check.task_id, None) is not None and check.seat is not None:
            self._end(check.seat)

    def hand_out(self, seats: list[Seat]) -> None:
        """Give waiting questions to children that have nothing else to do."""
        for seat in seats:
            if not self._waiting:
                return
            if seat.child is not None and seat.child.alive and not seat.retiring and not seat.child.tasks:
                self._give(self._waiting.popleft(), seat)

    def _give(self, check: _Check, seat: Seat) -> None:
        child = seat.child
        assert child is not None
        node = check.node
        check.seat, check.task_id = seat, self._next_id()
        self._given[check.task_id] = check
        child.give(
            TaskSpec(
                id=check.task_id,
                hash=node.hash,
                name=node.name,
                generation=0,
                root=check.root,
                directory=ArtifactPaths(check.root, node.name, node.hash).base,
                entries=child.entries_for(node.obj),
                action="validate-files" if check.files else "validate",
            )
        )

    def take_result(self, result: TaskResult) -> bool:
        """A result that answers a question; False if it is none of ours."""
        check = self._given.pop(result.id, None)
        if check is None:
            return False
        if result.ok:
            check.settle(_decode(result.value))
        else:
            text = result.failure.message if result.failure is not None else "it gave no verdict"
            check.settle(Validation("unknown", f"_validate of {check.node.obj!r} could not be asked: {text}"))
        return True

    def take_back(self, task_id: int) -> bool:
        """A question that its child had not begun; False if it is none of ours."""
        check = self._given.pop(task_id, None)
        if check is None:
            return False
        check.seat = None
        self._waiting.appendleft(check)
        return True

    def on_gone(self, gone: ChildGone) -> bool:
        """The child died at a question: asked once more elsewhere, then it counts as not there."""
        check = self._given.pop(gone.running.id, None) if gone.running is not None else None
        if check is None:
            return False
        check.crashes += 1
        check.seat = None
        if check.crashes < 2:
            self._waiting.append(check)
        else:
            text = (
                f"_validate of {check.node.obj!r} ended its process, so it counts as not there: {gone.text}"
            )
            check.settle(Validation("invalid", text, raised=True))
        return True
