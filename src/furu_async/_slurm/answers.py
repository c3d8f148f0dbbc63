"""What ``sbatch`` and the commands that ask mean by what they print. Pure.

An error of ``sbatch`` is one of three things: certainly no job, and never will be (*rejected*); certainly no job, later
perhaps (*limit*); or nobody knows (`Unclear`): the request may have reached the controller though the reply did not
come. Only a text by which the controller itself has said no counts as certain.
"""

from __future__ import annotations

import re

from furu_async._slurm.parse import read_job_id
from furu_async._slurm.port import Done, Refused, Silence, SubmitAnswer, Submitted, Unclear

RETRYING: tuple[str, ...] = ("sleeping and retrying", "temporarily disabled, retrying", ", retrying:")
"""``sbatch`` says so, and goes on by itself for minutes: to be cut off."""

_POLICY = "job violates accounting/qos policy"
_NAMED_LIMIT = re.compile(r"\b(?:QOS|Assoc|Max)[A-Z]\w+")
_FULL = (
    "temporarily unable to accept job",
    "job queue full",
    "resource temporarily unavailable",
    "job creation temporarily disabled",
    "maximum job count",
)
_BUSY = (
    "socket timed out",
    "socket error",
    # names of functions, with which the library of Slurm begins what it says of its connections
    "slurm_msg_",
    "slurm_send_",
    "slurm_receive_",
    "slurm_recv_",
    "slurm_open_",
    "slurm_init_msg",
    "slurm_unpack",
    "connect to",
    "broken pipe",
    "unable to contact slurm controller",
    "connect failure",
    "connection refused",
    "connection reset",
    "connection timed out",
    "communication connection failure",
    "communication shutdown failure",
    "transport endpoint",
    "zero bytes were transmitted",
    "header lengths are longer",
    "slurm_persist",
    "message receive failure",
    "message send failure",
    "send failure",
    "standby mode",
    "protocol authentication error",
    "authentication credential",
    "munge",
    "credential expired",
    "rewound credential",
    "replayed credential",
    "could not establish a configuration source",
    "unable to create job record, try again",
    "try again",
    "prologslurmctld is still running",
    "unable to resolve",
    "host name resolution",
    "no route to host",
    "network is unreachable",
    "interrupted system call",
    "slurm backup controller",
    "internal error",
    "unexpected message received",
    "io error",
    "i/o error",
    "retrying",
)
_OFF = (
    "accounting storage is disabled",
    "slurm accounting storage is disabled",
    "slurmdbd is not configured",
)
_GONE = ("invalid job id", "already completing or completed", "job not found", "job is no longer pending")
_WORDS = 2000


def words_of(out: str, err: str) -> str:
    """What a command said, bounded, for people."""
    text = "\n".join(part.strip() for part in (err, out) if part.strip())
    return text if len(text) <= _WORDS else text[: _WORDS // 2] + "\n…\n" + text[-_WORDS // 2 :]


def read_sbatch(code: int | None, out: str, err: str) -> SubmitAnswer:
    """What one call of ``sbatch`` means.

    Args:
        code: its exit status; None if it was ended at its deadline, negative if by a signal.
    """
    words = words_of(out, err)
    low = words.lower()
    found = read_job_id(out)
    if found is not None and code == 0:
        return Submitted(*found)
    full = any(text in low for text in _FULL)
    if code is None or code < 0:
        return Unclear(words or "sbatch gave no answer in time", full)
    if found is not None:
        return Unclear(f"sbatch printed the id {found[0]} and ended with status {code}: {words}")
    if code == 0:
        return Unclear(f"sbatch printed no job id: {words!r}")
    if full or any(text in low for text in _BUSY):
        return Unclear(words, full)
    if _POLICY in low or _submit_limit(words):
        named = _NAMED_LIMIT.search(words)
        return Refused("rejected" if named and not _submit_limit(words) else "limit", words)
    if words:
        return Refused("rejected", words)
    return Unclear(f"sbatch ended with status {code} and said nothing")


def _submit_limit(words: str) -> bool:
    """A limit on the number of jobs is named, which others leaving makes room for; not one on their size."""
    return any("submitjob" in name.lower() for name in _NAMED_LIMIT.findall(words))


def read_silence(command: str, code: int | None, out: str, err: str) -> Silence:
    """Why a command that asks has no answer."""
    words = words_of(out, err)
    low = words.lower()
    off = any(text in low for text in _OFF)
    if code is None:
        return Silence(f"{command} gave no answer in time{': ' + words if words else ''}")
    return Silence(f"{command}: {words or f'exit status {code}'}", off)


def read_done(command: str, code: int | None, out: str, err: str) -> Done:
    """What became of a command that changes jobs; those that are gone already don't count."""
    if code == 0:
        return Done()
    words = words_of(out, err)
    lines = [line for line in words.splitlines() if line.strip()]
    if code is not None and lines and all(any(text in line.lower() for text in _GONE) for line in lines):
        return Done()
    if code is None:
        return Done(False, f"{command} gave no answer in time{': ' + words if words else ''}")
    return Done(False, f"{command}: {words or f'exit status {code}'}")
