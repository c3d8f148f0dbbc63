"""Settings: a typed record, read from ``FURU_*`` on first use, and the active one as a context variable."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from furu_async.errors import FuruConfigError

__all__ = ["FURU_CONFIG", "FuruConfig", "active_config", "use_config"]

Durability = Literal["auto", "process", "power"]
RecordGit = Literal["cached", "off"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FuruConfig:
    """All settings; times in seconds. Field ``x`` is read from ``FURU_X`` (``path`` from ``FURU_PATH``).

    Attributes:
        path: root of everything.
        retry_failed: artifacts that failed in an earlier run, or were left unfinished by an owner that is gone, are
            tried again; what was preempted or cancelled, or lacked inputs or infrastructure, is begun again anyway.
        max_compute_retries: retries after the first failure; attempts = 1 + retries.
        preempt_max: Slurm preemptions of one node.
        lease_secs: silence after which an owner with a known beat is lost.
        heartbeat_secs: how often an owner beats; an eighth of the lease.
        heartbeat_grace_secs: the same as the lease for an owner whose beat was never seen.
        stale_after_secs: longest wait where no beat can tell.
        max_wait_secs: longest wait on other people's work altogether; None: no limit.
        infra_secs: how long infrastructure trouble is waited out.
        poll_interval_secs: slowest polling of somebody else's work; it starts at 0.2 s.
        always_rerun: ``module.Class`` names, or ``ALL``.
        durability: ``process``: safe against the death of any process; ``power``: fsync and checksums;
            ``auto``: ``power`` for attempts of a second or longer.
        record_git: provenance in the metadata.
        log_level: for the console.

    Raises:
        FuruConfigError: a value is not allowed; the error names it and says what is.
    """

    path: Path
    retry_failed: bool = True
    max_compute_retries: int = 3
    preempt_max: int = 5
    lease_secs: float = 120.0
    heartbeat_secs: float = 15.0
    heartbeat_grace_secs: float = 90.0
    stale_after_secs: float = 1800.0
    max_wait_secs: float | None = None
    infra_secs: float = 900.0
    poll_interval_secs: float = 10.0
    always_rerun: tuple[str, ...] = ()
    durability: Durability = "auto"
    record_git: RecordGit = "cached"
    log_level: LogLevel = "INFO"

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            try:
                checked = _CHECKS[item.name](value)
            except ValueError as error:
                raise FuruConfigError(
                    f"FuruConfig({item.name}={value!r}) is not allowed: {error}",
                    f"the variable is {_variable(item.name)}",
                ) from None
            object.__setattr__(self, item.name, checked)
        if self.heartbeat_secs * 2 > self.lease_secs:
            raise FuruConfigError(
                f"FURU_HEARTBEAT_SECS={self.heartbeat_secs:g} (heartbeat_secs) must be at most half of "
                f"FURU_LEASE_SECS={self.lease_secs:g} (lease_secs)",
                "an owner that beats slower than that would look lost between two beats",
            )

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> FuruConfig:
        """Read the settings from ``FURU_*`` variables; the root is looked for from ``cwd`` upwards.

        Raises:
            FuruConfigError: a variable is malformed; names the variable, the value and what is allowed.
        """
        env = os.environ if env is None else env
        values: dict[str, Any] = {}
        for item in fields(cls):
            variable = _variable(item.name)
            text = env.get(variable)
            if text is None or text.strip() == "":
                continue
            try:
                values[item.name] = _CHECKS[item.name](_PARSERS[item.name](text.strip()))
            except ValueError as error:
                raise FuruConfigError(f"{variable}={text!r} is not allowed: {error}") from None
        if "lease_secs" in values and "heartbeat_secs" not in values:
            values["heartbeat_secs"] = values["lease_secs"] / 8
        if "path" not in values:
            values["path"] = project_root(cwd) / "furu-data"
        return cls(**values)

    def environment(self) -> dict[str, str]:
        """The ``FURU_*`` variables that `from_env` makes the same settings of."""
        made = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool):
                text = "1" if value else "0"
            elif isinstance(value, tuple):
                text = ",".join(value)
            else:
                text = "" if value is None else str(value)
            made[_variable(item.name)] = text
        return made

    def with_path(self, path: str | os.PathLike[str]) -> FuruConfig:
        """The same settings with another root."""
        return replace(self, path=Path(path))


def project_root(cwd: Path | None = None) -> Path:
    """Nearest folder with a ``pyproject.toml`` above ``cwd``, else the git root, else ``cwd``.

    Raises:
        FuruConfigError: the working directory is no more.
    """
    try:
        start = (cwd or Path.cwd()).absolute()
    except FileNotFoundError:
        raise FuruConfigError(
            "there is no root for results: the working directory has been removed",
            hint="change to another folder, or set FURU_PATH",
        ) from None
    above = [start, *start.parents]
    for marker in ("pyproject.toml", ".git"):
        for folder in above:
            if (folder / marker).exists():
                return folder
    return start


def _variable(name: str) -> str:
    return f"FURU_{name.upper()}"


def _parse_bool(text: str) -> bool:
    known = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    try:
        return known[text.lower()]
    except KeyError:
        raise ValueError("use 1 or 0 (also true/false, yes/no, on/off)") from None


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("use a whole number") from None


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("use a number of seconds") from None


def _parse_names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("use a whole number, 0 or more")
    return value


def _positive(value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise ValueError("use a number of seconds greater than 0")
    return float(value)


def _optional_positive(value: Any) -> float | None:
    return None if value is None else _positive(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("use True or False")
    return value


def _folder(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise ValueError("use a path")
    text = os.fspath(value)
    if isinstance(text, bytes) or not text or "\0" in text:
        raise ValueError("use a non-empty path")
    try:
        os.path.abspath(text).encode()
    except UnicodeEncodeError:
        raise ValueError("use a path that is text in UTF-8 (see `locale` if it should be one)") from None
    path = os.path.abspath(os.path.expanduser(text))
    if any(ord(char) < 32 or char in "\x7f\x85\u2028\u2029" for char in path):
        raise ValueError(
            f"{path!r} has a line break or another control character, and scripts of jobs name it"
        )
    return Path(path)


def is_rerun_name(name: Any) -> bool:
    """``ALL``, or what may be the name of a class in the store; a script's part of it may have a ``-``."""
    return isinstance(name, str) and (name == "ALL" or re.fullmatch(r"[\w-]+(\.[\w-]+)+", name) is not None)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = _parse_names(value)
    names = tuple(value)
    for name in names:
        if not is_rerun_name(name):
            raise ValueError(f"{name!r} is neither ALL nor of the form module.Class")
    return names


