"""The losses as functions, one file each: check, choose the backend, call the operator."""

from amd_fused.functional.amd import amd_loss
from amd_fused.functional.at import at_loss
from amd_fused.functional.kd import kd_loss, spherical_kd_loss
from amd_fused.functional.lsh import lsh_loss
from amd_fused.functional.nd import class_means, nd_loss
from amd_fused.functional.rkd import rkd_loss
from amd_fused.functional.sp import sp_loss

__all__ = [
    "amd_loss",
    "at_loss",
    "class_means",
    "kd_loss",
    "lsh_loss",
    "nd_loss",
    "rkd_loss",
    "sp_loss",
    "spherical_kd_loss",
]
