"""From a `SlurmSpec` to the options of ``sbatch``: what the spec says, what the user adds, what is ours.

Names are those of ``sbatch``'s long options. What the user gives in ``extra`` may be spelled as for submitit
(``slurm_constraint``, ``timeout_min``, ``slurm_additional_parameters={"constraint": ...}``): it is merged into the
rest, and only a few options by which the library finds its jobs again cannot be changed. Values become lines of a
script that ``sbatch`` reads, so none may break out of its line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from furu_async._model.brief import describe
from furu_async._model.resources import FrozenMapping, SlurmSpec
from furu_async._slurm.port import JobRequest
from furu_async.errors import FuruConfigError

SIGNAL_SECS = 90
"""How long before the end of its walltime a job hears of it, by SIGUSR2; less where that is short."""

_SIGNAL_PART = 0.1
_LEAST_SIGNAL_SECS = 10

_OURS = (
    "job-name",
    "output",
    "error",
    "signal",
    "kill-on-invalid-dep",
    "array",
    "parsable",
    "hold",
    "open-mode",
)
_NEVER = ("wrap", "test-only", "wait", "help", "usage", "version", "quiet")
_RENAMED = {"name": "job-name", "timeout-min": "time", "mem-gb": "mem", "tasks-per-node": "ntasks-per-node"}
_SUBMITIT_ONLY = (
    "array-parallelism",
    "signal-delay-s",
    "stderr-to-stdout",
    "srun-args",
    "use-srun",
    "map-count",
)
_INSTEAD_OF_MEM = ("mem-per-cpu", "mem-per-gpu")
_INSTEAD_OF_GPUS = ("gpus-per-task", "gpus", "gres", "num-gpus")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}\Z")
_OPTION = re.compile(r"[a-z][a-z0-9-]{0,60}\Z")
_SEPARATOR = re.compile(r"[,?]")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the library wants of one job.

    Attributes:
        name: the job's name, see `submission.job_name`.
        argv: what it runs.
        log_dir: absolute; its output goes to ``<log_dir>/<name>-<id>.log``.
        dependency: such as ``afterok:12:13``; joined with what the user gives.
        array: number of tasks, or 0 for a single job.
        hold: submit it held.
    """

    name: str
    argv: tuple[str, ...]
    log_dir: str
    dependency: str = ""
    array: int = 0
    hold: bool = False


def check_name(name: str) -> str:
    """The same text, if it may be a job's name.

    Raises:
        FuruConfigError: it has others than letters, digits and ``._+-``, or over 100 characters.
    """
    if not _NAME.match(name):
        raise FuruConfigError(
            f"{name[:120]!r} cannot be the name of a Slurm job",
            "letters, digits, '.', '_', '+' and '-', at most 100, the first a letter or a digit",
        )
    return name


def request(spec: SlurmSpec, wish: Wish) -> JobRequest:
    """The call of ``sbatch`` for one job, or for one array of them.

    Raises:
        FuruConfigError: ``extra`` has something that cannot be passed on.
    """
    extra = _Extra(spec.extra)
    options: dict[str, str | bool] = {
        "nodes": "1",
        "ntasks-per-node": "1",
        "cpus-per-task": str(spec.cpus),
        "mem": f"{math.ceil(spec.mem_gb * 1024)}M",
        "time": minutes(spec.time_min),
    }
    if spec.partition is not None:
        options["partition"] = _value("partition", spec.partition)
    if spec.gpus:
        options["gpus-per-node"] = str(spec.gpus)
    if any(name in extra.options for name in _INSTEAD_OF_MEM):
        del options["mem"]
    if any(name in extra.options for name in _INSTEAD_OF_GPUS):
        options.pop("gpus-per-node", None)
    options.update(extra.options)
    options.update(_ours(wish, spec.time_min))
    dependency = join_dependencies(extra.dependency, wish.dependency)
    if dependency:
        options["dependency"] = dependency
    return JobRequest(
        name=check_name(wish.name),
        argv=wish.argv,
        options=dict(sorted(options.items())),
        setup=extra.setup,
        teardown=extra.teardown,
    )


def signal_secs(time_min: float) -> int:
    """How many seconds before the end of a walltime of so many minutes a job hears of it.

    Slurm looks at this every half minute, so a job of a minute would else be told as soon as it starts.
    """
    return round(min(SIGNAL_SECS, max(_LEAST_SIGNAL_SECS, _SIGNAL_PART * 60.0 * time_min)))


def _ours(wish: Wish, time_min: float) -> dict[str, str | bool]:
    where = _value("log_dir", wish.log_dir).replace("%", "%%")
    log = f"{where}/{check_name(wish.name)}-{'%A_%a' if wish.array else '%j'}.log"
    options: dict[str, str | bool] = {
        "job-name": wish.name,
        "output": log,
        "error": log,
        "open-mode": "append",
        "signal": f"B:USR2@{signal_secs(time_min)}",
        "kill-on-invalid-dep": "yes",
    }
    if wish.array:
        options["array"] = f"0-{wish.array - 1}"
    if wish.hold:
        options["hold"] = True
    return options


