import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import check


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tool's root is an empty project, its sections are made for the test."""
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "STAMPS", tmp_path / ".stamps")
    tests = tmp_path / "tests" / "unit"
    tests.mkdir(parents=True)
    (tests / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "@pytest.mark.skip(reason='needs root')\ndef test_left(): pass\n"
    )
    good, bad = [sys.executable, "-c", ""], [sys.executable, "-c", "raise SystemExit(3)"]
    sections = {
        "style": ("two commands", [good, bad]),
        "gone": ("a tool that is not installed", [[str(tmp_path / "no-such-tool")]]),
        "unit": ("tests", [check._pytest("tests/unit")]),
        "none": ("no tests yet", [check._pytest("tests/sim")]),
    }
    monkeypatch.setattr(check, "SECTIONS", sections)
    return tmp_path


def test_every_section_runs_and_the_last_line_counts(
    elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert check.main([]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1] == "2 passed, 3 failed"
    assert (elsewhere / ".stamps" / "summary").read_text() == "2 passed, 3 failed\n"
    assert "  unit: 1 test: needs root" in lines
    assert "  none: no tests in tests/sim yet" in lines


def test_one_section_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert check.main(["none"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "0 passed, 0 failed"
    assert check.main(["nonsense"]) == 2


def test_tests_that_cannot_be_collected_are_a_failure(
    elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "tests" / "unit" / "test_some.py").write_text("import nothing_of_the_kind\n")
    assert check.main(["unit"]) == 1
    assert capfd.readouterr().out.splitlines()[-1] == "0 passed, 1 failed"
