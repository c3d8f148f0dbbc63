"""What a controller process of the laboratory does: one call and then its end, or races as long as it is told to."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import chaos_artifacts
import failpoints

from furu_async import Furu, Local, RunEvent, Scheduler, run_dag
from furu_async._executors.implicit import close_implicit
from furu_async._executors.scheduler import _current
from furu_async.errors import FuruError


class Line:
    """JSON lines on a socket."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def say(self, **what: Any) -> None:
        """One line, with the time on the clock that all processes of this machine share."""
        self._end.sendall(json.dumps({**what, "at": time.monotonic()}).encode() + b"\n")

    def heard(self) -> Iterator[dict[str, Any]]:
        """What the test says, until it hangs up."""
        with self._end.makefile("rb") as file:
            for line in file:
                yield json.loads(line)


def main(wanted: dict[str, Any], end: socket.socket) -> None:
    """Do what is asked for, then end as any program does, but for the interpreter's clean-up."""
    failpoints.arm("controller")
    line = Line(end)
    if wanted["do"] == "race":
        Racer(line).serve()
    else:
        line.say(**call(wanted, line))


def objects(wanted: dict[str, Any]) -> list[Furu[Any]]:
    """The artifacts that are named as expressions."""
    return [eval(text, vars(chaos_artifacts)) for text in wanted["make"]]


def call(wanted: dict[str, Any], line: Line) -> dict[str, Any]:
    """One call by which results are had, as a user's program makes it; what became of it."""
    objs = objects(wanted)

    def tell(event: RunEvent) -> None:
        line.say(event=event.kind, message=event.message)

    begin = time.monotonic()
    try:
        if wanted["do"] == "get":
            answer: dict[str, Any] = {"ok": True, "values": [obj.get() for obj in objs]}
        elif wanted["do"] == "aget":
            answer = {"ok": True, "values": asyncio.run(_aget(objs))}
        else:
            executor = Local(workers=wanted.get("workers", 2), mode=wanted.get("mode", "process"))
            answer = asyncio.run(_run_dag(objs, executor, tell))
    except (FuruError, ExceptionGroup) as error:
        answer = {"ok": False, "error": type(error).__name__, "text": str(error)}
    return {**answer, "seconds": time.monotonic() - begin}


async def _aget(objs: list[Furu[Any]]) -> list[Any]:
    return list(await asyncio.gather(*(obj.aget() for obj in objs)))


async def _run_dag(objs: list[Furu[Any]], executor: Local, tell: Any) -> dict[str, Any]:
    report = await run_dag(objs, executor=executor, check=False, progress=False, on_event=tell)
    return {
        "ok": report.ok,
        "run_id": report.run_id,
        "counts": report.counts,
        "values": [await report.load(obj) for obj in objs] if report.ok else [],
        "failures": [str(node.failure) for node in report if node.failure is not None],
        "history": [entry for node in report for entry in node.history],
        "notes": list(report.notes),
    }


class Racer:
    """Takes part in races: schedulers stay open from one to the next, one for each mode."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._open: dict[str, Scheduler] = {}
        self._runner = asyncio.Runner()

    def serve(self) -> None:
        """One race after the other."""
        with self._runner:
            for wanted in self._line.heard():
                self._line.say(**self._race(wanted))
            self._runner.run(self._close())
        self._line.say(bye=True)

    def _race(self, wanted: dict[str, Any]) -> dict[str, Any]:
        objs = objects(wanted)
        try:
            if wanted["how"] == "get":
                _await_moment(wanted["moment"])
                values = [obj.get() for obj in objs]
            else:
                values = self._runner.run(self._run(wanted, objs))
        except Exception as error:
            return {"ok": False, "text": f"{type(error).__name__}: {error}"}
        return {"ok": True, "values": values}

    async def _run(self, wanted: dict[str, Any], objs: list[Furu[Any]]) -> list[Any]:
        mode = wanted["mode"]
        if wanted["how"] == "run_dag":
            _await_moment(wanted["moment"])
            report = await run_dag(objs, executor=Local(workers=1, mode=mode), progress=False)
            return [await report.load(obj) for obj in objs]
        if wanted["how"] == "implicit":
            _await_moment(wanted["moment"])
            return await _aget(objs)
        scheduler = self._open.get(mode)
        if scheduler is None:
            scheduler = self._open[mode] = Scheduler(Local(workers=1, mode=mode))
            await scheduler.open()
        _await_moment(wanted["moment"])
        if wanted["how"] == "start":
            report = await scheduler.start(objs)
            return [await report.load(obj) for obj in objs]
        inside = _current.set(scheduler)  # as in its block, which here has to outlast one race
        try:
            return await _aget(objs)
        finally:
            _current.reset(inside)

    async def _close(self) -> None:
        await close_implicit()
        for scheduler in self._open.values():
            await scheduler.aclose()


def _await_moment(moment: float) -> None:
    """Be there at this very moment: sleep to a little before it, then look at the clock."""
    left = moment - time.monotonic()
    if left > 0.002:
        time.sleep(left - 0.001)
    while time.monotonic() < moment:
        pass