def _one_of(choices: Any, fold: Callable[[str], str]) -> Callable[[Any], str]:
    allowed = get_args(choices)

    def check(value: Any) -> str:
        text = fold(value) if isinstance(value, str) else value
        if text not in allowed:
            raise ValueError(f"use one of {', '.join(allowed)}")
        return cast(str, text)

    return check


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "path": _folder,
    "retry_failed": _flag,
    "max_compute_retries": _count,
    "preempt_max": _count,
    "lease_secs": _positive,
    "heartbeat_secs": _positive,
    "heartbeat_grace_secs": _positive,
    "stale_after_secs": _positive,
    "max_wait_secs": _optional_positive,
    "infra_secs": _positive,
    "poll_interval_secs": _positive,
    "always_rerun": _names,
    "durability": _one_of(Durability, str.lower),
    "record_git": _one_of(RecordGit, str.lower),
    "log_level": _one_of(LogLevel, str.upper),
}
_PARSERS: dict[str, Callable[[str], Any]] = {
    "path": str,
    "retry_failed": _parse_bool,
    "max_compute_retries": _parse_int,
    "preempt_max": _parse_int,
    "lease_secs": _parse_float,
    "heartbeat_secs": _parse_float,
    "heartbeat_grace_secs": _parse_float,
    "stale_after_secs": _parse_float,
    "max_wait_secs": _parse_float,
    "infra_secs": _parse_float,
    "poll_interval_secs": _parse_float,
    "always_rerun": _parse_names,
    "durability": str,
    "record_git": str,
    "log_level": str,
}

_active: ContextVar[FuruConfig | None] = ContextVar("furu_config", default=None)
_from_env: list[FuruConfig] = []


def active_config() -> FuruConfig:
    """The config of the surrounding `use_config`, else the one read from the environment (once per process).

    Raises:
        FuruConfigError: a ``FURU_*`` variable is malformed.
    """
    config = _active.get()
    if config is not None:
        return config
    if not _from_env:
        _from_env.append(FuruConfig.from_env())
    return _from_env[0]


def reset_config() -> None:
    """Forget what was read from the environment (tests, and children that are handed other settings)."""
    _from_env.clear()


@contextmanager
def use_config(config: FuruConfig) -> Iterator[FuruConfig]:
    """Make ``config`` the active one inside the block, for this task and what it starts.

    Two runs in one process can so use two roots. Not a decorator for generators: a context variable is only
    restored in the context that set it.
    """
    if not isinstance(config, FuruConfig):
        raise FuruConfigError(f"use_config takes a FuruConfig, not {type(config).__name__}")
    token = _active.set(config)
    try:
        yield config
    finally:
        _active.reset(token)


class _ActiveConfig:
    """Reads like a `FuruConfig`; every attribute is that of the active config at that moment."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(active_config(), name)

    def __repr__(self) -> str:
        return repr(active_config())


FURU_CONFIG: FuruConfig = cast(FuruConfig, _ActiveConfig())
"""The active settings; read from ``FURU_*`` when first used, not when imported."""
