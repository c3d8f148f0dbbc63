"""The flat table: what travels comes back the same, and what is foreign or of other code is refused."""

from __future__ import annotations

import copy
import datetime as dt
import json
import os
import pickle
import sys
import zoneinfo
from pathlib import Path, PurePath
from typing import Any

import model_cases as cases
import pytest

from furu_async import Furu
from furu_async._model.table import Entry, build, entry
from furu_async.errors import FuruDefinitionError, FuruSpecMismatch


def test_everything_comes_back() -> None:
    one = cases.Everything()
    data = json.loads(json.dumps(one.to_dict()))
    again: Any
    for again in (Furu.from_dict(data), pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert again == one
        for name in cases.Everything.__dataclass_fields__:
            before, after = getattr(one, name), getattr(again, name)
            assert after == before, name
            assert type(after) is type(before), name
    source: dict[str, Any] = {}
    exec(one.to_python(), source)
    assert source["artifact"] == one


def test_to_python_is_readable() -> None:
    assert cases.Train(lr=1).to_python() == (
        "import model_cases\n\n"
        "leaf_1 = model_cases.Leaf(n=0)\n"
        "artifact = model_cases.Train(data=leaf_1, lr=1.0, name='toy')\n"
    )


def test_to_python_of_odd_values() -> None:
    zone = zoneinfo.ZoneInfo("Europe/Zurich")
    values = [
        dt.datetime(2026, 7, 1, tzinfo=zone),
        dt.datetime(2026, 7, 1, tzinfo=dt.UTC),
        dt.time(1, tzinfo=zone),
        PurePath("a"),
        Path("b"),
        1 << 20_000,
        -(1 << 20_000),
        float("-inf"),
        set(),
        {1},
        frozenset(),
        (1,),
        (),
        cases.Bits.A | cases.Bits.B,
        cases.Color.BLUE,
        cases.Loose([1]),
        "\udc80",
        {"\udc80": 1},
        {"$a": 1},
    ]
    one = cases.Holder(items=values)
    source: dict[str, Any] = {}
    exec(one.to_python(), source)
    assert source["artifact"] == one
    again: Any = Furu.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again == one
    assert again.items == values


def test_other_code_whose_post_init_refuses() -> None:
    made = entry(cases.Picky(n=1))
    with pytest.raises(FuruSpecMismatch, match="ValueError: not 13"):
        build(Entry(hash=made.hash, cls=made.cls, version=None, fields={"n": 13}), {})


def test_from_dict_of_a_class_checks_the_class() -> None:
    data = cases.Train().to_dict()
    assert cases.Train.from_dict(data) == cases.Train()
    with pytest.raises(FuruDefinitionError, match=r"Leaf\.from_dict: the table describes Train"):
        cases.Leaf.from_dict(data)


def test_a_pinned_class_is_found_by_its_name() -> None:
    made = entry(cases.Pinned(n=3))
    assert made.cls == "store.Pinned=model_cases:Pinned"
    assert made.name == "store.Pinned"
    moved = Entry(hash=made.hash, cls="store.Pinned=was.elsewhere:Gone", version=None, fields=made.fields)
    assert build(moved, {}) == cases.Pinned(n=3)


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        [],
        {"furu_table": 2, "root": "x", "nodes": []},
        {"furu_table": 1},
        {"furu_table": 1, "root": "x", "nodes": [{}]},
        {"furu_table": 1, "root": "x", "nodes": [{"hash": 1}]},
        {"furu_table": 1, "root": "x", "nodes": []},
    ],
)
def test_what_is_no_table(data: Any) -> None:
    with pytest.raises(FuruDefinitionError, match="table"):
        Furu.from_dict(data)


def changed(**changes: Any) -> Entry:
    made = entry(cases.Versioned(n=1))
    values = {"hash": made.hash, "cls": made.cls, "version": made.version, "fields": made.fields}
    return Entry(**{**values, **changes})


