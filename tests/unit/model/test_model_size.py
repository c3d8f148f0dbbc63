"""Chains 10,000 deep and diamonds of 2^60 paths, in everything; and what small artifacts cost."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_cases as cases
import pytest

from furu_async import Furu
from furu_async._model.artifact import Binding, bind, binding_of
from furu_async._model.dag import check_acyclic, closure, dependencies
from furu_async._model.table import Entry, build, entry, references

BIG: dict[str, Callable[[], Furu[Any]]] = {
    "chain": lambda: cases.chain(10_000),
    "diamonds": lambda: cases.diamonds(60),
}


@pytest.mark.fault("F77")
@pytest.mark.parametrize("name", BIG)
def test_every_operation_is_linear_and_does_not_recurse(name: str) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        started = time.perf_counter()
        one, two = BIG[name](), BIG[name]()
        count = 10_000 if name == "chain" else 121
        assert one == two
        assert hash(one) == hash(two)
        assert len(repr(one)) < 200
        check_acyclic([one])
        nodes = closure([one, two])
        assert len(nodes) == count
        assert list(nodes)[-1] == one.furu_hash
        assert pickle.loads(pickle.dumps(one)) == one
        assert copy.copy(one) == one
        deep = copy.deepcopy(one)
        assert deep == one
        assert deep is not one
        data = json.loads(json.dumps(one.to_dict()))
        assert len(data["nodes"]) == count
        assert Furu.from_dict(data) == one
        source: dict[str, Any] = {}
        exec(one.to_python(), source)
        assert source["artifact"] == one
        assert time.perf_counter() - started < 20
    finally:
        sys.setrecursionlimit(limit)


def test_a_long_chain_can_be_thrown_away() -> None:
    head: Any = cases.chain(100_000)
    _ = head.furu_hash
    dependencies(head)
    del head
    gc.collect()


def test_deepcopy_keeps_what_is_shared() -> None:
    shared = cases.Leaf(n=1)
    many = [cases.Train(data=shared, lr=n) for n in range(3)]
    copied = copy.deepcopy(many)
    assert copied == many
    assert copied[0].data is copied[1].data is copied[2].data
    assert copied[0].data is not shared
    holder = cases.Holder(items=[shared, [shared]], anything=cases.Box({"a": shared}))
    deep = copy.deepcopy(holder)
    assert deep.items[0] is deep.items[1][0] is deep.anything.inside["a"]
    assert deep.items is not holder.items


def test_local_classes_can_be_copied_but_not_hashed() -> None:
    class Local(Furu[int]):
        items: list[int]

        def _create(self) -> int:
            return 1

    one = Local(items=[1])
    two = copy.deepcopy(one)
    assert two.items == [1]
    assert two.items is not one.items
    assert copy.copy(one).items is one.items


def test_bind(tmp_path: Path) -> None:
    one = cases.Train(lr=1)
    binding = Binding(str(tmp_path / "a"), str(tmp_path / "c"), 3)
    bound = bind(one, binding)
    assert bound is not one
    assert bound == one
    assert bound.furu_hash == one.furu_hash
    assert bound.data is one.data  # type: ignore[attr-defined]
    assert bound.furu_dir == tmp_path / "a"
    assert binding_of(bound) == binding
    assert binding_of(one) is None
    assert binding_of(pickle.loads(pickle.dumps(bound))) == binding_of(bound)
    assert binding_of(copy.copy(bound)) == binding_of(bound)


def best(action: Callable[[], Any], times: int = 5) -> float:
    """Seconds of the fastest of a few runs."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        found.append(time.perf_counter() - started)
    return min(found)


def test_small_artifacts_are_cheap() -> None:
    """The limits are several times what was measured, so that only a change of kind fails here."""
    count = 2000
    leaf = cases.Leaf()
    made = best(lambda: [cases.Train(data=leaf, lr=float(n)) for n in range(count)]) / count
    hashed = best(lambda: [cases.Train(data=leaf, lr=float(n)).furu_hash for n in range(count)]) / count
    binding = Binding("/a", None, 1)
    one = cases.Train()
    bound = best(lambda: [bind(one, binding) for _ in range(count)]) / count
    assert made < 30e-6
    assert hashed < 40e-6
    assert bound < 12e-6


def test_memory() -> None:
    count = 5000
    leaf = cases.Leaf()
    tracemalloc.start()
    kept = [cases.Train(data=leaf, lr=float(n)) for n in range(count)]
    each = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    assert len(kept) == count
    assert each < 700, f"{each} bytes"


def test_entries_and_references() -> None:
    leaf = cases.Leaf(n=1)
    obj = cases.Holder(items=[leaf, cases.Leaf(n=1), {"a": cases.OtherLeaf()}], anything=(leaf,))
    assert references(obj) == (leaf, cases.OtherLeaf())
    made = entry(obj)
    assert isinstance(made, Entry)
    assert made.name == "model_cases.Holder"
    assert made.fields["items"][0] == {"$furu": leaf.furu_hash}
    again = build(made, {one.furu_hash: one for one in references(obj)})
    assert again == obj
