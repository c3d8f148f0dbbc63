"""The hash: what enters it, what does not, and that it never changes."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import subprocess
import sys
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import model_cases as cases
import pytest
from hypothesis import given
from hypothesis import strategies as st

from furu_async import Furu, SlurmSpec
from furu_async._model.identity import content, encode
from furu_async._model.table import entry
from furu_async.errors import FuruDefinitionError

HERE = Path(__file__).parent
KNOWN = HERE / "known_hashes.json"


def examples() -> dict[str, Furu[Any]]:
    """The artifacts whose hashes are on record."""
    return {
        "leaf": cases.Leaf(),
        "leaf, other value": cases.Leaf(n=-12345678901234567890),
        "train": cases.Train(lr=1e-3),
        "everything": cases.Everything(),
        "everything, other order": cases.Everything(
            table={"a": [], "b": [1]}, names={"r", "q", "p"}, threads=64, added=10
        ),
        "versioned": cases.Versioned(n=1),
        "pinned": cases.Pinned(n=1),
        "generic": cases.IntBased(value=1),
        "grown": cases.Grown(n=1),
        "chain": cases.chain(50),
        "diamonds": cases.diamonds(20),
        "slurm spec": cases.Holder(
            anything=SlurmSpec(partition="gpu", gpus=1, extra={"a": [1, {"b": None}], "c": 0.5})
        ),
        "empty containers": cases.Holder(anything=[(), [], {}, set(), frozenset(), "", b""]),
    }


def hashes() -> dict[str, str]:
    return {name: obj.furu_hash for name, obj in examples().items()}


def test_hashes_on_record() -> None:
    """Every stored result of everybody is found by these; a difference here loses them all."""
    assert hashes() == json.loads(KNOWN.read_text())


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_hashes_do_not_depend_on_the_process(seed: str) -> None:
    code = "import json, test_model_identity as t; print(json.dumps(t.hashes()))"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == json.loads(KNOWN.read_text())


def test_shape() -> None:
    value = cases.Leaf().furu_hash
    assert len(value) == 32
    assert set(value) <= set("0123456789abcdef")


DISTINCT: list[Any] = [
    None,
    True,
    False,
    1,
    0,
    -1,
    1.0,
    0.0,
    -0.0,
    1 + 0j,
    "1",
    "",
    b"1",
    b"",
    [],
    (),
    {},
    set(),
    frozenset(),
    [1],
    (1,),
    {1},
    frozenset({1}),
    ["1"],
    [1, 2],
    [[1], 2],
    [[1, 2]],
    [[], []],
    [[[]]],
    ["a", "b"],
    ["ab"],
    ["a,b"],
    {"a": 1},
    {"a": "1"},
    {1: "a"},
    [("a", 1)],
    Path("a"),
    "a",
    Decimal("1"),
    Decimal("1.0"),
    cases.Color.RED,
    cases.Level.LOW,
    cases.Bits.A,
    cases.Bits.B,
    cases.Point(1.0, 0.0),
    (1.0, 0.0),
    cases.Optimizer(),
    cases.Box(1),
    cases.Box(1.0),
    cases.Leaf(),
    cases.OtherLeaf(),
    cases.Leaf(n=1),
    cases.Leaf().furu_hash,
]


def test_distinct_values_have_distinct_forms() -> None:
    forms: dict[bytes, Any] = {}
    for value in DISTINCT:
        obj = cases.Holder(anything=value)
        _ = obj.furu_hash
        form = encode(obj.anything)
        assert form not in forms, (value, forms[form])
        forms[form] = value
    assert len({cases.Holder(anything=value).furu_hash for value in DISTINCT}) == len(DISTINCT)


def test_the_field_decides_what_is_the_same() -> None:
    assert cases.Train(lr=1).furu_hash == cases.Train(lr=1.0).furu_hash
    assert cases.Holder(anything=1).furu_hash != cases.Holder(anything=1.0).furu_hash


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
nested = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)


def same(one: Any, other: Any) -> bool:
    """Equal with equal types, -0.0 unlike 0.0, dicts without order."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


@given(nested, nested)
def test_forms_are_equal_exactly_if_values_are(one: Any, other: Any) -> None:
    assert (encode(one) == encode(other)) == same(one, other)


@given(st.lists(nested, min_size=2, max_size=4))
def test_no_form_is_the_beginning_of_another(values: list[Any]) -> None:
    forms = [encode(value) for value in values]
    for one in forms:
        for other in forms:
            assert one == other or not one.startswith(other)


