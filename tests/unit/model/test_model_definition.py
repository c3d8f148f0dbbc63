"""What a class definition may say, and what is refused with which words."""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import model_cases as cases
import pytest

from furu_async import Furu, Retry, SlurmSpec, dependency, field
from furu_async._model.artifact import class_info, specs_of
from furu_async.errors import FuruDefinitionError

T = TypeVar("T")


def create(self: Any) -> int:
    return 1


def define(annotations: dict[str, Any] | None = None, *bases: type[Any], **names: Any) -> type[Furu[int]]:
    """A class made as a class statement would, with these annotations and names in its body."""
    body = {"__annotations__": annotations or {}, "_create": create, "__module__": __name__, **names}
    return type("Made", bases or (Furu,), body)


def refused(*words: str, **arguments: Any) -> None:
    with pytest.raises(FuruDefinitionError) as caught:
        define(**arguments)
    text = str(caught.value)
    assert "Made" in text
    for word in words:
        assert word in text, text


def test_a_subclass_is_a_frozen_keyword_only_dataclass() -> None:
    train = cases.Train(lr=1)
    assert dataclasses.is_dataclass(train)
    assert [f.name for f in dataclasses.fields(train)] == ["data", "lr", "name"]
    with pytest.raises(TypeError):
        cases.Train(cases.Leaf(), 1.0)  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        train.lr = 2.0  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del train.lr
    with pytest.raises(dataclasses.FrozenInstanceError):
        train.unknown = 2.0
    assert dataclasses.replace(train, lr=2).lr == 2.0


@pytest.mark.parametrize(
    "name", ["get", "aget", "furu_hash", "furu_dir", "exists", "to_dict", "get_state", "furu_checkpoint_dir"]
)
def test_hiding_a_library_name(name: str) -> None:
    refused(name, "the field", "hides", annotations={name: int})
    refused(name, "the attribute", "hides", **{name: 3})
    mixin = type("Mixin", (), {name: lambda self: 1})
    with pytest.raises(FuruDefinitionError, match=r"inherited from Mixin.*hides"):
        type("Made", (mixin, Furu), {"_create": create})
    type("Made", (Furu, mixin), {"_create": create})  # here the library's own name comes first


@pytest.mark.parametrize(
    "name", ["__eq__", "__hash__", "__init__", "__reduce__", "__repr__", "__setattr__", "_hash"]
)
def test_hiding_what_the_library_builds_on(name: str) -> None:
    refused(name, "hides", **{name: lambda self: 1})
    refused("__slots__", __slots__=())


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("_crate", "_create"),
        ("_time_limt", "_time_limit"),
        ("_laod", "_load"),
        ("_validat", "_validate"),
        ("_specs", "_spec"),
        ("_retries", "_retry"),
        ("_resumeable", "_resumable"),
        ("_modes", "_mode"),
    ],
)
def test_an_unknown_underscore_name_suggests_the_closest(name: str, close: str) -> None:
    refused(f"unknown name {name!r}", f"did you mean {close!r}", **{name: lambda self: 1})
    refused(f"unknown name {name!r}", f"did you mean {close!r}", **{name: 5})


def test_an_unknown_underscore_name_says_what_helpers_are_called() -> None:
    refused("unknown name '_zzz'", "'zzz' or '__zzz'", "_time_limit", _zzz=1)


def test_helpers_with_two_underscores_or_plain_names_are_free() -> None:
    class Fine(Furu[int]):
        __secret = 3

        def __helper(self) -> int:
            return self.__secret

        def helper(self) -> int:
            return self.__helper()

        def _create(self) -> int:
            return self.helper()

    assert Fine().helper() == 3


@pytest.mark.parametrize("name", ["_create", "_load", "_validate", "_spec", "_time_limit", "_retry", "_mode"])
def test_an_annotated_hook(name: str) -> None:
    refused(name, "annotated", "field", annotations={name: "float"})


def test_a_hook_annotated_as_a_class_variable_is_no_field() -> None:
    class Fine(Furu[int]):
        _time_limit: ClassVar[float | None] = 5
        count: ClassVar[int] = 3

        def _create(self) -> int:
            return 1

    assert [f.name for f in dataclasses.fields(Fine())] == []


