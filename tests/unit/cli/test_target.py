import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from furu_async import Furu
from furu_async._cli.target import TargetError, load_targets
from furu_async.errors import FuruDefinitionError

SOURCE = """
from furu_async import Furu

class Train(Furu[float]):
    lr: float
    def _create(self) -> float:
        return self.lr

class Simple(Furu[int]):
    def _create(self) -> int:
        return 1

one = Train(lr=0.1)
many = [Train(lr=0.1), Train(lr=0.2)]
lazy = (each for each in many)
mixed = [one, "two"]
nothing = []
number = 7

class box:
    inner = one

def made():
    return many

async def awaited():
    return (one,)

def sized(n):
    return many[:n]

def sized_with_default(n=1):
    return many[:n]

def broken():
    raise RuntimeError("no \\x1b[1mdata")

def of_numbers():
    return 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a module that no other test can have imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("cli_pipeline.py", "cli secret.py", "cli.v2.py", "notes.txt"):
        (tmp_path / name).write_text(SOURCE)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("cli_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("target", "rates"),
    [
        ("one", [0.1]),
        ("many", [0.1, 0.2]),
        ("lazy", [0.1, 0.2]),
        ("box.inner", [0.1]),
        ("made", [0.1, 0.2]),
        ("awaited", [0.1]),
        ("sized_with_default", [0.1]),
    ],
)
@pytest.mark.parametrize("where", ["cli_pipeline", "cli_pipeline.py", "./cli_pipeline.py"])
def test_what_can_be_run_is_found(folder: Path, where: str, target: str, rates: list[float]) -> None:
    found = load_targets(f"{where}:{target}")
    assert [each.lr for each in found] == rates  # type: ignore[attr-defined]
    assert type(found[0]).__module__ == "cli_pipeline"


def test_a_class_with_defaults_is_made(folder: Path) -> None:
    assert [type(each).__name__ for each in load_targets("cli_pipeline:Simple")] == ["Simple"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("cli_pipeline", ["names no target", "module:target"]),
        (":one", ["names no target"]),
        ("cli_pipeline:", ["names no target"]),
        ("cli_pipelin:one", ["no module 'cli_pipelin'", "did you mean cli_pipeline?", "working directory"]),
        ("no-module:one", ["no module 'no-module'"]),
        ("no module:one", ["'no module' is no module name"]),
        ("absent.py:one", ["no file absent.py", "working directory"]),
        ("./cli_pipeline:one", ["no file ./cli_pipeline", "did you mean ./cli_pipeline.py?"]),
        ("./:one", ["./ is a folder"]),
        ("./notes.txt:one", ["./notes.txt is no .py file"]),
        ("cli secret.py:one", ["'cli secret' is no module name", "rename"]),
        ("cli.v2.py:one", ["'cli.v2' is no module name", "rename"]),
        ("cli_pipeline:ones", ["has no 'ones'", "did you mean one?"]),
        ("cli_pipeline:zzz", ["has no 'zzz'", "it has ", "made", "many", "one"]),
        ("cli_pipeline:box.outer", ["'box' has no 'outer'"]),
        ("cli_pipeline:number", ["is no artifact but a value of type int"]),
        ("cli_pipeline:nothing", ["is empty"]),
        ("cli_pipeline:mixed", ["mixed[1] is no artifact"]),
        ("cli_pipeline:sized", ["function that needs n"]),
        ("cli_pipeline:Train", ["class that needs lr"]),
        ("cli_pipeline:box", ["is the class box"]),
        ("cli_pipeline:broken", ["RuntimeError", "line", "broken"]),
        ("cli_pipeline:of_numbers", ["is no artifact but a value of type int"]),
    ],
)
def test_what_cannot_says_why(folder: Path, target: str, words: list[str]) -> None:
    with pytest.raises(TargetError) as caught:
        load_targets(target)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nothing_of_the_kind", ["needs 'nothing_of_the_kind', which is not installed"]),
        ("x = 1 / 0", ["importing 'cli_bad' failed", "cli_bad.py", "ZeroDivisionError"]),
        ("def f(:", ["importing 'cli_bad' failed", "SyntaxError"]),
        ("raise SystemExit(3)", ["ends the program (exit code 3)", "__main__"]),
    ],
)
@pytest.mark.parametrize("where", ["cli_bad", "cli_bad.py"])
def test_a_module_that_does_not_import_says_where(
    folder: Path, where: str, source: str, words: list[str]
) -> None:
    (folder / "cli_bad.py").write_text(source)
    with pytest.raises(TargetError) as caught:
        load_targets(f"{where}:x")
    for word in words:
        assert word in str(caught.value)
    assert "importlib" not in str(caught.value)


def test_a_definition_error_of_the_library_stays_what_it_is(folder: Path) -> None:
    (folder / "cli_bad.py").write_text(
        "from furu_async import Furu\nclass A(Furu[int]):\n    x: int\n"
        "    def _create(self):\n        return 1\na = A(x='no')\n"
    )
    with pytest.raises(FuruDefinitionError) as caught:
        load_targets("cli_bad:a")
    assert not isinstance(caught.value, TargetError)


def test_a_file_of_a_package_is_imported_under_its_full_name(folder: Path) -> None:
    inner = folder / "top" / "cli_pkg" / "sub"
    inner.mkdir(parents=True)
    for each in (inner, inner.parent):
        (each / "__init__.py").touch()
    (inner / "steps.py").write_text(SOURCE)
    (found,) = load_targets("top/cli_pkg/sub/steps.py:one")
    assert type(found).__module__ == "cli_pkg.sub.steps"


@pytest.mark.parametrize("name", ["json", "calendar", "code", "__main__"])
def test_a_file_named_like_a_module_of_python_is_refused(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text(SOURCE)
    with pytest.raises(TargetError, match=f"already has a module '{name}'"):
        load_targets(f"./{name}.py:one")


def test_a_file_named_like_a_module_that_is_loaded_is_refused(folder: Path) -> None:
    (folder / "pytest.py").write_text(SOURCE)
    with pytest.raises(TargetError, match="already has a module 'pytest'"):
        load_targets("./pytest.py:one")


@pytest.mark.parametrize(
    "where", ["cli_my-steps", "./cli_your-steps.py", "cli_2024-11.py", "a b-c/cli_ü-1.py"]
)
def test_a_dash_in_the_name_of_a_file_is_no_hindrance(folder: Path, where: str) -> None:
    stem = where.rpartition("/")[2].removesuffix(".py")
    file = folder / where.rpartition("/")[0] / f"{stem}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(SOURCE)
    (found,) = load_targets(f"{where}:one")
    assert type(found).__module__ == stem
    assert Furu.from_dict(found.to_dict()) == found


def test_the_file_of_a_package_itself(folder: Path) -> None:
    (folder / "cli_pkg").mkdir()
    (folder / "cli_pkg" / "__init__.py").write_text(SOURCE)
    (found,) = load_targets("cli_pkg/__init__.py:one")
    assert type(found).__module__ == "cli_pkg"


def test_a_file_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything: what the system would say to others is said here.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "cli_pipeline.py")
    with pytest.raises(TargetError, match="may not be read"):
        load_targets("cli_pipeline.py:one")
