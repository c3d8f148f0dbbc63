"""From what Slurm's commands print to data. Pure, and never raising: a line that cannot be read is given back.

The formats are chosen so that no field is cut: explicit widths for squeue, whose default is 20 columns, and
``--parsable2`` for sacct. Times are asked for as seconds since the epoch (``SLURM_TIME_FORMAT=%s``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from furu_async._slurm.port import JobRow, Limits, Rows

_QUEUE_FIELDS = (
    ("JobArrayID", 48),
    ("Name", 160),
    ("State", 32),
    ("Reason", 160),
    ("RestartCnt", 12),
    ("SubmitTime", 32),
    ("NodeList", 160),
    ("exit_code", 12),
)
QUEUE_FORMAT: str = ",".join(f"{name}:{width}|" for name, width in _QUEUE_FIELDS)
"""For ``squeue --Format``: a minimal width and a separator for each field. A field is cut at its width."""

_ACCOUNT_FIELDS = ("JobID", "JobName", "State", "ExitCode", "Submit", "NodeList", "Reason", "Cluster")
ACCOUNT_FORMAT: str = ",".join(_ACCOUNT_FIELDS)
"""For ``sacct --format`` with ``--parsable2``."""

UNNAMED = "allocation"
"""The name that accounting gives to a job of which it has heard the end and not yet the start."""

_ID = re.compile(r"(\d{1,18})(?:_(\d{1,18})|\+(\d{1,18})|_\[([0-9,\-:%]*)(?:\.\.\.)?\])?\Z")
_TASKS = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?\Z")
_MOST_TASKS = 100_000
_UNPARSED = 20
_LINE = 300


def read_queue(text: str) -> Rows:
    """What ``squeue --noheader --Format=QUEUE_FORMAT`` printed."""
    return _read(text, len(_QUEUE_FIELDS) + 1, _queue_row)


def read_accounting(text: str) -> Rows:
    """What ``sacct --noheader --parsable2 --format=ACCOUNT_FORMAT`` printed; rows of steps are left out."""
    return _read(text, len(_ACCOUNT_FIELDS), _account_row)


def _read(text: str, count: int, row_of: Callable[[list[str], str], list[JobRow] | None]) -> Rows:
    rows: list[JobRow] = []
    unparsed: list[str] = []
    cluster = ""
    for line in text.split("\n"):
        if not line.strip():
            continue
        if line.startswith("CLUSTER:"):
            cluster = line[len("CLUSTER:") :].strip()
            continue
        parts = [part.strip() for part in line.split("|")]
        made = row_of(parts, cluster) if len(parts) == count else None
        if made is not None:
            rows.extend(made)
        elif len(unparsed) < _UNPARSED:
            unparsed.append(line.strip()[:_LINE])
    return Rows(tuple(rows), tuple(unparsed))


def _queue_row(parts: list[str], cluster: str) -> list[JobRow] | None:
    ids, name, state, reason, restarts, submitted, nodes, code = parts[:8]
    expanded = expand_id(ids)
    if not expanded or not state:
        return None
    exit_code, signal = _exit(code)
    return [
        JobRow(
            id=each,
            name=name,
            state=state,
            reason=reason,
            restarts=_number(restarts, -1),
            submitted=_number(submitted, 0),
            nodes=nodes if nodes not in ("(null)", "N/A") else "",
            exit_code=exit_code,
            signal=signal,
            cluster=cluster,
        )
        for each in expanded
    ]


def _account_row(parts: list[str], cluster: str) -> list[JobRow] | None:
    ids, name, state, code, submitted, nodes, reason, where = parts
    if "." in ids and expand_id(ids.split(".", 1)[0]):
        return []
    expanded = expand_id(ids)
    if not expanded or not state:
        return None
    exit_code, signal = _exit(code)
    return [
        JobRow(
            id=each,
            name=name,
            state=state,
            reason=reason if reason != "None" else "",
            submitted=_number(submitted, 0),
            nodes=nodes if nodes != "None assigned" else "",
            exit_code=exit_code,
            signal=signal,
            cluster=where or cluster,
        )
        for each in expanded
    ]


def expand_id(text: str) -> list[str]:
    """``12`` -> [12]; ``12_[3-5,9%2]`` -> [12_3, 12_4, 12_5, 12_9]; empty if it is no job id.

    Of tasks that Slurm itself has cut off (``12_[1-3,...]``) only those that are printed are there.
    """
    match = _ID.match(text.strip().replace(",...", "..."))
    if match is None:
        return []
    main, task, component, tasks = match.groups()
    if task is not None:
        return [f"{main}_{int(task)}"]
    if component is not None:
        return [f"{main}+{int(component)}"]
    if tasks is None:
        return [main]
    return [f"{main}_{number}" for number in _tasks(tasks)]


def _tasks(text: str) -> Iterator[int]:
    count = 0
    for part in text.split("%", 1)[0].split(","):
        match = _TASKS.match(part)
        if match is None:
            continue
        low = int(match.group(1))
        high = int(match.group(2) or low)
        for number in range(low, high + 1, max(1, int(match.group(3) or 1))):
            count += 1
            if count > _MOST_TASKS:
                return
            yield number


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else otherwise


def _exit(text: str) -> tuple[int | None, int | None]:
    """``3:0`` (sacct), or a wait status as a number (squeue)."""
    code, colon, signal = text.partition(":")
    number = _number(code, -1)
    if number < 0:
        return None, None
    if colon:
        return number, _number(signal, 0)
    return (number >> 8, number & 0x7F) if number > 255 else (0, number & 0x7F)


_JOB_ID = re.compile(r"(\d{1,18})(?:;([\w.-]{1,100}))?\Z")
_SENTENCE = re.compile(r"\bSubmitted batch job (\d{1,18})(?: on cluster ([\w.-]{1,100}))?")


def read_job_id(text: str) -> tuple[str, str] | None:
    """Id and cluster from what ``sbatch`` printed, with ``--parsable`` or without; None if there is none.

    Sites put greetings and warnings around it, so the last line that is an id counts.
    """
    for line in reversed(text.splitlines()):
        match = _JOB_ID.match(line.strip()) or _SENTENCE.search(line)
        if match is not None:
            return match.group(1), match.group(2) or ""
    return None


def read_limits(text: str) -> Limits:
    """From what ``scontrol show config`` printed; Slurm's defaults for what it does not say."""
    said: dict[str, int] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        match = re.match(r"\s*(\d{1,12})\b", value) if equals else None
        if match is not None:
            said[name.strip()] = int(match.group(1))
    default = Limits()
    return Limits(
        max_array_size=said.get("MaxArraySize", default.max_array_size),
        max_job_count=said.get("MaxJobCount", default.max_job_count),
        min_job_age=said.get("MinJobAge", default.min_job_age),
        message_timeout=said.get("MessageTimeout", default.message_timeout),
        known="MinJobAge" in said,
    )


def join_ids(ids: Iterable[str], most: int) -> Iterator[list[str]]:
    """Ids in order, without repetitions, in lists of at most ``most``: command lines have a limit."""
    unique = list(dict.fromkeys(ids))
    for begin in range(0, len(unique), most):
        yield unique[begin : begin + most]
