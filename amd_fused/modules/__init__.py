"""The losses as modules, one file each, and the objective that adds them up."""

from amd_fused.modules.amd import AMDLoss
from amd_fused.modules.distillation import DistillationLoss

__all__ = ["AMDLoss", "DistillationLoss"]
