"""Checks of the options of SP."""

from __future__ import annotations

from typing import Any

from amd_fused.losses._common.value_checks import (
    exponent,
    optional_weights,
)


def sp_options(owner: str, *, norm_p: Any, layer_weights: Any) -> None:
    """The options of ``sp_loss``."""
    exponent(owner, "norm_p", norm_p)
    optional_weights(owner, "layer_weights", layer_weights)
