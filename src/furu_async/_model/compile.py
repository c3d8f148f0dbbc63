"""From types to checks: what each annotation allows."""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any, ForwardRef, TypeVar, get_args, get_origin

import typing_extensions

from furu_async._model import containers
from furu_async._model.base import Artifact
from furu_async._model.brief import safe_repr
from furu_async._model.containers import check_any, check_items, check_mapping
from furu_async._model.hints import Scope, own_annotations, resolve, substitute, typevars_of
from furu_async._model.values import SCALARS, Check, check_artifact, check_enum, check_literal, check_str
from furu_async.errors import FuruDefinitionError

_WRAPPERS = (
    typing.Annotated,
    typing.Final,
    typing.Required,
    typing.NotRequired,
    typing_extensions.Required,
    typing_extensions.NotRequired,
    typing_extensions.ReadOnly,
)
_ALIAS_TYPES = tuple(
    {getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType), typing_extensions.TypeAliasType}
)
_UNIONS = (typing.Union, types.UnionType)
_SEQUENCES = (abc.Sequence, abc.Collection, abc.Iterable, abc.MutableSequence)
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
_SETS = (abc.Set, abc.MutableSet)


def compile_check(tp: Any, scope: Scope, field: str) -> Check:
    """The check for values of type ``tp``.

    Args:
        tp: a type, or a forward reference to one.
        scope: where forward references and type variables are looked up.
        field: for messages.

    Raises:
        FuruDefinitionError: naming class and field: ``tp`` is not supported, or a name in it is not defined.
    """
    if isinstance(tp, str | ForwardRef):
        return _forward(tp if isinstance(tp, str) else tp.__forward_arg__, scope, field)
    if tp in (Any, object):
        return check_any
    if tp is None:
        return SCALARS[type(None)]
    if isinstance(tp, TypeVar):
        return _type_variable(tp, scope, field)
    if isinstance(tp, typing.NewType):
        return compile_check(tp.__supertype__, scope, field)
    if tp is typing_extensions.LiteralString:
        return check_str
    return _constructed(tp, get_origin(tp) or tp, get_args(tp), scope, field)


def _constructed(tp: Any, origin: Any, arguments: tuple[Any, ...], scope: Scope, field: str) -> Check:
    if isinstance(origin, _ALIAS_TYPES):
        return _alias(origin, arguments, scope, field)
    if origin in _WRAPPERS and arguments:
        return compile_check(arguments[0], scope, field)
    if origin in _UNIONS:
        members = [(_member_type(one), compile_check(one, scope, field)) for one in arguments]
        return containers.check_union(members, show(tp))
    if origin in (typing.Literal, typing_extensions.Literal):
        return check_literal(arguments)
    if isinstance(origin, type):
        return _plain_class(origin, arguments, scope, field)
    raise _unsupported(tp, scope, field)


def compile_fields(cls: type[Any], names: Mapping[str, type[Any]]) -> dict[str, Check]:
    """The checks of the fields of an artifact class.

    Args:
        cls: the class.
        names: each field, with the class in whose body it is annotated.
    """
    variables = typevars_of(cls)
    scopes: dict[type[Any], Scope] = {}
    checks = {}
    for name, owner in names.items():
        if owner not in scopes:
            scopes[owner] = Scope(owner, variables.get(owner, {}))
        checks[name] = compile_check(
            resolve(scopes[owner], name, own_annotations(owner)[name]), scopes[owner], name
        )
    return checks


def show(tp: Any) -> str:
    """A type as people write it."""
    if tp is None or tp is type(None):
        return "None"
    if get_origin(tp) in _UNIONS:
        return " | ".join(map(show, get_args(tp)))
    if isinstance(tp, type) and not get_args(tp):
        return tp.__qualname__
    return safe_repr(tp).replace("typing.", "")


def _forward(text: str, scope: Scope, field: str) -> Check:
    known = scope.aliases.get(text)
    if known is None:
        made: list[Check] = []
        scope.aliases[text] = containers.lazily(lambda: made[0])
        made.append(compile_check(resolve(scope, "", text), scope, field))
        known = scope.aliases[text] = made[0]
    return typing.cast(Check, known)


def _alias(tp: Any, arguments: tuple[Any, ...], scope: Scope, field: str) -> Check:
    """``type X = …``, possibly recursive."""
    key = f"type {id(tp)} {arguments!r}"
    known = scope.aliases.get(key)
    if known is None:
        made: list[Check] = []
        scope.aliases[key] = containers.lazily(lambda: made[0])
        value = tp.__value__[arguments] if arguments else tp.__value__
        made.append(compile_check(value, scope, field))
        known = scope.aliases[key] = made[0]
    return typing.cast(Check, known)


