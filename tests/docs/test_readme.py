"""The README's programs are run as printed, and print what it says they print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def programs() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """File name -> its source, and (command, output) pairs of the console blocks that run it."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for language, text in BLOCK.findall(README):
        if language == "python":
            name = text.splitlines()[0].removeprefix("# ").strip()
            assert name.endswith(".py"), f"a Python block does not begin with its file name: {text[:60]!r}"
            found[name] = (text, [])
        if language == "console":
            for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, output = step.partition("\n")
                if (match := re.fullmatch(r"python (\w+\.py)", command.strip())) is not None:
                    found[match.group(1)][1].append((command, output))
    return found


PROGRAMS = programs()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_the_readme_does_what_is_printed(name: str, tmp_path: Path) -> None:
    source, steps = PROGRAMS[name]
    (tmp_path / name).write_text(source, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FURU_")}
    for command, expected in steps or [(f"python {name}", None)]:
        done = subprocess.run(
            [sys.executable, *command.split()[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if expected is not None:
            assert done.stdout == expected
        assert done.stderr == ""


def test_the_readme_shows_the_programs_it_should() -> None:
    assert list(PROGRAMS) == ["pipeline.py", "failures.py", "service.py", "on_slurm.py"]
    assert all(steps for _source, steps in PROGRAMS.values())


def test_the_commands_of_the_readme_work_on_its_pipeline(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(PROGRAMS["pipeline.py"][0], encoding="utf-8")
    commands = re.findall(r"^\$ (furu-async .*?)(?:  +#.*)?$", README, flags=re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        script = Path(sys.executable).parent / "furu-async"
        done = subprocess.run(
            [script, *command.split()[1:]],
            cwd=tmp_path,
            env={key: value for key, value in os.environ.items() if not key.startswith("FURU_")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "there     since" in done.stdout


def test_the_readme_names_every_setting_with_its_default() -> None:
    from furu_async._runtime.config import FuruConfig

    rows = dict(re.findall(r"^\| `(FURU_\w+)` \| (.*?) \|", README, flags=re.MULTILINE))
    assert set(rows) == {f"FURU_{name.upper()}" for name in FuruConfig.__dataclass_fields__}
    config = FuruConfig(path=Path("/x"))
    for name in ("max_compute_retries", "preempt_max", "lease_secs", "heartbeat_grace_secs", "infra_secs"):
        assert rows[f"FURU_{name.upper()}"] == f"`{getattr(config, name):g}`"


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_dependencies_document_names_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(each for group in project["optional-dependencies"].values() for each in group),
    ]
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    names = {re.split(r"[<>=\[~!]", each)[0] for each in wanted}
    missing = {name for name in names if name not in text and not name.startswith("types-")}
    assert not missing
