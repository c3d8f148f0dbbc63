"""A job as squeue shows it."""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = (
    "JobArrayID",
    "JobID",
    "ArrayJobID",
    "State",
    "Reason",
    "Partition",
    "NodeList",
    "RestartCnt",
    "Name",
)


@dataclass(frozen=True)
class Job:
    """One line of squeue.

    Attributes:
        id: as people write it: ``12``, or ``12_3`` for a task of an array.
        number: the id that Slurm itself uses for this job or task.
        array: the id of the array; of a single job its own.
        state: Slurm's state, such as PENDING.
        reason: why it is in this state, such as BeginTime.
        partition: its partition.
        nodes: where it runs or ran.
        restarts: how often it was requeued.
        name: its name.
    """

    id: str
    number: int
    array: int
    state: str
    reason: str
    partition: str
    nodes: str
    restarts: int
    name: str

    @classmethod
    def parse(cls, line: str) -> Job:
        """From a line with the columns of `COLUMNS`, each followed by a bar."""
        words = line.split("|", len(COLUMNS) - 1)
        number, array, restarts = int(words[1]), int(words[2]), int(words[7])
        name = words[8].rstrip().removesuffix("|")
        return cls(words[0], number, array, words[3], words[4], words[5], words[6], restarts, name)
