"""Checks of what the attention map is made of."""

from __future__ import annotations

from typing import Any

from amd_fused._backends.kernels import BACKENDS
from amd_fused.losses._common import pair_checks, value_checks


def attention_map_arguments(owner: str, features: Any, dtype: Any, backend: Any) -> None:
    """The arguments of ``attention_map``."""
    value_checks.choice(owner, "backend", backend, BACKENDS)
    if dtype is not None and dtype not in value_checks.FLOAT_DTYPES:
        raise ValueError(
            f"{owner}: dtype must be None, torch.float32, torch.float16, torch.bfloat16 or "
            f"torch.float64, got {dtype!r}"
        )
    pair_checks.feature(owner, "features", features)