@pytest.mark.fault("F79")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"version": "1", "hash": "0" * 32},
            ["version '1' in the table, '2' in this process's code", "0" * 32],
        ),
        ({"fields": {"n": 1, "gone": 2}}, ["unexpected keyword argument 'gone'", "version '2'"]),
        ({"fields": {"n": "x"}}, ["Versioned.n: expected int"]),
        ({"fields": {"n": 2}}, ["the table says hash"]),
        ({"cls": "model_cases:Gone"}, ["no 'Gone' in module 'model_cases'", "code differs"]),
        ({"cls": "no_such_module_here:Train"}, ["'no_such_module_here'", "cannot be imported"]),
        ({"cls": "model_cases:Leaf"}, ["model_cases.Versioned"]),
    ],
)
def test_other_code_is_a_mismatch_that_names_both(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FuruSpecMismatch) as caught:
        build(changed(**changes), {})
    for word in words if changes.get("cls") != "model_cases:Leaf" else ["the table says hash"]:
        assert word in str(caught.value)


@pytest.mark.fault("F79")
def test_a_missing_field_without_default_is_a_mismatch() -> None:
    made = entry(cases.Link(n=1))
    with pytest.raises(FuruSpecMismatch, match="missing"):
        build(Entry(hash=made.hash, cls=made.cls, version=None, fields={}), {})


@pytest.mark.fault("F113")
@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "os.system",
        "subprocess:Popen",
        "builtins:eval",
        "builtins:object",
        "model_cases:Optimizer",
        "model_cases:Color.RED",
        "model_cases:Leaf._create",
        "model_cases:chain",
        "model_cases:T",
        "furu_async._model.artifact:Artifact",
        "antigravity:webbrowser",
        "this:s",
        "../x:Y",
        "a/b:C",
        "",
        ":",
        "x",
        "model_cases:",
        "model_cases:__dict__",
        "a=b=c:d",
    ],
)
def test_a_name_in_a_table_runs_nothing(name: str) -> None:
    with pytest.raises(FuruSpecMismatch):
        build(changed(cls=name), {})
    assert "antigravity" not in sys.modules
    assert "this" not in sys.modules


@pytest.mark.fault("F113")
@pytest.mark.parametrize(
    "value",
    [
        {"$data": ["subprocess:Popen", {"args": ["false"]}]},
        {"$data": ["model_cases:Leaf", {"n": 1}]},
        {"$data": ["model_cases:Color", {}]},
        {"$enum": ["builtins:bool", "True"]},
        {"$enum": ["model_cases:Color", "GREEN"]},
        {"$named": ["builtins:tuple", [1]]},
        {"$named": ["os:system", ["false"]]},
        {"$furu": "0" * 32},
        {"$nonsense": 1},
        {"$path": 3},
        {"$bytes": 3},
        {"$datetime": ["x"]},
        {"$data": 3},
    ],
)
def test_a_value_in_a_table_runs_nothing(value: Any) -> None:
    made = entry(cases.Holder())
    with pytest.raises(FuruSpecMismatch):
        build(Entry(hash=made.hash, cls=made.cls, version=None, fields={"anything": value, "items": []}), {})


@pytest.mark.fault("F80")
def test_what_cannot_be_pickled_never_gets_into_an_artifact() -> None:
    class Unpicklable:
        def __reduce__(self) -> Any:
            os.abort()

    with pytest.raises(FuruDefinitionError, match="supported type"):
        cases.Holder(anything=Unpicklable())
    with pytest.raises(FuruDefinitionError, match="hides a name of the library"):
        type("Made", (Furu,), {"__reduce__": lambda self: 1})


@pytest.mark.fault("F80")
def test_a_large_value_travels() -> None:
    one = cases.Holder(anything="x" * 2_000_000, items=list(range(50_000)))
    assert Furu.from_dict(one.to_dict()) == one