def test_order_does_not_matter_where_python_has_none() -> None:
    one = cases.Everything(table={"x": [1], "y": [2]}, names={"a", "b", "c"})
    two = cases.Everything(table={"y": [2], "x": [1]}, names={"c", "b", "a"})
    assert one.furu_hash == two.furu_hash
    assert cases.Holder(items=[1, 2]).furu_hash != cases.Holder(items=[2, 1]).furu_hash


def test_fields_outside_the_identity() -> None:
    assert cases.Everything(threads=1).furu_hash == cases.Everything(threads=2).furu_hash
    assert cases.Everything(threads=2).threads == 2
    assert Furu.from_dict(cases.Everything(threads=2).to_dict()).threads == 2  # type: ignore[attr-defined]


def test_since() -> None:
    """`Grown` with its new field at the default has the hash it had without the field."""
    before = type(
        "Grown",
        (Furu,),
        {
            "__annotations__": {"n": int},
            "n": 0,
            "_create": lambda self: 1,
            "__module__": "model_cases",
            "__qualname__": "Grown",
        },
        name="model_cases.Grown",
    )
    assert cases.Grown(n=1).furu_hash != cases.Grown(n=1, added=[1]).furu_hash
    cases.Grown.__furu__.prefix = None
    old = before(n=1)
    before.__furu__.prefix = cases.Grown.__furu__.make_prefix()  # type: ignore[attr-defined]
    assert blake2b(content(old), digest_size=16).hexdigest() == cases.Grown(n=1).furu_hash
    assert cases.Grown(n=1, added=[]).furu_hash == cases.Grown(n=1).furu_hash


def test_version_and_name() -> None:
    assert cases.Versioned(n=1).furu_hash != cases.Inherits(n=1).furu_hash
    assert cases.Leaf(n=1).furu_hash != cases.OtherLeaf(n=1).furu_hash


def test_equality_and_hash() -> None:
    one, two = cases.Train(lr=1), cases.Train(lr=1.0)
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two, cases.Train(lr=2)}) == 2
    assert one != cases.Train(lr=2)
    assert cases.Leaf() != cases.OtherLeaf()
    assert one != 3
    assert (one == "x") is False


def test_a_nested_artifact_enters_as_its_hash() -> None:
    assert cases.Train(data=cases.Leaf(n=3)) == cases.Train(data=cases.Leaf(n=3))
    assert cases.Train(data=cases.Leaf(n=3)) != cases.Train(data=cases.Leaf(n=4))


@pytest.mark.fault("F84")
def test_an_artifact_changed_after_its_hash_is_found_when_it_is_sent() -> None:
    obj = cases.Holder(items=[1])
    _ = obj.furu_hash
    obj.items.append(2)
    with pytest.raises(FuruDefinitionError, match=r"was changed after its hash .*\n.*replace"):
        entry(obj)
    for send in (obj.to_dict, lambda: pickle.dumps(obj)):
        with pytest.raises(FuruDefinitionError, match="was changed"):
            send()


@pytest.mark.fault("F77")
def test_an_artifact_put_into_itself() -> None:
    obj = cases.Holder(items=[1])
    inner = cases.Holder(items=[obj])
    obj.items[0] = obj
    with pytest.raises(FuruDefinitionError, match=r"needs itself"):
        _ = obj.furu_hash
    obj.items[0] = inner
    inner.items[0] = obj
    with pytest.raises(
        FuruDefinitionError, match=r"2 artifacts need each other in a cycle:\n.*Holder"
    ) as caught:
        _ = obj.furu_hash
    assert str(caught.value).count("needs") >= 2
    with pytest.raises(FuruDefinitionError, match="cycle"):
        copy.deepcopy(obj)


def test_repr_is_bounded_and_one_level() -> None:
    assert repr(cases.Train(lr=1)) == "Train(data=Leaf(…), lr=1.0, name='toy')"
    long = cases.Train(name="x" * 10_000)
    assert len(repr(long)) < 200
    wide = cases.Holder(items=list(range(100_000)), anything={"k" * 999: [[[[1]]]]})
    assert len(repr(wide)) < 700
    assert "… 99994 more" in repr(wide)
    boxed = cases.Holder(anything=[cases.Box(cases.Holder(anything=[cases.Box(1)]))])
    assert repr(boxed) == "Holder(anything=[Box(…)], items=[])"
    assert len(repr(cases.Everything())) < 1000


def test_repr_never_raises() -> None:
    class Angry:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(FuruDefinitionError, match="whose repr raises RuntimeError"):
        cases.Holder(anything=Angry())


def test_replace_makes_another() -> None:
    one = cases.Train(lr=1)
    two = dataclasses.replace(one, lr=2)
    assert (one.lr, two.lr) == (1.0, 2.0)
    assert one.furu_hash != two.furu_hash


if __name__ == "__main__":
    KNOWN.write_text(json.dumps(hashes(), indent=2) + "\n")
