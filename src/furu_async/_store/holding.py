"""A run that a keeper holds: its card and beat, the claim on the run itself, and the artifacts' claims under it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from furu_async._store import atomic, fs, runs
from furu_async._store.artifacts import Look, finish, look
from furu_async._store.beat import Beat
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths, RunPaths, WorkerPaths
from furu_async._store.records import ChildRecord, Claim, End, encode
from furu_async.report import Failure

_TRIES = 3


class HeldRun:
    """See the module. All methods block.

    Args:
        wid: names the supervisor's folder in the run's.
        record: what its claims say.
        heartbeat: seconds between two beats.
        key: of the call; empty if nobody is ever to go on with the run.

    Attributes:
        generation: that the run itself is claimed under; 0 before `open`, and for good after `join`.
        held: paths of artifacts by (folder, generation), whose claims have not ended.
    """

    __slots__ = ("_key", "beat", "card", "generation", "held", "paths", "run_id", "worker")

    def __init__(
        self, root: str, run_id: str, wid: str, record: Claim, heartbeat: float, key: str = ""
    ) -> None:
        self.run_id = run_id
        self.paths = RunPaths(root, run_id)
        self.worker = WorkerPaths(root, run_id, wid)
        self.card = Card(self.worker, record)
        self.beat = Beat(self.worker.beat, heartbeat)
        self.generation = 0
        self.held: dict[tuple[str, int], ArtifactPaths] = {}
        self._key = key

    def open(self, after: int) -> bool:
        """Write card and beat, then claim the run; False if somebody else has it, or it is over.

        Args:
            after: 0 for a new run, else the generation of a dead controller's claim.

        Raises:
            OSError: a step failed. Nothing but the claim, if that was linked, is left behind.
        """
        try:
            # A folder without a card would have no owner that whoever cleans up could ask about.
            self.card.write()
            self.beat.first()
            self.generation = runs.claim_run(self.paths, after, self.card)
        except OSError:
            self.leave()
            raise
        if not self.generation:
            self.leave()
            return False
        if self._key:
            runs.enter(self.paths, self._key, self.card)
        if after:
            runs.sweep_workers(self.paths, os.path.basename(self.worker.base))
        return True

    def join(self) -> None:
        """Write card and beat, to work for a run that somebody else holds: it is neither claimed nor ended here.

        Raises:
            OSError: a step failed. Nothing is left behind.
        """
        try:
            self.card.write()
            self.beat.first()
        except OSError:
            self.leave()
            raise

    def end(
        self,
        failure: Failure | None,
        how: runs.Ending,
        counts: Mapping[str, int] | None,
        at: float | None,
    ) -> bool:
        """End what is still held, then the run (unless there is no failure to say), then remove beat and card.

        Best effort: where an end cannot be written, whoever wants it finds an owner without beat.

        Args:
            counts: nodes by how they ended.
            at: seconds since the epoch, for people.

        Returns:
            The supervisor's folder is gone.
        """
        if failure is not None:
            for (_, n), paths in list(self.held.items()):
                with suppress(OSError):
                    self._end_artifact(paths, n, failure)
            self._end_itself(how, counts, at)
        self.beat.stop()
        self._forget_children()
        return self.leave()

    def has_unknown(self, paths: ArtifactPaths, seen: Look) -> bool:
        """Whether it has claimed an artifact without the supervisor's knowing: an error came after the link."""
        mine = seen.verdict == "claimed" and seen.claim is not None and seen.claim.token == self.card.token
        return mine and (paths.base, seen.generation) not in self.held

    def disclaim(self, paths: ArtifactPaths) -> None:
        """End such a claim, if there is one: others would wait for it as long as this owner beats.

        Raises:
            OSError: it cannot be told, or not be ended now.
        """
        seen = look(paths)
        if self.has_unknown(paths, seen):
            failure = Failure(kind="infrastructure", message="an error came after it was claimed")
            self._end_artifact(paths, seen.generation, failure)

    def _end_artifact(self, paths: ArtifactPaths, n: int, failure: Failure) -> None:
        end = End(
            generation=n,
            token=self.card.token,
            status="failure",
            run_id=self.run_id,
            hash=paths.hash,
            failure=failure,
        )
        finish(paths, n, end)

    def _end_itself(self, how: runs.Ending, counts: Mapping[str, int] | None, at: float | None) -> None:
        """From then on nobody need find the run, unless it is lost."""
        if not self.generation:
            return
        for _ in range(_TRIES):
            with suppress(OSError):
                runs.end_run(self.paths, self.generation, self.card.token, how, counts, at)
                break
        else:
            return
        if self._key and how != "lost":
            runs.leave(self.paths, self._key)

    def leave(self) -> bool:
        """Remove what stands for a living supervisor, and folders if nothing else is in them.

        Returns:
            The supervisor's folder is gone.
        """
        worker = self.worker
        for path in (worker.beat, *self.card.files()):
            atomic.try_unlink(path)
        gone = False
        for folder in (worker.children, worker.base, self.paths.workers, self.paths.base):
            try:
                fs.rmdir(folder)
            except OSError:
                continue
            gone = gone or folder == worker.base
        return gone

    def _forget_children(self) -> None:
        try:
            names = fs.listdir(self.worker.children)
        except OSError:
            return
        for name in names:  # also what a keeper that died while it wrote one has left
            atomic.try_unlink(f"{self.worker.children}/{name}")

    def record_child(self, child: ChildRecord) -> None:
        """Write it down for whoever takes over when both supervisor and keeper are dead; best effort."""
        try:
            atomic.make_folders(self.worker.children)
            atomic.replace(f"{self.worker.children}/{child.pid}", encode(child))
        except OSError:
            pass

    def forget_child(self, pid: int) -> None:
        """Its process group is gone."""
        atomic.try_unlink(f"{self.worker.children}/{pid}")
