"""Attention-based feature distillation."""

from amd_fused.losses.afd.function import afd_loss
from amd_fused.losses.afd.module import AFDLoss

__all__ = ["AFDLoss", "afd_loss"]
