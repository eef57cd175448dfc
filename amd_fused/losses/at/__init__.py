"""Attention transfer."""

from amd_fused.losses.at.function import at_loss
from amd_fused.losses.at.module import ATLoss

__all__ = ["ATLoss", "at_loss"]
