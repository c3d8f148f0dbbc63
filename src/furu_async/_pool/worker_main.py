"""Main of a pool's worker."""

from __future__ import annotations

import argparse

from furu_async._runtime import exit_codes


def main(args: argparse.Namespace) -> int:
    """Work until there is nothing more to do; the exit code."""
    return exit_codes.CANNOT_START
