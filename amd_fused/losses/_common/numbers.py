"""The numbers among a loss's options as one tensor, so that they may vary under torch.compile."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def as_tensor(*values: float) -> Tensor:
    """[n] float64 on the CPU: the values, which the operators read when they run.

    As arguments of type float, each new value would compile a caller's graph anew, until torch's
    limit: AOTAutograd makes a constant of every float that no arithmetic on tensors takes up.
    """
    if torch.compiler.is_compiling():
        one = torch.ones((), dtype=torch.float64, device="cpu")
        # Arithmetic, which takes a float that varies as it is.
        return torch.stack([one * value for value in values])
    # A mode (FakeTensorMode) makes tensors of its own, which must not be kept for other calls.
    make = _made if torch._C._len_torch_dispatch_stack() else _kept
    return make(*map(float, values))


def _made(*values: float) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float64, device="cpu")


# Nobody writes into them.
_kept = lru_cache(maxsize=256)(_made)
