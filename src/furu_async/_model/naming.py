"""The names of classes: the one in the store, and the one under which another process can import them.

A class defined in a script's ``__main__`` is named as a child will import it, so parent and child agree on every
hash. A class that no other process can find is refused when its name is first needed, with what to do.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from furu_async._model.base import Artifact
from furu_async._model.brief import clip, safe_repr
from furu_async.errors import FuruDefinitionError, FuruSpecMismatch

if TYPE_CHECKING:
    from furu_async._model.artifact import Furu

_MAIN = ("__main__", "__mp_main__")
_PART = r"[^\W\d]\w*"
_NAME = re.compile(rf"{_PART}(\.{_PART})*")
_MODULE = re.compile(r"[^\W][\w-]*(\.[^\W][\w-]*)*")
_QUALNAME = re.compile(rf"{_PART}(\.{_PART})*")
_REFERENCE = re.compile(r"(?:(?P<name>[^=:]+)=)?(?P<module>[^=:]+):(?P<qualname>[^=:]+)")

_MOVE = "move the class to a module (a .py file that can be imported) and import it from there"

_registry: dict[str, tuple[type[Any], str]] = {}
_references: dict[type[Any], str] = {}


def reference(cls: type[Any]) -> str:
    """``module:qualname`` under which any process of this run finds ``cls``; remembered.

    Raises:
        FuruDefinitionError: there is no such name (local class, notebook, ``-c``, replaced class).
    """
    found = _references.get(cls)
    if found is None:
        found = _references[cls] = f"{_module_of(cls)}:{cls.__qualname__}"
    return found


def check_name(name: object, cls: type[Any]) -> str:
    """The class keyword ``name=``, if it can be used as a path.

    Raises:
        FuruDefinitionError: it is not dotted identifiers.
    """
    if not isinstance(name, str) or len(name) > 200 or not _NAME.fullmatch(name):
        raise FuruDefinitionError(
            f"class {cls.__qualname__}: name={safe_repr(name)} is not possible",
            hint='use dotted identifiers, such as name="pkg.Train"',
        )
    return name


def is_module_name(name: str) -> bool:
    """Whether processes can import a module of this name; as a script may have it, a ``-`` is no hindrance."""
    return _MODULE.fullmatch(name) is not None


def register(name: str, cls: type[Any]) -> None:
    """Note that ``cls`` is stored under ``name``.

    A class defined again at the same place (a reloaded module, a script that is also imported) replaces the earlier.

    Raises:
        FuruDefinitionError: a class defined elsewhere has that name.
    """
    place = _place(cls)
    known = _registry.get(name)
    if known is not None and known[0] is not cls:
        if known[1] != place:
            raise FuruDefinitionError(
                f"two classes have the name {name!r} in the store: {known[1]} and {place}",
                hint='give one of them another name with the class keyword, such as name="pkg.Train2"',
            )
        if known[0].__module__ in _MAIN:
            return  # the class that the user's own script holds is the one to make instances of
    _registry[name] = (cls, place)


def store_name(cls: type[Furu[Any]]) -> str:
    """The name of ``cls`` in the store: the class keyword ``name=``, or ``module.qualname``; remembered.

    Raises:
        FuruDefinitionError: no other process could import it, or another class has its name.
    """
    definition = cls.__furu__
    if definition.name is None:
        module, _, qualname = reference(cls).partition(":")
        name = definition.pinned or f"{module}.{qualname}"
        register(name, cls)
        definition.name = name
    return definition.name


def class_reference(cls: type[Furu[Any]]) -> str:
    """What an entry of a table says of a class: ``module:qualname``, after ``name=`` where that is pinned."""
    where = reference(cls)
    pinned = cls.__furu__.pinned
    return f"{pinned}={where}" if pinned else where


def load_class(name: str) -> type[Furu[Any]]:
    """The artifact class of this name: a store name, ``module:qualname`` or ``name=module:qualname``.

    Raises:
        FuruSpecMismatch: there is no such artifact class in this process's code.
    """
    match = _REFERENCE.fullmatch(name)
    wanted = name if match is None else match["name"] or f"{match['module']}.{match['qualname']}"
    known = _registry.get(wanted)
    if known is not None:
        return cast("type[Furu[Any]]", known[0])
    if match is not None:
        found = _find(match["module"], match["qualname"], name)
    else:
        found = _search(name)
    if not (isinstance(found, type) and issubclass(found, Artifact)) or "__furu__" not in found.__dict__:
        raise FuruSpecMismatch(
            f"{clip(name)!r} is not an artifact class but {safe_repr(found)}; it was not used",
            hint="the table was made by other code, or was tampered with",
        )
    cls = cast("type[Furu[Any]]", found)
    actual = store_name(cls)
    if actual != wanted and (match is None or match["name"]):
        raise FuruSpecMismatch(
            f"the class at {clip(name)!r} is called {actual!r} in this process's code, not {wanted!r}",
            hint="the code changed since the table was made: start the run again",
        )
    return cls


def load_type(name: str) -> type[Any]:
    """The class of a value (an enum, a dataclass, a named tuple) by ``module:qualname``; the caller checks its kind.

    Raises:
        FuruSpecMismatch: it cannot be found, or is no class.
    """
    match = _REFERENCE.fullmatch(name)
    if match is None or match["name"]:
        raise FuruSpecMismatch(f"{clip(name)!r} is not the name of a class")
    found = _find(match["module"], match["qualname"], name)
    if not isinstance(found, type):
        raise FuruSpecMismatch(f"{clip(name)!r} is not a class but {safe_repr(found)}; it was not used")
    return found


def script_import() -> tuple[str, str] | None:
    """How a child imports this process's script: module name and folder to have on ``sys.path``; None if it cannot."""
    main = sys.modules.get("__main__")
    name = "" if main is None else _script_name(main)
    if main is None or not name:
        return None
    spec = getattr(main, "__spec__", None)
    return name, "" if spec is not None else os.path.dirname(os.path.abspath(main.__file__ or ""))


