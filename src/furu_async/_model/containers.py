"""Checks of what has parts: sequences, sets, mappings, unions, records, and values of any supported type."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from furu_async._model.base import Artifact
from furu_async._model.brief import brief, clip
from furu_async._model.values import (
    MAX_DEPTH,
    SCALARS,
    BadValue,
    Check,
    expected,
    is_mapping,
    too_deep,
    unwrap_scalar,
)

SUPPORTED = (
    "None, bool, int, float, complex, str, bytes, Path, Enum, Literal, datetime, date, time, timedelta, UUID, "
    "Decimal, tuple, list, dict, set, frozenset, named tuples, dataclasses, artifacts, and unions of these"
)


def check_items(kind: type[Any], item: Check) -> Check:
    """A list, a set, a frozenset or a tuple of any length; the result is a new ``kind``."""

    def check(value: Any, depth: int) -> Any:
        if not isinstance(value, kind):
            raise expected(kind.__name__, value)
        if depth > MAX_DEPTH:
            too_deep(value)
        kept: list[Any] = []
        try:
            for one in value:
                kept.append(item(one, depth + 1))  # noqa: PERF401  (its length tells where the bad value is)
        except BadValue as error:
            raise error.at(f"[{len(kept)}]" if kind is list or kind is tuple else " item") from None
        return kept if kind is list else kind(kept)

    return check


def check_either(kinds: tuple[type[Any], ...], what: str, item: Check) -> Check:
    """An abstract sequence or set: whichever of the concrete ``kinds`` the value is, it stays that."""
    checks = [(kind, check_items(kind, item)) for kind in kinds]

    def check(value: Any, depth: int) -> Any:
        for kind, inner in checks:
            if isinstance(value, kind):
                return inner(value, depth)
        raise expected(what, value)

    return check


def check_tuple(items: Sequence[Check]) -> Check:
    """A tuple with a type for each place."""

    def check(value: Any, depth: int) -> Any:
        if not isinstance(value, tuple):
            raise expected("tuple", value)
        if depth > MAX_DEPTH:
            too_deep(value)
        if len(value) != len(items):
            raise expected(f"a tuple of {len(items)}", value)
        kept = []
        for n, one in enumerate(value):
            try:
                kept.append(items[n](one, depth + 1))
            except BadValue as error:
                raise error.at(f"[{n}]") from None
        return tuple(kept)

    return check


def check_mapping(key: Check, item: Check, kind: type[Any] = dict) -> Check:
    """A ``kind`` of mapping, such as one that is frozen; the result is a new dict in the same order."""
    what = "dict" if kind is dict else "a mapping"

    def check(value: Any, depth: int) -> Any:
        if not isinstance(value, kind):
            raise expected(what, value)
        if depth > MAX_DEPTH:
            too_deep(value)
        kept = {}
        for name, one in value.items():
            try:
                kept[key(name, depth + 1)] = item(one, depth + 1)
            except BadValue as error:
                raise error.at(f"[{brief(name)}]") from None
        if len(kept) != len(value):
            raise BadValue("two keys of the dict are the same once converted to the annotated type")
        return kept

    return check


def check_typed_dict(name: str, items: Mapping[str, Check], required: frozenset[str]) -> Check:
    """A dict with a type for each key."""

    def check(value: Any, depth: int) -> Any:
        if not isinstance(value, dict):
            raise expected(f"a dict of type {name}", value)
        if depth > MAX_DEPTH:
            too_deep(value)
        missing, unknown = required - value.keys(), value.keys() - items.keys()
        if missing or unknown:
            wrong = (
                f"without {sorted(missing)}" if missing else f"with unknown keys {sorted(map(str, unknown))}"
            )
            raise expected(f"a dict of type {name}", value, f", {wrong}")
        kept = {}
        for key, one in value.items():
            try:
                kept[key] = items[key](one, depth + 1)
            except BadValue as error:
                raise error.at(f"[{key!r}]") from None
        return kept

    return check


def check_union(members: Sequence[tuple[Any, Check]], what: str) -> Check:
    """The first member that fits: one of exactly the value's type before one that would have to convert it."""
    exact = {tp: check for tp, check in members if isinstance(tp, type) and tp in SCALARS}
    # A whole number meets int before float, and a class of its own before either.
    ranks = {bool: 1, int: 2, float: 3, complex: 4}
    ordered = [
        check for _, check in sorted(members, key=lambda m: ranks.get(m[0], 0 if m[0] not in SCALARS else 5))
    ]

    def check(value: Any, depth: int) -> Any:
        known = exact.get(type(value))
        if known is None:
            value = unwrap_scalar(value)
            known = exact.get(type(value))
        if known is not None:
            return known(value, depth)
        deepest: BadValue | None = None
        for member in ordered:
            try:
                return member(value, depth)
            except BadValue as error:
                if error.path and (deepest is None or len(error.path) > len(deepest.path)):
                    deepest = error
        raise deepest or expected(what, value)

    return check


