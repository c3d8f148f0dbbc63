"""Values against annotations: what is kept, what is converted, what is refused."""

from __future__ import annotations

import collections
import copy
import datetime as dt
import importlib
import math
import pickle
import subprocess
import sys
import uuid
import zoneinfo
from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, dataclass
from decimal import Decimal
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, LiteralString, NewType, TypeVar, Union

import model_cases as cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from furu_async import Furu, SlurmSpec, field
from furu_async._model.identity import content, direct, encode
from furu_async.errors import FuruDefinitionError

UserId = NewType("UserId", int)
T = TypeVar("T", bound=int)
NAN = float("nan")
Untyped = collections.namedtuple("Untyped", "a b")


def holder(tp: Any) -> type[Furu[int]]:
    """An artifact class with one field ``x`` of this type."""
    body = {
        "__annotations__": {"x": tp},
        "_create": lambda self: 1,
        "__module__": __name__,
        "__qualname__": "Made",
    }
    return type("Made", (Furu,), body)


def keep(tp: Any, value: Any) -> Any:
    return holder(tp)(x=value).x  # type: ignore[call-arg, attr-defined]


Json = TypeAliasType("Json", "int | str | list[Json] | dict[str, Json] | None")
A = TypeVar("A")
Pair = TypeAliasType("Pair", tuple[A, A], type_params=(A,))
Constrained = TypeVar("Constrained", int, str)
Recursive = dict[str, "int | Recursive"]


class SubPath(type(Path())):  # type: ignore[misc]
    pass


def deep() -> Any:
    value: Any = 1
    for _ in range(100):
        value = (value,)
    return value


def deep_dict() -> Any:
    value: Any = 1
    for _ in range(100):
        value = {"a": value}
    return value


def deep_tree() -> Any:
    value = cases.Tree(1)
    for _ in range(100):
        value = cases.Tree(1, (value,))
    return value


