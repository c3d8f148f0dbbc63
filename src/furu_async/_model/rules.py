"""The rules that a class definition has to follow, each with the sentence that says what to write instead.

A mistake in a hook's name would otherwise be silent: ``_crate`` is never called, ``_time_limt`` limits nothing. So
every name with one leading underscore belongs to the library; a class's own helpers have plain names or two.
"""

from __future__ import annotations

import inspect
import math
import re
from types import FunctionType
from typing import Any, NoReturn

from furu_async._model.brief import describe, safe_repr
from furu_async._model.hints import own_annotations
from furu_async._model.resources import Retry
from furu_async.errors import FuruDefinitionError

METHODS = ("_create", "_load", "_validate", "_spec")
ATTRIBUTES = ("_time_limit", "_retry", "_resumable", "_mode")
HOOKS = frozenset(METHODS + ATTRIBUTES)
MODES = ("process", "thread", "inline")

_PRIVATE = frozenset({"_exists_quiet", "_aexists_quiet", "_hash", "_dependencies", "_binding"})
_OURS = _PRIVATE | frozenset(
    {
        "__furu__",
        "__furu_hints__",
        "__copy__",
        "__deepcopy__",
        "__delattr__",
        "__eq__",
        "__getstate__",
        "__hash__",
        "__init__",
        "__init_subclass__",
        "__ne__",
        "__new__",
        "__reduce__",
        "__reduce_ex__",
        "__repr__",
        "__setattr__",
        "__setstate__",
        "__slots__",
    }
)
KEPT = ("__copy__", "__deepcopy__", "__eq__", "__hash__", "__reduce_ex__", "__repr__")
"""Methods of `Furu` that a base from elsewhere, such as a dataclass, must not replace."""

_OLD = {
    "_executor": "write `_spec`: a method that returns a SlurmSpec, or several in order of preference",
    "_max_wait_time_sec": "set FURU_MAX_WAIT_SECS in the environment, or max_wait_secs of the config",
    "_get_dependencies": "mark a method with @dependency; furu_async finds the artifacts in fields by itself",
    "_dependencies": "mark a method with @dependency",
    "_base_furu_dir": "use `furu_dir`",
    "_executor_keys": "use `_spec`; the key of a SlurmSpec is its `.key`",
    "_executor_key": "use `_spec`; the key of a SlurmSpec is its `.key`",
    "_worker_entry": "there is nothing to override: workers run `_create`",
    "furu_dep": "mark the method with @dependency",
    "version_controlled": "leave it out: FURU_PATH says where results are; version= enters the hash",
    "typecheck": "leave it out: values are always checked",
}
_FOREIGN = re.compile(r"_abc_\w*|_is_(runtime_)?protocol|_protoc\w*|_non_callable_proto_members_|__\w+__")
"""Names that Python's own machinery puts into a class."""


def fail(cls: type[Any], text: str, hint: str = "") -> NoReturn:
    """Raise the error about a class."""
    raise FuruDefinitionError(f"class {cls.__qualname__}: {text}", hint)


def check_keywords(cls: type[Any], version: object, keywords: dict[str, Any]) -> None:
    """The class keywords: ``version`` is text, and there are no others but ``name``."""
    if version is not None and (not isinstance(version, str) or not version):
        fail(cls, f"version={describe(version)} is not possible", 'write a text, such as version="2"')
    for keyword in keywords:
        if keyword in _OLD:
            fail(cls, f"the class keyword {keyword!r} is one of furu 0.0.x", _OLD[keyword])
        import difflib

        close = difflib.get_close_matches(keyword, ("version", "name"), n=1, cutoff=0.6)
        if close:
            fail(cls, f"the class keyword {keyword!r} is not known; did you mean {close[0]!r}?")


def check_body(cls: type[Any], furu: type[Any]) -> None:
    """Every rule that can be checked before the class becomes a dataclass."""
    annotations = own_annotations(cls)
    public = {name for name in dir(furu) if not name.startswith("_")}
    for name in dict.fromkeys((*annotations, *cls.__dict__)):
        _check_name(cls, name, annotations, public)
    for name in (*public, *_PRIVATE):
        owner = next((base for base in cls.__mro__ if name in base.__dict__), furu)
        if not issubclass(owner, furu) and owner not in furu.__mro__:
            fail(
                cls,
                f"{name!r}, inherited from {owner.__qualname__}, hides a name of the library",
                "rename it",
            )
    _check_methods(cls, furu)
    _check_attributes(cls)
    for name in cls.__dict__:
        if (
            name not in annotations
            and name in getattr(cls, "__dataclass_fields__", ())
            and not name.startswith("__")
        ):
            kind = "a method" if callable(cls.__dict__[name]) else "a value without annotation"
            fail(
                cls,
                f"{name!r} is a field of a base class, and {kind} here does not change it",
                f"repeat the annotation to give it another default: `{name}: … = …`",
            )


