"""The root that every artifact shares, so that the parts of the model can ask "is this an artifact?".

Only storage lives here: three slots beside the fields. `Furu` adds the behaviour; the modules between them work on
these slots and on the class's `Definition`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from furu_async._model.definition import Definition

set_slot = object.__setattr__
"""Writes to a slot of a frozen object."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Which attempt a copy of an artifact belongs to.

    Attributes:
        directory: the attempt's folder; what ``furu_dir`` answers.
        checkpoint: the folder that passes from attempt to attempt, or None.
        generation: the number of the claim.
    """

    directory: str
    checkpoint: str | None
    generation: int


class Artifact:
    """Storage of an artifact beside its fields: the caches of what never changes, and the attempt it is bound to."""

    __slots__ = ("__dict__", "__weakref__", "_binding", "_dependencies", "_hash")

    __furu__: ClassVar[Definition]

    _hash: str
    _dependencies: tuple[Artifact, ...]
    _binding: Binding
