"""Checks of what VID is given beside the features."""

from __future__ import annotations

import math
from typing import Any

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common.value_checks import (
    LARGEST,
    choice,
    number,
    optional_weights,
    positive,
)


def vid_options(owner: str, *, eps: Any, layer_weights: Any, backend: Any) -> None:
    """The options of ``vid_loss``."""
    positive(owner, "eps", eps)
    optional_weights(owner, "layer_weights", layer_weights)
    choice(owner, "backend", backend, BACKENDS)


def initial_variance(owner: str, value: Any, eps: float) -> None:
    """A variance that softplus can add to eps."""
    if not eps < number(owner, "initial_variance", value) <= LARGEST:
        raise ValueError(f"{owner}: initial_variance must be finite and > eps = {eps}, got {value}")


def raw_variance(variance: float, eps: float) -> float:
    """rho with softplus(rho) + eps = variance."""
    # derived: log(exp(x) - 1) = x + log(1 - exp(-x)), which no x overflows
    x = variance - eps
    return x + math.log(-math.expm1(-x))
