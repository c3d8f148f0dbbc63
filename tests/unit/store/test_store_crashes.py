"""The power fails before each call of a step, and of what was not synced by then any part is lost.

What was there before the step is on disk for certain. Of the step itself, names vanish and contents are cut as the
simulated storage does it: once all that can be lost, and several times a part drawn from a seed. The states of
publications on a model of their own are in test_store_power.py.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from store_env import SCALE, Crash, create, fail, owner_card, recover, success, value, write_result
from test_store_faults import SCENES, Scene, Step

from furu_async._store import artifacts, fs
from furu_async._testing.storage import SimulatedStorage, StorageFaults

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.laboratory import Counts, counting, repeatable

SEEDS = max(1, round(4 * SCALE))


def _again(scene: Scene) -> None:
    """Set a result aside and make it anew."""
    artifacts.invalidate(scene.paths, 1, "again")
    assert artifacts.claim(scene.paths, 2, scene.card).r == "claimed"
    write_result(scene.paths, 2, "new")
    assert artifacts.publish(scene.paths, 2, success(scene.paths, 2, scene.card)).r == "published"


def _whole(scene: Scene) -> None:
    """Claim and publish so that it survives."""
    assert artifacts.claim(scene.paths, 1, scene.card).r == "claimed"
    write_result(scene.paths, 1, "new")
    end = success(scene.paths, 1, scene.card, True)
    assert artifacts.publish(scene.paths, 1, end, True).r == "published"


def _plain(scene: Scene) -> None:
    """Claim and publish, and nothing is synced."""
    create(scene.paths, scene.card, "new")


def _generations(scene: Scene) -> None:
    """A failure, a result that is set aside, and another one; nothing is synced."""
    fail(scene.paths, scene.card)
    create(scene.paths, scene.card, "older")
    artifacts.invalidate(scene.paths, 2, "again")
    create(scene.paths, scene.other, "new")


STEPS: dict[str, tuple[Step, Step]] = {
    **SCENES,
    "publish with power from the claim on": (lambda scene: None, _whole),
    "publish from the claim on": (lambda scene: None, _plain),
    "generations from the first claim on": (lambda scene: None, _generations),
    "invalidate and publish again": (SCENES["invalidate"][0], _again),
}


def good_values(name: str, old: str | None) -> set[str | None]:
    """What a reader may find after the power came back."""
    if name == "invalidate and publish again":
        return {"old", None, "new"}
    if name == "generations from the first claim on":
        return {None, "older", "new"}
    if name.startswith("publish"):
        return {None, "new"}
    if name == "invalidate":
        return {"old", None}
    return {old}


@contextmanager
def dying(k: int) -> Iterator[Callable[[], bool]]:
    """Inside, the process dies before the k-th changing call (from 0), on top of what else is installed."""
    before = {name: getattr(fs, name) for name in fs.CHANGING}
    count = 0

    def wrap(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > k:
                raise Crash
            return operation(*args, **kwargs)

        return call

    for name, operation in before.items():
        setattr(fs, name, wrap(operation))
    try:
        yield lambda: count > k
    finally:
        for name, operation in before.items():
            setattr(fs, name, operation)


def crash(name: str, root: Path, k: int, faults: StorageFaults, seed: int, counts: Counts) -> bool:
    """One state, looked at and gone on from; False if the step made fewer than k calls."""
    prepare, step = STEPS[name]
    scene = Scene(root)
    prepare(scene)
    host = ["a"]
    storage = SimulatedStorage(scene.root, lambda: 0.0, random.Random(seed), lambda: host[0], faults)
    with storage:
        with dying(k) as died:
            try:
                step(scene)
            except Crash:
                assert died()
        storage.crash("a")
        host[0] = ""
        counts.trials += 1
        seen = artifacts.look(scene.paths)
        assert seen.verdict in ("free", "claimed", "published"), seen
        found = value(scene.paths)
        if found not in good_values(name, scene.old):
            counts.harm("lost" if found is None else "torn")
            raise AssertionError(f"{found!r} is there, crashed before call {k} with seed {seed}")
        assert (seen.verdict == "published") is (found is not None), (seen, found, k, seed)
        if name.startswith("publish with power") and not died():
            assert found == "new", "what was announced is there"
        n = recover(scene.paths, owner_card(scene.root, "next"))
        assert value(scene.paths) in ({found} if found is not None else {"recovered"})
        assert artifacts.is_marked(scene.paths)
        assert artifacts.invalidate(scene.paths, n, "again")
        assert value(scene.paths) is None
        assert recover(scene.paths, owner_card(scene.root, "last"), "last") > n
        assert value(scene.paths) == "last"
    return died()


@pytest.mark.fault("F13", "F30")
@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("name", STEPS)
def test_after_a_power_loss_in_any_step_the_next_one_goes_on(
    name: str, nameless: bool, tmp_path: Path
) -> None:
    with counting("crash-states") as counts:
        for seed in range(SEEDS):
            torn = 1.0 if seed == 0 else 0.5
            k, more = 0, True
            while more:
                root = Path(tempfile.mkdtemp(dir=tmp_path))
                with repeatable(f"crashed before call {k} with seed {seed}"):
                    more = crash(name, root, k, StorageFaults(torn=torn, nameless=nameless), seed, counts)
                k += 1
        assert counts.trials > SEEDS
