"""Checks of the options of LSH, and of its bias."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common.embedding_checks import frozen, same_device
from amd_fused.losses._common.value_checks import (
    choice,
    non_negative,
)

LSH_KINDS = ("bce", "l2", "l1")


def lsh_options(owner: str, *, kind: Any, l2_weight: Any, backend: Any) -> None:
    choice(owner, "kind", kind, LSH_KINDS)
    non_negative(owner, "l2_weight", l2_weight)
    choice(owner, "backend", backend, BACKENDS)


def hash_bias(owner: str, bias: Any, weight: Tensor, student: Tensor) -> None:
    """A frozen vector with one number a hash."""
    frozen(owner, "bias", bias)
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{owner}: bias must have one number a hash, [{weight.shape[0]}], got shape "
            f"{tuple(bias.shape)}"
        )
    same_device(owner, "bias", bias, student)
