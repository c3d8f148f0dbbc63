"""Names of classes: the same in a script and in a child that imports it; refused where no child could find them."""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import model_cases as cases
import pytest

from furu_async import Furu
from furu_async._model import context
from furu_async._model.naming import load_class, main_name, script_import, store_name
from furu_async.errors import FuruDefinitionError, FuruSpecMismatch

SCRIPT = """
from __future__ import annotations
import enum, json, sys
from furu_async import Furu, field

class Mode(enum.Enum):
    FAST = 1

class Data(Furu[int]):
    mode: Mode = Mode.FAST
    def _create(self) -> int:
        return 1

class Train(Furu[int]):
    data: Data = field(default_factory=Data)
    class Inner(Furu[int]):
        def _create(self) -> int:
            return 1
    def _create(self) -> int:
        return 1

def report() -> None:
    from furu_async._model.naming import load_class, script_import, store_name
    train = Train()
    again = Furu.from_dict(train.to_dict())
    print(json.dumps({
        "name": store_name(Train), "inner": store_name(Train.Inner), "hash": train.furu_hash,
        "cls": train.to_dict()["nodes"][-1]["cls"], "script": script_import(),
        "same": type(again) is Train, "loaded": load_class(store_name(Train)) is Train,
    }))

if __name__ == "__main__":
    report()
"""


