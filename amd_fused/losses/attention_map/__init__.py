"""The attention map of features."""

from amd_fused.losses.attention_map.function import attention_map

__all__ = ["attention_map"]
