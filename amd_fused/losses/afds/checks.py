"""Checks of what AFDS is given beside the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common.embedding_checks import count
from amd_fused.losses._common.value_checks import choice, kind, optional_weights, positive

PREDICTORS = ("softmax", "se")
REMEDY = "the loss compares channel by channel: take layers of equal shapes, or another loss"


def afds_options(owner: str, *, eps: Any, layer_weights: Any, backend: Any) -> None:
    """The options of ``afds_loss``."""
    positive(owner, "eps", eps)
    optional_weights(owner, "layer_weights", layer_weights)
    choice(owner, "backend", backend, BACKENDS)


def shapes(owner: str, value: Any) -> tuple[tuple[int, int, int], ...]:
    """(C, H, W) of one layer or of each."""
    rule = f"{owner}: feature_shapes must be (C, H, W), or a list of them, one a layer"
    if not isinstance(value, (list, tuple)) or not value:
        raise TypeError(f"{rule}, got {kind(value) if value else 'nothing'}")
    entries = value if isinstance(value[0], (list, tuple)) else [value]
    for entry in entries:
        if not isinstance(entry, (list, tuple)) or len(entry) != 3:
            raise TypeError(f"{rule}, got {entry!r}")
        for name, size in zip("CHW", entry, strict=True):
            count(owner, f"{name} of feature_shapes", size)
    return tuple((c, h, w) for c, h, w in entries)


def layers_of(owner: str, teachers: Sequence[Tensor], expected: Sequence[Sequence[int]]) -> None:
    """Maps of the shapes that the predictors were made for."""
    if len(teachers) != len(expected):
        raise ValueError(
            f"{owner}: teacher must have one feature map for each of the {len(expected)} layers of "
            f"feature_shapes, got {len(teachers)}"
        )
    for i, (a_t, shape) in enumerate(zip(teachers, expected, strict=True)):
        if tuple(a_t.shape[1:]) != tuple(shape):
            index = "" if len(teachers) == 1 else f"[{i}]"
            raise ValueError(
                f"{owner}: teacher{index} must be [B, C, H, W] with (C, H, W) = {tuple(shape)} of "
                f"feature_shapes, got shape {tuple(a_t.shape)}"
            )
