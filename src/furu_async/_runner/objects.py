"""Artifacts of a child, built from table entries that arrive bit by bit, each once per child.

`Objects` is the child's side; `entries_for` is the supervisor's, which remembers what a child was sent. Both
are linear in the number of distinct artifacts, and neither recurses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from furu_async._model import context, table
from furu_async._model.artifact import Furu
from furu_async._model.table import Entry
from furu_async.errors import FuruSpecMismatch


class Objects:
    """Table entries and the artifacts made of them, by hash."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._built: dict[str, Furu[Any]] = {}

    def add(self, entries: Iterable[Entry]) -> None:
        """Keep entries; nothing is built or imported yet."""
        for entry in entries:
            self._entries[entry.hash] = entry

    def get(self, wanted: str) -> Furu[Any]:
        """The artifact of this hash, built if need be; imports the modules of its classes.

        Raises:
            FuruSpecMismatch: this process's code has no such class, or makes another hash of the same fields.
            BaseException: whatever importing a module raised.
        """
        built = self._built
        found = built.get(wanted)
        if found is not None:
            return found
        with context.importing():
            stack = [wanted]
            while stack:
                name = stack[-1]
                if name in built:
                    stack.pop()
                    continue
                entry = self._entries.get(name)
                if entry is None:
                    raise FuruSpecMismatch(f"no table entry for {name} has come with the task for {wanted}")
                missing = [
                    other for other in referenced(entry) if other in self._entries and other not in built
                ]
                if missing:
                    stack += missing
                else:
                    built[name] = table.build(entry, built)
        return built[wanted]


def referenced(entry: Entry) -> Iterator[str]:
    """Hashes of the artifacts that the fields of an entry refer to."""
    stack: list[Any] = [entry.fields]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            found = value.get("$furu")
            if isinstance(found, str):
                yield found
            stack += value.values()
        elif isinstance(value, list):
            stack += value


def entries_for(known: set[str], obj: Furu[Any]) -> list[Entry]:
    """Table entries of ``obj`` and all it refers to that are not in ``known``, dependencies first; adds them to it."""
    found: list[Entry] = []
    stack: list[tuple[Furu[Any], bool]] = [(obj, False)]
    while stack:
        item, below_done = stack.pop()
        if item.furu_hash in known:
            continue
        if below_done:
            known.add(item.furu_hash)
            found.append(table.entry(item))
            continue
        stack.append((item, True))
        stack += [
            (other, False) for other in reversed(table.references(item)) if other.furu_hash not in known
        ]
    return found
