"""Slurm specs and retry rules: checked when made, equal exactly if their keys are."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from furu_async import Retry, SlurmSpec
from furu_async._model.resources import FrozenMapping, check_specs
from furu_async.errors import FuruDefinitionError

NESTED = {"slurm_additional_parameters": {"qos": "high", "list": [1, {"a": None}]}, "nodes": 1}


def test_equal_specs_have_equal_keys() -> None:
    assert SlurmSpec(mem_gb=16) == SlurmSpec(mem_gb=16.0)
    assert SlurmSpec(extra={"a": 1, "b": 2}).key == SlurmSpec(extra={"b": 2, "a": 1}).key
    assert SlurmSpec(extra={}) == SlurmSpec()
    assert len({SlurmSpec(extra=NESTED), SlurmSpec(extra=copy.deepcopy(NESTED)), SlurmSpec()}) == 2
    assert SlurmSpec(extra={"a": 1}) != SlurmSpec(extra={"a": True})
    assert SlurmSpec(extra={"a": 1}) != SlurmSpec(extra={"a": "1"})
    assert SlurmSpec(partition="a b") != SlurmSpec(partition="a-b")
    assert SlurmSpec() != 3


def test_the_key_does_not_change() -> None:
    assert SlurmSpec().key == "default-g0-c4-0fa1ccb80bfac3fc"
    assert SlurmSpec(partition="gpu", gpus=1, extra=NESTED).key == "gpu-g1-c4-4589232fda4343bc"


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=60), st.integers(0, 99))
def test_a_key_can_be_a_file_name(partition: str, gpus: int) -> None:
    key = SlurmSpec(partition=partition, gpus=gpus).key
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key)


def test_extra_cannot_be_changed_and_travels() -> None:
    given_extra: dict[str, Any] = {"a": {"b": [1]}}
    spec = SlurmSpec(extra=given_extra)
    given_extra["a"]["b"].append(2)
    assert spec.extra == {"a": {"b": (1,)}}
    with pytest.raises(TypeError):
        spec.extra["x"] = 1  # type: ignore[index]
    assert isinstance(spec.extra, FrozenMapping)
    assert spec.extra.plain() == {"a": {"b": [1]}}
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert copy.deepcopy(spec) == spec
    assert hash(spec.extra) == hash(SlurmSpec(extra={"a": {"b": [1]}}).extra)
    assert "{'a'" in repr(spec)


@pytest.mark.fault("F83")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partition", ""),
        ("partition", "  "),
        ("partition", 3),
        ("partition", "a\nb"),
        ("gpus", -1),
        ("gpus", True),
        ("gpus", 1.0),
        ("gpus", None),
        ("cpus", 0),
        ("cpus", "4"),
        ("mem_gb", 0),
        ("mem_gb", -1),
        ("mem_gb", float("nan")),
        ("mem_gb", float("inf")),
        ("mem_gb", True),
        ("time_min", 0),
        ("time_min", float("nan")),
        ("time_min", "1:00"),
        ("extra", [1]),
        ("extra", {1: 2}),
        ("extra", {"a": float("nan")}),
        ("extra", {"a": object()}),
        ("extra", {"a": {"b": {2: 3}}}),
    ],
)
def test_nonsense_is_refused_at_the_call(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        SlurmSpec(**{field: value})
    assert isinstance(caught.value, FuruDefinitionError)
    assert "expected" in str(caught.value)


def test_extra_that_contains_itself() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    with pytest.raises(ValueError, match="levels of nesting"):
        SlurmSpec(extra=loop)


@pytest.mark.fault("F83")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retries", -1),
        ("retries", True),
        ("retries", 1.5),
        ("backoff", -1),
        ("backoff", float("nan")),
        ("backoff", "1"),
        ("on", (3,)),
        ("on", "ValueError"),
        ("never", (int,)),
    ],
)
def test_nonsense_retry_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Retry(**{field: value})


def test_what_is_worth_another_try() -> None:
    rules = Retry()
    error: BaseException
    for error in (ValueError(), OSError(), SystemExit(1), KeyboardInterrupt(), MemoryError()):
        assert rules.wants(error), error
    for error in (TypeError(), NameError(), AttributeError(), ModuleNotFoundError(), NotImplementedError()):
        assert not rules.wants(error), error
    assert not rules.wants(SyntaxError())
    only = Retry(on=(OSError,), never=(FileNotFoundError,))
    assert only.wants(ConnectionError())
    assert not only.wants(FileNotFoundError())
    assert not only.wants(SystemExit(1))
    assert Retry(on=(ImportError,)).wants(ImportError())
    assert Retry(on=OSError).on == (OSError,)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(only)) == only
    assert Retry(backoff=0).backoff == 0


def test_check_specs() -> None:
    spec = SlurmSpec()
    assert check_specs(spec, "X") == (spec,)
    assert check_specs([spec, SlurmSpec(gpus=1), spec], "X") == (spec, SlurmSpec(gpus=1))
    with pytest.raises(FuruDefinitionError, match="X returned"):
        check_specs([], "X")
