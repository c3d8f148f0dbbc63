"""`SlurmDag`: one Slurm job for each node, wired with ``afterok``."""
