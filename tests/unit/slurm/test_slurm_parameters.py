"""From a spec to the options of sbatch, and to submitit's script."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from furu_async import SlurmSpec
from furu_async._slurm.parameters import (
    Wish,
    check_name,
    ignored_options,
    join_dependencies,
    minutes,
    request,
    with_defaults,
)
from furu_async._slurm.real import script
from furu_async.errors import FuruConfigError

WISH = Wish("furu-Train-0a", ("python", "-m", "furu_async.worker", "--x", "a b"), "/logs")


def options(extra=None, wish=WISH, **spec):
    return dict(request(SlurmSpec(extra=extra, **spec), wish).options)


def test_what_a_spec_says():
    assert options(partition="gpu", gpus=2, cpus=3, mem_gb=1.5, time_min=90.5) == {
        "partition": "gpu",
        "gpus-per-node": "2",
        "cpus-per-task": "3",
        "mem": "1536M",
        "time": "90:30",
        "nodes": "1",
        "ntasks-per-node": "1",
        "job-name": "furu-Train-0a",
        "output": "/logs/furu-Train-0a-%j.log",
        "error": "/logs/furu-Train-0a-%j.log",
        "open-mode": "append",
        "signal": "B:USR2@90",
        "kill-on-invalid-dep": "yes",
    }


@pytest.mark.fault("F82")
def test_the_users_parameters_are_merged_and_ours_stay():
    extra = {
        "slurm_constraint": "fast",
        "account": "me",
        "timeout_min": 5,
        "slurm_additional_parameters": {
            "dependency": "afterany:7",
            "reservation": "r",
            "output": "/elsewhere",
            "job-name": "mine",
            "signal": "INT@3",
            "kill_on_invalid_dep": "no",
        },
    }
    wish = Wish("n", ("x",), "/logs", dependency="afterok:1:2")
    made = options(extra, wish)
    assert made["dependency"] == "afterany:7,afterok:1:2"
    assert (made["constraint"], made["account"], made["reservation"], made["time"]) == (
        "fast",
        "me",
        "r",
        "5",
    )
    assert (made["job-name"], made["signal"], made["kill-on-invalid-dep"]) == ("n", "B:USR2@90", "yes")
    assert made["output"].startswith("/logs/")
    assert set(ignored_options(SlurmSpec(extra=extra))) == {
        "output",
        "job-name",
        "signal",
        "kill-on-invalid-dep",
    }


@pytest.mark.fault("F82")
def test_dependencies_are_joined_wherever_they_come_from():
    extra = {"dependency": "singleton", "slurm_additional_parameters": {"dependency": "afterany:7"}}
    assert options(extra)["dependency"] == "singleton,afterany:7"
    assert "dependency" not in options()
    assert join_dependencies(" afterok:1, ", "") == "afterok:1"
    assert join_dependencies("afterok:1?afterok:2", "") == "afterok:1?afterok:2"
    with pytest.raises(FuruConfigError, match="alternatives"):
        join_dependencies("afterok:1?afterok:2", "afterok:3")


def test_memory_and_gpus_are_asked_for_in_one_way():
    assert "mem" not in options({"mem_per_cpu": "2G"})
    assert "gpus-per-node" not in options({"slurm_gres": "gpu:a100:1"}, gpus=1)
    assert options({"mem_gb": 2})["mem"] == "2048M"
    assert options({"exclusive": True, "no_requeue": False, "qos": None}).keys() & {
        "exclusive",
        "no-requeue",
        "qos",
    } == {"exclusive"}


def test_arrays_and_held_jobs():
    made = options(wish=Wish("n", ("x",), "/a%b", array=3, hold=True))
    assert (made["array"], made["hold"], made["output"]) == ("0-2", True, "/a%%b/n-%A_%a.log")


@pytest.mark.parametrize(
    "extra",
    [
        {"wrap": "rm -rf x"},
        {"slurm_test-only": True},
        {"constraint": "a\n#SBATCH --uid=0"},
        {"bad key": 1},
        {"comment": {"a": 1}},
        {"slurm_additional_parameters": "x"},
        {"setup": 3},
        {"comment": ""},
    ],
)
def test_what_cannot_be_passed_on_is_an_error_that_names_it(extra):
    with pytest.raises(FuruConfigError) as caught:
        options(extra)
    assert next(iter(extra)) in str(caught.value)


@pytest.mark.fault("F115")
@pytest.mark.parametrize("name", ["", "a b", "$(x)", "a;b", "-x", "a/b", "a\n", "x" * 101, "é"])
def test_names_that_a_shell_or_a_path_could_trip_over(name):
    with pytest.raises(FuruConfigError, match="name of a Slurm job"):
        check_name(name)
    with pytest.raises(FuruConfigError):
        options(wish=Wish(name, ("x",), "/logs"))


@pytest.mark.parametrize(("value", "text"), [(60, "60"), (1.5, "1:30"), (0.001, "0:01"), (2.9999, "3")])
def test_minutes(value, text):
    assert minutes(value) == text


# -- the script that submitit writes -----------------------------------------------------------------------------


def test_the_script():
    made = request(
        SlurmSpec(partition="p", extra={"slurm_setup": ["module load x"], "comment": "it's"}), WISH
    )
    lines = script(made).splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = {line.split(" ", 1)[1] for line in lines if line.startswith("#SBATCH ")}
    assert {shlex.split(each)[0] for each in directives} == {f"--{k}={v}" for k, v in made.options.items()}
    room = lines.index(f"export FURU_ASYNC_CHILD={'0' * 32}")
    assert room < lines.index("module load x") < lines.index("# command"), "a user's lines come after ours"
    assert lines[-2:] == ["exec python -m furu_async.worker --x 'a b'", ""] or lines[-3].startswith(
        "exec python"
    )
    assert "srun" not in script(made)
    assert "pkl" not in script(made)


ARGUMENT = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=20
)


@pytest.mark.fault("F115")
@given(st.lists(ARGUMENT, max_size=4))
def test_whatever_is_in_an_argument_reaches_the_command_as_it_is(arguments):
    made = request(SlurmSpec(), Wish("n", ("printf", "%s\\0", *arguments), "/logs"))
    done = subprocess.run(
        ["bash", "-s"], input=script(made).encode(), capture_output=True, timeout=30, check=True
    )
    got = done.stdout.decode().split("\0")[:-1]
    assert got == (arguments or [""])


def test_teardown_runs_and_the_status_stays(tmp_path: Path):
    spec = SlurmSpec(extra={"slurm_teardown": f"touch {tmp_path}/torn"})
    made = request(spec, Wish("n", ("sh", "-c", "exit 7"), "/logs"))
    done = subprocess.run(["bash", "-s"], input=script(made).encode(), timeout=30, check=False)
    assert done.returncode == 7
    assert (tmp_path / "torn").exists()


def test_a_signal_reaches_the_command_through_a_teardown(tmp_path: Path):
    ready = tmp_path / "ready"
    command = f"trap 'exit 9' TERM; touch {ready}; while :; do sleep 0.05; done"
    made = request(SlurmSpec(extra={"teardown": "true"}), Wish("n", ("sh", "-c", command), "/logs"))
    (tmp_path / "job").write_text(script(made))
    process = subprocess.Popen(["bash", str(tmp_path / "job")])
    try:
        for _ in range(600):
            if ready.exists():
                break
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        process.terminate()
        assert process.wait(30) == 9
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("spelled", ["dependency", "slurm_dependency", "slurm_additional_parameters"])
def test_what_an_executor_adds_gives_way_to_the_spec_and_dependencies_are_joined(spelled: str) -> None:
    theirs: Any = {"dependency": "afterany:2"} if spelled == "slurm_additional_parameters" else "afterany:2"
    spec = SlurmSpec(cpus=2, extra={spelled: theirs, "slurm_account": "mine", "setup": "module load b"})
    options = {"dependency": "afterok:1", "account": "lab", "comment": "hello"}
    made = request(
        with_defaults(spec, options, ("module load a",)), Wish("x", ("true",), "/logs", "afterok:3")
    )
    assert made.options["dependency"] == "afterok:1,afterany:2,afterok:3"
    assert (made.options["account"], made.options["comment"]) == ("mine", "hello")
    assert list(made.setup) == ["module load a", "module load b"]
    assert with_defaults(spec, {}, ()) is spec
