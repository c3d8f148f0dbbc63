"""Slurm: what it says and what that means, submitting exactly once, one poller for all jobs."""