SAME = [
    (None, None),
    (bool, True),
    (int, 3),
    (int, 1 << 90),
    (float, 0.5),
    (float, math.inf),
    (complex, 1j),
    (str, "a"),
    (bytes, b"a"),
    (Path, Path("a")),
    (cases.Color, cases.Color.RED),
    (cases.Bits, cases.Bits.A | cases.Bits.B),
    (Literal["a", 1], 1),
    (Literal["a", 1], "a"),
    (dt.datetime, dt.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich"))),
    (dt.datetime, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
    (dt.date, dt.date(2026, 1, 1)),
    (dt.time, dt.time(1)),
    (dt.timedelta, dt.timedelta(1)),
    (uuid.UUID, uuid.UUID(int=1)),
    (Decimal, Decimal("1.0")),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (tuple[()], ()),
    (tuple, (1, "a")),
    (list[int], [1]),
    (list, [1, "a"]),
    (dict[str, int], {"a": 1}),
    (dict, {"a": 1}),
    (set[int], {1}),
    (frozenset[int], frozenset({1})),
    (Sequence[int], [1]),
    (Sequence[int], (1,)),
    (Mapping[str, int], {"a": 1}),
    (AbstractSet[int], {1}),
    (AbstractSet[int], frozenset({1})),
    (cases.Point, cases.Point(1.0, 2.0)),
    (cases.Optimizer, cases.Optimizer()),
    (cases.Tree, cases.Tree(1, (cases.Tree(2),))),
    (cases.Box[int], cases.Box(1)),
    (cases.Options, {"depth": 1}),
    (cases.Leaf, cases.Leaf()),
    (Furu, cases.Leaf()),
    (Furu[list[str]], cases.Leaf()),
    (Furu[Any], cases.Train()),
    (int | None, None),
    (Union[int, str], "a"),  # noqa: UP007
    (int | float, 1),
    (int | float, 1.0),
    (bool | int, True),
    (list[int] | list[str], ["a"]),
    (Annotated[int, "note"], 1),
    (UserId, 1),
    (T, 1),
    (Any, {"a": [1, (2.0, None)]}),
    (object, cases.Leaf()),
    (Any, Untyped(1, 2)),
    (Untyped, Untyped(1, "a")),
    (PurePath, PurePath("a")),
    (LiteralString, "a"),
    (Json, {"a": [1, {"b": None}]}),
    (Pair[int], (1, 2)),
    (Constrained, "a"),
    (list["int"], [1]),
    (Recursive, {"a": {"b": 1}}),
    (Final[int], 1),
    (list[cases.Options], [{"name": "a"}]),
    (set[Any] | None, {1}),
    (MutableSequence[int], [1]),
    (cases.Tree | cases.Point, cases.Point(1.0, 2.0)),
    (str | Literal[1], 1),
]


def label(value: Any) -> str:
    """A test's id, the same in every process: no address, no order of a set."""
    text = str(value)
    return type(value).__name__ if " at 0x" in text or isinstance(value, AbstractSet) else text[:40]


@pytest.mark.parametrize(("tp", "value"), SAME, ids=label)
def test_kept_as_it_is(tp: Any, value: Any) -> None:
    kept = keep(tp, value)
    assert kept == value
    assert type(kept) is type(value)


CONVERTED = [
    (float, 1, 1.0),
    (float | str, 2, 2.0),
    (float | None, 2, 2.0),
    (complex, 2, 2 + 0j),
    (list[float], [1, 2], [1.0, 2.0]),
    (dict[str, float], {"a": 1}, {"a": 1.0}),
    (tuple[float, int], (1, 1), (1.0, 1)),
    (cases.Point, cases.Point(1, 2), cases.Point(1.0, 2.0)),
    (cases.Optimizer, cases.Optimizer(betas=(0, 1)), cases.Optimizer(betas=(0.0, 1.0))),
    (int, np.int64(3), 3),
    (float, np.float32(0.5), 0.5),
    (float, np.float64(0.5), 0.5),
    (float, np.int8(2), 2.0),
    (bool, np.True_, True),
    (str, np.str_("a"), "a"),
    (bytes, np.bytes_(b"a"), b"a"),
    (int | float, np.int64(3), 3),
    (float | int, np.int64(3), 3),
    (int | float, np.float32(0.5), 0.5),
    (Literal[1, 2], np.int64(2), 2),
    (Any, np.float64(2.5), 2.5),
    (Any, [np.int64(2)], [2]),
    (object, np.bool_(False), False),
    (int, cases.Level.HIGH, 2),
    (dict[str, int], collections.OrderedDict(a=1), {"a": 1}),
    (Path, SubPath("a"), Path("a")),
    (Any, SubPath("a"), Path("a")),
    (Literal["a"], np.str_("a"), "a"),
    (tuple[float, ...], Untyped(1, 2), (1.0, 2.0)),
    (Untyped, Untyped(np.int64(1), 2), Untyped(1, 2)),
    (Any, collections.defaultdict(int, a=1), {"a": 1}),
    (Mapping[str, float], MappingProxyType({"a": 1}), {"a": 1.0}),
    (Mapping[str, Any] | None, SlurmSpec(extra={"a": {"b": 1}}).extra, {"a": {"b": 1}}),
    (Any, MappingProxyType({"a": MappingProxyType({1: 2})}), {"a": {1: 2}}),
]


@pytest.mark.parametrize(("tp", "value", "kept"), CONVERTED, ids=label)
def test_converted(tp: Any, value: Any, kept: Any) -> None:
    got = keep(tp, value)
    assert got == kept
    assert type(got) is type(kept)
    if isinstance(kept, list | tuple):
        assert [type(item) for item in got] == [type(item) for item in kept]


class Custom:
    pass


class Text(str):
    pass


REFUSED = [
    (int, True, "a bool is not an int"),
    (int, 1.0, "expected int, got 1.0 (float)"),
    (int, "1", "expected int"),
    (int, np.bool_(True), "int"),
    (float, True, "expected float"),
    (float, NAN, "NaN"),
    (float, np.float32("nan"), "NaN"),
    (float, 10**400, "too large"),
    (complex, complex(0, NAN), "NaN"),
    (Decimal, Decimal("NaN"), "NaN"),
    (Any, NAN, "NaN"),
    (list[float], [1.0, NAN], "Made.x[1]: NaN"),
    (bool, 1, "expected bool"),
    (str, b"a", "expected str"),
    (str, None, "expected str, got None"),
    (bytes, bytearray(b"a"), "expected bytes"),
    (Path, "a", "expected Path"),
    (None, 0, "expected None"),
    (cases.Color, 1, "a member of Color"),
    (Literal["a", 1], True, "one of 'a', 1"),
    (Literal[1], 1.0, "one of 1"),
    (Literal["a"], [], "one of"),
    (dt.date, dt.datetime(2026, 1, 1), "expected date"),
    (tuple[int, str], (1,), "a tuple of 2"),
    (tuple[int, str], (1, 2), "Made.x[1]: expected str"),
    (tuple[int, ...], [1], "expected tuple"),
    (list[int], (1,), "expected list"),
    (list[int], [1, 2, "x"], "Made.x[2]: expected int"),
    (dict[str, list[int]], {"a": [1], "b": [None]}, "Made.x['b'][0]: expected int"),
    (dict[int, int], {"a": 1}, "Made.x['a']: expected int"),
    (set[int], {"a"}, "item: expected int"),
    (Sequence[int], "ab", "list or tuple"),
    (Mapping[str, int], [1], "expected a mapping"),
    (Mapping[str, int], MappingProxyType({"a": "b"}), "Made.x['a']: expected int"),
    (dict[str, int], MappingProxyType({"a": 1}), "expected dict"),
    (MutableMapping[str, int], MappingProxyType({"a": 1}), "expected dict"),
    (Any, MappingProxyType({"a": [Custom()]}), "Made.x['a'][0]: expected a value of a supported type"),
    (cases.Point, (1.0, 2.0), "expected Point"),
    (cases.Optimizer, cases.Optimizer(name=3), "Made.x.name: expected str"),  # type: ignore[arg-type]
    (cases.Optimizer, {}, "expected Optimizer"),
    (cases.Tree, cases.Tree(1, (cases.Tree("a"),)), "Made.x.children[0].value"),  # type: ignore[arg-type]
    (cases.Box[int], cases.Box("a"), "Made.x.inside: expected int"),
    (cases.Options, {"deep": 1}, "unknown keys ['deep']"),
    (cases.Options, {"depth": "a"}, "Made.x['depth']: expected int"),
    (cases.Leaf, cases.OtherLeaf(), "an artifact of class Leaf"),
    (cases.Leaf, cases.Leaf, "did you mean Leaf(…)?"),
    (cases.Leaf, None, "an artifact of class Leaf, got None"),
    (Furu[int], 3, "an artifact"),
    (int | None, "a", "expected int | None, got 'a' (str)"),
    (list[int] | dict[str, int], [1, "a"], "Made.x[1]: expected int"),
    (T, "a", "expected int"),
    (Any, Custom(), "supported type"),
    (object, [lambda: 1], "Made.x[0]"),
    (Any, np.zeros(3), "supported type"),
    (Any, np.datetime64("2026-01-01"), "supported type"),
    (Any, bytearray(b""), "supported type"),
    (float, np.zeros(()), "expected float"),
    (Any, range(3), "supported type"),
    (complex, "a", "expected complex"),
    (Decimal, 1, "expected Decimal"),
    (dt.datetime, "2026", "expected datetime"),
    (tuple[int, str], [1, "a"], "expected tuple"),
    (Sequence[int], [1, "a"], "Made.x[1]"),
    (AbstractSet[int], [1], "expected set"),
    (cases.Options, [1], "a dict of type Options"),
    (Json, {"a": [1, {"b": 1.5}]}, "Made.x"),
    (cases.Leaf, cases.Train, "expected an artifact of class Leaf, got"),
    (Any, deep(), "nested more than"),
    (tuple[Any, Any], (deep(), 1), "nested more than"),
    (Recursive, deep_dict(), "nested more than"),
    (cases.Tree, deep_tree(), "nested more than"),
]


@pytest.mark.parametrize(("tp", "value", "words"), REFUSED, ids=label)
def test_refused(tp: Any, value: Any, words: str) -> None:
    with pytest.raises(FuruDefinitionError) as caught:
        keep(tp, value)
    text = str(caught.value)
    assert text.startswith("Made.x")
    assert words in text, text


@pytest.mark.parametrize(
    "tp", [np.ndarray, Custom, type[int], type, bytearray, collections.deque[int], range]
)
def test_unsupported_types(tp: Any) -> None:
    with pytest.raises(
        FuruDefinitionError, match=r"Made\.x: a field cannot have the type .*\n.*supported are"
    ):
        keep(tp, None)


def test_a_string_subclass_becomes_a_string() -> None:
    assert type(keep(str, Text("a"))) is str
    assert type(keep(Any, Text("a"))) is str


def test_containers_are_copied() -> None:
    numbers, table, loose = [1.0], {"a": [1]}, cases.Loose([1])
    made = cases.Everything(numbers=numbers, table=table, loose=loose, anything=[numbers])
    numbers.append(2.0)
    table["a"].append(2)
    loose.items.append(2)
    assert made.numbers == [1.0]
    assert made.table == {"a": [1]}
    assert made.loose.items == [1]
    assert made.anything == [[1.0]]


def test_a_dataclass_keeps_what_its_init_does_not_take() -> None:
    loose = cases.Loose([1])
    loose.total = 5
    assert cases.Everything(loose=loose).loose.total == 5


@dataclass(frozen=True)
class Frozen:
    """Keeps its mapping frozen, as `SlurmSpec` does."""

    table: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", MappingProxyType(dict(self.table)))


@dataclass(frozen=True)
class Both(Mapping[str, int]):
    """A record that can be read like a mapping: it stays a record."""

    a: int = 1

    def __getitem__(self, key: str) -> int:
        return getattr(self, key)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(("a",))

    def __len__(self) -> int:
        return 1


SPEC = SlurmSpec("gpu", gpus=2, extra={"b": [1, {"c": None}], "a": {"$d": 1.5}})


@pytest.mark.parametrize(
    ("tp", "value"),
    [(SlurmSpec, SPEC), (list[SlurmSpec], [SPEC, SlurmSpec()]), (Frozen, Frozen({"leaf": [cases.Leaf()]}))],
    ids=["spec", "specs", "frozen"],
)
def test_records_that_keep_a_mapping_frozen(tp: Any, value: Any) -> None:
    assert keep(tp, value) == value
    made = cases.Holder(anything=value)
    names: dict[str, Any] = {}
    exec(made.to_python(), names)
    for again in (Furu.from_dict(made.to_dict()), pickle.loads(pickle.dumps(made)), names["artifact"]):
        assert again == made
        assert again.anything == value
    copied = copy.deepcopy(made)
    assert copied.anything == value
    assert len(direct(copied)) == (tp is Frozen)


def test_a_frozen_mapping_hashes_like_an_equal_dict() -> None:
    equal = {"a": {"$d": 1.5}, "b": (1, {"c": None})}
    assert SPEC.extra == equal
    made = cases.Holder(anything=SPEC.extra)
    assert type(made.anything) is dict
    assert made.furu_hash == cases.Holder(anything=equal).furu_hash
    assert encode(MappingProxyType(equal)) == encode(equal)
    assert cases.Holder(anything=SlurmSpec("gpu", gpus=2, extra=equal)) == cases.Holder(anything=SPEC)
    assert cases.Holder(anything=SlurmSpec(extra={"a": 1})) != cases.Holder(
        anything=SlurmSpec(extra={"a": 2})
    )


def test_a_record_that_can_be_read_like_a_mapping() -> None:
    made = cases.Holder(anything=Both(2))
    assert type(made.anything) is Both
    assert Furu.from_dict(made.to_dict()) == made
    assert made != cases.Holder(anything={"a": 2})


def test_containers_that_contain_themselves() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    table: dict[str, Any] = {}
    table["self"] = table
    loose = cases.Loose()
    loose.items.append(loose)  # type: ignore[arg-type]
    for value in (loop, table, [loose], [[loop, loop], loop]):
        with pytest.raises(FuruDefinitionError, match=r"contains itself|expected int"):
            cases.Holder(anything=value)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(FuruDefinitionError, match="nested"):
        cases.Holder(anything=deep)


def test_time_zones_that_cannot_travel() -> None:
    class Zone(dt.tzinfo):
        def utcoffset(self, when: Any) -> dt.timedelta:
            return dt.timedelta(0)

        def dst(self, when: Any) -> None:
            return None

        def tzname(self, when: Any) -> str:
            return "here"

    with pytest.raises(FuruDefinitionError, match="time zone"):
        keep(dt.datetime, dt.datetime(2026, 1, 1, tzinfo=Zone()))


def test_names_are_found_at_the_first_instance_or_named() -> None:
    cases.Everything()  # `LateUUID` is imported below `if TYPE_CHECKING:` only
    with pytest.raises(FuruDefinitionError) as caught:
        cases.BadName(x=1, y=2)  # type: ignore[arg-type]
    assert "BadName.x" in str(caught.value)
    assert "Fraction" in str(caught.value)
    made = holder("int | NotThere")
    with pytest.raises(FuruDefinitionError, match=r"Made\.x: the name 'NotThere' .* is not defined"):
        made(x=1)  # type: ignore[call-arg]
    with pytest.raises(FuruDefinitionError, match=r"Made\.x: its annotation '1 \+' cannot be evaluated"):
        holder("1 +")(x=1)  # type: ignore[call-arg]


def test_imports_below_type_checking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "late_example"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("from .main import Main\nclass Size(int):\n    pass\n")
    (package / "main.py").write_text(
        """
from __future__ import annotations
import typing
from typing import TYPE_CHECKING
from furu_async import Furu, field
from furu_async._model.identity import content

if TYPE_CHECKING:
    import datetime as dt
    import pathlib
    import no_such_module_at_all
    from uuid import UUID as Id
    from . import other
    from .sub import deep as deeper
    from pathlib import NoSuchName

class Main(Furu[int]):
    a: dt.date
    b: pathlib.Path | None = None
    c: Id | None = None
    d: deeper.Kind | None = None

    def _create(self) -> int:
        return 1

class Missing(Furu[int]):
    x: no_such_module_at_all.Thing | None = None

class Gone(Furu[int]):
    x: NoSuchName | None = None

class Unknown(Furu[int]):
    x: list[Nowhere]
"""
    )
    (package / "sub").mkdir()
    (package / "sub" / "__init__.py").write_text("")
    (package / "sub" / "deep.py").write_text("import enum\nclass Kind(enum.Enum):\n    A = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("late_example.main")
    made = module.Main(a=dt.date(2026, 1, 1), b=Path("a"), c=uuid.UUID(int=1))
    assert made.c == uuid.UUID(int=1)
    for cls, name in (
        (module.Missing, "no_such_module_at_all"),
        (module.Gone, "NoSuchName"),
    ):
        with pytest.raises(FuruDefinitionError, match=rf"{cls.__name__}\.x: the name '{name}'"):
            cls()
    with pytest.raises(FuruDefinitionError, match=r"Unknown\.x: the name 'Nowhere'"):
        module.Unknown(x=[])


def test_a_default_that_does_not_fit() -> None:
    body = {"__annotations__": {"x": "int"}, "x": field(default="a", since=True), "_create": lambda self: 1}
    made = type("Made", (Furu,), body, name="some.Made")
    with pytest.raises(FuruDefinitionError, match=r"Made\.x: expected int"):
        made()
    one = made(x=1)
    made.__furu__.prefix = b"x"  # type: ignore[attr-defined]
    with pytest.raises(FuruDefinitionError, match=r"Made\.x: its default: expected int"):
        content(one)


def test_local_classes_see_the_variables_of_their_function() -> None:
    class Local(Furu[int]):
        n: int = 1

        def _create(self) -> int:
            return 1

    class User(Furu[int]):
        other: Local
        own: list[User]

        def _create(self) -> int:
            return 1

    assert User(other=Local(), own=[]).other.n == 1


def test_type_variables_of_generic_bases() -> None:
    assert cases.IntBased(value=3, scale=2).scale == 2.0
    with pytest.raises(FuruDefinitionError, match=r"IntBased\.value: expected int"):
        cases.IntBased(value="a")  # type: ignore[arg-type]


def test_dataclasses_with_initvar_are_refused() -> None:
    @dataclass
    class Odd:
        x: int
        seed: InitVar[int] = 0

    with pytest.raises(FuruDefinitionError, match="InitVar"):
        cases.Holder(anything=Odd(1))


def test_a_dataclass_that_refuses_its_own_values() -> None:
    @dataclass
    class Picky:
        x: list[int]
        made: int = 0

        def __post_init__(self) -> None:
            if self.made:
                raise RuntimeError("only once")

    picky = Picky([1])
    picky.made = 1
    with pytest.raises(FuruDefinitionError, match="only once"):
        cases.Holder(anything=picky)


def test_keys_that_become_the_same() -> None:
    with pytest.raises(FuruDefinitionError, match="two keys"):
        keep(dict[Any, int], {cases.Text("a") if hasattr(cases, "Text") else Odd("a"): 1, "a": 2})


class Odd(str):
    """Equal to nothing, until it becomes a plain string."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = str.__hash__


def test_numpy_is_not_imported_for_it() -> None:
    code = (
        "import sys, model_cases as c; c.Everything(); c.Train(lr=1).furu_hash; "
        "bad = [m for m in ('numpy','submitit','rich','click','aiofiles','anyio','asyncio') if m in sys.modules]; "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
        | st.frozensets(st.integers() | st.text(max_size=3), max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_any_supported_value_survives_the_table(value: Any) -> None:
    made = cases.Holder(anything=value)
    again: Furu[Any] = Furu.from_dict(made.to_dict())
    assert isinstance(again, cases.Holder)
    assert again.anything == value
    assert repr(again.anything) == repr(made.anything) or isinstance(value, frozenset | dict | tuple | list)
    assert again == made
