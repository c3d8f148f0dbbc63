"""What differs from one process to another, as a function of a seed: a seed is the same course of events everywhere."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from furu_async._model import definition
from furu_async._store import atomic


@contextmanager
def drawn_plan(seed: int) -> Iterator[None]:
    """Whether runs start nothing before they are planned: drawn, whatever classes this process has defined so far.

    Runs ask whether there is any class with ``@dependency`` methods, also among those that they have no use for.
    """
    before = definition._declares_dependencies
    definition._declares_dependencies = ["drawn"] if random.Random(f"{seed} plan").random() < 0.3 else []
    try:
        yield
    finally:
        definition._declares_dependencies = before


@contextmanager
def drawn_names(seed: int, this_pid: Callable[[], int]) -> Iterator[None]:
    """Random and process ids: they are in names and records, whose order and length show in what follows."""
    before = os.getpid, os.getpgrp, uuid.uuid4, atomic._salt, atomic._count
    tokens = random.Random(seed)
    os.getpid = os.getpgrp = this_pid
    uuid.uuid4 = lambda: uuid.UUID(int=tokens.getrandbits(128), version=4)
    atomic._salt, atomic._count = "0123456789", 0
    try:
        yield
    finally:
        os.getpid, os.getpgrp, uuid.uuid4, atomic._salt, atomic._count = before
