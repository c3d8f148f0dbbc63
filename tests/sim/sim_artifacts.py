"""The artifacts of simulated runs."""

from __future__ import annotations

from typing import Any

from furu_async import Furu, Retry, SlurmSpec


class Item(Furu[int]):
    """A node of a random DAG."""

    number: int
    inputs: tuple[Furu[int], ...] = ()

    def _create(self) -> int:
        return self.number + sum(each.get() for each in self.inputs)


class Limited(Item):
    """The same with a time limit."""

    _time_limit = 50.0


class Stubborn(Item):
    """The same with retries of its own."""

    _retry = Retry(retries=1, backoff=5.0)


class Checked(Item):
    """The same with a check of its results."""

    def _validate(self) -> bool:
        return True


class Brief(Item):
    """The same on an allocation of five minutes."""

    def _spec(self) -> SlurmSpec:
        return SlurmSpec(time_min=5)


class Resumable(Brief):
    """The same; it goes on from its checkpoint."""

    _resumable = True


class Large(Furu[str]):
    """A node whose result is a file of its own."""

    number: int
    inputs: tuple[Furu[Any], ...] = ()

    def _create(self) -> str:
        return str(self.number) * 5000
