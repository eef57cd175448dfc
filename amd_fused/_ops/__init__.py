"""Operators of the losses, one file each: schemas, fake kernels and autograd."""

from amd_fused._ops.amd import FUSED_BACKENDS, amd_fwd
from amd_fused._ops.kd import BACKENDS as KD_BACKENDS
from amd_fused._ops.kd import kd_fwd
from amd_fused._ops.lsh import lsh_fwd
from amd_fused._ops.nd import nd_fwd
from amd_fused._ops.rkd import rkd_fwd
from amd_fused._ops.sp import gram

__all__ = [
    "FUSED_BACKENDS",
    "KD_BACKENDS",
    "amd_fwd",
    "gram",
    "kd_fwd",
    "lsh_fwd",
    "nd_fwd",
    "rkd_fwd",
]
