"""Correlation congruence."""

from amd_fused.losses.cc.function import cc_loss
from amd_fused.losses.cc.module import CCLoss

__all__ = ["CCLoss", "cc_loss"]
