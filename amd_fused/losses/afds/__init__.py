"""Attentive feature distillation."""

from amd_fused.losses.afds.function import afds_loss
from amd_fused.losses.afds.module import AFDSLoss

__all__ = ["AFDSLoss", "afds_loss"]
