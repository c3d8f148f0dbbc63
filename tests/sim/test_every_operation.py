"""A whole run in which the n-th operation on the store goes wrong, for every n, in every way that there is.

On virtual time, with a seed, so that the n-th operation is the same one in each run. Each trial is a run and the same
call once more, without faults.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.laboratory import Counts, counting, repeatable
from tests.sim.sim_artifacts import Item, Stubborn
from tests.sim.simulate import path_of

from furu_async import FuruConfig, Scheduler, run_dag
from furu_async._store.artifacts import look
from furu_async._store.marker import read_end
from furu_async._testing.faulty import BY_DESCRIPTOR, FaultyStorage
from furu_async._testing.storage_troubles import can_concern
from furu_async.errors import FuruError, FuruRunCancelled
from furu_async.testing import Computes, FakeExecutor, Outcome, Raises, Returns, faulty_storage, run_virtual

ERRORS = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.ESTALE)
WORDS = (
    "Input/output error",
    "No space left",
    "Permission denied",
    "Stale file handle",
    "File exists",
    "No such file",
)
SPELL_SECS = 5.0
REFUSED = (errno.EACCES, errno.ENOSPC)
"""A run that cannot even begin is not kept waiting for these."""
CHANGING = frozenset(
    {"close", "create", "fsync", "link", "mkdir", "pwrite", "rename", "replace", "rmdir", "unlink", "write"}
)
SENT_AGAIN = {
    "create": errno.EEXIST,
    "link": errno.EEXIST,
    "mkdir": errno.EEXIST,
    "rename": errno.ENOENT,
    "replace": errno.ENOENT,
    "rmdir": errno.ENOENT,
    "unlink": errno.ENOENT,
}


class Sum(Item):
    """Computes in earnest, and is counted."""

    computed = 0

    def _create(self) -> int:
        Sum.computed += 1
        return super()._create()


A = Item(number=1)
B = Stubborn(number=2, inputs=(A,))
C = Item(number=3, inputs=(A,))
D = Sum(number=4, inputs=(B, C))
ALL = (A, B, C, D)


class Nth(FaultyStorage):
    """The operation that fails is the n-th of those of a kind; or all from that one on, for a while."""

    def __init__(self, n: int, number: int, changing: bool, done: bool = False, spell: float = 0.0) -> None:
        super().__init__(number, "*", "*", None, 0, done)
        self.seen = 0
        self.names: list[str] = []
        self._n = n
        self._changing = changing
        self._spell = spell
        self._until = 0.0

    def _due(self, name: str, path: str) -> bool:
        if not path:
            return False
        ours = (name in CHANGING) == self._changing
        if ours:
            self.seen += 1
            self.names.append(name)
        hit = ours and self.seen == self._n
        if self._spell:
            now = asyncio.get_running_loop().time()
            if hit:
                self._until = now + self._spell
            hit = now < self._until and can_concern(self._number, name)
            hit = hit and not (self._number == errno.EACCES and name in BY_DESCRIPTOR)
        if hit:
            self.hits.append((name, path))
        return hit


@dataclass
class Trial:
    """One store, and what became of the runs on it."""

    root: Path
    computed: Counter[int] = field(default_factory=Counter)
    error: FuruError | None = None
    took: float = 0.0
    total: int = 0

    def script(self, obj: Any, attempt: int) -> Outcome:
        if obj == B and attempt == 1:
            return Raises(ValueError("once"))
        if obj == D:
            return Computes()
        return Returns(self._compute)

    def _compute(self, item: Any) -> int:
        self.computed[item.number] += 1
        return int(item.number)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        config = FuruConfig(path=self.root, record_git="off", infra_secs=60.0)
        try:
            await run_dag(D, executor=FakeExecutor(self.script, workers=2), config=config, retry_failed=True)
        except FuruError as error:
            self.error = error
        self.took = loop.time()
        self.computed[D.number], Sum.computed = self.computed[D.number] + Sum.computed, 0
        left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks are left: {left}"

    def live(self, faulty: FaultyStorage | None) -> None:
        """Make the call."""
        if faulty is None:
            run_virtual(self._run(), seed=0)
            return
        with faulty.installed():
            run_virtual(self._run(), seed=0)

    def check(self, counts: Counts) -> None:
        """What is always true; then the same call again."""
        before = {}
        for item in ALL:
            seen = look(path_of(str(self.root), item))
            assert seen.verdict != "damaged", seen
            assert not seen.notes, seen.notes
            before[item] = seen.verdict
            self._check_ends(item, counts)
        if self.error is None:
            assert set(before.values()) == {"published"}
        else:
            self._check_words(self.error)
        computed = Counter(self.computed)
        self.error = None
        self.live(None)
        assert self.error is None, f"the same call afterwards: {self.error}"
        for item in ALL:
            assert look(path_of(str(self.root), item)).verdict == "published"
            self._check_ends(item, counts)
            if before[item] == "published" and computed[item.number] != self.computed[item.number]:
                counts.harm("lost")
                raise AssertionError(f"{item!r} was there and was made again")

    def _check_ends(self, item: Item, counts: Counts) -> None:
        paths = path_of(str(self.root), item)
        ends = [int(each.name) for each in Path(paths.ends).glob("*") if each.name.isdigit()]
        good = [n for n in ends if read_end(paths, paths.end(n), n).status == "success"]
        if len(good) > 1:
            counts.harm("doubles")
            raise AssertionError(f"{item!r} was published in generations {good}")

    def _check_words(self, error: FuruError) -> None:
        text = str(error)
        assert str(self.root) in text, text
        assert any(words in text for words in WORDS), text


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("furu_async").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("furu_async").setLevel(logging.NOTSET)


def operations(root: Path, changing: bool) -> list[str]:
    """The operations of a run in which nothing fails, by name."""
    nothing = Nth(0, errno.EIO, changing)
    trial = Trial(root)
    trial.live(nothing)
    assert trial.error is None
    return nothing.names


def try_one(root: Path, counts: Counts, faulty: Nth) -> Trial:
    """One trial in a fresh store."""
    counts.trials += 1
    trial = Trial(root / str(counts.trials))
    with repeatable(f"operation {faulty._n} fails with errno {faulty._number}"):
        trial.live(faulty)
        assert faulty.hits
        first, total = trial.error, sum(trial.computed.values())
        trial.check(counts)
    trial.error, trial.total = first, total
    shutil.rmtree(trial.root)
    return trial


@pytest.mark.fault("F17", "F18", "F19")
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_any_operation_that_fails_is_waited_out_or_said(number: int, tmp_path: Path) -> None:
    """Nothing is computed for a second time because of it."""
    with counting("nth-operation") as counts:
        for n, name in enumerate(operations(tmp_path / "whole", True), 1):
            if can_concern(number, name) and not (number == errno.EACCES and name in BY_DESCRIPTOR):
                trial = try_one(tmp_path, counts, Nth(n, number, True))
                assert trial.error is None or number in REFUSED, trial.error
                assert trial.total == (0 if trial.error else len(ALL)), (n, name)
        assert counts.trials > 30


@pytest.mark.fault("F22")
@pytest.mark.parametrize("again", [False, True])
def test_any_operation_whose_reply_is_lost_is_found_out(again: bool, tmp_path: Path) -> None:
    """With an error, or with what a server says that was asked for a second time."""
    with counting("nth-operation") as counts:
        for n, name in enumerate(operations(tmp_path / "whole", True), 1):
            number = SENT_AGAIN.get(name) if again else errno.EIO
            if number is not None:
                trial = try_one(tmp_path, counts, Nth(n, number, True, done=True))
                assert trial.error is None, (n, name)
                assert trial.total == len(ALL), (n, name)
        assert counts.trials > 60


@pytest.mark.fault("F17", "F18", "F19")
@pytest.mark.parametrize("changing", [True, False])
def test_a_store_that_is_away_for_a_while_is_waited_for(changing: bool, tmp_path: Path) -> None:
    """Everything fails from the n-th operation on for five seconds, with each error in turn."""
    with counting("nth-operation") as counts:
        for n, name in enumerate(operations(tmp_path / "whole", changing), 1):
            number = ERRORS[n % len(ERRORS)]
            if can_concern(number, name) and not (number == errno.EACCES and name in BY_DESCRIPTOR):
                trial = try_one(tmp_path, counts, Nth(n, number, changing, spell=SPELL_SECS))
                assert trial.error is None or number in REFUSED, trial.error
                assert trial.took < 60.0
        assert counts.trials > 20


@pytest.mark.fault("F19")
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
def test_any_look_that_fails_is_tried_again(number: int, tmp_path: Path) -> None:
    with counting("nth-operation") as counts:
        for n, _ in enumerate(operations(tmp_path / "whole", False), 1):
            assert try_one(tmp_path, counts, Nth(n, number, False)).error is None
        assert counts.trials > 30


@pytest.mark.fault("F17", "F19")
def test_a_result_is_kept_while_it_cannot_be_published(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    with faulty_storage(errno.ENOSPC, path="*/ends*", operation="create", times=8) as faulty:
        trial.live(None)
    assert trial.error is None
    assert len(faulty.hits) == 8
    assert sum(trial.computed.values()) == len(ALL)
    assert trial.took > 8.0


@pytest.mark.fault("F19", "F96", "F98")
def test_a_cancelled_run_does_not_wait_for_a_result_to_be_published(tmp_path: Path) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        config = FuruConfig(path=tmp_path, record_git="off")
        async with Scheduler(FakeExecutor({A: Returns(1)}), config=config) as scheduler:
            run = scheduler.start(A)
            await asyncio.sleep(100.0)  # it is computed after one
            began = loop.time()
            run.cancel()
            with pytest.raises(FuruRunCancelled):
                await run
            return loop.time() - began

    with faulty_storage(errno.EIO, path="*/data/*/ends*", operation="create", times=None) as faulty:
        # A last try comes in its turn; the run need not be forced to end.
        assert run_virtual(main(), seed=0) < 12.0
    assert len(faulty.hits) > 10
