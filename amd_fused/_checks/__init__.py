"""Every argument check and message: "<owner>: <arg> must be <rule>, got <value>", with the
remedy."""

from amd_fused._checks.features import amd_options, feature_pairs
from amd_fused._checks.values import (
    BACKENDS,
    FLOAT_DTYPES,
    choice,
    float_tensor,
    no_forward_mode,
    non_negative,
    number,
    positive,
)

__all__ = [
    "BACKENDS",
    "FLOAT_DTYPES",
    "amd_options",
    "choice",
    "feature_pairs",
    "float_tensor",
    "no_forward_mode",
    "non_negative",
    "number",
    "positive",
]