def _type_variable(tp: TypeVar, scope: Scope, field: str) -> Check:
    bound = scope.typevars.get(tp, tp)
    if bound is not tp:
        # Variables left in what it stands for are those of the class at the bottom, which nothing binds.
        return compile_check(bound, Scope(scope.cls, {}), field)
    if tp.__constraints__:
        members = [(_member_type(one), compile_check(one, scope, field)) for one in tp.__constraints__]
        return containers.check_union(members, " | ".join(map(show, tp.__constraints__)))
    return compile_check(tp.__bound__, scope, field) if tp.__bound__ is not None else check_any


def _member_type(tp: Any) -> Any:
    return type(None) if tp is None else tp


def _plain_class(cls: Any, arguments: tuple[Any, ...], scope: Scope, field: str) -> Check:
    known = SCALARS.get(cls)
    if known is not None:
        return known
    if issubclass(cls, Artifact):
        return check_artifact(cls)
    if issubclass(cls, enum.Enum):
        return check_enum(cls)
    if cls in (list, set, frozenset) or (cls is tuple and (not arguments or arguments[-1] is Ellipsis)):
        return check_items(cls, compile_check(arguments[0], scope, field) if arguments else check_any)
    if cls is tuple:
        empty = arguments == ((),)
        return containers.check_tuple(
            [] if empty else [compile_check(one, scope, field) for one in arguments]
        )
    if cls in _MAPPINGS:
        key, item = (compile_check(one, scope, field) for one in arguments or (Any, Any))
        return check_mapping(key, item, abc.Mapping if cls is abc.Mapping else dict)
    if cls in _SEQUENCES or cls in _SETS:
        item = compile_check(arguments[0], scope, field) if arguments else check_any
        kinds = (set, frozenset) if cls in _SETS else (list,) if cls is abc.MutableSequence else (list, tuple)
        return containers.check_either(kinds, "set" if cls in _SETS else "list or tuple", item)
    if typing_extensions.is_typeddict(cls):
        return _typed_dict(cls, arguments, scope)
    if dataclasses.is_dataclass(cls) or containers.is_named_tuple(cls):
        return record(cls, tuple(substitute(one, scope.typevars) for one in arguments))
    raise _unsupported(cls, scope, field)


_records: dict[Any, Check] = {}


def record(cls: type[Any], arguments: tuple[Any, ...] = ()) -> Check:
    """The check of a dataclass or named tuple; its own fields are compiled at the first value."""
    try:
        known = _records.get((cls, arguments))
    except TypeError:
        known = None
    if known is None:
        known = containers.check_record(cls, lambda: _record_fields(cls, arguments))
        _records[cls, arguments] = known
    return known


containers.record_compiler.append(record)


def _record_fields(cls: type[Any], arguments: tuple[Any, ...]) -> dict[str, Check]:
    names = cls._fields if containers.is_named_tuple(cls) else [f.name for f in dataclasses.fields(cls)]
    for name, annotated in own_annotations(cls).items():
        if "InitVar" in str(annotated) and name not in names:
            raise FuruDefinitionError(
                f"dataclass {cls.__qualname__} cannot be a value of a field: {name!r} is an InitVar, so the instance "
                "cannot be made again from its fields"
            )
    variables = typevars_of(cls, arguments)
    scopes: dict[type[Any], Scope] = {}
    checks: dict[str, Check] = {}
    for name in names:
        owner = next((base for base in cls.__mro__ if name in own_annotations(base)), None)
        if owner is None:  # collections.namedtuple has no types
            checks[name] = check_any
            continue
        scope = scopes.setdefault(owner, Scope(owner, variables.get(owner, {})))
        checks[name] = compile_check(resolve(scope, name, own_annotations(owner)[name]), scope, name)
    return checks


def _typed_dict(cls: Any, arguments: tuple[Any, ...], scope: Scope) -> Check:
    def make() -> Check:
        inner = Scope(cls, dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False)))
        checks = {}
        for base in (cls,):
            for name, annotation in base.__annotations__.items():
                checks[name] = compile_check(resolve(inner, name, annotation), inner, name)
        return containers.check_typed_dict(cls.__name__, checks, frozenset(cls.__required_keys__))

    return containers.lazily(make)


def _unsupported(tp: Any, scope: Scope, field: str) -> FuruDefinitionError:
    return FuruDefinitionError(
        f"{scope.cls.__qualname__}.{field}: a field cannot have the type {show(tp)}",
        hint=f"supported are {containers.SUPPORTED}",
    )
