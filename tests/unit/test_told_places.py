"""What errors say of the place and of what was asked: the user's, not the library's."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import furu_async
from furu_async import Retry, SlurmSpec
from furu_async._cli.commands import cli
from furu_async._executors.resources import Budget
from furu_async.errors import FuruConfigError
from furu_async.report import Failure

OURS = os.path.join(os.path.dirname(furu_async.__file__), "_store", "codec.py")


def _where(*files: str) -> str:
    rows = [f'  File "{file}", line {at}, in frame\n    code{at}\n' for at, file in enumerate(files, 1)]
    text = "Traceback (most recent call last):\n" + "".join(rows) + "ValueError: no"
    return Failure(kind="compute", error_type="ValueError", message="no", traceback=text).where()


@pytest.mark.parametrize("last", ["<string>", "<frozen importlib._bootstrap>", OURS])
def test_the_place_of_a_failure_is_the_users(last: str) -> None:
    assert _where("/home/me/pipeline.py", last) == "/home/me/pipeline.py:1 in frame: code1"


def test_the_place_of_a_failure_may_be_in_a_package_that_the_user_calls() -> None:
    assert _where("/home/me/pipeline.py", "/usr/lib/furu/x.py") == "/usr/lib/furu/x.py:2 in frame: code2"


def test_a_failure_in_the_library_alone_has_no_place() -> None:
    assert _where(OURS) == ""


@pytest.mark.parametrize(("made", "name"), [(SlurmSpec, "cpus"), (Retry, "retries")])
def test_a_value_that_is_refused_is_named_with_its_class(made: Any, name: str) -> None:
    with pytest.raises(FuruConfigError, match=rf"^{made.__name__}: {name}=-1"):
        made(**{name: -1})


def test_a_node_too_large_for_want_of_a_spec_says_so() -> None:
    budget = Budget(cpus=2, gpus=None, mem_gb=8)
    assert budget.refusal(SlurmSpec()) == (
        "it asks for 4 cpus (as any node whose class has no `_spec`), Local(cpus=2) has fewer"
    )
    assert budget.refusal(SlurmSpec(cpus=3)) == "it asks for 3 cpus, Local(cpus=2) has fewer"
    assert budget.refusal(SlurmSpec(cpus=1)) == "it asks for 16 GiB, Local(mem_gb=8) has less"


def test_a_note_while_a_dag_is_submitted_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noted.py").write_text(
        "from furu_async import Furu\nclass Answer(Furu[int]):\n    def _create(self) -> int:\n        return 42\n"
    )
    logger = logging.getLogger("furu_async")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)

    async def submit_dag(*_: Any, **__: Any) -> None:
        logger.warning("Slurm does not answer", extra={"furu_note": True})
        raise FuruConfigError("enough")

    monkeypatch.setattr(furu_async, "submit_dag", submit_dag)
    target = f"{tmp_path / 'noted.py'}:Answer"
    done = CliRunner().invoke(cli, ["submit", target])
    assert "Slurm does not answer" in done.output
