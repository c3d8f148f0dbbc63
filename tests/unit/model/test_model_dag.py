"""Dependencies: from fields and from @dependency methods; cycles are printed."""

from __future__ import annotations

from typing import Any

import model_cases as cases
import pytest

from furu_async import Furu, dependency
from furu_async._model.dag import check_acyclic, closure, dependencies
from furu_async.errors import FuruDefinitionError


class Endless(Furu[int]):
    n: int = 0

    @dependency
    def following(self) -> Furu[int]:
        return Endless(n=self.n + 1)

    def _create(self) -> int:
        return 1


class Generated(Furu[int]):
    @dependency
    def many(self) -> Any:
        return (cases.Leaf(n=n) for n in range(3))

    @dependency
    def boxed(self) -> Any:
        return cases.Box(cases.OtherLeaf())

    def _create(self) -> int:
        return 1


def test_dependencies_of_fields_are_distinct_and_in_order() -> None:
    leaf = cases.Leaf(n=1)
    holder = cases.Holder(
        items=[leaf, cases.OtherLeaf(), cases.Leaf(n=1)], anything={"a": (cases.Leaf(n=2), {leaf})}
    )
    found = dependencies(holder)
    assert found == (cases.Leaf(n=2), leaf, cases.OtherLeaf())
    assert dependencies(holder) is found
    assert dependencies(leaf) == ()


def test_dependencies_of_methods() -> None:
    assert dependencies(cases.Extra()) == (cases.Leaf(n=0), cases.Leaf(n=1), cases.OtherLeaf(n=5))
    assert dependencies(Generated()) == (cases.OtherLeaf(), cases.Leaf(n=0), cases.Leaf(n=1), cases.Leaf(n=2))


def test_a_set_of_artifacts_has_a_stable_order() -> None:
    leaves = [cases.Leaf(n=n) for n in range(20)]
    one = dependencies(cases.Holder(anything=set(leaves)))
    two = dependencies(cases.Holder(anything=set(reversed(leaves))))
    assert one == two


def test_closure_has_dependencies_first() -> None:
    target = cases.Train(data=cases.Leaf(n=4))
    assert list(closure([target]).values()) == [cases.Leaf(n=4), target]
    extra = cases.Extra(n=1)
    assert list(closure([target, extra, target])) == [
        cases.Leaf(n=4).furu_hash,
        target.furu_hash,
        cases.Leaf(n=0).furu_hash,
        cases.OtherLeaf(n=5).furu_hash,
        extra.furu_hash,
    ]


@pytest.mark.fault("F77")
def test_an_artifact_that_needs_itself() -> None:
    for check in (dependencies, lambda obj: check_acyclic([obj]), lambda obj: closure([obj])):
        with pytest.raises(
            FuruDefinitionError, match=r"an artifact needs itself:\n  Selfish\(\)\n.*needs Selfish\(\)"
        ):
            check(cases.Selfish())


@pytest.mark.fault("F77")
def test_a_cycle_is_printed() -> None:
    with pytest.raises(FuruDefinitionError) as caught:
        check_acyclic([cases.Leaf(), cases.Ping()])
    text = str(caught.value)
    assert "6 artifacts need each other in a cycle" in text
    for line in (
        "  Ping(n=0)",
        "  needs Pong(n=0)",
        "  needs Ping(n=1)",
        "  needs Pong(n=2)",
        "  needs Ping(n=0)",
    ):
        assert line in text.splitlines()
    assert "@dependency" in text


@pytest.mark.fault("F77")
def test_dependencies_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("furu_async._model.dag._LONGEST_PATH", 500)
    with pytest.raises(FuruDefinitionError, match=r"without end: Endless"):
        closure([Endless()])


def test_a_dependency_method_that_fails() -> None:
    with pytest.raises(FuruDefinitionError, match=r"BadDependency\.wrong\(\) returned 3 \(int\)"):
        dependencies(cases.BadDependency())
    with pytest.raises(FuruDefinitionError, match=r"BadDependency\.wrong\(\) raised ValueError: no luck"):
        dependencies(cases.BadDependency(what="raise"))