def main_name(main: ModuleType) -> str:
    """The name under which another process can import the module that runs as ``__main__``.

    Raises:
        FuruDefinitionError: there is none: a notebook, ``-c``, standard input, or a file that cannot be imported.
    """
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in _MAIN:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if not isinstance(file, str) or not os.path.isfile(file):
        raise FuruDefinitionError(
            "a class defined in a notebook cell, an interactive session, `python -c` or standard input cannot be "
            "found by another process",
            hint=_MOVE,
        )
    folder, base = os.path.split(os.path.abspath(file))
    stem, extension = os.path.splitext(base)
    if extension != ".py" or not _MODULE.fullmatch(stem) or "." in stem:
        raise FuruDefinitionError(
            f"a class defined in {file} cannot be found by another process: {base!r} is not the name of a module",
            hint="rename the script to letters, digits, '_' and '-' with .py at the end",
        )
    found = _origin(stem, folder)
    if found is None or not os.path.isfile(found) or not os.path.samefile(found, file):
        raise FuruDefinitionError(
            f"a class defined in {file} cannot be found by another process: `import {stem}` finds {found or 'nothing'}",
            hint="rename the script: another module has its name",
        )
    return stem


def _origin(stem: str, folder: str) -> str | None:
    if stem in sys.stdlib_module_names or stem in _MAIN:
        return f"Python's own module {stem}"
    path = sys.path if folder in map(os.path.abspath, sys.path) else [folder, *sys.path]
    spec = PathFinder.find_spec(stem, path)
    return None if spec is None else spec.origin


def _module_of(cls: type[Any]) -> str:
    module_name, qualname = cls.__module__, cls.__qualname__
    if "<locals>" in qualname:
        raise FuruDefinitionError(
            f"class {qualname} is defined inside a function, where no other process can find it",
            hint="define the class at the top level of a module",
        )
    module = sys.modules.get(module_name)
    importable = module_name
    if module_name in _MAIN and module is not None:
        try:
            importable = main_name(module)
        except FuruDefinitionError as error:
            raise FuruDefinitionError(
                f"class {qualname} of {module_name}: {error.message}", error.hint
            ) from None
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is not cls:
        instead = "nothing is there" if found is None else f"{safe_repr(found)} is there instead"
        raise FuruDefinitionError(
            f"class {qualname} cannot be found by another process under its name {module_name}.{qualname}: {instead}",
            hint="keep the class at the top level of its module under its own name; a class that was defined again "
            "needs new instances",
        )
    return importable


def _place(cls: type[Any]) -> str:
    """Where a class's code is: file and qualified name; the same for a script and its import as a module."""
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    where = os.path.realpath(file) if isinstance(file, str) else cls.__module__
    return f"{cls.__qualname__} in {where}"


def _find(module_name: str, qualname: str, shown: str) -> Any:
    if not _MODULE.fullmatch(module_name) or not _QUALNAME.fullmatch(qualname):
        raise FuruSpecMismatch(f"{clip(shown)!r} is not the name of a class")
    module = _import(module_name, shown)
    found: Any = module
    for part in qualname.split("."):
        # Only classes are walked through: an attribute of anything else may run code.
        if found is not module and not isinstance(found, type):
            found = None
        found = vars(found).get(part) if found is not None else None
    if found is None:
        raise FuruSpecMismatch(
            f"this process's code has no {qualname!r} in module {module_name!r}",
            hint="the code differs from that of the process which started the run",
        )
    return found


def _import(name: str, shown: str) -> ModuleType:
    for alias in _MAIN:
        running = sys.modules.get(alias)
        if running is not None and _script_name(running) == name:
            return running  # importing the script a second time would make every class twice
    if name in sys.modules and name not in _MAIN:
        return sys.modules[name]
    if name.partition(".")[0] in sys.stdlib_module_names:
        raise FuruSpecMismatch(f"{clip(shown)!r} names a module of Python itself; it was not imported")
    try:
        return importlib.import_module(name)
    except FuruDefinitionError as error:
        raise FuruSpecMismatch(f"importing module {name!r} failed: {error.message}", error.hint) from error
    except (Exception, SystemExit) as error:
        raise FuruSpecMismatch(
            f"module {name!r}, where {clip(shown)!r} should be, cannot be imported here: "
            f"{type(error).__name__}: {clip(str(error), 300)}",
            hint="is the same code, and the same sys.path, there as in the process which started the run?",
        ) from error


_script_names: dict[ModuleType, str] = {}


def _script_name(main: ModuleType) -> str:
    """`main_name`, remembered; empty where there is none."""
    known = _script_names.get(main)
    if known is None:
        try:
            known = main_name(main)
        except FuruDefinitionError:
            known = ""
        _script_names[main] = known
    return known


def _search(name: str) -> Any:
    """A dotted name without the colon: the longest prefix that is a module."""
    if not _NAME.fullmatch(name) or "." not in name:
        raise FuruSpecMismatch(f"no artifact class is known under the name {clip(name)!r}")
    parts = name.split(".")
    error: FuruSpecMismatch | None = None
    for cut in range(len(parts) - 1, 0, -1):
        try:
            return _find(".".join(parts[:cut]), ".".join(parts[cut:]), name)
        except FuruSpecMismatch as caught:
            error = error or caught
    assert error is not None
    raise error