def _check_name(cls: type[Any], name: str, annotations: dict[str, Any], public: set[str]) -> None:
    annotated = name in annotations and not _is_classvar(annotations[name])
    if name in _OLD:
        fail(cls, f"{name!r} is a name of furu 0.0.x", _OLD[name])
    if name in public or name in _OURS:
        if name == "__slots__" and not annotated:
            fail(cls, "__slots__ cannot be given: the fields are kept by the library")
        what = "the field" if annotated else "the attribute"
        fail(cls, f"{what} {name!r} hides a name of the library", "choose another name")
    if name in HOOKS:
        if annotated:
            fail(
                cls,
                f"the hook {name!r} is annotated, which makes it a field",
                f"write `{name} = …` without annotation"
                if name in ATTRIBUTES
                else f"write `def {name}(self): …`",
            )
        return
    if not name.startswith("_") or _FOREIGN.fullmatch(name):
        return
    if annotated:
        fail(cls, f"the field {name!r} begins with an underscore", f"call it {name.strip('_') or 'value'!r}")
    if name.startswith(f"_{cls.__name__.lstrip('_')}__"):
        return  # __helper, as Python rewrites it
    if getattr(cls.__dict__.get(name), "__furu_dependency__", False):
        return
    import difflib  # for the message of an error only

    close = difflib.get_close_matches(name, sorted(HOOKS), n=1, cutoff=0.6)
    fail(
        cls,
        f"unknown name {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
        "names with one leading underscore are hooks of the library: "
        + ", ".join((*METHODS, *ATTRIBUTES))
        + f". Call a helper of your own {name.lstrip('_')!r} or '__{name.lstrip('_')}'",
    )


def _is_classvar(annotation: Any) -> bool:
    text = annotation if isinstance(annotation, str) else safe_repr(annotation)
    return bool(re.match(r"(typing\.|t\.|typing_extensions\.)?ClassVar\b", text))


def _check_methods(cls: type[Any], furu: type[Any]) -> None:
    for name in METHODS:
        hook = getattr(cls, name)
        if hook is getattr(furu, name):
            continue
        if name == "_spec" and not callable(hook):
            continue  # a SlurmSpec, or several: checked when it is asked for
        if not isinstance(inspect.getattr_static(cls, name), FunctionType) and not callable(hook):
            fail(cls, f"{name} is {describe(hook)}; it has to be a method", f"write `def {name}(self): …`")
        if inspect.isasyncgenfunction(hook) or inspect.isgeneratorfunction(hook):
            fail(cls, f"{name} has a `yield` in it", "return the value; a list instead of a generator")
        if name != "_create" and inspect.iscoroutinefunction(hook):
            fail(cls, f"{name} is async", f"write `def {name}(self): …`; it is called off the event loop")
        _check_signature(cls, name)


def _check_signature(cls: type[Any], name: str) -> None:
    method = inspect.getattr_static(cls, name)
    if isinstance(method, staticmethod | classmethod | property):
        fail(cls, f"{name} is a {type(method).__name__}", f"write `def {name}(self): …`")
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p for p in parameters if p.default is p.empty and p.kind not in kinds]
    takes_self = any(p.kind is kinds[0] for p in parameters) or (needed and needed[0].kind is not p_keyword)
    if len(needed) > 1 or not takes_self:
        fail(
            cls,
            f"{name}{inspect.signature(method)} is called with self alone",
            "what it needs is in the artifact's fields"
            if len(needed) > 1
            else f"write `def {name}(self): …`",
        )


p_keyword = inspect.Parameter.KEYWORD_ONLY


def _check_attributes(cls: type[Any]) -> None:
    limit = cls._time_limit
    if limit is not None and (
        isinstance(limit, bool)
        or not isinstance(limit, int | float)
        or not math.isfinite(limit)
        or limit <= 0
    ):
        fail(cls, f"_time_limit is {describe(limit)}", "write a number of seconds greater than 0, or None")
    if cls._retry is not None and not isinstance(cls._retry, Retry):
        fail(cls, f"_retry is {describe(cls._retry)}", "write `_retry = Retry(retries=2)`")
    if not isinstance(cls._resumable, bool):
        fail(cls, f"_resumable is {describe(cls._resumable)}", "write True or False")
    if cls._mode is not None and cls._mode not in MODES:
        fail(cls, f"_mode is {describe(cls._mode)}", f"write one of {', '.join(map(repr, MODES))}")


def check_dataclass(cls: type[Any]) -> None:
    """What only shows once the class is a dataclass: odd fields, mixins that are dataclasses of another kind."""
    for made in cls.__dataclass_fields__.values():
        kind = made._field_type.name
        if kind == "_FIELD_INITVAR":
            fail(cls, f"{made.name!r} is an InitVar", "make it a field: an artifact is what its fields say")
        if kind != "_FIELD":
            continue
        if not made.init:
            fail(cls, f"the field {made.name!r} has init=False", "make it a property or a plain method")
        if not made.kw_only:
            fail(
                cls,
                f"the field {made.name!r} is not keyword-only",
                "make the base @dataclass(frozen=True, kw_only=True)",
            )


def check_complete(cls: type[Any]) -> None:
    """At the first instance: nothing has replaced what the library put into the class."""
    for name in KEPT:
        if getattr(getattr(cls, name), "__module__", "") != "furu_async._model.artifact":
            fail(
                cls,
                f"{name} was replaced after the class was defined",
                "leave out @dataclass: a subclass of Furu is one already",
            )


def dependency_methods(cls: type[Any]) -> tuple[str, ...]:
    """Names of the methods marked with ``@dependency`` in the class or any of its bases."""
    names: dict[str, None] = {}
    for base in reversed(cls.__mro__):
        for name, value in base.__dict__.items():
            if getattr(value, "__furu_dependency__", False):
                names[name] = None
    for name in names:
        method = inspect.getattr_static(cls, name)
        if not isinstance(method, FunctionType):
            fail(cls, f"the @dependency {name!r} is {describe(method)}", "make it a plain method")
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            fail(
                cls,
                f"the @dependency method {name!r} is async",
                "it may only look at the fields: write `def`",
            )
        _check_signature(cls, name)
    return tuple(sorted(names))
