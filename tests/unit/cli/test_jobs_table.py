from dataclasses import dataclass

from furu_async import SlurmSpec
from furu_async._cli.jobs_table import dag_lines, pool_lines, spec_text

CPU = SlurmSpec(cpus=1, mem_gb=2, time_min=30)
GPU = SlurmSpec(partition="gpu", gpus=1, cpus=8, mem_gb=64, time_min=600, extra={"constraint": "a100"})


@dataclass(frozen=True)
class Planned:
    hash: str
    status: str = "create"
    depends_on: tuple[str, ...] = ()
    specs: tuple[SlurmSpec, ...] = (CPU,)
    name: str = "pkg.Train"
    label: str = "Train(lr=0.1)"
    reason: str = ""


def test_a_spec_in_words() -> None:
    assert spec_text(CPU) == "default partition, 1 CPU, 2 GB, 30 min"
    assert spec_text(GPU) == "partition gpu, 8 CPUs, 1 GPU, 64 GB, 600 min, extra constraint"


def test_pool_jobs_are_bounded_by_work_slots_and_limit() -> None:
    nodes = [Planned(f"{n}") for n in range(9)] + [Planned("c", "cached", specs=())]
    nodes.append(Planned("g", specs=(GPU, CPU)))
    lines = pool_lines(nodes, {CPU: 4, GPU: 4}.__getitem__, 6, 2)
    assert lines == [
        f"{CPU.key}: 9 nodes, at most 4 jobs at a time (default partition, 1 CPU, 2 GB, 30 min)",
        f"{GPU.key}: 1 node, at most 1 job at a time ({spec_text(GPU)})",
        f"{CPU.key}: 1 node after a timeout or for want of memory ({spec_text(CPU)})",
        "at most 6 jobs at a time altogether",
    ]
    assert "4 nodes, at most 2 jobs" in pool_lines(nodes[:4], lambda _: 9, None, 2)[0]
    assert "no workers" in pool_lines(nodes[:1], lambda _: 0, None, 1)[0]
    assert pool_lines([Planned("c", "cached")], lambda _: 1, None, 1) == [
        "no jobs: nothing is to be computed"
    ]


def test_dag_jobs_name_their_parents_by_number() -> None:
    nodes = [
        Planned("a" * 32),
        Planned("b" * 32, "cached", specs=()),
        Planned("c" * 32, depends_on=("a" * 32, "b" * 32), label="Eval(\x1b[1m)", specs=(GPU, CPU)),
    ]
    assert dag_lines(nodes) == [
        f"job 1    aaaaaaaaaaaa  Train(lr=0.1)  {CPU.key}",
        f"job 2    cccccccccccc  Eval(\\x1b[1m)  {GPU.key}  after 1",
        f"{CPU.key}: 1 job ({spec_text(CPU)})",
        f"{GPU.key}: 1 job ({spec_text(GPU)})",
        "2 jobs, 1 edge",
    ]
    many = dag_lines([Planned(f"{n:032}") for n in range(300)], shown=10)
    assert many[10] == "… and 290 more (-v shows all)"
    assert many[-1] == "300 jobs, 0 edges"
    assert dag_lines(nodes[1:2]) == ["no jobs: nothing is to be computed"]
