import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import check
from tests import laboratory


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tool's root is an empty project, its sections are made for the test."""
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "STAMPS", tmp_path / ".stamps")
    monkeypatch.setattr(laboratory, "FOLDER", tmp_path / ".stamps" / "laboratory")
    monkeypatch.setattr(laboratory, "FIGURES", {})
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


def test_a_campaign_that_tried_too_little_is_a_failure(
    elsewhere: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "tests" / "unit" / "test_some.py").write_text(
        "from tests import laboratory\n"
        "def test_races():\n"
        "    with laboratory.counting('races') as counts:\n"
        "        counts.trials += 3\n"
    )
    (elsewhere / "tests" / "laboratory.py").write_text(Path(laboratory.__file__).read_text())
    monkeypatch.setattr(check, "SECTIONS", {"unit": check.SECTIONS["unit"]})
    for least, failed in ((3, 0), (4, 1)):
        monkeypatch.setattr(laboratory, "FIGURES", {"races": least})
        assert check.main([]) == failed
        out = capfd.readouterr().out.splitlines()
        assert out[-1] == f"1 passed, {failed} failed"
        assert ("  races: 3 of 4" in out) == bool(failed)
    assert check.main(["unit"]) == 0


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


def test_a_trial_that_fails_says_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FURU_LAB_KILLS", "500")
    monkeypatch.delenv("FURU_LAB_TRIAL", raising=False)
    assert laboratory.chosen(7)
    with pytest.raises(ValueError, match="no") as raised, laboratory.repeatable("seed 7", 7):
        raise ValueError("no")
    (note,) = raised.value.__notes__
    assert note.startswith("seed 7; again with: ")
    assert "FURU_LAB_KILLS=500 FURU_LAB_TRIAL=7 python -m pytest" in note
    assert note.endswith("test_check.py::test_a_trial_that_fails_says_how_to_repeat_it")
    monkeypatch.setenv("FURU_LAB_TRIAL", "7")
    assert (laboratory.chosen(7), laboratory.chosen(70)) == (True, False)


def test_cases_that_are_tried_are_spread_over_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FURU_LAB_TRIAL", raising=False)
    monkeypatch.delenv("FURU_LAB_NTH_AWAIT_SLURM", raising=False)
    monkeypatch.setitem(laboratory.FIGURES, "nth-await-slurm", 20)
    some = laboratory.spread("nth-await-slurm", 105, 10)
    assert len(some) == 10
    assert 1 <= some[0] <= 11
    assert 95 <= some[-1] <= 105
    assert {low - high for high, low in itertools.pairwise(some)} <= {10, 11}
    monkeypatch.setenv("FURU_LAB_NTH_AWAIT_SLURM", "40")
    assert len(laboratory.spread("nth-await-slurm", 105, 10)) == 20
    monkeypatch.setenv("FURU_LAB_NTH_AWAIT_SLURM", "4000")
    assert laboratory.spread("nth-await-slurm", 105, 10) == list(range(1, 106))
    monkeypatch.setenv("FURU_LAB_NTH_AWAIT_SLURM", "0")
    assert laboratory.spread("nth-await-slurm", 105, 10) == []
    monkeypatch.setenv("FURU_LAB_TRIAL", "7")
    assert laboratory.spread("nth-await-slurm", 105, 10) == [7]
