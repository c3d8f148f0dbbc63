"""What goes in comes out, by type; what cannot says so."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import errno
import math
import os
import subprocess
import sys
from decimal import Decimal
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_env import with_error

from furu_async import SlurmSpec
from furu_async._store import results
from furu_async._store.manifest import manifest_of, missing_files, sync_tree
from furu_async._store.records import NO_VALUE, Damaged, End, decode, encode
from furu_async.errors import FuruComputeError, FuruError


class Colour(enum.Enum):
    RED = 1
    BLUE = ("b", 2)


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    A = "a"


class Flags(enum.Flag):
    X = 1
    Y = 2


class Point(NamedTuple):
    x: float
    y: Any = None


@dataclasses.dataclass
class Plain:
    a: int
    b: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: tuple[int, ...]
    inner: Plain | None = None


@dataclasses.dataclass
class Computes:
    a: int
    double: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.a += 1
        self.double = self.a * 2
        self.extra = [self.a]  # not a field

    @cached_property
    def expensive(self) -> object:
        return object()


@dataclasses.dataclass
class IsDict(dict):  # type: ignore[type-arg]
    a: int = 0


class Outer:
    @dataclasses.dataclass
    class Nested:
        a: int


def round_trip(value: Any, directory: Path) -> Any:
    kind = results.save(value, str(directory))
    manifest = manifest_of(str(directory))
    assert missing_files(str(directory), manifest) == []
    return results.load(str(directory), kind)


def same(a: Any, b: Any) -> bool:
    """Equal, of equal type, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if type(a) is int:
        return bool(a == b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and sorted(map(repr, a)) == sorted(map(repr, b))
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if dataclasses.is_dataclass(a):
        return same({**_state(a)}, {**_state(b)})
    if isinstance(a, dt.datetime | dt.time):
        return repr(a) == repr(b) and a.fold == b.fold
    return repr(a) == repr(b)


def _state(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


BERLIN = ZoneInfo("Europe/Berlin")
VALUES: list[Any] = [
    None,
    True,
    0,
    -(2**63),
    2**64 - 1,
    2**64,
    -(2**200),
    3**20000,
    1.5,
    -0.0,
    1e22,
    5e-324,
    math.inf,
    -math.inf,
    math.nan,
    "",
    "text",
    "é\U0001f600\x00\r\n",
    "\ud800 lone",
    "\ud83d\ude00 two halves",
    "x" * 3_000_000,
    "\ud800" * 2_000_000,
    b"",
    b"\x00\xff",
    b"x" * 3_000_000,
    [],
    {},
    [None, True, 1, 1.0, "1"],
    {"a": {"b": [1, {"c": 2.5}]}, "": 0, "$": "dollar"},
    [{"$": "dollar", "v": 1}, {1}],
    ["\udcff"],
    {"\udcff": 1},
    (1, [2, (3, ())]),
    {1: "int", "1": "str", (1, 2): "tuple", None: 0, 1.5: 1, b"b": 2},
    {1, 2, 3},
    frozenset({(1, 2), "a"}),
    {"deep": [math.nan, {"t": (b"bytes", b"y" * 100_000)}]},
    dt.datetime(2020, 1, 2, 3, 4, 5, 6),
    dt.datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2020, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, seconds=1), "odd")),
    dt.date.min,
    dt.time(1, 2, 3, 4, fold=1),
    dt.time(1, tzinfo=dt.timezone(dt.timedelta(minutes=90))),
    dt.timedelta.min,
    dt.timedelta.max,
    Decimal("1.10"),
    Decimal("NaN"),
    Decimal("-Infinity"),
    UUID(int=7),
    Path("a/b"),
    Path(os.fsdecode(b"/\xff")),
    PurePosixPath("a"),
    PureWindowsPath("c:\\x"),
    complex(1, -0.0),
    Colour.RED,
    Colour.BLUE,
    Level.LOW,
    Word.A,
    Flags.X,
    Flags.X | Flags.Y,
    Flags(0),
    {Colour.RED: [Level.LOW]},
    Point(1.5),
    [Point(1.0, Point(2.0, {3}))],
    Plain(1, [2]),
    Plain(1, Frozen((1, 2), Plain(3))),
    Frozen((1,)),
    Outer.Nested(3),
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(3),
    np.array([], dtype="f4"),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    np.array(["a", "bc"]),
    np.array(["2020-01-01"], dtype="M8[D]"),
    np.float32(1.5),
    np.float64(2.5),
    np.int8(-1),
    np.bool_(True),
    np.datetime64("2020-01-01"),
    np.str_("x"),
    {"weights": np.ones(3), "list": [np.zeros(2), np.float32(1)]},
    Plain(1, np.ones(2)),
    SlurmSpec(),
    {"spec": [SlurmSpec(gpus=1, extra={"slurm_additional_parameters": {"nodelist": ["a", "b"], "$": 1}})]},
]


