"""The names of jobs: what they are for, which run they belong to, and the token by which they are found.

``furu-<what>-<run>-<token>``: eight digits of a hash of the run's id, sixteen random ones of the try. Whoever has lost
track of a job finds it by its name; whoever ends a run finds what is left of it by the part in the middle.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

_NAME = re.compile(r"furu-(?P<what>[A-Za-z0-9._+-]{1,40})-(?P<run>[0-9a-f]{8})-(?P<token>[0-9a-f]{16})\Z")
_OTHER = re.compile(r"[^A-Za-z0-9._+]+")


_LABEL = 40
_NAMED = 2


class JobName(NamedTuple):
    """The parts of a job's name."""

    what: str
    run: str
    token: str


def job_name(what: str, run_id: str, token: str) -> str:
    """The name of a job.

    Args:
        what: for people: a class, a spec; what is no letter or digit is left out.
        token: sixteen hexadecimal digits.
    """
    label = _OTHER.sub("-", what).strip("-")[:_LABEL].rstrip("-") or "job"
    return f"furu-{label}-{run_tag(run_id)}-{token}"


def label_of(classes: Iterable[str]) -> str:
    """What a job, or an array of them, is for: ``Train``, ``Train+Score``, ``Train+Score+3``: the most frequent first.

    Args:
        classes: names of the classes of its nodes, at least one.
    """
    names = [name for name, _ in Counter(classes).most_common()]
    for named in (_NAMED, 1):
        more = f"+{len(names) - named}" if len(names) > named else ""
        label = "+".join(names[:named]) + more
        if len(label) <= _LABEL:
            return label
    return label[: _LABEL - len(more)] + more


def run_tag(run_id: str) -> str:
    """What stands for a run in the names of its jobs."""
    return hashlib.blake2b(run_id.encode(), digest_size=4).hexdigest()


def read_name(name: str) -> JobName | None:
    """The parts of a name that `job_name` made, else None."""
    match = _NAME.match(name)
    return JobName(match["what"], match["run"], match["token"]) if match else None


def belongs_to(name: str, run_id: str) -> bool:
    """Whether a job of this name was submitted for this run."""
    parts = read_name(name)
    return parts is not None and parts.run == run_tag(run_id)
