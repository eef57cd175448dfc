"""The losses as modules, one file each, and the objective that adds them up."""

from amd_fused.modules.amd import AMDLoss
from amd_fused.modules.at import ATLoss
from amd_fused.modules.distillation import DistillationLoss
from amd_fused.modules.kd import KDLoss, SphericalKDLoss
from amd_fused.modules.lsh import LSHLoss
from amd_fused.modules.nd import NDLoss
from amd_fused.modules.rkd import RKDLoss
from amd_fused.modules.sp import SPLoss

__all__ = [
    "AMDLoss",
    "ATLoss",
    "DistillationLoss",
    "KDLoss",
    "LSHLoss",
    "NDLoss",
    "RKDLoss",
    "SPLoss",
    "SphericalKDLoss",
]
