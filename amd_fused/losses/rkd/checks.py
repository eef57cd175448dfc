"""Checks of the options of RKD."""

from __future__ import annotations

from typing import Any

from amd_fused.losses._common.value_checks import (
    non_negative,
    optional_weights,
)


def rkd_options(owner: str, *, distance_weight: Any, angle_weight: Any, layer_weights: Any) -> None:
    """The options of ``rkd_loss``."""
    non_negative(owner, "distance_weight", distance_weight)
    non_negative(owner, "angle_weight", angle_weight)
    if distance_weight == 0 and angle_weight == 0:
        raise ValueError(f"{owner}: distance_weight or angle_weight must be > 0, got 0 and 0")
    optional_weights(owner, "layer_weights", layer_weights)
