"""From annotations as written to types: forward references, ``TYPE_CHECKING`` imports, type variables.

Done once per class, when its first instance is made, so a module may refer to what is defined further down or in a
module that imports it. Nothing here knows what a type means; that is `values`.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import linecache
import sys
import typing
from collections.abc import Mapping
from types import FrameType
from typing import Any, ForwardRef, Generic, TypeVar, get_args, get_origin

from furu_async.errors import FuruDefinitionError

TypeVars = Mapping[Any, Any]

_RESOLVED = "__furu_hints__"


class Scope:
    """Where the names of one class's annotations are looked up.

    Attributes:
        cls: the class that has the annotations.
        typevars: what its type variables stand for in the class that inherits them.
        aliases: checks of forward references, by their text; a recursive alias ends here.
    """

    __slots__ = ("aliases", "cls", "typevars")

    def __init__(self, cls: type[Any], typevars: TypeVars) -> None:
        self.cls = cls
        self.typevars = typevars
        self.aliases: dict[str, Any] = {}

    def evaluate(self, text: str) -> Any:
        """The type that ``text`` stands for.

        Raises:
            NameError: with ``name`` set, a name in it is not defined.
            Exception: whatever else evaluating it raises.
        """
        module = sys.modules.get(self.cls.__module__)
        names = vars(module) if module is not None else {}
        local: dict[str, Any] = {self.cls.__name__: self.cls, **vars(self.cls)}
        for parameter in getattr(self.cls, "__type_params__", ()):
            local[parameter.__name__] = parameter
        while True:
            try:
                return eval(text, dict(names), local)
            except NameError as error:
                missing = error.name
                if missing is None or missing in local:
                    raise
                found = _type_checking_import(module, missing)
                if found is None:
                    raise
                local[missing] = found[0]


def own_annotations(cls: type[Any]) -> dict[str, Any]:
    """The annotations in the class's own body, as written or evaluated, never raising for an undefined name."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return dict(annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF))
    return inspect.get_annotations(cls)


def resolve_early(cls: type[Any], frame: FrameType | None) -> None:
    """Of a class inside a function: evaluate what can be, while the function's variables can still be seen."""
    resolved: dict[str, Any] = {}
    names: dict[str, Any] = {}
    functions = cls.__qualname__.split(".<locals>")
    enclosing = {".<locals>".join(functions[:n]) for n in range(1, len(functions))}
    while frame is not None and enclosing:
        if frame.f_code.co_qualname in enclosing:
            enclosing.remove(frame.f_code.co_qualname)
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    module = sys.modules.get(cls.__module__)
    for name, annotation in own_annotations(cls).items():
        if isinstance(annotation, str):
            try:
                resolved[name] = eval(
                    annotation, dict(vars(module)) if module else {}, {**names, cls.__name__: cls}
                )
            except Exception:
                continue  # tried again at the first instance, which reports it
    setattr(cls, _RESOLVED, resolved)


def resolve(scope: Scope, field: str, annotation: Any) -> Any:
    """The type of one annotation.

    Raises:
        FuruDefinitionError: naming class, field and name: a name in it cannot be found.
    """
    early = scope.cls.__dict__.get(_RESOLVED, {})
    if field in early:
        return early[field]
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if not isinstance(annotation, str):
        return annotation
    try:
        return scope.evaluate(annotation)
    except NameError as error:
        raise FuruDefinitionError(
            f"{scope.cls.__qualname__}.{field}: the name {error.name!r} in its annotation {annotation!r} is not "
            f"defined in module {scope.cls.__module__}",
            hint="import or define it at the top level of that module; an import below `if TYPE_CHECKING:` is fine "
            "if it can be done when the first instance is made",
        ) from None
    except FuruDefinitionError:
        raise
    except Exception as error:
        raise FuruDefinitionError(
            f"{scope.cls.__qualname__}.{field}: its annotation {annotation!r} cannot be evaluated: "
            f"{type(error).__name__}: {error}"
        ) from error


def typevars_of(cls: type[Any], arguments: tuple[Any, ...] = ()) -> dict[type[Any], dict[Any, Any]]:
    """For each class among the ancestors of ``cls``: what its type variables stand for, seen from ``cls``."""
    found: dict[type[Any], dict[Any, Any]] = {}
    parameters = getattr(cls, "__parameters__", ())
    pending: list[tuple[type[Any], dict[Any, Any]]] = [(cls, dict(zip(parameters, arguments, strict=False)))]
    while pending:
        owner, mapping = pending.pop()
        if owner in found:
            continue
        found[owner] = mapping
        for base in owner.__dict__.get("__orig_bases__", owner.__bases__):
            origin = get_origin(base) or base
            if origin is Generic or origin is typing.Protocol or not isinstance(origin, type):
                continue
            names = getattr(origin, "__parameters__", ())
            values = [substitute(value, mapping) for value in get_args(base)]
            pending.append((origin, dict(zip(names, values, strict=False))))
    return found


def substitute(tp: Any, typevars: TypeVars) -> Any:
    """``tp`` with its type variables replaced where they are known."""
    if isinstance(tp, TypeVar):
        return typevars.get(tp, tp)
    parameters = getattr(tp, "__parameters__", ())
    if typevars and parameters and get_origin(tp) is not None:
        return tp[tuple(typevars.get(parameter, parameter) for parameter in parameters)]
    return tp


def _type_checking_import(module: Any, name: str) -> tuple[Any] | None:
    """What an import below ``if TYPE_CHECKING:`` would have bound to ``name``, in a tuple; None if there is none."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or hasattr(builtins, name):
        return None
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None
    for statement in tree.body:
        if not isinstance(statement, ast.If) or "TYPE_CHECKING" not in ast.dump(statement.test):
            continue
        for inner in statement.body:
            for target in inner.names if isinstance(inner, ast.Import | ast.ImportFrom) else ():
                if (target.asname or target.name.partition(".")[0]) == name:
                    return _do_import(inner, target, module)
    return None


def _do_import(statement: ast.stmt, target: ast.alias, module: Any) -> tuple[Any] | None:
    try:
        if isinstance(statement, ast.ImportFrom):
            package = module.__package__ if statement.level else None
            source = importlib.import_module("." * statement.level + (statement.module or ""), package)
            if not hasattr(source, target.name):
                return (importlib.import_module(f"{source.__name__}.{target.name}"),)
            return (getattr(source, target.name),)
        imported = importlib.import_module(target.name)
        return (imported if target.asname else sys.modules[target.name.partition(".")[0]],)
    except Exception:
        return None  # the caller reports the name as not defined
