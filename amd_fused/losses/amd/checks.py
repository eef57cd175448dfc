"""Checks of the options of AMD."""

from __future__ import annotations

from typing import Any

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common.value_checks import (
    choice,
    non_negative,
    number,
    optional_weights,
    positive,
    weights,
)


def amd_options(
    owner: str,
    *,
    margin: Any,
    scale: Any,
    local_weight: Any,
    formula: Any,
    component_weights: Any,
    mask_threshold: Any,
    layer_weights: Any,
    eps: Any,
    reduction: Any,
    align: Any,
    backend: Any,
) -> None:
    """The options of ``amd_loss``, apart from what depends on the features."""
    positive(owner, "margin", margin)
    positive(owner, "scale", scale)
    number(owner, "local_weight", local_weight)
    if not 0 <= local_weight <= 1:
        raise ValueError(f"{owner}: local_weight must be between 0 and 1, got {local_weight}")
    choice(owner, "formula", formula, ("paper", "released"))
    weights(owner, "component_weights", component_weights)
    if len(component_weights) != 3:
        raise ValueError(
            f"{owner}: component_weights must be three numbers, for the terms g, p and n of Eq. 7, "
            f"got {len(component_weights)}"
        )
    if mask_threshold is not None:
        number(owner, "mask_threshold", mask_threshold)
        if not 0 <= mask_threshold < 1:
            raise ValueError(
                f"{owner}: mask_threshold must be None or in [0, 1), got {mask_threshold}"
            )
    optional_weights(owner, "layer_weights", layer_weights)
    non_negative(owner, "eps", eps)
    choice(owner, "reduction", reduction, ("mean", "batchmean", "none"))
    choice(owner, "align", align, ("error", "adaptive_avg"))
    choice(owner, "backend", backend, BACKENDS)
