"""Processes that a test starts: they import what the test imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]


def environment(**more: str) -> dict[str, str]:
    """Variables of a process that runs `python -m distill.<helper>`."""
    folders = [_TESTS.parent, _TESTS, _TESTS / "support"]
    path = [*map(str, folders), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"} | more


def said_by(helper: str, *arguments: str) -> str:
    """What a helper prints that forks processes and kills some of them."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    done = subprocess.run(
        [sys.executable, "-m", helper, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
