"""Artifact classes for the tests of the model; at the top level of a module, where any process finds them."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass
from dataclasses import field as plain_field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

from furu_async import Furu, Retry, SlurmSpec, dependency, field

if TYPE_CHECKING:
    from fractions import Fraction  # no type of a field
    from uuid import UUID as LateUUID

T = TypeVar("T")


class Color(enum.Enum):
    RED = 1
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Bits(enum.Flag):
    A = 1
    B = 2


class Point(NamedTuple):
    x: float
    y: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    name: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass
class Loose:
    """Not frozen, with a list, and a field that its __init__ does not take."""

    items: list[int] = plain_field(default_factory=list)
    total: int = plain_field(init=False, default=0)


@dataclass(frozen=True)
class Tree:
    """Refers to itself."""

    value: int
    children: tuple[Tree, ...] = ()


@dataclass(frozen=True)
class Box(Generic[T]):
    inside: T


class Options(TypedDict, total=False):
    depth: int
    name: str


class Leaf(Furu[int]):
    n: int = 0

    def _create(self) -> int:
        return self.n


class OtherLeaf(Furu[int]):
    n: int = 0

    def _create(self) -> int:
        return -self.n


class Train(Furu[float]):
    data: Leaf = field(default_factory=Leaf)
    lr: float = 1e-3
    name: str = "toy"

    async def _create(self) -> float:
        return self.lr


class Everything(Furu[None]):
    a_none: None = None
    a_bool: bool = True
    an_int: int = 1
    a_float: float = 0.5
    a_complex: complex = 1 + 2j
    text: str = "héllo"
    data: bytes = b"\x00\xff"
    path: Path = Path("a/b")
    color: Color = Color.RED
    level: Level = Level.HIGH
    bits: Bits = Bits.A | Bits.B
    literal: Literal["x", 1, True] = "x"
    moment: dt.datetime = dt.datetime(2026, 1, 2, 3, 4, 5, 6)
    aware: dt.datetime = dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=-3)))
    day: dt.date = dt.date(2026, 1, 2)
    clock: dt.time = dt.time(3, 4)
    span: dt.timedelta = dt.timedelta(days=-1, seconds=5)
    uid: UUID = UUID(int=5)
    late: LateUUID = UUID(int=6)
    exact: Decimal = Decimal("1.50")
    pair: tuple[int, str] = (1, "a")
    many: tuple[int, ...] = (1, 2, 3)
    nothing: tuple[()] = ()
    numbers: list[float] = field(default_factory=lambda: [1.0, 2.0])
    table: dict[str, list[int]] = field(default_factory=lambda: {"b": [1], "a": []})
    odd_keys: dict[tuple[int, int], str] = field(default_factory=lambda: {(1, 2): "x"})
    dollar: dict[str, int] = field(default_factory=lambda: {"$furu": 1})
    names: set[str] = field(default_factory=lambda: {"p", "q", "r"})
    frozen: frozenset[int] = frozenset({1, 2})
    point: Point = Point(1.0, 2.0)
    optimizer: Optimizer = Optimizer()
    loose: Loose = field(default_factory=lambda: Loose([1, 2]))
    tree: Tree = Tree(1, (Tree(2), Tree(3, (Tree(4),))))
    box: Box[int] = Box(3)
    options: Options = field(default_factory=lambda: Options(depth=2))
    maybe: int | None = None
    either: int | str | list[float] = "s"
    anything: Any = field(default_factory=lambda: {"k": (1, {2.5}, None, Color.BLUE)})
    leaf: Leaf = field(default_factory=Leaf)
    any_artifact: Furu[int] = field(default_factory=lambda: OtherLeaf(n=3))
    leaves: list[Furu[Any]] = field(default_factory=lambda: [Leaf(n=1), OtherLeaf(n=2)])
    by_name: dict[str, Leaf] = field(default_factory=lambda: {"one": Leaf(n=1)})
    leaf_set: frozenset[Leaf] = field(default_factory=lambda: frozenset({Leaf(n=7), Leaf(n=8)}))
    big: int = 1 << 80
    infinite: float = float("inf")
    surrogate: str = "\udc80"
    threads: int = field(default=4, identity=False)
    added: int = field(default=9, since=True)

    def _create(self) -> None:
        return None


class BadName(Furu[int]):
    x: Fraction
    y: Missing  # type: ignore[name-defined]  # noqa: F821

    def _create(self) -> int:
        return 1


class Link(Furu[int]):
    n: int
    before: Link | None = None

    def _create(self) -> int:
        return self.n


class Layer(Furu[int]):
    depth: int
    side: int
    below: tuple[Layer, ...] = ()

    def _create(self) -> int:
        return 1


class Extra(Furu[int]):
    n: int = 2

    @dependency
    def more(self) -> list[Furu[int]]:
        return [Leaf(n=i) for i in range(self.n)]

    @dependency
    def nested(self) -> dict[str, Any]:
        return {"a": (Leaf(n=0), None), "b": {OtherLeaf(n=5)}, "c": Point(1, 2) and None}

    def _create(self) -> int:
        return 1


class Selfish(Furu[int]):
    @dependency
    def me(self) -> Selfish:
        return Selfish()

    def _create(self) -> int:
        return 1


class Ping(Furu[int]):
    n: int = 0

    @dependency
    def other(self) -> Furu[int]:
        return Pong(n=self.n)

    def _create(self) -> int:
        return 1


class Pong(Furu[int]):
    n: int = 0

    @dependency
    def other(self) -> Furu[int] | None:
        return Ping(n=(self.n + 1) % 3)

    def _create(self) -> int:
        return 1


class BadDependency(Furu[int]):
    what: str = "type"

    @dependency
    def wrong(self) -> Any:
        if self.what == "raise":
            raise ValueError("no luck")
        return [Leaf(), 3]

    def _create(self) -> int:
        return 1


class Base(Furu[T]):
    """Generic and abstract: it has no _create."""

    value: T
    scale: float = 1.0


class IntBased(Base[int]):
    extra: str = ""

    def _create(self) -> int:
        return self.value


class Versioned(Furu[int], version="2"):
    n: int = 0

    def _create(self) -> int:
        return self.n


class Inherits(Versioned):
    pass


class Pinned(Furu[int], name="store.Pinned"):
    n: int = 0

    def _create(self) -> int:
        return self.n


class Hooked(Furu[int]):
    n: int = 0

    _time_limit = 60
    _retry = Retry(retries=1, on=(OSError,))
    _resumable = True
    _mode = "thread"

    def _create(self) -> int:
        return self.n

    def _load(self) -> int:
        return self.n

    def _validate(self) -> bool:
        return True

    def _spec(self) -> list[SlurmSpec]:
        return [SlurmSpec(gpus=1), SlurmSpec(), SlurmSpec(gpus=1)]

    def __helper(self) -> int:
        return 1

    @dependency
    def _more(self) -> None:
        return None


class Grown(Furu[int]):
    """As `Grown` was before the field ``added``; `test_since` compares the two."""

    n: int = 0
    added: list[int] = field(default_factory=list, since=True)
    workers: int = field(default=1, identity=False)

    def _create(self) -> int:
        return self.n


class Holder(Furu[int]):
    anything: Any = None
    items: list[Any] = field(default_factory=list)

    def _create(self) -> int:
        return 1


class Picky(Furu[int]):
    n: int

    def __post_init__(self) -> None:
        if self.n == 13:
            raise ValueError("not 13")

    def _create(self) -> int:
        return self.n


def chain(length: int) -> Link:
    """A chain of artifacts, each in a field of the next."""
    link = Link(n=0)
    for n in range(1, length):
        link = Link(n=n, before=link)
    return link


def diamonds(layers: int) -> Layer:
    """Two artifacts a layer, each with both of the layer below: 2 to the power of ``layers`` paths."""
    below = (Layer(depth=0, side=0), Layer(depth=0, side=1))
    for depth in range(1, layers):
        below = (Layer(depth=depth, side=0, below=below), Layer(depth=depth, side=1, below=below))
    return Layer(depth=layers, side=0, below=below)
