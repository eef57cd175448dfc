"""torch.compile takes for a constant what is marked so, and is not imported to be told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from amd_fused._compiler import constant_result

ROOT = Path(__file__).parents[2]


def test_the_mark_is_torchs() -> None:
    theirs = torch.compiler.assume_constant_result(lambda: 1)
    assert vars(constant_result(lambda: 1)) == vars(theirs)


def test_importing_the_package_does_not_import_torchs_compiler() -> None:
    code = "import amd_fused, sys; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
