"""Checks of the options of AT."""

from __future__ import annotations

from typing import Any

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common.value_checks import (
    choice,
    exponent,
    optional_weights,
)


def at_options(
    owner: str, *, p: Any, mode: Any, layer_weights: Any, align: Any, backend: Any
) -> None:
    """The options of ``at_loss``, apart from what depends on the features."""
    exponent(owner, "p", p)
    choice(owner, "mode", mode, ("code", "paper"))
    optional_weights(owner, "layer_weights", layer_weights)
    choice(owner, "align", align, ("error", "adaptive_avg"))
    choice(owner, "backend", backend, BACKENDS)