def run(*arguments: str, cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.py"
    path.write_text(SCRIPT)
    return path


def test_a_script_has_the_names_under_which_it_is_imported(script: Path, tmp_path: Path) -> None:
    imported = answer(run("-c", "import pipeline; pipeline.report()", cwd=tmp_path))
    assert imported["name"] == "pipeline.Train"
    assert imported["inner"] == "pipeline.Train.Inner"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for done in (
        run("pipeline.py", cwd=tmp_path),
        run("-m", "pipeline", cwd=tmp_path),
        run(str(script), cwd=elsewhere),
        run("-P", str(script), cwd=elsewhere),
    ):
        found = answer(done)
        assert (found["name"], found["hash"], found["cls"]) == (
            imported["name"],
            imported["hash"],
            "pipeline:Train",
        )
        assert found["same"]
        assert found["loaded"]
    assert answer(run("pipeline.py", cwd=tmp_path))["script"] == ["pipeline", str(tmp_path)]


def test_a_script_that_is_also_imported_has_each_class_once(script: Path, tmp_path: Path) -> None:
    script.write_text(
        SCRIPT
        + """
    import pipeline
    assert pipeline.Train is not Train
    assert pipeline.Train() == Train() and hash(pipeline.Train()) == hash(Train())
    assert Train(data=pipeline.Data()) == Train()
    assert type(Furu.from_dict(pipeline.Train().to_dict())) is Train
"""
    )
    assert answer(run("pipeline.py", cwd=tmp_path))["same"]


def test_a_package_run_with_m(tmp_path: Path) -> None:
    package = tmp_path / "tool"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(SCRIPT)
    (package / "work.py").write_text(SCRIPT)
    assert answer(run("-m", "tool", cwd=tmp_path))["name"] == "tool.__main__.Train"
    assert answer(run("-m", "tool.work", cwd=tmp_path))["name"] == "tool.work.Train"


@pytest.mark.parametrize("how", ["-c", "stdin", "notebook"])
def test_where_no_child_could_find_the_class(how: str, tmp_path: Path) -> None:
    if how == "-c":
        done = run("-c", SCRIPT, cwd=tmp_path)
    elif how == "stdin":
        done = run("-", cwd=tmp_path, stdin=SCRIPT)
    else:
        notebook = f"""
import sys, types
main = types.ModuleType("__main__"); main.__file__ = None
sys.modules["__main__"] = main; main.__dict__.pop("__file__")
exec({SCRIPT!r}, main.__dict__)
"""
        (tmp_path / "kernel.py").write_text(notebook)
        done = run("kernel.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "FuruDefinitionError" in done.stderr
    assert "notebook cell, an interactive session, `python -c` or standard input" in done.stderr
    assert "move the class to a module" in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my.script.py", "is not the name of a module"),
        ("tool", "is not the name of a module"),
        ("time.py", "time"),
    ],
)
def test_a_script_that_cannot_be_imported(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(SCRIPT)
    done = run(name, cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be found by another process" in done.stderr
    assert words in done.stderr
    assert "rename the script" in done.stderr


def test_a_script_with_a_dash_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "my-script.py").write_text(SCRIPT)
    assert answer(run("my-script.py", cwd=tmp_path))["name"] == "my-script.Train"


def test_a_link_to_a_script(script: Path, tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "other.py").symlink_to(script)
    found = answer(run(str(folder / "other.py"), cwd=tmp_path))
    assert found["name"] == "other.Train"
    assert found["script"] == ["other", str(folder)]


def test_local_classes_are_refused_when_hashed_or_run() -> None:
    class Local(Furu[int]):
        def _create(self) -> int:
            return 1

    local = Local()
    assert repr(local).endswith("Local()")
    for use in (lambda: local.furu_hash, lambda: hash(local), local.to_dict, lambda: local == Local()):
        with pytest.raises(
            FuruDefinitionError, match=r"defined inside a function.*\n.*top level of a module"
        ):
            use()
    assert local == local
    assert local != 1
    assert local != cases.Leaf()


def test_a_local_enum_as_a_value_is_refused_when_hashed() -> None:
    import enum

    class Local(enum.Enum):
        A = 1

    with pytest.raises(FuruDefinitionError, match=r"Local is defined inside a function"):
        _ = cases.Holder(anything=Local.A).furu_hash


def make(module: str, qualname: str, **keywords: Any) -> type[Furu[int]]:
    body = {"_create": lambda self: 1, "__module__": module, "__qualname__": qualname}
    return type(qualname, (Furu,), body, **keywords)


def test_a_class_that_is_not_where_its_name_says() -> None:
    with pytest.raises(FuruDefinitionError, match=r"model_cases\.Leaf: .*Leaf'> is there instead"):
        store_name(make("model_cases", "Leaf"))
    with pytest.raises(FuruDefinitionError, match=r"nothing is there"):
        store_name(make("model_cases", "Nowhere"))
    with pytest.raises(FuruDefinitionError, match=r"nothing is there"):
        store_name(make("no_such_module", "Nowhere"))


def test_two_classes_of_one_name() -> None:
    with pytest.raises(FuruDefinitionError) as caught:
        make(__name__, "Other", name="store.Pinned")
    assert "Pinned in" in str(caught.value)
    assert "Other in" in str(caught.value)
    assert "model_cases.py" in str(caught.value)
    assert "test_model_naming.py" in str(caught.value)


def test_a_reloaded_module_may_define_its_classes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reloaded_example.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("reloaded_example")
    before = module.Train()
    name = before.furu_hash
    module = importlib.reload(module)
    assert module.Train().furu_hash == name
    assert before == module.Train()
    assert load_class("reloaded_example.Train") is module.Train


def test_load_class() -> None:
    assert load_class("model_cases:Train") is cases.Train
    assert load_class("model_cases.Train") is cases.Train
    assert load_class("store.Pinned") is cases.Pinned
    assert load_class("store.Pinned=model_cases:Pinned") is cases.Pinned
    for wrong in ("model_cases.Gone", "nowhere.Train", "Train", "model_cases.Optimizer", "a b", "os.system"):
        with pytest.raises(FuruSpecMismatch):
            load_class(wrong)
    assert load_class("model_cases:Pinned") is cases.Pinned
    for wrong in ("store.Other=model_cases:Pinned", "model_cases.Pinned"):
        with pytest.raises(FuruSpecMismatch, match=r"is called 'store\.Pinned'"):
            load_class(wrong)


def test_a_module_that_fails_to_import_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_example.py").write_text("raise RuntimeError('half a module')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(FuruSpecMismatch, match="RuntimeError: half a module"):
        load_class("broken_example:Train")


def test_a_script_that_runs_or_ends_when_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unguarded_example.py").write_text(
        "from furu_async._model import context\ncontext.refuse_while_importing('run_dag()')\n"
    )
    (tmp_path / "ending_example.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        context.importing(),
        pytest.raises(FuruSpecMismatch, match=r"not below an `if __name__ == .*\n.*hint: put"),
    ):
        load_class("unguarded_example:Train")
    with pytest.raises(FuruSpecMismatch, match="SystemExit: 3"):
        load_class("ending_example:Train")


