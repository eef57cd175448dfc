"""Processes that a test starts: they import what the test imports."""

from __future__ import annotations

import os
from pathlib import Path

_TESTS = Path(__file__).parents[1]


def environment(**more: str) -> dict[str, str]:
    """Variables of a process that runs `python -m distill.<helper>`."""
    path = [str(_TESTS.parent), str(_TESTS), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"} | more
