"""Somebody else who works on the same store, from a host that nothing is known of."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from furu_async._model.artifact import Furu, class_info
from furu_async._store import artifacts, atomic, results
from furu_async._store.beat import Beat
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths, WorkerPaths, beat_path
from furu_async._store.manifest import manifest_of
from furu_async._store.records import NO_VALUE, Claim, End, Owner
from furu_async.report import Failure, FailureKind

_numbers = itertools.count(1)


class Stranger:
    """The owner of one claim. All methods block; each is one step on the store.

    Args:
        root: the store's root.
        obj: the artifact that is claimed.
    """

    def __init__(self, root: str, obj: Furu[Any]) -> None:
        info = class_info(type(obj))
        self.paths = ArtifactPaths(root, info.name, obj.furu_hash)
        self.has_load = info.has_load
        self.generation = 0
        number = next(_numbers)
        self._run_id = f"elsewhere-{number}"
        self._worker = WorkerPaths(root, self._run_id, "1")
        self._beat = Beat(self._worker.beat, 1.0)
        self._token = f"token of {self._run_id}"
        owner = Owner(host="elsewhere", boot_id="another", pid_ns="another", pid=number, start_time=1)
        self._card = Card(
            self._worker,
            Claim(
                backend="local",
                run_id=self._run_id,
                token=self._token,
                owner=owner,
                beat=beat_path(self._run_id, "1"),
            ),
        )

    def claim(self) -> bool:
        """Claim the next generation, with a beat; False if the artifact is not free."""
        seen = artifacts.look(self.paths)
        if seen.verdict != "free":
            return False
        atomic.make_folders(self._worker.base)
        self._beat.first()
        self._card.write()
        reply = artifacts.claim(self.paths, seen.next_generation, self._card)
        self.generation = reply.generation
        return reply.r == "claimed"

    def beat(self) -> None:
        """Give one sign of life."""
        self._beat.once()

    def publish(self, value: Any) -> bool:
        """Publish a result; False if the claim was taken over."""
        folder = self.paths.attempt(self.generation)
        raw, kind = NO_VALUE, "load"
        small = None if self.has_load else results.small(value)
        if small is not None:
            raw, kind = msgspec.Raw(small), "inline"
        elif not self.has_load:
            atomic.make_folders(folder)
            kind = results.save(value, folder)
        end = self._end("success", result=kind, value=raw, manifest=manifest_of(folder, set()))
        return artifacts.publish(self.paths, self.generation, end).r == "published"

    def fail(self, kind: FailureKind) -> bool:
        """Record a failure; False if the claim was taken over."""
        failure = Failure(kind=kind, message="as the script says, elsewhere")
        end = self._end("failure", failure=failure)
        return artifacts.finish(self.paths, self.generation, end).r == "published"

    def _end(self, status: Any, **fields: Any) -> End:
        return End(
            generation=self.generation,
            token=self._token,
            run_id=self._run_id,
            hash=self.paths.hash,
            status=status,
            **fields,
        )
