"""The attention map as a function: check, choose the backend, call the operator."""

from __future__ import annotations

import torch
from torch import Tensor

from amd_fused import _backends
from amd_fused._backends.kernels import KERNELS
from amd_fused.losses._common import value_checks
from amd_fused.losses.attention_map import checks, operator, reference


def attention_map(
    features: Tensor, dtype: torch.dtype | None = None, *, backend: str = "auto"
) -> Tensor:
    """The attention map of features, one channel that stands for all of them in amd_loss.

    Computes, in one read of the features::

        a = features.square().sum(1, keepdim=True).sqrt()

    ``amd_loss`` and ``at_loss(p=2)`` see of features only the sums of squares over channels, and of
    this map those are the same. So ``amd_loss(student, attention_map(teacher))`` is
    ``amd_loss(student, teacher)`` to rounding, and a map takes a C-th of the features' memory: keep
    it of a frozen teacher, for a step or for good. Two things the losses do before they square: for
    maps of unequal sizes ``align="adaptive_avg"`` averages what it is given, which of maps is
    another loss than of features; and other powers (``at_loss(p=1)``) see other sums.

    Args:
        features: [B, C, H, W]. float32, float16, bfloat16 or float64; any strides (NCHW and
            channels_last run natively).
        dtype: of the map. None: float32, float64 for float64 features. torch.float16 and
            torch.bfloat16 halve what is kept, and round every number of the map to 11 and 8 bits:
            with such a map of the teacher ``amd_loss`` was off by less than 4e-3 and 3e-2 of
            itself, and the student's gradient by less than 1e-2 and 8e-2 of its L2 norm, on noise
            of the shapes of ResNet and WRN layers (in float32: 1e-6 and 4e-6).
            torch.float64: sums are in float64, whatever the features are.
        backend: "auto", "triton", "cuda", "cpp" or "reference". A named backend runs or raises. The
            environment variable AMD_FUSED_BACKEND replaces "auto".

    Returns:
        [B, 1, H, W], contiguous. Its derivative by the features is features / a, and 0 where a is
        0. NaN and Inf reach the map. Sums of squares must stay in the range of float32: where the
        root of one is above 1.8e19 the map is Inf, below 1e-19 digits are lost, and below 2e-23 it
        is 0. (The losses square twice, so that their own range is the narrower one.)

    Raises:
        TypeError, ValueError: an argument breaks its rule; the message names argument, rule and
            value.
        RuntimeError: a named backend cannot run here, or a second derivative was asked of a fused
            one (``backend="reference"`` has them).

    Source: Jeon, Choi, Shukla, Turaga, "Leveraging Angular Distributions for Improved Knowledge
    Distillation", Neurocomputing 518, 2023: Eq. 4, of which it is the square root.
    """
    owner = "attention_map"
    checks.attention_map_arguments(owner, features, dtype, backend)
    chosen = _backends.choose(owner, backend, features.device.type, KERNELS["attention_map"])
    if chosen == "reference":
        return reference.attention_map(features, dtype)
    value_checks.no_transforms(owner, chosen, [features])
    in_double = torch.float64 in (dtype, features.dtype)
    a = operator.attention_map(chosen, features, in_double)
    return a if dtype is None else a.to(dtype)
