"""What a random world chooses from."""

from __future__ import annotations

from furu_async._plan.events import NodeRules, Policy
from furu_async.report import Failure, FailureKind

MOST_NODES = 20
IDS = tuple(f"n{i:02}" for i in range(MOST_NODES))

KINDS: tuple[FailureKind, ...] = (
    "compute",
    "compute",
    "compute",
    "compute",
    "compute",
    "compute",
    "killed",
    "killed",
    "lost",
    "preempted",
    "lost",
    "preempted",
    "timeout",
    "oom",
    "infrastructure",
    "inputs",
    "protocol",
    "cancelled",
)
FAILURES = {kind: Failure(kind=kind, error_type="x.Error", message=f"{kind} trouble") for kind in KINDS}
CUTS = (
    Failure(kind="preempted", message="a part of a walltime", planned=True),
    Failure(kind="preempted", message="a whole one", checkpoint="one"),
    Failure(kind="preempted", message="a whole one", checkpoint="two"),
)
FINAL_COMPUTE = Failure(kind="compute", error_type="TypeError", retryable=False)
RUN_WIDE = Failure(kind="protocol", message="other code", run_wide=True)
POLICIES = (
    *(Policy() for _ in range(6)),
    Policy(compute_retries=0, killed_retries=1, lost_retries=0, preempt_max=0, inputs_retries=1),
    Policy(compute_retries=1, backoff_base=0.0),
    Policy(on_failure="drain"),
    Policy(on_failure="drain", compute_retries=0),
    Policy(on_failure="cancel", compute_retries=1),
    Policy(max_failures=2, compute_retries=0),
    Policy(retry_failed=False),
    Policy(retry_failed=False, on_failure="cancel"),
    Policy(infra_secs=3.0),
    Policy(hold_starts=True),
)
RULES = (
    NodeRules(),
    NodeRules(),
    NodeRules(),
    NodeRules(retries=0),
    NodeRules(retries=1, backoff=0.0),
    NodeRules(specs=3, backoff=5.0),
)
