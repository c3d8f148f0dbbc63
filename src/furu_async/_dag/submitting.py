"""Carries out what the wiring of a DAG asks for: claims, submissions, a wave's release, cancellations."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from furu_async._dag import claims, orders
from furu_async._dag.cancelling import Cancelling
from furu_async._dag.claims import Answer, Wanted
from furu_async._dag.foreign import resolve
from furu_async._dag.orders import Order, OrderNode
from furu_async._dag.tracks import Core, Sub, Told, Track
from furu_async._dag.units import Check, Claim, Command, Drop, GoOn, Resolve, Submit, Unit, Verify, Withdraw
from furu_async._dag.waves import Waves
from furu_async._model.artifact import Furu, class_info, specs_of
from furu_async._model.dag import dependencies
from furu_async._pool.objects_log import ObjectsLog
from furu_async._slurm import protocol
from furu_async._slurm.names import label_of
from furu_async._slurm.parameters import Wish, request
from furu_async._slurm.port import JobRequest
from furu_async._slurm.submitter import Order as SubmitOrder
from furu_async._slurm.submitter import Ticket
from furu_async._store.layout import RunPaths
from furu_async.errors import FuruConfigError, FuruExecutorError
from furu_async.report import Failure

_BATCH = 64


@dataclass(slots=True)
class _Prepared:
    answers: list[Answer]
    found: dict[str, Order | None]


class Submitting:
    """See the module.

    Args:
        follow: told of what becomes of nodes.

    Attributes:
        waiting_for: why Slurm takes no more jobs, in its own words.
        cancelling: of jobs that are not wanted any more.
    """

    def __init__(self, core: Core, follow: Told) -> None:
        self.core = core
        self.waiting_for: str = ""
        self._follow = follow
        self._log = ObjectsLog(orders.objects_path(core.paths))
        self._loaded = False
        self._claiming = asyncio.Lock()
        self.cancelling: Cancelling = Cancelling(core, follow, self._claiming)
        self._waves = Waves(core, self._watch_all)

    def carry_out(self, command: Command) -> None:
        """One command; its answer comes later."""
        spawn, units = self.core.spawn, self.core.wiring.units
        match command:
            case Claim(uids):
                spawn(self._claim([units[uid] for uid in uids]), "furu dag claims")
            case Check(uid, parents):
                spawn(self._waves.check(uid, parents), "furu dag check")
            case Submit(uid, hold):
                self._submit(units[uid], hold)
            case Withdraw(uid):
                sub = self.core.subs[uid]
                sub.withdrawn = True
                if sub.pending is not None:
                    sub.pending.cancel("it is submitted in smaller parts")
            case Verify(uids):
                spawn(self._waves.verify([units[uid] for uid in uids]), "furu dag wave")
            case Drop(uid, node):
                self.cancelling.drop(units[uid], node)
            case Resolve(node):
                spawn(resolve(self.core, self.core.tracks[node], again=True), "furu dag dependency elsewhere")
            case GoOn():
                asyncio.get_running_loop().call_soon(lambda: self.core.do(self.core.wiring.go_on()))

    # -- claims ----------------------------------------------------------------------------------------------

    async def _claim(self, units: list[Unit]) -> None:
        while units:
            batch: list[Unit] = []
            while units and (not batch or sum(len(u.nodes) for u in batch) + len(units[0].nodes) <= _BATCH):
                batch.append(units.pop(0))
            async with self._claiming:
                if self.core.stopping:
                    return
                await self._claim_batch(batch)

    async def _claim_batch(self, batch: list[Unit]) -> None:
        core = self.core
        wanted: list[Wanted] = []
        objs: list[Furu[object]] = []
        for unit in batch:
            sub = core.subs[unit.uid] = Sub(unit.uid, secrets.token_hex(8), len(unit.nodes))
            for k, digest in enumerate(unit.nodes):
                track = core.tracks[digest]
                node = track.node
                objs.append(node.obj)
                wanted.append(
                    Wanted(
                        name=node.name,
                        hash=digest,
                        wid=orders.wid_of(sub.sid, k),
                        supersede=node.supersede,
                        takeover=node.takeover,
                        silent_at=node.silent_at,
                        done_with=frozenset(track.done_with),
                    )
                )
        prepared: _Prepared = await core.patiently(self._prepare, objs, wanted)
        answers = iter(prepared.answers)
        names = iter(wanted)
        told = [[(next(names).wid, next(answers)) for _ in unit.nodes] for unit in batch]
        written: list[tuple[str, Order]] = []
        for unit, answered in zip(batch, told, strict=True):
            order = self._order(unit, answered)
            if order.nodes:
                written.append((core.subs[unit.uid].sid, order))
        await core.patiently(_write_orders, core.paths, written)
        for unit, answered in zip(batch, told, strict=True):
            self._claimed(unit, answered, prepared.found)
            await asyncio.sleep(0)

    def _prepare(self, objs: Sequence[Furu[object]], wanted: Sequence[Wanted]) -> _Prepared:
        """Blocks; an error before anything is claimed is raised."""
        core = self.core
        if not self._loaded:
            self._log.load()
            self._loaded = True
        known = set(self._log.known)
        try:
            self._log.append([entry for obj in objs for entry in self._log.missing(obj)])
        except OSError:
            self._log.known = known
            raise
        answers = claims.claim_all(core.run.root, core.run.run_id, wanted)
        found: dict[str, Order | None] = {}
        for answer in answers:
            sid = orders.sid_of(answer.wid)
            if answer.what == "adopt" and sid not in found:
                found[sid] = orders.read_order(core.paths.submission(sid))
        troubles = [answer.text for answer in answers if answer.what == "trouble" and not answer.damaged]
        if troubles:  # what was claimed is recognised by its token the next time
            raise OSError(troubles[0])
        return _Prepared(answers, found)

    def _order(self, unit: Unit, answered: list[tuple[str, Answer]]) -> Order:
        nodes = []
        for digest, (wid, answer) in zip(unit.nodes, answered, strict=True):
            if answer.what == "ours":
                nodes.append(_order_node(self.core.tracks[digest], unit, wid, answer.generation))
        return Order(run_id=self.core.run.run_id, spec=unit.spec, spec_key=unit.key, nodes=nodes)

    def _claimed(
        self, unit: Unit, answered: list[tuple[str, Answer]], found: dict[str, Order | None]
    ) -> None:
        core = self.core
        sub = core.subs[unit.uid]
        ours, done, bad = set(), set(), set()
        foreign: dict[str, str] = {}
        adopted: dict[str, dict[str, Answer]] = {}
        for digest, (wid, answer) in zip(list(unit.nodes), answered, strict=True):
            track = core.tracks[digest]
            track.node.takeover = track.node.supersede = 0
            for text in answer.notes:
                core.run.note(text)
            if answer.what == "ours":
                ours.add(digest)
                self._has_job(track, unit, sub.sid, wid, answer.generation)
            elif answer.what == "done":
                done.add(digest)
                self._follow.published(track, answer.generation)
            elif answer.what == "foreign":
                foreign[digest] = answer.job
                self._follow.foreign(track, answer)
            elif answer.what == "adopt":
                adopted.setdefault(orders.sid_of(answer.wid), {})[digest] = answer
            else:
                bad.add(digest)
                self._follow.lost(
                    track, Failure(kind="protocol", error_type="FuruStoreError", message=answer.text)
                )
        for sid, nodes in adopted.items():
            self._adopt(sid, found.get(sid), nodes)
        sub.size = len(ours)
        core.do(core.wiring.claimed(unit.uid, ours, done, foreign, bad))
        core.wake()

    def _adopt(self, sid: str, order: Order | None, nodes: dict[str, Answer]) -> None:
        """Go on with a submission of the run's earlier controller."""
        core = self.core
        members = [node.hash for node in order.nodes] if order is not None else []
        known = {digest: answer for digest, answer in nodes.items() if digest in members}
        for digest in nodes.keys() - known.keys():
            core.tracks[digest].done_with.add(sid)
        if order is None or not known:
            return
        unit = core.wiring.adopt(members, order.spec, set(known))
        core.subs[unit.uid] = Sub(unit.uid, sid, len(members), adopted=True)
        self._waves.adopted.add(unit.uid)
        by_hash = {node.hash: node for node in order.nodes}
        for digest, answer in known.items():
            track = core.tracks[digest]
            track.spec = order.spec
            self._has_job(track, unit, sid, by_hash[digest].wid, answer.generation)

    def _has_job(self, track: Track, unit: Unit, sid: str, wid: str, generation: int) -> None:
        track.uid, track.sid, track.wid = unit.uid, sid, wid
        track.generation = track.node.generation = generation
        track.spec = unit.spec
        track.restarts, track.restarts_told, track.job_id = 0, 0, ""
        track.alive = track.ended = track.failure = track.since = None
        track.started = False

    # -- submissions -----------------------------------------------------------------------------------------

    def _submit(self, unit: Unit, hold: bool) -> None:
        core, sub = self.core, self.core.subs[unit.uid]
        if core.stopping:  # nobody would hear of it
            return
        nodes = [core.tracks[digest].node for digest in unit.nodes if digest in core.tracks]
        order = SubmitOrder(
            paths=core.paths.submission(sub.sid),
            run_id=core.run.run_id,
            sid=sub.sid,
            what=label_of(node.name.rpartition(".")[2] for node in nodes),
            request=lambda ticket: self._request(unit, sub, hold, ticket),
            on_waiting=lambda waiting: self._waits(unit, waiting),
        )
        sub.pending = core.shared.submitter.begin(order)
        core.spawn(self._await_placed(unit, sub), "furu dag submission")

    def _request(self, unit: Unit, sub: Sub, hold: bool, ticket: Ticket) -> JobRequest:
        core = self.core
        node = next(core.tracks[digest].node for digest in unit.nodes if digest in core.tracks)
        specs = specs_of(node.obj)
        jobs = core.wiring.edges(unit.uid)
        wish = Wish(
            ticket.name,
            (
                sys.executable,
                "-m",
                "furu_async.worker",
                "dag",
                f"--root={core.run.root}",
                f"--run={core.run.run_id}",
                f"--sid={sub.sid}",
                f"--try={ticket.k}",
                f"--token={ticket.token}",
            ),
            log_dir(core.paths),
            dependency="afterok:" + ":".join(dict.fromkeys(jobs)) if jobs else "",
            array=sub.size if sub.size > 1 else 0,
            hold=hold,
        )
        return request(core.shared.dag.merged(specs[min(unit.spec, len(specs) - 1)]), wish)

    def _waits(self, unit: Unit, waiting: protocol.Waiting) -> None:
        if waiting.words != self.waiting_for:
            self.waiting_for = waiting.words
            what = "takes no more jobs at present" if waiting.kind == "limit" else "does not answer `sbatch`"
            self.core.run.note(f"Slurm {what}: {waiting.words}")
        if waiting.kind == "limit":
            self.core.do(self.core.wiring.limited(unit.uid))

    async def _await_placed(self, unit: Unit, sub: Sub) -> None:
        core = self.core
        assert sub.pending is not None
        try:
            finished = await sub.pending.wait()
        except FuruConfigError as error:
            finished = protocol.Finished("rejected", words=str(error))
        if finished.how == "placed" and finished.job is not None:
            ticket = sub.pending.ticket
            sub.job_id, sub.cluster = finished.job.job_id, finished.job.cluster
            sub.name = ticket.name if ticket is not None else ""
            # It would be half of what there is in memory of a node, and of what the garbage collector goes through.
            sub.tries, sub.pending = sub.pending.state.k, None
            sub.placed_at = None if sub.adopted else asyncio.get_running_loop().time()
            core.do(core.wiring.placed(unit.uid, sub.job_id))
            self._has_id(unit, sub)
        elif finished.how == "infrastructure":
            core.run.fail(FuruExecutorError(f"jobs cannot be submitted: {finished.words}", "see `sinfo`"))
        elif finished.how == "rejected" and "dependency" not in finished.words.lower():
            failure = Failure(
                kind="protocol", error_type="sbatch", message=f"Slurm refuses its job: {finished.words}"
            )
            for digest in list(unit.live):
                self._follow.lost(core.tracks[digest], failure)
            core.do(core.wiring.refused(unit.uid))
        else:  # taken back, because nobody wants it any more or in favour of smaller parts
            for digest in list(unit.live):
                core.tracks[digest].done_with.add(sub.sid)
            core.do(core.wiring.withdrawn(unit.uid))

    def _has_id(self, unit: Unit, sub: Sub) -> None:
        """Follow its jobs, and write their ids where people look for them."""
        core = self.core
        notes = []
        for k, digest in enumerate(unit.nodes):
            track = core.tracks.get(digest)
            if track is None or track.uid != unit.uid:
                continue
            track.job_id = f"{sub.job_id}_{k}" if sub.size > 1 else sub.job_id
            track.log = f"{log_dir(core.paths)}/{sub.name}-{track.job_id}.log"
            node = track.node
            notes.append((node.name, digest, track.generation, track.wid, track.job_id, sub.cluster))
            if unit.phase == "open":
                self._watch(track, sub)
        core.spawn(self._note(notes), "furu dag job ids")

    async def _note(self, notes: list[tuple[str, str, int, str, str, str]]) -> None:
        await self.core.patiently(claims.note_jobs, self.core.run.root, notes)

    def _watch_all(self, unit: Unit) -> None:
        sub = self.core.subs[unit.uid]
        for digest in unit.nodes:
            track = self.core.tracks.get(digest)
            if track is not None and track.uid == unit.uid:
                self._watch(track, sub)

    def _watch(self, track: Track, sub: Sub) -> None:
        digest = track.node.hash
        if digest not in sub.watches and track.job_id:
            sub.watches[digest] = self.core.shared.poller.track(
                track.job_id, sub.name, lambda change: self._follow.changed(track, sub, change)
            )


def log_dir(paths: RunPaths) -> str:
    """Where the jobs' output goes."""
    return f"{paths.base}/logs"


def _order_node(track: Track, unit: Unit, wid: str, generation: int) -> OrderNode:
    node = track.node
    below = dependencies(node.obj)
    return OrderNode(
        hash=node.hash,
        name=node.name,
        wid=wid,
        generation=generation,
        spec=unit.spec,
        attempt=node.attempts + 1,
        used=dict(track.used),
        history=list(node.history),
        inputs=[(class_info(type(each)).name, each.furu_hash) for each in below],
    )


def _write_orders(paths: RunPaths, written: Sequence[tuple[str, Order]]) -> None:
    for sid, order in written:
        orders.write_order(paths.submission(sid), order)
