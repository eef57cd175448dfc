"""Processes that a test starts: they import what the test imports."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from forks import Forks

_TESTS = Path(__file__).parents[1]


def said(forks: Forks, program: str, *arguments: str) -> str:
    """What a program prints that forks processes and perhaps kills some of them.

    They are forked before torch has started a thread.
    """
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    path = [_TESTS.parent, _TESTS, _TESTS / "support"]
    variables = {"PYTHONPATH": os.pathsep.join(map(str, path))}
    done = forks.run(program, *arguments, env=os.environ | variables)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