def minutes(value: float) -> str:
    """Walltime as ``sbatch`` reads it: minutes, or minutes and seconds."""
    seconds = math.ceil(value * 60)
    return str(seconds // 60) if seconds % 60 == 0 else f"{seconds // 60}:{seconds % 60:02}"


def with_defaults(spec: SlurmSpec, options: Mapping[str, Any], setup: Sequence[str]) -> SlurmSpec:
    """A spec with what an executor adds to all of its jobs: the spec's own options win, dependencies are joined.

    Args:
        options: of ``sbatch``, as in ``slurm_additional_parameters``.
        setup: lines of shell that run before those of the spec.

    Raises:
        FuruConfigError: two dependencies cannot be joined.
    """
    if not options and not setup:
        return spec
    extra: dict[str, Any] = dict(spec.extra or {})
    own = dict(extra.pop("slurm_additional_parameters", extra.pop("additional_parameters", None)) or {})
    theirs = [own.get("dependency"), *(extra.pop(name, None) for name in ("dependency", "slurm_dependency"))]
    said = {key.removeprefix("slurm_").replace("-", "_") for key in extra}
    ours = {key: value for key, value in options.items() if key.replace("-", "_") not in said}
    dependency = str(ours.get("dependency") or "")
    for each in theirs:
        dependency = join_dependencies(dependency, str(each or ""))
    merged = {**ours, **own, **({"dependency": dependency} if dependency else {})}
    if merged:
        extra["slurm_additional_parameters"] = merged
    if setup:
        lines = extra.pop("slurm_setup", extra.pop("setup", ())) or ()
        extra["setup"] = [*setup, *([lines] if isinstance(lines, str) else lines)]
    return replace(spec, extra=extra)


def join_dependencies(users: str, ours: str) -> str:
    """Both must hold.

    Raises:
        FuruConfigError: the user's is a list of alternatives (``?``), which Slurm cannot combine with another.
    """
    users, ours = users.strip().strip(","), ours.strip()
    if users and ours and "?" in users:
        raise FuruConfigError(
            f"dependency={users!r} cannot be combined with {_SEPARATOR.split(ours)[0]!r}, which the run needs",
            "Slurm knows alternatives ('?') only by themselves; use ',' or leave the dependency out",
        )
    return ",".join(part for part in (users, ours) if part)


class _Extra:
    """What a user's ``extra`` asks for, under ``sbatch``'s names.

    Attributes:
        ignored: options that are the library's own and stay as they are.
    """

    def __init__(self, extra: Mapping[str, Any] | None) -> None:
        self.options: dict[str, str | bool] = {}
        self.setup: tuple[str, ...] = ()
        self.teardown: tuple[str, ...] = ()
        self.dependency = ""
        self.ignored: list[str] = []
        additional: Mapping[str, Any] = {}
        for key, value in (extra or {}).items():
            name = key.removeprefix("slurm_")
            if name == "additional_parameters":
                if value is not None and not isinstance(value, Mapping):
                    raise FuruConfigError(
                        f"extra[{key!r}]={describe(value)} is not possible: expected a mapping"
                    )
                additional = value or {}
            elif name in ("setup", "teardown"):
                setattr(self, name, _lines(key, value))
            else:
                self._put(key, name, value)
        # More specific, as with submitit: it wins over the same option given in another way.
        for key, value in additional.items():
            self._put(key, key, value)

    def _put(self, key: str, name: str, value: Any) -> None:
        option = name.replace("_", "-").lower()
        if option == "mem-gb" and isinstance(value, int | float):
            value = f"{math.ceil(value * 1024)}M"
        elif option in ("timeout-min", "time") and isinstance(value, int | float):
            value = minutes(value)
        option = _RENAMED.get(option, option)
        if option in _NEVER or not _OPTION.match(option):
            raise FuruConfigError(
                f"extra: {key!r} cannot be passed to sbatch", "see `man sbatch` for its long options"
            )
        if value is None or value is False:
            return
        if option == "dependency":
            self.dependency = join_dependencies(self.dependency, _value(key, value))
        elif option in _OURS or option in _SUBMITIT_ONLY:
            self.ignored.append(option)
        else:
            self.options[option] = True if value is True else _value(key, value)


def ignored_options(spec: SlurmSpec) -> tuple[str, ...]:
    """Options in a spec's ``extra`` that have no effect, because the library sets them itself."""
    return tuple(_Extra(spec.extra).ignored)


def _lines(key: str, value: Any) -> tuple[str, ...]:
    lines: Sequence[Any] = (value,) if isinstance(value, str) else value or ()
    if not isinstance(lines, list | tuple) or not all(
        isinstance(line, str) and "\0" not in line for line in lines
    ):
        raise FuruConfigError(
            f"extra[{key!r}]={describe(value)} is not possible: expected a list of lines of shell"
        )
    return tuple(lines)


def _value(key: str, value: Any) -> str:
    """A value as text on one line."""
    if isinstance(value, list | tuple):
        value = ",".join(str(item) for item in value)
    if isinstance(value, Mapping | FrozenMapping):
        raise FuruConfigError(f"{key}={describe(value)} is not possible: expected a text or a number")
    text = str(value)
    if not text or not text.isprintable():
        raise FuruConfigError(f"{key}={describe(value)} is not possible: expected a text on one line")
    return text
