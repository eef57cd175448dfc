"""Similarity-preserving distillation."""

from amd_fused.losses.sp.function import sp_loss
from amd_fused.losses.sp.module import SPLoss

__all__ = ["SPLoss", "sp_loss"]