@pytest.mark.parametrize(
    "value",
    VALUES,
    ids=lambda v: f"{type(v).__name__}-{'' if type(v) in (int, set, frozenset) else repr(v)[:20]}",
)
def test_a_value_comes_back_as_it_was(value: Any, tmp_path: Path) -> None:
    assert same(value, round_trip(value, tmp_path))


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters()), inner) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(value=JSON_LIKE)
@settings(max_examples=200, deadline=None)
def test_any_json_like_value_comes_back(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert same(value, round_trip(value, tmp_path_factory.mktemp("r")))


def test_what_post_init_made_is_kept_and_what_was_cached_is_not(tmp_path: Path) -> None:
    value = Computes(1)
    assert value.expensive is not None
    back = round_trip(value, tmp_path)
    assert (back.a, back.double, back.extra) == (2, 4, [2])
    assert "expensive" not in vars(back)


def test_plain_values_are_plain_files(tmp_path: Path) -> None:
    for name, value, kind, content in [
        ("a", {"x": [1, 2.5]}, "json", ("result.json", b'{"x":[1,2.5]}')),
        ("b", "text\n", "text", ("result.txt", b"text\n")),
        ("c", b"\x01", "bytes", ("result.bin", b"\x01")),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        assert results.save(value, str(folder)) == kind
        assert [(p.name, p.read_bytes()) for p in folder.iterdir()] == [content]
    assert results.save(None, str(tmp_path)) == "none"


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        1,
        -1,
        2**63,
        2**64 - 1,
        -(2**63),
        0.0,
        -0.0,
        1.0,
        0.1 + 0.2,
        1e16,
        1e308,
        5e-324,
        "",
        "text\n\0\u2028\U0001f600",
        [],
        {},
        [1, 1.0, True, None, "1", [2.0], {"": []}],
        {"b": 1, "a": {"$": "tuple", "v": [1]}, "c": 2**64 - 1},
        "x" * (results.INLINE_BYTES - 2),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_small_value_needs_no_file(value: Any) -> None:
    data = results.small(value)
    assert data is not None
    assert len(data) <= results.INLINE_BYTES
    end = End(generation=1, token="t", status="success", result="inline", value=msgspec.Raw(data))
    back = decode(End, encode(end), "end")
    assert same(value, results.load("/nowhere", back.result, bytes(back.value)))


class _Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        [float("nan")],
        {"a": -float("inf")},
        2**64,
        -(2**63) - 1,
        10**22,
        10**5000,
        [2**64],
        (),
        (1,),
        [(1,)],
        {1: 2},
        {"a": {None: 1}},
        "\ud800",
        ["\ud800"],
        {"\ud800": 1},
        b"",
        [b""],
        _Text("a"),
        {_Text("a"): 1},
        set(),
        1j,
        "x" * (results.INLINE_BYTES - 1),
        "é" * (results.INLINE_BYTES // 2),
        [0] * (results.INLINE_BYTES // 2),
        [["x" * results.INLINE_BYTES]],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_would_change_or_is_not_small_is_not_kept_in_the_record(value: Any) -> None:
    assert results.small(value) is None


def test_a_record_without_its_small_value_is_damaged() -> None:
    end = decode(End, encode(End(generation=1, token="t", status="success", result="inline")), "end")
    with pytest.raises(Damaged, match="no result"):
        results.load("/nowhere", end.result, bytes(end.value))
    with pytest.raises(Damaged, match="no result"):
        results.load("/nowhere", "inline", b"[" * 100_000)


def test_an_end_without_a_value_is_json(tmp_path: Path) -> None:
    plain = End(generation=1, token="t", status="failure")
    assert plain.value is NO_VALUE
    assert b"value" not in encode(plain)
    again = decode(End, encode(plain), "end")
    assert decode(End, encode(again), "end") == again
    assert manifest_of(str(tmp_path / "none")) == []
    assert sync_tree(str(tmp_path / "none")) == []


def _local_class() -> Any:
    @dataclasses.dataclass
    class Local:
        a: int = 1

    return Local()


def _cyclic(kind: str) -> Any:
    if kind == "list":
        found: Any = []
        found += [found, found]
    elif kind == "dict":
        found = {}
        found["a"] = found["b"] = found
    elif kind == "tuple":
        inner: list[Any] = []
        found = (inner, inner)
        inner.append(found)
    else:
        found = Plain(1)
        found.b = [found, found]
    return found


def _deep(levels: int, tagged: bool = False) -> Any:
    value: Any = (1,) if tagged else [1]
    for _ in range(levels):
        value = (value,) if tagged else [value]
    return value


@pytest.mark.parametrize("kind", ["list", "dict", "tuple", "dataclass"])
def test_a_value_that_contains_itself_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FuruComputeError, match="refers to itself"):
        results.save(_cyclic(kind), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tagged", [False, True])
def test_nesting_is_limited_far_from_the_recursion_limit(tagged: bool, tmp_path: Path) -> None:
    assert same(_deep(150, tagged), round_trip(_deep(150, tagged), tmp_path))
    with pytest.raises(FuruComputeError, match="nested"):
        results.save(_deep(100_000, tagged), str(tmp_path))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (object(), "builtins.object"),
        ([{"a": lambda: 0}], "function"),
        (collections.OrderedDict(a=1), "OrderedDict"),
        (collections.Counter("aa"), "Counter"),
        ({"a": np.array([object()])}, "Python objects"),
        (np.array([object()]), "Python objects"),
        (IsDict(), "IsDict"),
        ([np.ma.masked_array([1])], "MaskedArray"),
        (subprocess.Popen, "builtins.type"),
        (_local_class(), "inside a function"),
        (dt.datetime(2020, 1, 1, tzinfo=type("Odd", (dt.tzinfo,), {})()), "time zone"),
        (bytearray(b"x"), "bytearray"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
@pytest.mark.fault("F86")
def test_a_type_that_cannot_be_stored_says_what_to_do(value: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(FuruComputeError, match=name) as caught:
        results.save(value, str(tmp_path))
    assert caught.value.hint
    if name != "inside a function":
        assert "write `_load`" in caught.value.hint


def test_a_file_of_that_name_that_the_user_wrote_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("mine")
    with pytest.raises(FuruComputeError, match=r"wrote a file 'result\.json' itself"):
        results.save([1], str(tmp_path))
    assert (tmp_path / "result.json").read_text() == "mine"


@pytest.mark.parametrize("value", ["x", b"x", [1], (1,), "x" * 2_000_000])
@pytest.mark.fault("F17")
def test_a_full_disk_is_an_os_error_with_the_path(value: Any, tmp_path: Path) -> None:
    for k in range(2):
        folder = tmp_path / str(k)
        folder.mkdir()
        with pytest.raises(OSError, match="No space") as caught:
            with_error(k, errno.ENOSPC, lambda: results.save(value, str(folder)))  # noqa: B023
        assert "result." in str(caught.value.filename) or k == 1


@pytest.mark.fault("F20", "F110", "F112")
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"$":"nonsense"}', b'{"$":"tuple"}', b'{"$":["x"]}']
)
def test_a_damaged_result_says_so(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(Damaged, match=r"result\.json"):
        results.load(str(tmp_path), "tagged")


def test_a_missing_result_is_missing(tmp_path: Path) -> None:
    for kind in ("json", "tagged", "text", "bytes", "npy"):
        with pytest.raises(FileNotFoundError):
            results.load(str(tmp_path), kind)
    with pytest.raises(Damaged, match="unknown kind"):
        results.load(str(tmp_path), "pickle")


@pytest.mark.fault("F112")
def test_a_symlink_in_a_results_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("[1]")
    for name, kind in (("result.json", "json"), ("result.txt", "text"), ("result.npy", "npy")):
        (tmp_path / name).symlink_to("secret")
        with pytest.raises(Damaged, match="symbolic link"):
            results.load(str(tmp_path), kind)


@pytest.mark.fault("F110")
def test_a_pickle_in_a_results_place_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "pwned"),))

    array = np.array([Evil()], dtype=object)
    with open(tmp_path / "result.npy", "wb") as file:
        np.save(file, array, allow_pickle=True)
    (tmp_path / "result.json").write_bytes(pickle.dumps(Evil()))
    for kind in ("npy", "json", "tagged"):
        with pytest.raises(Damaged):
            results.load(str(tmp_path), kind)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.fault("F113", "F111")
@pytest.mark.parametrize(
    "tree",
    [
        b'{"$":"data","c":"subprocess:Popen","v":{}}',
        b'{"$":"data","c":"os:system","v":{}}',
        b'{"$":"enum","c":"subprocess:Popen","v":"x"}',
        b'{"$":"named","c":"builtins:tuple","v":[]}',
        b'{"$":"data","c":"no.such.module:X","v":{}}',
        b'{"$":"data","c":"../x:Y","v":{}}',
        b'{"$":"array","v":"../../secret.npy"}',
        b'{"$":"blob","v":"/etc/passwd"}',
        b'{"$":"blob","v":"result-/../../x"}',
    ],
)
def test_a_class_or_file_that_does_not_fit_is_not_used(tree: bytes, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(tree)
    with pytest.raises(FuruError):
        results.load(str(tmp_path), "tagged")


def test_fields_added_to_a_dataclass_since_get_their_default(tmp_path: Path) -> None:
    kind = results.save(Plain(1, (2,)), str(tmp_path))
    text = (tmp_path / "result.json").read_text().replace(',"b":{"$":"tuple","v":[2]}', "")
    (tmp_path / "result.json").write_text(text)
    assert results.load(str(tmp_path), kind) == Plain(1, None)


def test_numpy_is_not_imported_for_values_without_it(tmp_path: Path) -> None:
    code = (
        "import sys; from furu_async._store import results; "
        f"k = results.save((1, {{2}}), {str(tmp_path)!r}); assert results.load({str(tmp_path)!r}, k) == (1, {{2}}); "
        "assert 'numpy' not in sys.modules and 'asyncio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.fault("F17")
@pytest.mark.parametrize("value", ["x" * 5000, b"x" * 5000, ("x" * 5000,)], ids=["text", "bytes", "tagged"])
def test_half_a_result_does_not_keep_a_full_disk_full(
    value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes) -> None:
        os.write(fd, bytes(data)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("furu_async._store.atomic.write_all", full)
    with pytest.raises(OSError, match="No space") as caught:
        results.save(value, str(tmp_path))
    assert caught.value.filename
    assert list(tmp_path.iterdir()) == []
