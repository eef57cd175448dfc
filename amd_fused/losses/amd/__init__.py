"""Angular margin based distillation."""

from amd_fused.losses.amd.function import amd_loss
from amd_fused.losses.amd.module import AMDLoss

__all__ = ["AMDLoss", "amd_loss"]