def test_a_field_with_an_underscore() -> None:
    refused("_size", "underscore", annotations={"_size": int})


@pytest.mark.parametrize("name", ["_load", "_validate", "_spec"])
def test_hooks_that_cannot_be_async(name: str) -> None:
    async def hook(self: Any) -> bool:
        return True

    refused(name, "async", **{name: hook})
    mixin = type("Mixin", (), {name: hook})
    with pytest.raises(FuruDefinitionError, match="async"):
        type("Made", (mixin, Furu), {"_create": create})


def test_hooks_that_are_no_methods() -> None:
    def generator(self: Any) -> Any:
        yield 1

    async def async_generator(self: Any) -> Any:
        yield 1

    refused("_create", "yield", _create=generator)
    refused("_create", "yield", _create=async_generator)
    refused("_create", "method", _create=None)
    refused("_create", "staticmethod", _create=staticmethod(lambda: 1))
    refused("_load", "classmethod", _load=classmethod(lambda cls: 1))
    refused("_create", "self alone", _create=lambda self, more: 1)
    refused("_create", "self", _create=lambda: 1)
    assert define(None, _create=functools.wraps(create)(lambda self, more=1: 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("_executor", "_spec"),
        ("_max_wait_time_sec", "FURU_MAX_WAIT_SECS"),
        ("furu_dep", "@dependency"),
        ("version_controlled", "FURU_PATH"),
    ],
)
def test_names_of_furu_00x_say_the_new_one(old: str, new: str) -> None:
    refused(old, "furu 0.0.x", new, **{old: lambda self: 1})


def test_class_keywords() -> None:
    with pytest.raises(FuruDefinitionError, match=r"version_controlled.*furu 0\.0\.x"):

        class Old(Furu[int], version_controlled=True):
            pass

    with pytest.raises(FuruDefinitionError, match="did you mean 'version'"):

        class Typo(Furu[int], verson="2"):
            pass

    with pytest.raises(FuruDefinitionError, match="zzz"):

        class Unknown(Furu[int], zzz="2"):
            pass

    for bad in (2, "", 1.5):
        with pytest.raises(FuruDefinitionError, match="version="):
            type("Made", (Furu,), {"_create": create}, version=bad)
    for bad in ("", "a/b", "../x", "a..b", "a b", 3, "1a"):
        with pytest.raises(FuruDefinitionError, match="name="):
            type("Made", (Furu,), {"_create": create}, name=bad)


@pytest.mark.parametrize("limit", [0, -1, True, float("nan"), float("inf"), "60"])
def test_time_limit_is_a_positive_number(limit: Any) -> None:
    refused("_time_limit", "seconds", _time_limit=limit)


def test_other_attributes_are_checked() -> None:
    refused("_retry", "Retry(", _retry=3)
    refused("_resumable", "True or False", _resumable=1)
    refused("_mode", "'process'", "'thread'", "'inline'", _mode="fork")


def test_fields_that_are_no_plain_fields() -> None:
    refused("InitVar", annotations={"x": dataclasses.InitVar[int]})
    refused("init=False", annotations={"x": int}, x=dataclasses.field(init=False, default=1))
    refused("keyword-only", annotations={"x": int}, x=dataclasses.field(kw_only=False, default=1))
    refused("default_factory", annotations={"x": list}, x=[])
    refused("no type annotation", x=field(default=1))
    with pytest.raises(FuruDefinitionError, match=r"is a field of a base class.*\n.*annotation"):
        define(None, cases.Leaf, n=5)


def test_field_arguments() -> None:
    for arguments in (
        {"default": 1, "default_factory": int},
        {"default_factory": 3},
        {"since": True},
        {"default": 1, "since": True, "identity": False},
        {"default": 1, "identity": "no"},
    ):
        with pytest.raises(FuruDefinitionError, match="field\\("):
            field(**arguments)


def test_dependency_marks_plain_methods_only() -> None:
    async def later(self: Any) -> Any:
        return None

    refused("later", "async", later=dependency(later))
    refused("needed", "self", needed=dependency(lambda self, more: None))
    with pytest.raises(FuruDefinitionError, match="plain method"):
        dependency(property(lambda self: None))  # type: ignore[type-var]


