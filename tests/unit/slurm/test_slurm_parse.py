"""What Slurm's commands print, and what their errors mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from furu_async._slurm import names
from furu_async._slurm.answers import read_done, read_sbatch, read_silence
from furu_async._slurm.parameters import check_name
from furu_async._slurm.parse import (
    ACCOUNT_FORMAT,
    QUEUE_FORMAT,
    expand_id,
    join_ids,
    read_accounting,
    read_job_id,
    read_limits,
    read_queue,
)
from furu_async._slurm.port import Refused, Submitted, Unclear, base_id

QUEUE = """\
12                |furu-Train-00112233-0123456789abcdef |RUNNING |None |1 |1800000000 |n1 |0 |
13_[3-5%2]        |many |PENDING |Resources |0 |1800000001 | |0 |
13_1              |many |FAILED |NonZeroExitCode |0 |1800000001 |n2 |768 |
14+0              |het |PENDING |Priority |0 |N/A |(null) |0 |
not a job
15|too|few
16                |strange|name |RUNNING |None |0 |1800000000 |n1 |0 |
"""


@pytest.mark.fault("F50")
def test_the_queue():
    rows = read_queue(QUEUE)
    assert [row.id for row in rows.rows] == ["12", "13_3", "13_4", "13_5", "13_1", "14+0"]
    first = rows.rows[0]
    assert (first.name, first.state, first.restarts, first.submitted, first.nodes) == (
        "furu-Train-00112233-0123456789abcdef",
        "RUNNING",
        1,
        1800000000,
        "n1",
    )
    assert rows.rows[4].exit_code == 3
    assert rows.rows[5].nodes == ""
    assert rows.rows[5].submitted == 0
    assert len(rows.unparsed) == 3


def test_formats_name_as_many_fields_as_are_read():
    assert QUEUE_FORMAT.count("|") == 8
    assert len(ACCOUNT_FORMAT.split(",")) == 8


@pytest.mark.fault("F59")
def test_accounting_without_steps_and_with_clusters():
    text = (
        "12|a|COMPLETED|0:0|1800000000|n1|None|main\n"
        "12.batch|batch|COMPLETED|0:0|1800000000|n1|None|main\n"
        "13_2|b|CANCELLED by 0|0:15|1800000005|None assigned|Dependency|main\n"
        "14|c|FAILED|3:0|bad|n1|None|main\n"
    )
    rows = read_accounting(text).rows
    assert [row.id for row in rows] == ["12", "13_2", "14"]
    assert (rows[1].signal, rows[1].nodes, rows[1].reason, rows[1].cluster) == (15, "", "Dependency", "main")
    assert (rows[2].exit_code, rows[2].submitted) == (3, 0)
    assert read_queue("CLUSTER: east\n" + QUEUE).rows[0].cluster == "east"


@pytest.mark.fault("F50")
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_003", ["12_3"]),
        ("12_[3-5%2]", ["12_3", "12_4", "12_5"]),
        ("12_[1,4-5,9]", ["12_1", "12_4", "12_5", "12_9"]),
        ("12_[0-8:4]", ["12_0", "12_4", "12_8"]),
        ("12_[1-2,...]", ["12_1", "12_2"]),
        ("12+1", ["12+1"]),
        ("12.batch", []),
        ("12_", []),
        ("x", []),
        ("", []),
    ],
)
def test_ids(text, ids):
    assert expand_id(text) == ids
    assert {base_id(each) for each in ids} <= {"12"}


def test_a_range_without_end_does_not_fill_the_memory():
    assert len(expand_id("1_[0-999999999]")) == 100_000


@given(st.text())
def test_no_text_makes_a_reader_raise(text):
    for read in (read_queue, read_accounting, read_limits, read_job_id, expand_id):
        read(text)
    read_sbatch(1, text, text)
    read_done("scancel", 1, text, text)


@given(st.lists(st.text(alphabet="0123456789_[]-,%:+.|\n aRUNIG", max_size=30), max_size=12))
def test_no_line_of_a_queue_makes_a_reader_raise(parts):
    text = "|".join(parts) + "|"
    read_queue(text)
    read_accounting(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12\n", ("12", "")),
        ("12;east\n", ("12", "east")),
        ("Submitted batch job 34\n", ("34", "")),
        ("Welcome to the cluster\n35\n", ("35", "")),
        ("Submitted batch job 36 on cluster west\n", ("36", "west")),
        ("job 12 perhaps\n", None),
        ("", None),
    ],
)
def test_job_ids(text, found):
    assert read_job_id(text) == found


def test_limits():
    limits = read_limits(
        "MaxArraySize            = 5\nMaxJobCount = 7\nMinJobAge = 2 sec\nMessageTimeout = 10 sec\n"
    )
    assert (limits.max_array_size, limits.max_job_count, limits.min_job_age, limits.known) == (5, 7, 2, True)
    assert not read_limits("").known


FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.fault("F35")
@pytest.mark.parametrize(
    "words",
    [
        "Invalid partition name specified",
        "Invalid account or account/partition combination specified",
        "Invalid qos specification",
        "Node count specification invalid",
        "More processors requested than permitted",
        "Requested node configuration is not available",
        "Requested time limit is invalid (missing or exceeds some limit)",
        "Memory specification can not be satisfied",
        "Invalid job array specification",
        "Unspecified error",
    ],
)
def test_what_slurm_refuses_is_final_and_in_its_own_words(words):
    answer = read_sbatch(1, "", FAILED + words)
    assert isinstance(answer, Refused)
    assert answer.kind == "rejected"
    assert words in answer.words


@pytest.mark.fault("F51")
@pytest.mark.parametrize(
    "words",
    [
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy",
        "AssocMaxSubmitJobLimit",
    ],
)
def test_a_limit_on_the_number_of_jobs_is_waited_for(words):
    answer = read_sbatch(1, "", FAILED + words)
    assert isinstance(answer, Refused)
    assert answer.kind == "limit"


def test_a_limit_on_the_size_of_jobs_is_a_refusal():
    text = (
        "sbatch: error: QOSMaxWallDurationPerJobLimit\n"
        + FAILED
        + "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    )
    answer = read_sbatch(1, "", text)
    assert isinstance(answer, Refused)
    assert answer.kind == "rejected"


@pytest.mark.fault("F34")
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, FAILED + "Socket timed out on send/recv operation"),
        (1, FAILED + "Unable to contact slurm controller (connect failure)"),
        (1, FAILED + "Zero Bytes were transmitted or received"),
        (1, "sbatch: error: slurm_msg_sendto: address:port=127.0.0.1:6817: Unexpected missing socket error"),
        (1, "sbatch: error: slurm_receive_msg [localhost:6817]: Unspecified error"),
        (1, FAILED + "Communication connection failure"),
        (1, FAILED + "Protocol authentication error"),
        (None, "sbatch: error: Slurm controller not responding, sleeping and retrying"),
        (-9, ""),
        (None, ""),
        (1, ""),
        (0, ""),
    ],
)
def test_without_a_clear_no_the_job_may_be_there(code, words):
    assert isinstance(read_sbatch(code, "", words), Unclear)


@pytest.mark.fault("F51")
def test_a_controller_that_is_full_is_a_limit_though_nobody_knows():
    answer = read_sbatch(
        None, "", "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
    )
    assert isinstance(answer, Unclear)
    assert answer.limit


def test_an_id_with_an_error_is_not_believed():
    assert isinstance(read_sbatch(1, "12\n", "sbatch: error: something"), Unclear)
    assert read_sbatch(0, "12\n", "sbatch: warning: something") == Submitted("12")


@pytest.mark.fault("F36")
def test_accounting_that_is_off_differs_from_accounting_that_is_down():
    assert read_silence("sacct", 1, "", "Slurm accounting storage is disabled").off
    down = read_silence("sacct", 1, "", "sacct: error: slurm_persist_conn_open: Connection refused")
    assert not down.off
    assert "Connection refused" in down.words
    assert "in time" in read_silence("sacct", None, "", "").words


def test_cancelling_what_is_gone_is_no_error():
    assert read_done(
        "scancel", 1, "", "scancel: error: Kill job error on job id 7: Invalid job id specified"
    ).ok
    both = (
        "scancel: error: Kill job error on job id 7: Invalid job id specified\nscancel: error: Access denied"
    )
    assert not read_done("scancel", 1, "", both).ok
    assert not read_done("scancel", None, "", "").ok


def test_long_words_are_cut():
    assert len(read_sbatch(1, "", "x" * 10_000).words) < 2100


def test_ids_in_portions():
    assert list(join_ids(["1", "2", "1", "3"], 2)) == [["1", "2"], ["3"]]


@pytest.mark.fault("F115")
def test_names():
    name = names.job_name("pkg.Train; touch /tmp/x", "run-1", "0123456789abcdef")
    assert name == f"furu-pkg.Train-touch-tmp-x-{names.run_tag('run-1')}-0123456789abcdef"
    parts = names.read_name(name)
    assert parts is not None
    assert (parts.what, parts.token) == ("pkg.Train-touch-tmp-x", "0123456789abcdef")
    assert names.belongs_to(name, "run-1")
    assert not names.belongs_to(name, "run-2")
    assert names.read_name("furu-something") is None


@pytest.mark.parametrize(
    ("classes", "label"),
    [
        (["Train"], "Train"),
        (["Train"] * 4, "Train"),
        (["Score", "Train", "Train"], "Train+Score"),
        (["A", "B", "C", "D", "C", "D"], "C+D+2"),
        (["A" * 30, "B" * 30, "C"], "A" * 30 + "+2"),
        (["A" * 50, "B" * 30], "A" * 38 + "+1"),
        (["A" * 50], "A" * 40),
    ],
)
def test_labels_of_jobs_for_several_nodes(classes, label):
    assert names.label_of(classes) == label
    name = names.job_name(label, "run", "0" * 16)
    assert check_name(name) == name
    assert names.read_name(name).what == label


@given(st.text(), st.text())
def test_every_label_makes_a_name_that_can_be_read(what, run_id):
    name = names.job_name(what, run_id.encode("utf-8", "replace").decode(), "0" * 16)
    assert names.read_name(name) is not None
    assert len(name) <= 72
