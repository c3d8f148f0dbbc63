import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import check_faults
import check_sizes

DOCUMENT = """## A. Deaths

| ID | Fault | What you get | Shown by |
|---|---|---|---|
| F01 | dies | again | planned: no test yet |
| F02 | dies later | whole | `unit/test_a.py` |
"""


def test_a_list_in_agreement_has_no_problems() -> None:
    problems, text, counts = check_faults.compare(DOCUMENT, {"F02": ["unit/test_a.py"]})
    assert problems == []
    assert text == DOCUMENT
    assert counts == {"A": [1, 1]}


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        ({"F01": ["t.py"], "F02": ["unit/test_a.py"]}, "F01 is listed as planned and has tests"),
        ({}, "F02 is neither shown"),
        ({"F02": ["unit/test_a.py"], "F99": ["t.py"]}, "F99 is no fault of the list"),
        ({"F02": ["unit/test_b.py"]}, "F02 is shown by `unit/test_b.py`, not by"),
    ],
)
def test_each_disagreement_is_told_and_writing_cures_it(shown: dict[str, list[str]], problem: str) -> None:
    problems, text, _ = check_faults.compare(DOCUMENT, shown)
    assert len(problems) == 1
    assert problems[0].startswith(problem)
    left, again, _ = check_faults.compare(text, shown)
    assert again == text
    assert left == [each for each in problems if "no fault of the list" in each]


def test_marks_are_found_without_running_the_tests(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text(
        "import pytest\nraise SystemExit\n"
        "@pytest.mark.fault('F01', 'F02')\ndef test_a(): ...\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.fault('F03'))])\ndef test_b(x): ...\n"
    )
    assert check_faults.marks_in(path) == {"F01", "F02", "F03"}
    path.write_text("import pytest\nF = 'F01'\n@pytest.mark.fault(F)\ndef test_a(): ...\n")
    with pytest.raises(ValueError, match="plain strings"):
        check_faults.marks_in(path)


def test_what_is_too_long_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("def f():\n" + "    x = 1\n" * 60)
    assert [line.split(": ")[1] for line in check_sizes.too_long(path)] == [
        "f has 61 lines, at most 60 are allowed"
    ]
    path.write_text("x = 1\n" * 401)
    assert len(list(check_sizes.too_long(path))) == 1
    path.write_text("def f():\n" + "    x = 1\n" * 59)
    assert list(check_sizes.too_long(path)) == []