def test_an_override_stays_a_dependency_unless_it_returns_none() -> None:
    class Fewer(cases.Extra):
        def more(self) -> list[Furu[int]]:
            return []

    assert Fewer.__furu__.depends == ("more", "nested")


def test_abstract_and_generic_classes_in_between() -> None:
    class Middle(Furu[T], Generic[T]):
        x: int = 1

    class Last(Middle[str]):
        y: int = 2

        def _create(self) -> str:
            return "a"

    assert [f.name for f in dataclasses.fields(Last())] == ["x", "y"]
    assert Last.__furu__.abstract is False
    with pytest.raises(FuruDefinitionError, match="no _create"):
        _ = cases.Base(value=1).furu_hash
    with pytest.raises(FuruDefinitionError, match="no _create"):
        class_info(cases.Base)
    assert cases.IntBased(value=3).furu_hash

    class WithAbc(Furu[int], abc.ABC):
        @abc.abstractmethod
        def size(self) -> int: ...

    with pytest.raises(TypeError):
        WithAbc()  # type: ignore[abstract]


def test_protocols_and_dataclasses_among_the_bases() -> None:
    class Sized(Protocol):
        def size(self) -> int: ...

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Common:
        seed: int = 0

    class Both(Common, Furu[int], Sized):
        def size(self) -> int:
            return 1

        def _create(self) -> int:
            return 1

    assert Both(seed=3).seed == 3
    assert Both.__eq__ is Furu.__eq__
    assert Both.__hash__ is Furu.__hash__

    @dataclasses.dataclass(frozen=True)
    class Positional:
        seed: int = 0

    with pytest.raises(FuruDefinitionError, match="keyword-only"):
        define(None, Positional, Furu)

    @dataclasses.dataclass
    class Thawed:
        seed: int = 0

    with pytest.raises(FuruDefinitionError, match="frozen"):
        define(None, Thawed, Furu)


def test_a_second_dataclass_decorator_is_noticed() -> None:
    with pytest.raises(FuruDefinitionError, match="leave out @dataclass"):
        dataclasses.dataclass(define({"n": int}))(n=1)  # type: ignore[call-arg]


def test_post_init_sees_checked_values() -> None:
    seen: list[Any] = []

    class Checked(Furu[int]):
        low: float = 0
        high: float = 1

        def __post_init__(self) -> None:
            seen.append(self.low)
            if self.low > self.high:
                raise ValueError("low > high")

        def _create(self) -> int:
            return 1

    Checked(low=1)
    assert seen == [1.0]
    assert type(seen[0]) is float
    with pytest.raises(ValueError, match="low > high"):
        Checked(low=3)


def test_class_info() -> None:
    info = class_info(cases.Hooked)
    assert info is class_info(cases.Hooked)
    assert (info.name, info.module, info.qualname) == ("model_cases.Hooked", "model_cases", "Hooked")
    assert (info.has_load, info.has_validate, info.has_spec) == (True, True, True)
    assert (info.time_limit, info.resumable, info.mode) == (60, True, "thread")
    assert info.retry == Retry(retries=1, on=(OSError,))
    assert info.fields == ("n",)
    assert info.dependency_methods == ("_more",)
    plain = class_info(cases.Leaf)
    assert (plain.has_load, plain.has_validate, plain.has_spec, plain.time_limit) == (
        False,
        False,
        False,
        None,
    )
    assert class_info(cases.Versioned).version == "2"
    assert class_info(cases.Inherits).version == "2"
    assert class_info(cases.Pinned).name == "store.Pinned"


def test_specs() -> None:
    assert specs_of(cases.Leaf()) == (SlurmSpec(),)
    assert specs_of(cases.Hooked()) == (SlurmSpec(gpus=1), SlurmSpec())
    for wrong in (None, [], [1], "gpu"):
        made = define(None, _spec=lambda self, wrong=wrong: wrong)
        with pytest.raises(FuruDefinitionError, match=r"Made\._spec returned"):
            specs_of(made())
    attribute = define(None, _spec=SlurmSpec(cpus=1))
    assert specs_of(attribute()) == (SlurmSpec(cpus=1),)