def lazily(make: Callable[[], Check]) -> Check:
    """A check that is made when it is first used: what a recursive type refers to itself by."""
    made: list[Check] = []

    def check(value: Any, depth: int) -> Any:
        if not made:
            made.append(make())
        if depth > MAX_DEPTH:
            too_deep(value)
        return made[0](value, depth)

    return check


def check_record(cls: type[Any], fields: Callable[[], Mapping[str, Check]]) -> Check:
    """A named tuple or dataclass of ``cls``; a copy, unless it is frozen and none of its parts changed."""
    made: list[list[tuple[str, Check]]] = []
    named = is_named_tuple(cls)
    frozen = named or cls.__dataclass_params__.frozen

    def check(value: Any, depth: int) -> Any:
        if not isinstance(value, cls):
            raise expected(cls.__name__, value)
        if type(value) is not cls:
            return check_any(value, depth)
        if depth > MAX_DEPTH:
            too_deep(value)
        if not made:
            made.append(list(fields().items()))
        kept: dict[str, Any] = {}
        changed = False
        for name, inner in made[0]:
            try:
                before = getattr(value, name)
                after = kept[name] = inner(before, depth + 1)
            except BadValue as error:
                raise error.at(f".{name}") from None
            changed = changed or after is not before
        if not changed and frozen:
            return value
        if named:
            return cls._make(kept.values())
        return make_record(cls, kept)

    return check


def make_record(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """A dataclass instance with these values; those that its ``__init__`` does not take are set afterwards."""
    fields = dataclasses.fields(cls)
    try:
        made = cls(**{f.name: values[f.name] for f in fields if f.init})
        for f in fields:
            if not f.init:
                object.__setattr__(made, f.name, values[f.name])
    except BadValue:
        raise
    except Exception as error:
        raise BadValue(
            f"a {cls.__name__} with the same values cannot be made: {type(error).__name__}: {clip(str(error), 200)}"
        ) from error
    return made


def is_named_tuple(cls: type[Any]) -> bool:
    """A class made by ``NamedTuple`` or ``namedtuple``."""
    return issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_make")


_any_checks: dict[type[Any], Check] = {}
record_compiler: list[Callable[[type[Any]], Check]] = []
"""Makes the check of a record class from its annotations; put here by the module that compiles them."""


def check_any(value: Any, depth: int) -> Any:
    """A value of any supported type, with its parts."""
    check = _any_checks.get(type(value))
    if check is None:
        check = _any_checks[type(value)] = _check_for(type(value))
    return check(value, depth)


def _check_for(cls: type[Any]) -> Check:
    known = SCALARS.get(cls)
    if known is not None:
        return known
    if issubclass(cls, Artifact | enum.Enum):
        return _as_is
    if issubclass(cls, dict):
        return check_mapping(check_any, check_any)
    if dataclasses.is_dataclass(cls) or is_named_tuple(cls):
        return record_compiler[0](cls)
    for kind in (list, tuple, set, frozenset):
        if issubclass(cls, kind):
            return check_items(kind, check_any)
    for scalar in (int, float, complex, str, bytes):
        if issubclass(cls, scalar):
            return SCALARS[scalar]
    if is_mapping(cls):
        return check_mapping(check_any, check_any, Mapping)
    if cls.__module__.partition(".")[0] == "numpy":
        return _numpy
    return SCALARS[pathlib.Path] if issubclass(cls, pathlib.Path) else _unsupported


def _as_is(value: Any, depth: int) -> Any:
    return value


def _numpy(value: Any, depth: int) -> Any:
    plain = unwrap_scalar(value)
    return _unsupported(value, depth) if plain is value else check_any(plain, depth)


def _unsupported(value: Any, depth: int) -> Any:
    raise expected("a value of a supported type", value, f". Supported are {SUPPORTED}")
