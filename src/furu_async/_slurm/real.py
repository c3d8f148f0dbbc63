"""The real Slurm behind the port: ``sbatch``, ``squeue``, ``sacct``, ``scancel``, ``scontrol``.

submitit writes the script. It is used for nothing else: its jobs, pickles and signal handlers are not relied on, and
this is the only module that imports it. The script's last line is the plain command of the job.
"""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from furu_async._runner.processes import ROOM, TOKEN_VARIABLE
from furu_async._slurm import commands
from furu_async._slurm.answers import RETRYING, read_done, read_sbatch, read_silence
from furu_async._slurm.parse import (
    ACCOUNT_FORMAT,
    QUEUE_FORMAT,
    join_ids,
    read_accounting,
    read_limits,
    read_queue,
)
from furu_async._slurm.port import Done, Found, JobRequest, Limits, Refused, Rows, Silence, SubmitAnswer

SUBMIT_SECS = 90.0
ASK_SECS = 60.0
CHANGE_SECS = 60.0

_MOST_IDS = 400
_LARGE = 16_384
"""Characters of an answer that is read off the loop."""
_FIND_BACK_SECS = 14 * 86400.0


def script(request: JobRequest) -> str:
    """The batch script, as submitit writes it.

    Without lines of teardown the shell is replaced by the command, so that signals reach it.
    """
    from submitit.slurm import slurm as submitit_slurm

    known = submitit_slurm._get_default_parameters()
    options: dict[str, Any] = {}
    additional: dict[str, Any] = {}
    for name, value in request.options.items():
        key = name.replace("-", "_")
        if key in known and key not in ("signal_delay_s", "additional_parameters", "num_gpus"):
            options[key] = value
        else:
            additional[name] = value
    command = shlex.join(request.argv)
    teardown = list(request.teardown)
    if teardown:
        command = _FORWARDING.format(command=command)
        teardown.append('exit "$furu_status"')
    else:
        command = f"exec {command}"
    text: str = submitit_slurm._make_sbatch_string(
        command,
        "/nonexistent",
        **{"wckey": None, **options},
        setup=[f"export {TOKEN_VARIABLE}={ROOM}", *request.setup],
        teardown=teardown or None,
        additional_parameters=additional,
        use_srun=False,
    )
    return text + "\n"


_FORWARDING = """\
{command} &
furu_pid=$!
trap 'kill -TERM "$furu_pid"' TERM
trap 'kill -USR2 "$furu_pid"' USR2
while :; do
    wait "$furu_pid"
    furu_status=$?
    kill -0 "$furu_pid" 2>/dev/null || break
done"""


