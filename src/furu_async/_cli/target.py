"""From ``module:target`` on a command line to artifacts: import, attribute path, call, check.

Every mistake a person can make here ends in a `TargetError` that says what was found instead and what would do.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from furu_async._model.naming import is_module_name
from furu_async.errors import FuruDefinitionError, FuruError

if TYPE_CHECKING:
    from furu_async._model.artifact import Furu

__all__ = ["TargetError", "load_targets"]

_FORM = "write it as `package.module:target` or `path/to/file.py:target`"


class TargetError(FuruDefinitionError):
    """The target of a command cannot be found or is nothing that can be run."""


def load_targets(spec: str) -> list[Furu[Any]]:
    """The artifacts that ``spec`` names.

    ``spec`` is ``package.module:path.to.attribute`` or ``path/to/file.py:attribute``; the attribute is an artifact, an
    iterable of artifacts, an artifact class whose fields all have defaults, or a function without required arguments
    (sync or async) that returns one of these. The working directory is put on ``sys.path``.

    Raises:
        TargetError: there is no such thing, or it is nothing that can be run.
    """
    where, colon, path = spec.rpartition(":")
    if not colon or not where or not path:
        raise TargetError(f"{spec!r} names no target", _FORM)
    module = _import_file(where) if _looks_like_file(where) else _import_module(where)
    return _artifacts(_call(_attribute(module, path), spec), spec)


def _looks_like_file(where: str) -> bool:
    return where.endswith(".py") or "/" in where


def _put_first(folder: str) -> None:
    """Put ``folder`` first on ``sys.path``, which is handed to the child processes as it is."""
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def _import_module(name: str) -> ModuleType:
    _put_first(str(Path.cwd()))
    if not is_module_name(name):
        raise TargetError(f"{name!r} is no module name", _FORM)
    try:
        return _import(name)
    except ModuleNotFoundError as error:
        raise TargetError(
            f"there is no module {error.name!r}",
            f"looked in the working directory {Path.cwd()} and where Python finds packages{_similar_files(name)}",
        ) from error


def _similar_files(name: str) -> str:
    first = name.split(".")[0]
    here = [
        path.stem for path in Path.cwd().iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    ]
    close = difflib.get_close_matches(first, here, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _import_file(where: str) -> ModuleType:
    path = _python_file(where)
    top, names = path.parent, [path.stem]
    if path.stem == "__init__" and is_module_name(top.name):
        top, names = top.parent, [top.name]
    while (top / "__init__.py").is_file():  # inside a package: import it under its full name
        names.insert(0, top.name)
        top = top.parent
    name = ".".join(names)
    unfit = [part for part in names if "." in part or not is_module_name(part)]
    if unfit:
        raise TargetError(
            f"{where} cannot be imported: {unfit[-1]!r} is no module name",
            "child processes import the module by its name: rename it to letters, digits, '_' and '-'",
        )
    if names[0] in sys.stdlib_module_names or names[0] == "__main__":
        raise TargetError(
            f"{where} cannot be imported: Python already has a module {names[0]!r} of its own", "rename it"
        )
    _put_first(str(Path.cwd()))
    _put_first(str(top))
    module = _import(name)
    found = getattr(module, "__file__", None)
    if found is None or not Path(found).samefile(path):
        raise TargetError(
            f"{where} cannot be imported: Python already has a module {name!r} ({found or 'built in'})",
            "rename the file",
        )
    return module


def _python_file(where: str) -> Path:
    path = Path(where).expanduser().absolute()
    if path.suffix == ".py" and path.is_file():
        if not os.access(path, os.R_OK):
            raise TargetError(f"the file {where} may not be read", "see its permissions, and whose it is")
        return path
    beside = path.with_name(f"{path.name}.py")
    hint = f"did you mean {where}.py?" if beside.is_file() else f"the working directory is {Path.cwd()}"
    if path.is_dir():
        raise TargetError(f"{where} is a folder", hint if beside.is_file() else _FORM)
    if path.exists():
        raise TargetError(f"{where} is no .py file", hint if beside.is_file() else _FORM)
    raise TargetError(f"there is no file {where}", hint)


def _import(name: str) -> ModuleType:
    """Import a module; what goes wrong inside it is told as such.

    Raises:
        ModuleNotFoundError: there is no module of this name.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise
        raise TargetError(f"module {name!r} needs {missing!r}, which is not installed") from error
    except FuruError:
        raise
    except SystemExit as error:
        raise TargetError(
            f"importing {name!r} ends the program (exit code {error.code})",
            "put what the script does under `if __name__ == '__main__':`",
        ) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> TargetError:
    """An exception in the user's module, told with the user's frames only."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if not each.filename.startswith("<frozen") and each.filename != __file__]
    own = [each for each in own if "/importlib/" not in each.filename]
    text = "".join([*traceback.format_list(own[-4:]), *traceback.format_exception_only(error)])
    return TargetError(f"importing {name!r} failed:\n{text.rstrip()}")


def _attribute(module: ModuleType, path: str) -> Any:
    value: Any = module
    for index, name in enumerate(path.split(".")):
        try:
            value = getattr(value, name)
        except AttributeError:
            owner = f"module {module.__name__!r}" if index == 0 else repr(".".join(path.split(".")[:index]))
            raise TargetError(f"{owner} has no {name!r}", _suggest(module, value, name)) from None
    return value


def _suggest(module: ModuleType, owner: Any, name: str) -> str:
    names = [each for each in dir(owner) if not each.startswith("_")]
    close = difflib.get_close_matches(name, names, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if owner is not module:
        return ""
    runnable = [each for each in names if _can_run(getattr(module, each, None), module)]
    return f"it has {', '.join(runnable[:8])}" if runnable else "nothing in it looks like a target"


def _can_run(value: Any, module: ModuleType) -> bool:
    from furu_async._model.artifact import Furu

    if isinstance(value, Furu):
        return True
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(each, Furu) for each in value)
    if not callable(value) or getattr(value, "__module__", None) != module.__name__:
        return False
    return not _needed(value)


def _needed(function: Any) -> list[str]:
    """Names of the arguments without which ``function`` cannot be called."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variable]


def _call(value: Any, spec: str) -> Any:
    from furu_async._model.artifact import Furu

    if isinstance(value, Furu) or not callable(value):
        return value
    if isinstance(value, type) and not issubclass(value, Furu):
        raise TargetError(f"{spec} is the class {value.__name__}, not an artifact")
    needed = _needed(value)
    if needed:
        what = "class" if isinstance(value, type) else "function"
        raise TargetError(
            f"{spec} is a {what} that needs {', '.join(needed)}",
            "name an artifact, or a function without arguments that returns the artifacts",
        )
    try:
        result = value()
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result
    except FuruError:
        raise
    except Exception as error:
        raise _broken(spec, error) from error


async def _awaited(result: Any) -> Any:
    return await result


def _artifacts(value: Any, spec: str) -> list[Furu[Any]]:
    from furu_async._model.artifact import Furu

    if isinstance(value, Furu):
        return [value]
    if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
        raise TargetError(
            f"{spec} is no artifact but a value of type {type(value).__name__}",
            "a Furu, or a list of them, can be run",
        )
    targets = list(value)
    for index, each in enumerate(targets):
        if not isinstance(each, Furu):
            raise TargetError(f"{spec}[{index}] is no artifact but a value of type {type(each).__name__}")
    if not targets:
        raise TargetError(f"{spec} is empty: there is nothing to run")
    return targets
