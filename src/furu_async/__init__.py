"""Run DAGs of cached computations from async Python, on a laptop and on a Slurm cluster.

Names are imported when they are first used, so that ``import furu_async`` stays cheap and a child process loads only
what it needs.
"""

from __future__ import annotations

from importlib import import_module

# Type checkers know the name; to import `typing` would take longer than all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from furu_async import errors as errors
    from furu_async._dag.dag import SlurmDag as SlurmDag
    from furu_async._dag.submission import SlurmDagSubmission as SlurmDagSubmission
    from furu_async._dag.submission import submit_dag as submit_dag
    from furu_async._executors.local import Local as Local
    from furu_async._executors.runs import Run as Run
    from furu_async._executors.scheduler import Scheduler as Scheduler
    from furu_async._model.artifact import Furu as Furu
    from furu_async._model.artifact import aget_all as aget_all
    from furu_async._model.context import stop_requested as stop_requested
    from furu_async._model.definition import dependency as dependency
    from furu_async._model.definition import field as field
    from furu_async._model.resources import Retry as Retry
    from furu_async._model.resources import SlurmSpec as SlurmSpec
    from furu_async._pool.pool import SlurmPool as SlurmPool
    from furu_async._runtime.config import FURU_CONFIG as FURU_CONFIG
    from furu_async._runtime.config import FuruConfig as FuruConfig
    from furu_async._runtime.config import use_config as use_config
    from furu_async.api import run_dag as run_dag
    from furu_async.api import run_dag_sync as run_dag_sync
    from furu_async.report import Failure as Failure
    from furu_async.report import NodeOutcome as NodeOutcome
    from furu_async.report import RunEvent as RunEvent
    from furu_async.report import RunReport as RunReport

__version__ = "0.1.0"

_HOMES = {
    "FURU_CONFIG": "_runtime.config",
    "Failure": "report",
    "Furu": "_model.artifact",
    "FuruConfig": "_runtime.config",
    "Local": "_executors.local",
    "NodeOutcome": "report",
    "Retry": "_model.resources",
    "Run": "_executors.runs",
    "RunEvent": "report",
    "RunReport": "report",
    "Scheduler": "_executors.scheduler",
    "SlurmDag": "_dag.dag",
    "SlurmDagSubmission": "_dag.submission",
    "SlurmPool": "_pool.pool",
    "SlurmSpec": "_model.resources",
    "aget_all": "_model.artifact",
    "dependency": "_model.definition",
    "field": "_model.definition",
    "run_dag": "api",
    "run_dag_sync": "api",
    "stop_requested": "_model.context",
    "submit_dag": "_dag.submission",
    "use_config": "_runtime.config",
}

__all__ = [
    "FURU_CONFIG",
    "Failure",
    "Furu",
    "FuruConfig",
    "Local",
    "NodeOutcome",
    "Retry",
    "Run",
    "RunEvent",
    "RunReport",
    "Scheduler",
    "SlurmDag",
    "SlurmDagSubmission",
    "SlurmPool",
    "SlurmSpec",
    "aget_all",
    "dependency",
    "errors",
    "field",
    "run_dag",
    "run_dag_sync",
    "stop_requested",
    "submit_dag",
    "use_config",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("furu_async.errors")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'furu_async' has no attribute {name!r}")
    value = getattr(import_module(f"furu_async.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
