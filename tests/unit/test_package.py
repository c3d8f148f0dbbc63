"""The package as a whole: it imports cleanly and cheaply, its names and annotations hold."""

import ast
import functools
import importlib
import inspect
import pkgutil
import subprocess
import sys
import typing
from types import ModuleType

import pytest

import furu_async

HEAVY = ("submitit", "rich", "click", "numpy", "anyio", "aiofiles", "psutil", "asyncio")


def module_names() -> list[str]:
    return sorted(
        ["furu_async", *(each.name for each in pkgutil.walk_packages(furu_async.__path__, "furu_async."))]
    )


def own_public(module: ModuleType) -> list[tuple[str, object]]:
    """Classes and functions that a module defines itself, with the methods of the classes."""
    found: list[tuple[str, object]] = []
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__ or name.startswith("_"):
            continue
        if inspect.isclass(value):
            found.append((name, value))
            methods = inspect.getmembers(value, inspect.isfunction)
            found += [
                (f"{name}.{each}", method) for each, method in methods if method.__module__ == module.__name__
            ]
        elif inspect.isfunction(value):
            found.append((name, value))
    return found


@pytest.mark.parametrize("name", module_names())
def test_every_module_imports_and_every_annotation_resolves(name: str) -> None:
    module = importlib.import_module(name)
    for where, value in own_public(module):
        bases = [base.__module__ for base in value.__mro__] if isinstance(value, type) else [name]
        homes = [sys.modules[base] for base in reversed(bases) if base.startswith("furu_async")]
        names: dict[str, object] = {}
        for home in homes:
            # What is imported under TYPE_CHECKING is filled in, as a type checker would.
            names |= {**vars(home), **_checker_names(home)}
        try:
            typing.get_type_hints(value, globalns=names, include_extras=True)
        except Exception as error:
            pytest.fail(f"{name}.{where}: {type(error).__name__}: {error}")


@functools.cache
def _checker_names(module: ModuleType) -> dict[str, object]:
    if module.__file__ is None:
        return {}
    with open(module.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    names: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for each in node.body:
                if isinstance(each, ast.Import | ast.ImportFrom):
                    exec(compile(ast.Module([each], []), module.__file__, "exec"), names)
    names.pop("__builtins__", None)
    return names


@pytest.mark.fault("F24")
def test_no_module_takes_a_file_lock() -> None:
    # On network file systems they may do nothing, or be lost; claims are links instead.
    for name in module_names():
        tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {
            each.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for each in node.names
        }
        assert not used & {"flock", "lockf", "F_SETLK", "F_SETLKW", "filelock", "portalocker"}, name


def in_a_process(code: str, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_it_warns_of_nothing() -> None:
    in_a_process("import furu_async", "-W", "error")


@pytest.mark.parametrize("statement", ["import furu_async", "from furu_async import Furu, field, dependency"])
def test_importing_it_loads_nothing_heavy(statement: str) -> None:
    loaded = in_a_process(
        f"{statement}; import sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert loaded == ""


def test_running_a_dag_needs_no_terminal_library() -> None:
    heavy = ("rich", "click", "submitit", "numpy")
    code = f"from furu_async import run_dag; import sys; print(*[each for each in {heavy!r} if each in sys.modules])"
    assert in_a_process(code) == ""


def test_public_names_are_listed_and_there() -> None:
    assert len(set(furu_async.__all__)) == len(furu_async.__all__)
    for name in furu_async.__all__:
        assert getattr(furu_async, name) is not None
    assert set(furu_async.__all__) == set(furu_async._HOMES) | {"errors"}
    assert set(furu_async.__all__) <= set(dir(furu_async))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = furu_async.nothing_like_it


@pytest.mark.parametrize("name", ["furu_async", "furu_async.errors", "furu_async.testing"])
def test_public_modules_say_what_is_public(name: str) -> None:
    module = importlib.import_module(name)
    public = {
        each
        for each, value in vars(module).items()
        if not each.startswith("_") and getattr(value, "__module__", None) == name
    }
    assert public <= set(module.__all__)


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert furu_async.__version__ == version("furu-async")
