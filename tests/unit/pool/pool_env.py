"""A pool's home as a controller prepares it, and workers in this process, for tests."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pool_artifacts as arts

from furu_async import Furu
from furu_async._executors.identity import Identity
from furu_async._executors.local import LocalExecutor
from furu_async._model.artifact import class_info, specs_of
from furu_async._pool import queue
from furu_async._pool.entries import QueueEntry, Report, WorkerStatus, read_report
from furu_async._pool.objects_log import ObjectsLog
from furu_async._pool.pilot import Pilot
from furu_async._pool.work import PilotPlan
from furu_async._runtime.config import FuruConfig
from furu_async._store import atomic
from furu_async._store.card import Card
from furu_async._store.layout import ArtifactPaths, QueuePaths, RunPaths
from furu_async._store.records import Claim, decode, encode
from furu_async.testing import FakeExecutor

HOME = "20260101-000000-1-aaaaaa"
KEY = arts.SPEC.key
HASH = "0123456789abcdef" * 2


class Home:
    """The controller's side of a pool, without a controller."""

    def __init__(self, root: Any, **settings: Any) -> None:
        self.root = str(root)
        self.paths = QueuePaths(self.root, HOME)
        self.run = RunPaths(self.root, HOME)
        self.config = replace(FuruConfig(path=root, record_git="off"), **settings)
        self.objects = ObjectsLog(self.paths.objects)
        self.buckets = queue.Buckets()
        self.tickets = 0
        atomic.make_folders(self.paths.base)

    def entry(self, obj: Furu[Any], **changes: Any) -> QueueEntry:
        self.tickets += 1
        keys = [spec.key for spec in specs_of(obj)]
        made = QueueEntry(
            hash=obj.furu_hash,
            name=class_info(type(obj)).name,
            spec_key=keys[0],
            executor_keys=keys,
            ticket=self.tickets,
            run_id=HOME,
        )
        return msgspec.structs.replace(made, **changes)

    def put(self, obj: Furu[Any], **changes: Any) -> str:
        """Queue an artifact as the controller does; the entry's name."""
        self.objects.append(self.objects.missing(obj))
        return self.put_entry(self.entry(obj, **changes))

    def put_entry(self, entry: QueueEntry, spec_key: str = "") -> str:
        place = self.buckets.place(entry)
        if spec_key or not entry.spec_key:
            place = queue.Place(spec_key or KEY, place.bucket)
        queue.put(self.paths, entry, place)
        return entry.file

    def claim(self, token: str = "controller", beat: str = "", after: int = 0) -> Card:
        """The controller's claim on the run."""
        card = Card(self.run.worker(token), Claim(token=token, backend="local", run_id=HOME, beat=beat))
        card.write()
        atomic.make_folders(self.run.claims)
        assert card.link(self.run.claim(after + 1))
        return card

    def beat(self, text: str, path: str = f"runs/{HOME}/workers/controller/beat") -> str:
        atomic.replace(f"{self.root}/{path}", text.encode())
        return path

    def reports(self) -> dict[str, Report]:
        found = {}
        for name in queue.failed(self.paths):
            path = f"{self.paths.failed}/{name}"
            found[name] = read_report(atomic.read_bytes(path), name, path)
        return found

    def only_report(self) -> Report:
        (report,) = self.reports().values()
        return report

    def done(self) -> list[str]:
        return sorted(queue.done(self.paths))

    def todo(self) -> list[str]:
        return sorted(name for places in queue.waiting(self.paths).values() for name in places)

    def running(self) -> list[str]:
        return [
            f"{wid}/{name}"
            for wid in queue.names(self.paths.running)
            for name in queue.running(self.paths, wid)
        ]

    def status(self, wid: str = "w1") -> WorkerStatus:
        path = self.run.worker(wid).status
        if not os.path.exists(path):
            return WorkerStatus(wid=wid, spec_key="")
        return decode(WorkerStatus, atomic.read_bytes(path), path)

    def generations(self, obj: Furu[Any]) -> int:
        paths = ArtifactPaths(self.root, class_info(type(obj)).name, obj.furu_hash)
        try:
            return len(os.listdir(paths.claims))
        except FileNotFoundError:
            return 0

    def worker(
        self, wid: str = "w1", script: FakeExecutor | None = None, log: list[str] | None = None, **plan: Any
    ) -> Pilot:
        """A worker whose attempts follow a script."""
        plan = {"spec_key": KEY, "slots": 1, "idle": 5.0, "seed": 1, **plan}
        fake = replace(script or FakeExecutor(), workers=plan["slots"])
        executor = fake.open(self.config)
        assert isinstance(executor, LocalExecutor)
        executor.work_as(Identity(backend="pool", worker_id=wid, spool=f"{self.root}/spool-{wid}"))
        lines = log if log is not None else []
        return Pilot(PilotPlan(wid=wid, **plan), self.paths, self.config, executor, lines.append)

    def taker(self, wid: str = "w1", seed: int = 1, spec_key: str = KEY) -> queue.Taker:
        taker = queue.Taker(self.paths, spec_key, wid, random.Random(seed))
        taker.prepare()
        return taker

    def plain(self, ticket: int, **changes: Any) -> QueueEntry:
        """An entry of no real artifact."""
        changes = {"hash": HASH, "name": "m.A", "spec_key": KEY, "run_id": HOME, **changes}
        return QueueEntry(ticket=ticket, **changes)

    def put_plain(self, tickets: Iterable[int], **changes: Any) -> list[str]:
        return [self.put_entry(self.plain(ticket, **changes)) for ticket in tickets]


def raw(entry: QueueEntry) -> bytes:
    return encode(entry)
