"""Writes the entries of tasks: which spec they wait for, under which number, in which place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from furu_async._model.artifact import specs_of
from furu_async._model.resources import SlurmSpec
from furu_async._pool.control import Control
from furu_async._pool.entries import QueueEntry
from furu_async._pool.home import Survey
from furu_async._pool.queue import Buckets
from furu_async._pool.wanted import Stage, Task
from furu_async.errors import FuruError
from furu_async.report import Failure

_FIRST = 10_000
"""What needs a fresh worker goes before everything else: a worker is fresh but once."""


class Writer:
    """See the module.

    Args:
        out: how many tasks wait or run, by spec key; counted up here.
        fail: ends a task whose entry cannot be written.

    Attributes:
        survey: what an earlier controller left.
    """

    def __init__(self, control: Control, out: Counter[str], fail: Callable[[Task, Failure], None]) -> None:
        self.survey: Survey = Survey()
        self._control = control
        self._out = out
        self._fail = fail
        self._buckets = Buckets()

    def write(self, task: Task) -> None:
        """Put the entry of a task into the queue, or go on with the one that is there."""
        control, node = self._control, task.origin.node
        try:
            specs = specs_of(node.obj)
        except FuruError as error:
            self._fail(task, Failure(kind="protocol", error_type=type(error).__name__, message=str(error)))
            return
        spec = self._choose(task, specs)
        if spec is None:
            return
        task.spec_key = spec.key
        control.specs[spec.key] = spec
        task.stage = Stage.OUT
        self._out[spec.key] += 1
        if self._take_over(task):
            control.poke()
            return
        self._put(task, specs)

    def _put(self, task: Task, specs: Sequence[SlurmSpec]) -> None:
        control, request = self._control, task.origin
        node = request.node
        numbers = self.survey.numbers
        numbers[task.hash] = task.number = numbers.get(task.hash, 0) + 1
        last = node.last_failure
        entry = QueueEntry(
            hash=task.hash,
            name=node.name,
            spec_key=task.spec_key,
            executor_keys=[spec.key for spec in specs],
            attempt=request.attempt,
            ticket=task.number,
            run_id=request.run.run_id,
            priority=request.priority + (_FIRST if request.whole else 0),
            supersede=node.supersede,
            takeover=node.takeover,
            silent_at=node.silent_at,
            whole=request.whole,
            history=list(node.history),
            failure_kind=last.kind if last is not None else "",
            error=last.line() if last is not None else "",
        )
        task.place = self._buckets.place(entry)
        task.taken = task.written = False
        control.tasks[task.file] = task
        try:
            missing = control.objects.missing(node.obj)
        except FuruError as error:
            self._fail(task, Failure(kind="protocol", error_type=type(error).__name__, message=str(error)))
            return
        number = task.number
        control.feeder.put(entry, task.place, missing, lambda result: self._written(task, number, result))

    def _written(self, task: Task, number: int, result: object) -> None:
        mine = task.stage is Stage.OUT and task.number == number
        task.written = task.written or (mine and not isinstance(result, OSError))
        if isinstance(result, OSError) and mine:
            text = f"its entry cannot be written: {result.filename or ''} {result.strerror or result}"
            self._fail(task, Failure(kind="infrastructure", error_type="OSError", message=text))
        self._control.poke()

    def _choose(self, task: Task, specs: Sequence[SlurmSpec]) -> SlurmSpec | None:
        """The spec that it is to wait for: the one that was asked for, or a later one that has workers."""
        first = min(task.origin.spec, len(specs) - 1)
        whys = []
        for spec in specs[first:]:
            breaker = self._control.fleet.breaker(spec.key)
            if self._control.fleet.serves(spec.key) and self._control.pool.limit(spec):
                return spec
            whys.append(f"{spec.key}: {breaker.why or 'SlurmPool(workers=...) names none for it'}")
        text = f"no workers can be had for its spec: {'; '.join(whys)}"
        self._fail(task, Failure(kind="protocol", error_type="FuruExecutorError", message=text))
        return None

    def _take_over(self, task: Task) -> bool:
        """Go on with an entry that an earlier controller wrote for the same node; False if there is none to use."""
        control, node = self._control, task.origin.node
        left = self.survey.entries.pop(task.hash, None)
        if left is None:
            return False
        name = f"{task.hash}.{left.number}"
        if (
            node.supersede
            or node.takeover
            or (left.place is not None and left.place.spec_key != task.spec_key)
        ):
            if left.place is not None:
                control.feeder.discard(left.place, name)
            return False
        task.number, task.place, task.taken = left.number, left.place, left.place is None
        task.written = True
        control.tasks[name] = task
        return True