class RealSlurm:
    """The cluster that this host's commands speak to; see `SlurmPort` for the methods.

    Args:
        clusters: of a federation or several clusters: the one to use (``--clusters``); empty for the default.
        env: environment of the commands; None for this process's own.
        submit_secs: deadline of one ``sbatch``.
        ask_secs: deadline of ``squeue`` and ``sacct``.
    """

    def __init__(
        self,
        clusters: str = "",
        *,
        env: Mapping[str, str] | None = None,
        submit_secs: float = SUBMIT_SECS,
        ask_secs: float = ASK_SECS,
    ) -> None:
        self._clusters = [f"--clusters={clusters}"] if clusters else []
        self._env = env
        self._submit_secs = submit_secs
        self._ask_secs = ask_secs
        self._imported = False

    @property
    def _environment(self) -> Mapping[str, str]:
        return os.environ if self._env is None else self._env

    async def submit(self, request: JobRequest) -> SubmitAnswer:
        """As `SlurmPort.submit`."""
        if not self._imported:  # a tenth of a second that the loop need not wait
            await commands.LANE.run(importlib.import_module, "submitit.slurm.slurm")
            self._imported = True
        env = commands.submitting_environment(self._environment, request.options)
        done = await commands.run(
            ["sbatch", "--parsable", *self._clusters],
            deadline=self._submit_secs,
            env=env,
            stdin=script(request),
            stop_on=RETRYING,
        )
        if done.code == 127:
            return Refused("rejected", f"there is no sbatch on this host: {done.err}")
        return read_sbatch(done.code, done.out, done.err)

    async def query(self) -> Rows | Silence:
        """As `SlurmPort.query`."""
        return await self._queue([])

    async def _queue(self, which: list[str]) -> Rows | Silence:
        argv = ["squeue", "--noheader", "--array", "--states=all", "--all", f"--user={os.getuid()}"]
        done = await self._ask([*argv, *self._clusters, *which, f"--Format={QUEUE_FORMAT}"])
        if done.code != 0 or done.truncated:
            return read_silence("squeue", done.code, "", done.err)
        if len(done.out) > _LARGE:
            return await commands.LANE.run(read_queue, done.out)
        return read_queue(done.out)

    async def account(
        self, ids: Collection[str], names: Collection[str] = (), back_secs: float = 86400.0
    ) -> Rows | Silence:
        """As `SlurmPort.account`."""
        rows = Rows()
        wanted = [("--jobs", part) for part in join_ids(ids, _MOST_IDS)]
        wanted += [("--name", part) for part in join_ids(names, _MOST_IDS)]
        for option, part in wanted:
            answer = await self._account([f"{option}={','.join(part)}"], back_secs)
            if isinstance(answer, Silence):
                return answer
            rows = Rows(rows.rows + answer.rows, rows.unparsed + answer.unparsed)
        return Rows(tuple(sorted(rows.rows, key=lambda row: row.submitted)), rows.unparsed)

    async def _account(self, which: list[str], back_secs: float) -> Rows | Silence:
        argv = [
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            "--duplicates",
            f"--user={os.getuid()}",
        ]
        since = f"--starttime=now-{max(60, round(back_secs))}seconds"
        done = await self._ask([*argv, *self._clusters, since, *which, f"--format={ACCOUNT_FORMAT}"])
        silence = read_silence("sacct", done.code, "", done.err)
        if done.code != 0 or done.truncated or silence.off:
            return silence
        return read_accounting(done.out)

    async def find(self, name: str) -> Found:
        """As `SlurmPort.find`."""
        queue = await self._queue([f"--name={name}"])
        if isinstance(queue, Silence):
            return Found((), False, queue.words)
        rows = tuple(row for row in queue.rows if row.name == name)
        if not rows:
            accounting = await self.account((), [name], _FIND_BACK_SECS)
            if isinstance(accounting, Rows):
                rows = tuple(row for row in accounting.rows if row.name == name)
        return Found(rows)

    async def cancel(self, ids: Collection[str]) -> Done:
        """As `SlurmPort.cancel`."""
        return await self._change("scancel", ["scancel"], ids, separate=True)

    async def hold(self, ids: Collection[str]) -> Done:
        """As `SlurmPort.hold`."""
        return await self._change("scontrol hold", ["scontrol", "hold"], ids)

    async def release(self, ids: Collection[str]) -> Done:
        """As `SlurmPort.release`."""
        return await self._change("scontrol release", ["scontrol", "release"], ids)

    async def _change(
        self, command: str, argv: list[str], ids: Collection[str], separate: bool = False
    ) -> Done:
        result = Done()
        for part in join_ids(ids, _MOST_IDS):
            targets = part if separate else [",".join(part)]
            env = commands.asking_environment(self._environment)
            done = await commands.run(
                [argv[0], *self._clusters, *argv[1:], *targets], deadline=CHANGE_SECS, env=env
            )
            answer = read_done(command, done.code, done.out, done.err)
            result = answer if not answer.ok else result
        return result

    async def limits(self) -> Limits:
        """As `SlurmPort.limits`."""
        done = await self._ask(["scontrol", *self._clusters, "show", "config"])
        return read_limits(done.out) if done.code == 0 else Limits()

    async def _ask(self, argv: list[str]) -> commands.Output:
        return await commands.run(
            argv, deadline=self._ask_secs, env=commands.asking_environment(self._environment)
        )
