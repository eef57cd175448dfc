"""Every argument check and message: "<owner>: <arg> must be <rule>, got <value>", with the
remedy."""

from amd_fused._checks.embeddings import (
    count,
    embedding,
    embedding_pair,
    hash_bias,
    labels,
    labels_in_range,
    lsh_options,
    matrix,
    of_width,
    same_device,
)
from amd_fused._checks.features import (
    amd_options,
    at_options,
    feature_pairs,
    rkd_options,
    sample_pairs,
    sp_options,
)
from amd_fused._checks.logits import (
    kd_options,
    logit_pair,
    logits,
    spherical_kd_options,
)
from amd_fused._checks.values import (
    BACKENDS,
    FLOAT_DTYPES,
    choice,
    float_tensor,
    has_values,
    no_forward_mode,
    non_negative,
    number,
    positive,
    readable,
)

__all__ = [
    "BACKENDS",
    "FLOAT_DTYPES",
    "amd_options",
    "at_options",
    "choice",
    "count",
    "embedding",
    "embedding_pair",
    "feature_pairs",
    "float_tensor",
    "has_values",
    "hash_bias",
    "kd_options",
    "labels",
    "labels_in_range",
    "logit_pair",
    "logits",
    "lsh_options",
    "matrix",
    "no_forward_mode",
    "non_negative",
    "number",
    "of_width",
    "positive",
    "readable",
    "rkd_options",
    "same_device",
    "sample_pairs",
    "sp_options",
    "spherical_kd_options",
]