def fake_main(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> Any:
    main: Any = types.ModuleType("__main__")
    vars(main).update(attributes)
    monkeypatch.setitem(sys.modules, "__main__", main)
    return main


def test_names_of_what_runs_as_main(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = fake_main(monkeypatch, __file__=str(script))
    assert main_name(main) == "pipeline"
    assert script_import() == ("pipeline", str(script.parent))
    spec = importlib.machinery.ModuleSpec("tool.work", None)
    assert main_name(fake_main(monkeypatch, __spec__=spec)) == "tool.work"
    assert script_import() == ("tool.work", "")
    for attributes, words in (
        ({}, "notebook"),
        ({"__file__": None}, "notebook"),
        ({"__file__": "<stdin>"}, "notebook"),
        ({"__file__": str(script.parent / "gone.py")}, "notebook"),
    ):
        with pytest.raises(FuruDefinitionError, match=words):
            main_name(fake_main(monkeypatch, **attributes))
        assert script_import() is None
    for name in ("time.py", "json.py", "a.b.py", "tool", "calendar.py", "__main__.py"):
        (script.parent / name).write_text("")
        if name == "json.py":
            monkeypatch.setattr(sys, "path", [*sys.path, str(script.parent)])
        with pytest.raises(FuruDefinitionError, match=r"rename the script"):
            main_name(fake_main(monkeypatch, __file__=str(script.parent / name)))


def test_classes_of_main(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = fake_main(monkeypatch, __file__=str(script))
    exec(compile(SCRIPT.partition("if __name__")[0], str(script), "exec"), main.__dict__)
    assert store_name(main.Train) == "pipeline.Train"
    assert load_class("pipeline:Train.Inner") is main.Train.Inner
    again: Any = Furu.from_dict(main.Train().to_dict())
    assert type(again) is main.Train
    monkeypatch.syspath_prepend(str(script.parent))
    imported: Any = importlib.import_module("pipeline")
    try:
        assert store_name(imported.Train) == "pipeline.Train"
        assert load_class("pipeline.Train") is main.Train
        assert vars(main)["Train"](data=imported.Data()) == main.Train()
        with pytest.raises(FuruDefinitionError, match="an artifact of class Data"):
            vars(main)["Train"](data=imported.Train())
    finally:
        del sys.modules["pipeline"]


def test_a_notebook_class_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    main = fake_main(monkeypatch)
    exec(SCRIPT.partition("if __name__")[0], main.__dict__)
    with pytest.raises(
        FuruDefinitionError, match=r"class Data of __main__: .*notebook cell.*\n.*move the class"
    ):
        _ = main.Train().furu_hash


def test_the_runner_of_the_tests_is_no_script_of_artifacts() -> None:
    found = script_import()
    assert found is None or found[0] != "model_cases"


def test_a_missing_guard_is_named() -> None:
    context.refuse_while_importing("run_dag()")
    with (
        context.importing(),
        pytest.raises(FuruDefinitionError, match=r'run_dag\(\).*not below an `if __name__ == "__main__":`'),
    ):
        context.refuse_while_importing("run_dag()")
    assert not context.importing_in_child
