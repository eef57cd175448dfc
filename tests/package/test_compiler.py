"""torch.compile takes for a constant what is marked so; test_doctor.py asks that it is not imported
to be told."""

from __future__ import annotations

import torch

from amd_fused._compiler import constant_result


def test_the_mark_is_torchs() -> None:
    theirs = torch.compiler.assume_constant_result(lambda: 1)
    assert vars(constant_result(lambda: 1)) == vars(theirs)
